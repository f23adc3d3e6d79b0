"""What sections are made of, and how it is written in HTML: everything else is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from promptclip.errors import printable

if TYPE_CHECKING:
    from promptclip.report.figures import Drawing


class Markup(str):
    """HTML that has been made here, in which names are escaped already."""


def text(value: object) -> Markup:
    """Anything as text of a page: markup stays, all else is escaped and on one line."""
    return value if isinstance(value, Markup) else Markup(html.escape(printable(str(value))))


def tag(name: str, content: object = "", /, **attributes: object) -> Markup:
    """An element; attributes without value are left out, `class_` is written `class`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{text(content)}</{name}>")


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other, each as `text` has it."""
    return Markup(between.join(text(part) for part in parts))


def paragraph(*parts: object) -> Markup:
    """Text that is read from left to right."""
    return tag("p", joined(parts))


def listed(items: Iterable[object], **attributes: object) -> Markup:
    """A list with bullets."""
    return tag("ul", joined((tag("li", item) for item in items), "\n"), **attributes)


def folded(summary: object, *parts: object) -> Markup:
    """What is shown when asked for; on paper, what was open."""
    return tag("details", joined((tag("summary", summary), *parts), "\n"))


def table(caption: object, headings: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table whose first column names its rows, in a frame that can be moved sideways."""
    head = joined(tag("th", heading, scope="col") for heading in headings)
    body = joined(_row(row) for row in rows)
    label = html.unescape(str(text(caption)))
    inner = joined(
        (
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", head)),
            tag("tbody", body),
        ),
        "\n",
    )
    return tag(
        "div",
        tag("table", inner, class_="words"),
        class_="wide",
        role="region",
        tabindex=0,
        aria_label=label,
    )


def _row(row: Sequence[object]) -> Markup:
    name, *values = row
    return Markup(
        tag("tr", joined((tag("th", name, scope="row"), *(tag("td", value) for value in values))))
        + "\n"
    )


Part: TypeAlias = "Markup | Drawing"


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading.

    Attributes:
        anchor: what links within the page name.
        title: the heading.
        parts: in the order of reading; drawings that follow each other stand side by side.
        empty: why there is nothing, where there is nothing.
    """

    anchor: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)
    empty: str = ""

    @property
    def drawings(self) -> Iterator[Drawing]:
        """Those of its parts that are figures."""
        return (part for part in self.parts if not isinstance(part, Markup))
