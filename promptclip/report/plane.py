"""Accuracy on new classes against that on base classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from promptclip.report import figures
from promptclip.report.figures import Drawing
from promptclip.report.html import Part, Section, paragraph
from promptclip.report.source import Source, grouped, zero_shot
from promptclip.table.model import Row, harmonic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE = (
    "To the right is better on the classes that were trained on, upwards on classes never seen. "
    "Grey lines join points of equal H, the harmonic mean of the two. Bars are one sample standard "
    "deviation over seeds to either side; the star is zero-shot CLIP. A method without a result "
    "on one of the halves has no point."
)
MARGIN = 0.12


def section(source: Source) -> Section:
    """A figure for each benchmark and number of shots, and one of the average."""
    title, anchor = "Base against new classes", "plane"
    drawings = list(_drawings(source))
    if not drawings:
        return Section(
            anchor, title, empty="No method has base-to-new results on both halves in this folder."
        )
    parts: list[Part] = [paragraph(NOTE), *drawings]
    return Section(anchor, title, parts)


def _drawings(source: Source) -> Iterator[Drawing]:
    for number, (name, rows) in enumerate(grouped(source.table.all_rows, "base2new")):
        points = [row for row in rows if row.base.mean is not None and row.new.mean is not None]
        if points:
            one = points[0]
            slug = f"average-{one.shots}" if one.datasets else f"{number + 1}-{one.dataset}"
            yield _drawing(source, name, f"plane-{slug}", points)


def _drawing(source: Source, name: str, slug: str, rows: Sequence[Row]) -> Drawing:
    told: list[tuple[float, str]] = []
    with figures.look():
        figure, axes = figures.axes(height=3.8)
        for row in sorted(rows, key=lambda row: row.h.mean or 0.0, reverse=True):
            base, new, label = row.base.mean or 0.0, row.new.mean or 0.0, source.label(row)
            if zero_shot(row.method):
                figures.star(axes, base, new, label)
            else:
                style = {**source.styles[label]._asdict(), "linestyle": "none"}
                axes.errorbar(
                    [base], [new], row.new.deviation, row.base.deviation,
                    label=figures.shown(label), markersize=7, elinewidth=0.8, **style,
                )  # fmt: skip
            h = harmonic(base, new)
            told.append((h, f"{label} base {base:.1f}, new {new:.1f}, H {h:.1f}"))
        _lines_of_equal_h(axes)
        axes.set_xlabel("accuracy on base classes (%)")
        axes.set_ylabel("accuracy on new classes (%)")
        figures.legend(figure, axes)
    order = "; ".join(words for _, words in sorted(told, reverse=True))
    alt = f"Base against new accuracy in percent, {name}. Highest H first: {order}."
    return Drawing(slug, name, alt, figure)


def _lines_of_equal_h(axes: Axes) -> None:
    """Draw them behind the points, within the room that the points take."""
    import numpy as np

    axes.margins(MARGIN)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    left, bottom, right, top = max(left, 0.1), max(bottom, 0.1), min(right, 100), min(top, 100)
    step = next(s for s in (1, 2, 5, 10, 20) if (right - left + top - bottom) / s < 16 or s == 20)
    base = np.linspace(left, right, 300)
    for h in np.arange(step, 100, step):
        inside = 2 * base > h * 1.001
        new = h * base[inside] / (2 * base[inside] - h)
        seen = (new >= bottom) & (new <= top)
        if seen.sum() > 1:
            axes.plot(base[inside][seen], new[seen], color="#999999", linewidth=0.7, zorder=0)
            x, y = base[inside][seen][-1], new[seen][-1]
            axes.annotate(f"H {h:g}", (x, y), fontsize=7, color="#666666", ha="right", va="bottom")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
