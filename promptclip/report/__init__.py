"""What an output tree says, in one page and in figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptclip.report import (
    classes,
    confusions,
    features,
    inside,
    origin,
    plane,
    shots,
    summary,
    training,
)
from promptclip.report.html import Section
from promptclip.report.looking import look
from promptclip.report.page import page
from promptclip.report.source import Source, read

__all__ = ["Section", "Source", "look", "page", "read", "sections"]

_SECTIONS: Sequence[Callable[[Source], Section]] = (
    summary.section,
    shots.section,
    plane.section,
    classes.section,
    confusions.section,
    training.section,
    inside.section,
    features.section,
    origin.section,
)


def sections(source: Source) -> list[Section]:
    """All sections in the order of the page.

    Raises:
        UserError: without matplotlib.
    """
    return [section(source) for section in _SECTIONS]
