"""The frame of the page: one file that asks no network, and needs no script."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import promptclip
from promptclip.report import figures
from promptclip.report.figures import Drawing
from promptclip.report.html import Markup, Part, Section, joined, paragraph, tag
from promptclip.report.style import STYLE

# Nothing from elsewhere, and no script even if a name could bring one in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
        title: of the page.
        sections: in the order of reading.
    """
    links = joined(
        tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections
    )
    body = joined(
        (
            tag("a", "To the content", href="#content", class_="skip"),
            tag("header", tag("h1", title)),
            tag("nav", tag("ul", links), aria_label="Sections"),
            tag("main", joined(map(_section, sections), "\n"), id="content", tabindex="-1"),
            tag("footer", paragraph(f"Made by promptclip {promptclip.__version__}.")),
        ),
        "\n",
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"{tag('title', title)}\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> Markup:
    heading = f"{section.anchor}-heading"
    content = joined(_content(section.parts), "\n")
    if section.empty:
        content = tag("p", section.empty, class_="empty")
    return tag(
        "section",
        joined((tag("h2", section.title, id=heading), content), "\n"),
        id=section.anchor,
        aria_labelledby=heading,
    )


def _content(parts: Sequence[Part]) -> Iterator[Markup]:
    """Parts as HTML; drawings that follow each other are in one frame."""
    for written, some in itertools.groupby(parts, lambda part: isinstance(part, Markup)):
        content = [part if isinstance(part, Markup) else figure(part) for part in some]
        if written:
            yield from content
        else:
            yield tag("div", joined(content, "\n"), class_="figures")


def figure(drawing: Drawing) -> Markup:
    """A drawing with its title; what it shows stands in words for who does not see it."""
    url = figures.data_url(figures.encoded(drawing, "svg"), "svg+xml")
    width, height = (round(96 * inches) for inches in drawing.figure.get_size_inches())
    image = Markup(
        f'<img src="{url}" alt="{joined([drawing.alt])}" width="{width}" height="{height}">'
    )
    return tag("figure", joined((tag("figcaption", drawing.title), image), "\n"))
