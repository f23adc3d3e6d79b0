"""The papers' own numbers beside ours, where the setting is the same.

They lie in `promptclip/published/*.csv`, each with the source it was read from; docs/published.md
says what may stand there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from promptclip.errors import UserError
from promptclip.table import layout
from promptclip.table.model import Published, Row, Table
from promptclip.tree import PROTOCOLS, TARGETS

FOLDER = Path(__file__).parent.parent / "published"
COLUMNS = (
    "method", "cfg", "benchmark", "protocol", "shots", "backbone", "metric", "value", "source"
)  # fmt: skip
# What the averages of the literature are over: ImageNet and its ten targets.
ELEVEN = frozenset(("imagenet", *TARGETS["xd"]["imagenet"]))


@dataclass(frozen=True)
class Entry:
    """A line of a file.

    Attributes:
        cfg: the file of `configs/trainers/<method>` with the published setting; "" for any.
        benchmark: as `Row.dataset`; "average" is over the eleven of the literature.
        shots: None where a number does not depend on them.
        metric: "base", "new" or "H of means", "accuracy", a data set tested on, or "average" over
            all targets of the literature.
        value: in percent.
    """

    method: str
    cfg: str
    benchmark: str
    protocol: str
    shots: int | None
    backbone: str
    metric: str
    value: float
    source: str


def read(file: Path) -> list[Entry]:
    """The entries of a file.

    Raises:
        UserError: if it has other columns, or a line says something impossible.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{file} must have the columns {','.join(COLUMNS)}")
        return [_entry(line, f"{file}, line {reader.line_num}") for line in reader]


def _entry(line: dict[str, str], where: str) -> Entry:
    empty = [name for name in COLUMNS if not line[name] and name not in ("cfg", "shots")]
    if empty or line["protocol"] not in PROTOCOLS:
        wrong = f"{empty[0]} is empty" if empty else f"no protocol {line['protocol']!r}"
        raise UserError(f"{where}: {wrong}; protocols are {', '.join(PROTOCOLS)}")
    try:
        shots = int(line["shots"]) if line["shots"] else None
        value = float(line["value"])
    except ValueError:
        raise UserError(f"{where}: shots and value must be numbers, got {line}") from None
    if not 0 <= value <= 100:
        raise UserError(f"{where}: value must be a percentage, got {value}")
    return Entry(**{**line, "shots": shots, "value": value})  # type: ignore[arg-type]


def with_published(table: Table, files: Iterable[Path] | None = None) -> Table:
    """The same table with published numbers in the cells that have some, and notes on sources.

    Args:
        table: from `build`.
        files: with the numbers; None takes those that come with the package.
    """
    files = sorted(FOLDER.glob("*.csv")) if files is None else files
    entries = [entry for file in files for entry in read(file)]
    rows = tuple(_beside(row, entries) for row in table.rows)
    averages = tuple(_beside(row, entries) for row in table.averages)
    sources: dict[str, dict[str, None]] = {}
    for row in (*rows, *averages):
        for papers in row.published.values():
            for paper in papers:
                sources.setdefault(paper.source, {})[row.method] = None
    notes = [f"published, {', '.join(of)}: {source}" for source, of in sorted(sources.items())]
    if not notes:
        notes = ["No published number that is known has the protocol, shots and backbone of a row."]
    return replace(table, rows=rows, averages=averages, notes=(*table.notes, *notes))


def _beside(row: Row, entries: Iterable[Entry]) -> Row:
    found: dict[str, dict[float, list[str]]] = {}
    for entry in entries:
        if (column := _column(row, entry)) is not None:
            found.setdefault(column, {}).setdefault(entry.value, []).append(entry.source)
    return replace(
        row,
        published={
            column: tuple(Published(v, "; ".join(dict.fromkeys(of))) for v, of in values.items())
            for column, values in found.items()
        },
    )


def _column(row: Row, entry: Entry) -> str | None:
    """The column of a row that an entry is about; None if it is about none."""
    same = (row.method, row.protocol, row.dataset, row.backbone)
    if same != (entry.method, entry.protocol, entry.benchmark, entry.backbone):
        return None
    if entry.cfg not in ("", row.cfg) or (row.datasets and set(row.datasets) != ELEVEN):
        return None
    if row.protocol == "fewshot":
        columns = [c for c in row.cells if entry.shots in (None, int(c.removeprefix("shots_")))]
        return columns[0] if entry.metric == "accuracy" and len(columns) == 1 else None
    if entry.shots not in (None, row.shots):
        return None
    return entry.metric if entry.metric in (*row.cells, *_of_all(row)) else None


def _of_all(row: Row) -> list[str]:
    """The columns for one number of all cells that means the same in papers."""
    if row.h_of_means is not None:
        return [layout.H_OF_MEANS]
    targets = TARGETS.get(row.protocol, {}).get(row.dataset, ())
    return [layout.AVERAGE] if set(row.cells) == {row.dataset, *targets} else []
