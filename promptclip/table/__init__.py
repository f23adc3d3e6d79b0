"""From a tree of `result.json` files to tables that hide nothing.

A row is a method under one configuration on one benchmark. Its cells are means over seeds with
the sample standard deviation; what is missing, failed or not comparable is said in its place.
Nothing is parsed out of logs, but for rows that are asked for and marked as such.
"""

from __future__ import annotations

from collections.abc import Callable

from promptclip.errors import UserError
from promptclip.table import data, latex, page, plain
from promptclip.table.model import Cell, Published, Row, Table, harmonic, t_quantile
from promptclip.table.published import with_published
from promptclip.table.reading import build

__all__ = [
    "FORMATS", "Cell", "Published", "Row", "Table", "build", "harmonic", "render", "t_quantile",
    "with_published",
]  # fmt: skip

_WRITERS: dict[str, Callable[[Table], str]] = {
    "md": plain.markdown,
    "csv": data.write_csv,
    "json": data.write_json,
    "latex": latex.latex,
    "html": page.page,
}
FORMATS = ("text", *_WRITERS)


def render(table: Table, format: str = "text", *, width: int | None = None) -> str:
    """Write a table as text.

    Args:
        table: from `build`.
        format: one of `FORMATS`: "text" for terminals, "md", "latex" and "html" for pages, "csv"
            and "json" at full precision.
        width: columns of the terminal; None asks it.

    Raises:
        UserError: for another format.
    """
    if format == "text":
        return plain.text(table, width)
    if format not in _WRITERS:
        raise UserError(f"the format must be one of {', '.join(FORMATS)}, got {format!r}")
    return _WRITERS[format](table)
