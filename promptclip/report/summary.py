"""How much is there, what is missing, and the tables."""

from __future__ import annotations

from collections.abc import Iterator

from promptclip.report.html import Markup, Section, folded, joined, listed, paragraph, tag
from promptclip.report.source import Source
from promptclip.table import layout, page
from promptclip.table.ranking import RULE
from promptclip.tree import PROTOCOLS

SHOWN = 20  # cells that lack something; the others are folded away


def section(source: Source) -> Section:
    """The state of the tree in a few lines, then every table."""
    table = source.table
    parts = [listed(_facts(source), class_="facts"), _state(source)]
    parts += [Markup(page.group(title, rows)) for title, rows in table.groups]
    parts.append(paragraph(f"{table.long_caption} {RULE}"))
    if table.notes:
        parts += [tag("h3", "What a reader must know"), listed(table.notes)]
    return Section("summary", "Summary", parts)


def _facts(source: Source) -> Iterator[str]:
    rows = source.table.rows
    protocols = dict.fromkeys(PROTOCOLS[row.protocol] for row in rows)
    methods = sorted({source.label(row) for row in rows}, key=str.lower)
    datasets = sorted({row.dataset for row in rows})
    yield f"{_counted(len(source.finished), 'finished run')} in {source.root}"
    yield f"{_counted(len(protocols), 'protocol')}: {', '.join(protocols)}"
    yield f"{_counted(len(methods), 'method')}: {', '.join(methods)}"
    yield f"{_counted(len(datasets), 'benchmark')}: {', '.join(datasets)}"


def _counted(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _state(source: Source) -> Markup:
    """Every cell that lacks something, in a box; one line if none does."""
    gaps = list(gaps_of(source))
    if not gaps:
        return paragraph("Every cell of every table has a result for each of its seeds.")
    parts = [tag("h3", f"Missing or failed: {_counted(len(gaps), 'cell')}"), listed(gaps[:SHOWN])]
    if rest := gaps[SHOWN:]:
        parts.append(folded(f"{len(rest)} more", listed(rest)))
    return tag("div", joined(parts), class_="problems", role="note")


def gaps_of(source: Source) -> Iterator[str]:
    """A line for each cell that lacks a seed or is not averaged."""
    for row in source.table.rows:
        for column, cell in row.cells.items():
            if not cell.complete:
                name = layout.named(row.dataset, row.shots)
                where = f"{PROTOCOLS[row.protocol]}, {name}, {layout.heading(column)}"
                yield f"{source.label(row)}, {where}: {', '.join(cell.notes())}"
