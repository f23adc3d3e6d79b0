"""Which classes are taken for which, with pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator

from promptclip import pictures
from promptclip.pictures import UnreadableError
from promptclip.report import html
from promptclip.report.figures import data_url
from promptclip.report.html import Markup, Section, folded, joined, listed, paragraph, tag
from promptclip.report.looking import Look
from promptclip.report.source import Source

PAIRS, EXAMPLES, SIDE = 6, 3, 64
NOT_LOOKED = (
    "What runs keep does not say it. `promptclip report --look METHOD,...` loads models again."
)
NOTE = (
    "The pairs of a true class and the wrong answer that occur most often, in one run of each "
    "method (the lowest seed), with some of the pictures. A pair that occurs once may be chance."
)


def section(source: Source) -> Section:
    """A table for each look."""
    title, anchor = "Confused classes", "confusions"
    if not source.looked:
        return Section(anchor, title, empty=NOT_LOOKED)
    parts: list[Markup] = [paragraph(NOTE)]
    if source.blind:
        parts += [
            paragraph("These could not look at their pictures again:"),
            listed(source.blind, class_="problems"),
        ]
    for (setting, label), look in source.looks.items():
        caption = f"{label}, {setting}"
        remarks = list(look.remarks())
        if remarks:
            parts.append(listed((f"{caption}: {one}" for one in remarks), class_="problems"))
        rows = list(_rows(look))
        shown = (
            html.table(caption, ("true class", "taken for", "pictures", "examples"), rows)
            if rows
            else paragraph("No picture was answered wrongly.")
        )
        parts.append(folded(f"{caption}: {look.accuracy:.1f} % right", shown))
    return Section(anchor, title, parts)


def pairs(look: Look) -> list[tuple[int, int, list[int]]]:
    """The most frequent pairs of a label and another answer, with their pictures' numbers."""
    answers = list(zip(look.label.tolist(), look.answer.tolist(), strict=True))
    count = Counter(pair for pair in answers if pair[0] != pair[1])
    most = sorted(count, key=lambda pair: (-count[pair], pair))[:PAIRS]
    return [
        (*pair, [index for index, other in enumerate(answers) if other == pair]) for pair in most
    ]


def _rows(look: Look) -> Iterator[tuple[object, ...]]:
    count = Counter(look.label.tolist())
    for label, answer, numbers in pairs(look):
        name, other = look.classnames[label], look.classnames[answer]
        examples = [
            picture(look.paths[index], f"{name}, taken for {other}") for index in numbers[:EXAMPLES]
        ]
        yield name, other, f"{len(numbers)} of {count[label]}", joined(examples, " ")


def picture(path: str, alt: str) -> Markup:
    """A picture in small as a part of the page; its name where it cannot be read any more."""
    try:
        with pictures.quiet():
            image = pictures.rgb(path)
    except (UnreadableError, OSError) as error:
        return tag("small", f"{path} cannot be read ({error})")
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    url = data_url(content.getvalue(), "png")
    return Markup(f'<img src="{url}" alt="{html.text(alt)}" width="{image.width}" '
                  f'height="{image.height}">')  # fmt: skip
