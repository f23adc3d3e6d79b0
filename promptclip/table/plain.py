"""Tables for terminals and in Markdown."""

from __future__ import annotations

import io
import shutil
from typing import Literal

from promptclip.errors import printable
from promptclip.table.grid import grid
from promptclip.table.model import Table


def text(table: Table, width: int | None = None) -> str:
    """For a terminal; one cell below the other where it is too narrow for numbers side by side."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    out = io.StringIO()
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    for title, rows in table.groups:
        console.print(title)
        # Numbers side by side need the width, unless a paper's H stands beside ours.
        headings, lines = grid(rows, of_means=any(row.published for row in rows))
        first_lines = [headings, *([entry.text for entry in line] for line in lines)]
        widths = [max(map(len, column)) for column in zip(*first_lines, strict=True)]
        if sum(widths) + 2 * len(widths) > width:
            for line in lines:
                console.print()
                for heading, entry in zip(headings, line, strict=True):
                    console.print(f"{heading}: {', '.join(entry.lines)}")
            console.print()
            continue
        rich = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading, least in zip(headings, widths, strict=True):
            justify: Literal["left", "right"] = "right" if rich.columns else "left"
            rich.add_column(heading, justify=justify, min_width=least)
        for line in lines:
            rich.add_row(*("\n".join(entry.lines) for entry in line))
        console.print(rich)
    for paragraph in (table.caption, *table.notes):
        console.print(paragraph)
    said = out.getvalue().strip("\n").split("\n")
    return "".join(f"{printable(line.rstrip())}\n" for line in said)


def markdown(table: Table) -> str:
    """For pages."""
    written = []
    for title, rows in table.groups:
        headings, lines = grid(rows)
        headings = [_plain(heading) for heading in headings]
        rule = "|---" + "|---:" * (len(headings) - 1) + "|"
        written += [f"**{_plain(title)}**", "", f"| {' | '.join(headings)} |", rule]
        for line in lines:
            cells = ("<br>".join(map(_plain, entry.lines)) for entry in line)
            written.append(f"| {' | '.join(cells)} |")
        written.append("")
    written += [table.long_caption, *(f"- {_plain(note)}" for note in table.notes)]
    return "\n".join(written) + "\n"


def _plain(text: str) -> str:
    """Text in which a page finds neither tags nor the end of a cell."""
    return text.replace("<", "&lt;").replace("|", "\\|")
