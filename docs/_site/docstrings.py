"""Docstrings as Sphinx reads them: ours mean `this` as code, and all other signs as they stand."""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"(`[^`]+`)")
_SIGNS = re.compile(r"([\\*|<>]|_(?!\w))")  # of reStructuredText, which would mark something


def as_rest(line: str) -> str:
    """A line with its code marked and its other signs escaped."""
    parts = _CODE.split(line)
    return "".join(
        f"`{part}`" if part.startswith("`") else _SIGNS.sub(r"\\\1", part) for part in parts
    )


def setup(app: Any) -> dict[str, bool]:
    """Before napoleon reads the sections."""

    def rewrite(
        app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]
    ) -> None:
        lines[:] = map(as_rest, lines)
        if what == "property":
            # In its first line napoleon takes what is before a colon for a type: a comment
            lines[:0] = ["..", ""]

    app.connect("autodoc-process-docstring", rewrite, priority=100)
    return {"parallel_read_safe": True}
