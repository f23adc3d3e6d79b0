"""What this machine and environment have, what is missing, and what to do about it.

Nothing is fetched and nothing is written. A part that cannot be looked at is told as a problem;
the others are looked at nevertheless, so that this works where little else does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from promptclip.doctor import files, machine, software
from promptclip.doctor.finding import NOTE, OK, PROBLEM, Finding
from promptclip.errors import UserError

SCHEMA = 1


def examine(*, root: str = "", verify: bool = False) -> Iterator[tuple[str, list[Finding]]]:
    """What is found, part by part.

    Args:
        root: the folder that holds the data sets; "" if there is none.
        verify: compare the checksums of all weights, however large.
    """
    parts = {
        "Python and packages": software.examine,
        "Dassl": software.engine,
        "What computes": machine.examine,
        "CLIP weights": lambda: files.weights(verify),
        "Data sets": lambda: files.data_sets(root),
        "Disk and caches": files.disk,
        "Environment": software.environment,
    }
    for title, look in parts.items():
        found: list[Finding] = []
        try:
            for one in look():
                found.append(one)
        except UserError as error:
            found.append(Finding(PROBLEM, str(error)))
        except Exception as error:  # the rest of the report is of use all the same
            why = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(Finding(PROBLEM, f"it could not be looked at ({why:.300})"))
        yield title, found


def text(title: str, found: Sequence[Finding]) -> str:
    """A part of the report in plain lines."""
    lines = [title]
    for one in found:
        lines.append(f"  {one.state:<8} {one.text}")
        if one.remedy:
            lines.append(f"  {'':<8}   {one.remedy}")
    return "\n".join(lines) + "\n"


def summary(parts: Sequence[tuple[str, Sequence[Finding]]]) -> str:
    """How many problems there are."""
    states = [one.state for _, found in parts for one in found]
    problems, notes = states.count(PROBLEM), states.count(NOTE)
    ends = ["" if number == 1 else "s" for number in (problems, notes)]
    return f"{problems} problem{ends[0]}, {notes} note{ends[1]}"


def as_json(parts: Sequence[tuple[str, Sequence[Finding]]]) -> dict[str, Any]:
    """The same as JSON content."""
    return {
        "schema": SCHEMA,
        "ok": is_well(parts),
        "parts": [
            {"title": title, "found": [one._asdict() for one in found]} for title, found in parts
        ],
    }


def is_well(parts: Sequence[tuple[str, Sequence[Finding]]]) -> bool:
    """Whether there is no problem."""
    return all(one.state != PROBLEM for _, found in parts for one in found)


__all__ = ["NOTE", "OK", "PROBLEM", "Finding", "as_json", "examine", "is_well", "summary", "text"]
