"""A row of the results, and how rows are printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from speed.measure import Measured

TIMES, PERCENT, SECONDS, MILLISECONDS, GIGABYTES = "x", "%", "s", "ms", "GB"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Row:
    """What one measurement says.

    Attributes:
        row: name on the command line.
        work: what was done.
        ours: what it took.
        against: what it is compared with, in words.
        other: what that took.
        figure: what the target is about, in `unit`.
        target: to be reached.
        at_most: the target is a limit; else it is the least.
        share: of the machine's own speed in matrix products that ours reaches.
        more: further numbers, by name.
    """

    row: str
    work: str
    ours: Measured
    figure: float
    unit: str = TIMES
    against: str = ""
    other: Measured | None = None
    target: float | None = None
    at_most: bool = False
    share: float | None = None
    more: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.figure <= self.target if self.at_most else self.figure >= self.target

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        other = None if self.other is None else self.other.as_json()
        return asdict(self) | {"ours": self.ours.as_json(), "other": other, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """As printed, see `HEAD`."""
        sign = "<=" if self.at_most else ">="
        verdict = {True: "yes", False: "NO", None: ""}[self.met]
        target = "" if self.target is None else f"{sign} {self.target:g}"
        other, runs = self.other, str(self.ours.runs)
        return (
            self.row,
            self.work,
            _seconds(self.ours),
            "" if other is None else _seconds(other),
            self.against,
            f"{self.figure:.3g} {self.unit}",
            target,
            verdict,
            _megabytes(self.ours),
            "" if other is None else _megabytes(other),
            "" if self.share is None else f"{100 * self.share:.0f} %",
            runs if other is None else f"{runs}/{other.runs}",
        )


HEAD = (
    "row", "work", "ours s", "other s", "other is", "figure", "target", "met",
    "ours MB", "other MB", "share", "runs",
)  # fmt: skip
RIGHT = {"ours s", "other s", "figure", "target", "ours MB", "other MB", "share", "runs"}


def times(row: str, work: str, ours: Measured, other: Measured, against: str, **how: Any) -> Row:
    """How many times faster ours is than another, which was done in turn with it."""
    return Row(row, work, ours, ours.times_faster(other), TIMES, against, other, **how)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table, as Markdown."""
    body = [row.cells() for row in rows]
    widths = [max(map(len, column)) for column in zip(HEAD, *body, strict=True)]
    rule = tuple("-" * (n - 1) + ":" if name in RIGHT else "-" * n
                 for name, n in zip(HEAD, widths, strict=True))  # fmt: skip
    for cells in (HEAD, rule, *body):
        padded = (
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for cell, width, name in zip(cells, widths, HEAD, strict=True)
        )
        yield f"| {' | '.join(padded)} |"


def _seconds(one: Measured) -> str:
    return f"{one.seconds:.3g}{'*' if one.scaled else ''}"


def _megabytes(one: Measured) -> str:
    return f"{one.bytes / MEGABYTE:,.0f}{'*' if one.scaled else ''}"
