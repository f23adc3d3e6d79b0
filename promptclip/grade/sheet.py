"""The sheet of verdicts: Markdown, CSV and HTML, in which nothing of a submission can act."""

from __future__ import annotations

import csv
import io
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path

from promptclip import results
from promptclip.errors import UserError, printable
from promptclip.files import write_bytes
from promptclip.grade.judge import FAIL, NOT_RERUN, OPEN, PASS, VERDICTS, Line
from promptclip.grade.submission import COLUMNS
from promptclip.table.data import inert
from promptclip.table.page import STYLE
from promptclip.tree import Place, of_shots

FILES = ("sheet.md", "sheet.csv", "sheet.html")
TITLE = "Claimed results, checked"
_LONGEST = 200  # letters of a cell
_REASONS = 1000  # of all reasons together
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&~!]|(?<!\w)_|_(?!\w))")
_CLAIM = ("student", "claimed in", "run", "claimed", "here", "verdict", "why")
_STUDENT = ("student", "verdict", *VERDICTS)


@dataclass(frozen=True)
class Sheet:
    """Verdicts and how they came about.

    Attributes:
        lines: in the order of the submission.
        notes: sentences on what was done.
    """

    lines: Sequence[Line]
    notes: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether nobody has failed and nothing is undecided."""
        return all(line.verdict in (PASS, NOT_RERUN) for line in self.lines)

    def students(self) -> Iterator[tuple[str, ...]]:
        """For each student the verdict on all claims together, and how many have which."""
        names = sorted({line.entry.student for line in self.lines})
        for name in names:
            counts = Counter(line.verdict for line in self.lines if line.entry.student == name)
            together = next(one for one in (FAIL, OPEN, PASS, NOT_RERUN) if counts[one])
            yield _shown(name), together, *(str(counts[verdict]) for verdict in VERDICTS)

    def claims(self) -> Iterator[tuple[str, ...]]:
        """What is told of each claim."""
        for line in sorted(self.lines, key=lambda line: line.entry.student):
            entry = line.entry
            run = _named(line.run.place) if line.run else _told(entry.values)
            cells = (
                *(entry.student, entry.where, run, entry.values.get("accuracy", "")),
                *(_number(line.accuracy), line.verdict),
            )
            yield *map(_shown, cells), _why(line)


def notes(
    lines: Sequence[Line], tolerance: Decimal, sample: int | None, seed: int
) -> tuple[str, ...]:
    """What was done, by which versions and on what machine.

    Args:
        lines: of `judge`.
        tolerance: as of `judge`.
        sample: as of `judge`.
        seed: as of `judge`.
    """
    runs = {line.run.place for line in lines if line.run and line.accuracy is not None}
    which = "all whose hashes fit" if sample is None else f"{sample} of each student, seed {seed}"
    versions = ", ".join(f"{name} {one}" for name, one in results.versions().items() if one)
    return (
        f"{len(lines)} claims, {len(runs)} runs done again ({which}); an accuracy may be off by "
        f"{tolerance} points and the rounding of its last digit",
        "pass: hashes fit and the run came to the claimed accuracy; fail: for the reasons given; "
        "not rerun: hashes fit; undecided: it could not be checked here",
        f"checked with {versions}, on {platform.machine()} {platform.system()}",
    )


def write(sheet: Sheet, folder: Path) -> None:
    """Write the three files, each in one step.

    Raises:
        UserError: if the folder cannot be written.
    """
    texts = (markdown(sheet), as_csv(sheet), html(sheet))
    try:
        for name, text in zip(FILES, texts, strict=True):
            write_bytes(text.encode(), folder / name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error


def markdown(sheet: Sheet) -> str:
    """For reading."""
    parts = [f"# {TITLE}", ""]
    for head, rows in ((_STUDENT, sheet.students()), (_CLAIM, sheet.claims())):
        parts += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        parts += [f"| {' | '.join(map(_plain, row))} |" for row in rows]
        parts.append("")
    return (
        "\n".join([*parts, *(f"- {_plain(_shown(note, _REASONS))}" for note in sheet.notes)]) + "\n"
    )


def as_csv(sheet: Sheet) -> str:
    """For spreadsheets: each claim with all that it says, its verdict and the reasons."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [COLUMNS[0], "file", "row", *COLUMNS[1:], "here", "difference", "verdict", "why"]
    )
    for line in sheet.lines:
        entry = line.entry
        own = [entry.values.get(column, "") for column in COLUMNS[1:]]
        difference = "" if line.difference is None else f"{line.difference:.6f}"
        here = "" if line.accuracy is None else repr(line.accuracy)
        row = str(entry.row or "")
        cells = (*(entry.student, entry.file, row), *own, here, difference, line.verdict)
        writer.writerow(map(inert, [*map(_shown, cells), _why(line)]))
    return out.getvalue()


def html(sheet: Sheet) -> str:
    """One page that needs nothing else, and no colours to be read."""
    tables = "".join(
        _table(caption, head, rows)
        for caption, head, rows in (
            ("Students", _STUDENT, sheet.students()),
            ("Claims", _CLAIM, sheet.claims()),
        )
    )
    notes = "".join(f"<li>{escape(_shown(note, _REASONS))}</li>\n" for note in sheet.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{STYLE}td {{ text-align: left; }}</style>\n</head>\n"
        f"<body>\n<h1>{TITLE}</h1>\n{tables}<ul>\n{notes}</ul>\n</body>\n</html>\n"
    )


def _table(caption: str, head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    headings = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table>\n<caption>{caption}</caption>\n'
        f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _why(line: Line) -> str:
    return _shown("; ".join([*line.faults, *line.troubles]), _REASONS)


def _named(place: Place) -> str:
    """A run in words."""
    data = " ".join(filter(None, (place.protocol, place.dataset, place.target)))
    return f"{data}, {of_shots(place.shots)}, {place.method}/{place.cfg}, seed {place.seed}"


def _told(values: Mapping[str, str]) -> str:
    """What an entry that is no run says of itself."""
    said = (values.get(key, "") for key in ("method", "dataset", "protocol", "shots", "seed"))
    return " ".join(filter(None, said))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _shown(text: str, longest: int = _LONGEST) -> str:
    """Text of a stranger on one line of bearable length."""
    text = printable(text[: longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}…"


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing of its own."""
    return _MARKDOWN.sub(r"\\\1", text)
