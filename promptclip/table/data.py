"""Tables for programs: CSV and JSON, at full precision."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from typing import Any

from promptclip.table import layout
from promptclip.table.model import Row, Table

_STATISTICS = ("mean", "deviation", "interval95", "n", "problems")
_PUBLISHED = ("published", "difference", "source")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(; {_NUMBER})*", re.ASCII)


def write_csv(table: Table) -> str:
    """One table for each protocol with all columns that its rows have, averages at its end.

    One more where rows are taken apart.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for (protocol, in_parts), group in itertools.groupby(
        (*table.all_rows, *table.parts), lambda row: (row.protocol, bool(row.part))
    ):
        rows = list(group)
        columns = list(dict.fromkeys(column for row in rows for column in row.all_cells))
        places = [*columns, layout.H_OF_MEANS]
        published = [place for place in places if any(place in row.published for row in rows)]
        of_means = ["h_of_means"] if "H" in columns else []
        head = (
            ["dataset", "shots", "method", "cfg", "seeds"]
            + [f"{_key(column)}_{name}" for column in columns for name in _STATISTICS]
            + [*of_means, "trainable_parameters", "seconds", "protocol"]
            + ["datasets", "settings", "origin", "backbone", *(["part"] if in_parts else [])]
            + [f"{_key(column)}_{name}" for column in published for name in _PUBLISHED]
        )
        writer.writerow(map(inert, head))
        for row in rows:
            seeds = " ".join(map(str, row.seeds))
            record: list[Any] = [row.dataset, row.shots or None, row.method, row.cfg, seeds]
            for column in columns:
                record += _statistics(row, column)
            record += [row.h_of_means] if of_means else []
            record += [row.trainable_parameters, row.seconds, protocol]
            record += [" ".join(row.datasets), row.settings, row.origin, row.backbone]
            record += [row.part] if in_parts else []
            for column in published:
                record += _papers(row, column)
            writer.writerow(map(inert, record))
    return out.getvalue()


def inert(value: Any) -> Any:
    """A value that a spreadsheet shows and does not compute: names may be anybody's."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBERS.fullmatch(value):
        return f"'{value}"
    return value


def _key(column: str) -> str:
    """A column's name for programs."""
    return column.lower().replace(" ", "_")


def _statistics(row: Row, column: str) -> list[Any]:
    cell = row.all_cells.get(column)
    if cell is None:
        return [None] * len(_STATISTICS)
    notes = "; ".join(cell.notes())
    return [cell.mean, cell.deviation, cell.interval, len(cell.values), notes]


def _papers(row: Row, column: str) -> list[Any]:
    """Values, differences and sources, each joined with "; "."""
    papers = row.published.get(column, ())
    mean = row.mean(column) if papers else None
    values = [str(paper.value) for paper in papers]
    differences = [] if mean is None else [str(mean - paper.value) for paper in papers]
    return ["; ".join(each) for each in (values, differences, [paper.source for paper in papers])]


def write_json(table: Table) -> str:
    """Everything that is known of every cell."""
    content = {
        "caption": table.long_caption,
        "rows": [_row(row) for row in table.rows],
        "averages": [_row(row) for row in table.averages],
        **({"parts": [_row(row) for row in table.parts]} if table.parts else {}),
        "notes": list(table.notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    published = {
        _key(column): [{"value": paper.value, "source": paper.source} for paper in papers]
        for column, papers in row.published.items()
    }
    return {
        "protocol": row.protocol,
        "dataset": row.dataset,
        **({"part": row.part} if row.part else {}),
        "shots": row.shots or None,
        "method": row.method,
        "cfg": row.cfg,
        "seeds": list(row.seeds),
        **{_key(name): cell.as_json() for name, cell in row.all_cells.items()},
        **({"h_of_means": row.h_of_means} if "H" in row.summary else {}),
        "trainable_parameters": row.trainable_parameters,
        "seconds": row.seconds,
        "datasets": list(row.datasets),
        "settings": row.settings,
        "origin": row.origin or None,
        "backbone": row.backbone or None,
        "published": published,
    }
