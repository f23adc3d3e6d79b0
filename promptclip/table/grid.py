"""What all formats for reading share: headings, and for each row its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptclip.table import layout
from promptclip.table.model import TUNED, Cell, Row
from promptclip.table.ranking import Mark, Spot


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table: a first line, and what is to be known with it."""

    text: str
    notes: tuple[str, ...] = ()
    mark: Mark | None = None
    complete: bool = True  # False where something is missing, left out or refused

    @property
    def lines(self) -> list[str]:
        """All of it, without empty lines."""
        return [line for line in (self.text, *self.notes) if line]


def grid(
    rows: Sequence[Row], marks: Mapping[Spot, Mark] | None = None, *, of_means: bool = True
) -> tuple[list[str], list[list[Entry]]]:
    """Headings and entries of a group of rows.

    Args:
        rows: of one group.
        marks: of `ranking.marks`, for formats that show them.
        of_means: whether there is a column "H of means" where there is one of H.
    """
    marks = marks or {}
    columns = list(rows[0].all_cells)
    headings = ["method", *map(layout.heading, columns)]
    after = headings.index("H") + 1 if of_means and "H" in headings else 0
    if after:
        headings.insert(after, layout.H_OF_MEANS)
    lines, whole = [], not rows[0].part
    for index, row in enumerate(rows):
        cells = row.all_cells
        line = [_name(row, rows)]
        for column in columns:
            mark = marks.get(Spot(index, column))
            line.append(_entry(cells[column], row, column, mark))
        if after:
            mean = "" if row.h_of_means is None else f"{row.h_of_means:.2f}"
            line.insert(after, Entry(mean, _papers(row, layout.H_OF_MEANS)))
        done = len(row.complete_seeds)
        line.append(Entry(str(done) if done == len(row.seeds) else f"{done} of {len(row.seeds)}"))
        if whole:
            params, seconds = row.trainable_parameters, row.seconds
            line.append(Entry("" if params is None else f"{params:,}"))
            line.append(Entry("" if seconds is None else f"{seconds:,.0f}"))
        lines.append(line)
    return [*headings, "seeds", *(["params", "seconds"] if whole else [])], lines


def _name(row: Row, rows: Sequence[Row]) -> Entry:
    """The method, and in what it differs from other rows."""
    notes = [row.cfg] if len({other.cfg for other in rows}) > 1 else []
    if any(other.settings == TUNED for other in rows):
        notes.append(row.settings)
    return Entry(row.method, tuple(note for note in (*notes, row.origin) if note))


def _entry(cell: Cell, row: Row, column: str, mark: Mark | None) -> Entry:
    if not cell.applies:
        return Entry("n/a")
    return Entry(cell.number, (*_papers(row, column), *cell.notes()), mark, cell.complete)


def _papers(row: Row, column: str) -> tuple[str, ...]:
    """The published numbers of a cell, and the difference to ours."""
    mean = row.mean(column)
    return tuple(
        f"published {paper.value:.2f}" + ("" if mean is None else f", {mean - paper.value:+.2f}")
        for paper in row.published.get(column, ())
    )
