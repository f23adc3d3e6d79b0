"""Which number of a column is best and which second, and when that cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from promptclip.table.model import Cell, Row

Mark: TypeAlias = Literal["best", "second"]
RULE = (
    "Best in bold, second underlined, among the methods that share backbone, tuning and origin "
    "(the largest such set), where all of them have every seed and saw the same pictures."
)


class Spot(NamedTuple):
    """A cell of a group of rows."""

    row: int
    column: str


def marks(rows: Sequence[Row]) -> dict[Spot, Mark]:
    """The best and the second of each column, as printed; of equals, all.

    Rows compete if they have the same backbone, settings and origin; of several such sets, the
    largest is marked. A column in which one of its rows lacks a seed or a data set, or is not known
    to have seen the same pictures, has no mark.
    """
    sets: dict[tuple[str, str, str], dict[int, Row]] = {}
    for index, row in enumerate(rows):
        sets.setdefault((row.backbone, row.settings, row.origin), {})[index] = row
    rivals = max(sets.values(), key=len)
    found: dict[Spot, Mark] = {}
    for column in dict.fromkeys(column for row in rivals.values() for column in row.all_cells):
        cells = {i: cell for i, row in rivals.items() if (cell := row.all_cells[column]).applies}
        if len(cells) > 1 and comparable(list(cells.values())):
            found |= {Spot(index, column): mark for index, mark in _ranked(cells).items()}
    return found


def comparable(cells: Sequence[Cell]) -> bool:
    """Whether all cells have every seed, and those of one seed come from the same pictures."""
    first = cells[0]
    return all(
        cell.complete
        and cell.values
        and cell.values.keys() == first.values.keys()
        and cell.pictures.keys() == cell.values.keys()
        and cell.pictures == first.pictures
        for cell in cells
    )


def _ranked(cells: dict[int, Cell]) -> dict[int, Mark]:
    shown = {index: round(cell.mean, 2) for index, cell in cells.items() if cell.mean is not None}
    best, *others = sorted(set(shown.values()), reverse=True)
    marked: dict[int, Mark] = {index: "best" for index, value in shown.items() if value == best}
    # With two firsts there is no second.
    if len(marked) == 1 and others and len(shown) > 2:
        marked |= {index: "second" for index, value in shown.items() if value == others[0]}
    return marked
