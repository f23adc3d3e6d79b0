"""Tables as a page: one HTML file that needs nothing else, and no colours to be read."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from promptclip.errors import printable
from promptclip.table.grid import Entry, grid
from promptclip.table.model import Row, Table
from promptclip.table.ranking import RULE, marks

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 80rem; }
.wide { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .25rem .8rem; text-align: right; vertical-align: top; }
thead, tbody { border-bottom: 1px solid; }
thead { border-top: 2px solid; }
tbody { border-bottom-width: 2px; }
th[scope=row], th:first-child { text-align: left; }
small { display: block; font-weight: normal; }
td.gap { border: 1px dashed; }
"""


def page(table: Table) -> str:
    """A whole page; what is missing stands in words in a dashed frame."""
    parts = [group(title, rows) for title, rows in table.groups]
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in table.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Results</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Results</h1>\n"
        + "".join(parts)
        + f"<p>{escape(table.long_caption)} {escape(RULE)}</p>\n"
        + (f"<ul>\n{notes}</ul>\n" if notes else "")
        + "</body>\n</html>\n"
    )


def group(title: str, rows: Sequence[Row]) -> str:
    """A group of rows as a table, in a frame in which it can be moved sideways by keys, too.

    What is empty for want of a result has the class "gap", a mean over fewer seeds "part".
    """
    headings, lines = grid(rows, marks(rows))
    title = escape(title)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{''.join(_line(line))}</tr>\n" for line in lines)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">\n'
        f"<table>\n<caption><span>{title}</span></caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _line(line: Sequence[Entry]) -> Iterator[str]:
    name, *entries = line
    yield f'<th scope="row">{_content(name)}</th>'
    for entry in entries:
        lacks = "part" if entry.text else "gap"
        gap = "" if entry.complete else f' class="{lacks}"'
        yield f"<td{gap}>{_content(entry)}</td>"


def escape(text: str) -> str:
    """Text as a page shows it, on one line whatever letters a name has."""
    return html.escape(printable(text))


def _content(entry: Entry) -> str:
    text = escape(entry.text)
    if entry.mark:
        tag = "strong" if entry.mark == "best" else "u"
        text = f"<{tag}>{text}</{tag}>"
    return text + "".join(f"<small>{escape(note)}</small>" for note in entry.notes)
