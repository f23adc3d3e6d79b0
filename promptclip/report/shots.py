"""Accuracy against the number of training pictures of a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptclip.report import figures
from promptclip.report.figures import Drawing
from promptclip.report.html import Part, Section, paragraph
from promptclip.report.source import Source, grouped, zero_shot
from promptclip.table.model import Row

NOTE = (
    "A line is the mean over seeds, the band around it one sample standard deviation to either "
    "side; with one seed there is none. A star is zero-shot CLIP, which sees no training picture. "
    "The numbers are those of the tables of the summary."
)


def section(source: Source) -> Section:
    """A figure for each benchmark, and one of the average."""
    title, anchor = "Accuracy against shots", "shots"
    drawings = list(_drawings(source))
    if not drawings:
        return Section(anchor, title, empty="No few-shot results are in this folder.")
    parts: list[Part] = [paragraph(NOTE), *drawings]
    return Section(anchor, title, parts)


def _drawings(source: Source) -> Iterator[Drawing]:
    groups = grouped(source.table.all_rows, "fewshot")
    for number, (name, rows) in enumerate(groups):
        shots = [int(column.removeprefix("shots_")) for column in rows[0].cells]
        if any(cell.mean is not None for row in rows for cell in row.cells.values()):
            slug = "average" if rows[0].datasets else f"{number + 1}-{rows[0].dataset}"
            yield _drawing(source, name, f"shots-{slug}", shots, rows)


def _drawing(
    source: Source, name: str, slug: str, shots: Sequence[int], rows: Sequence[Row]
) -> Drawing:
    at = {count: position for position, count in enumerate((0, *shots))}
    told: list[tuple[float, str]] = []
    with figures.look():
        figure, axes = figures.axes()
        for row in sorted(rows, key=_last, reverse=True):
            cells = {
                shots: cell
                for shots, cell in zip(shots, row.cells.values(), strict=True)
                if cell.mean is not None
            }
            means = {shots: float(cell.mean or 0) for shots, cell in cells.items()}
            if not means:
                continue
            label = source.label(row)
            if zero_shot(row.method):
                mean = sum(means.values()) / len(means)
                figures.star(axes, at[0], mean, label)
                told.append((mean, f"{label} {mean:.1f} without training pictures"))
                continue
            style = source.styles[label]
            x, y = [at[count] for count in means], list(means.values())
            spread = [cell.deviation or 0 for cell in cells.values()]
            axes.plot(x, y, label=figures.shown(label), markersize=5, **style._asdict())
            low = [mean - s for mean, s in zip(y, spread, strict=True)]
            high = [mean + s for mean, s in zip(y, spread, strict=True)]
            figures.band(axes, x, low, high, style)
            most = max(means)
            told.append((means[most], f"{label} {means[most]:.1f} at {most}"))
        axes.set_xticks(list(at.values()), [str(count) for count in at])
        axes.set_xlim(-0.3, len(shots) + 0.3)
        axes.set_xlabel("training pictures of each class")
        axes.set_ylabel("accuracy (%)")
        figures.legend(figure, axes)
    order = "; ".join(words for _, words in sorted(told, reverse=True))
    alt = f"Accuracy in percent against shots, {name}. Best first: {order}."
    return Drawing(slug, name, alt, figure)


def _last(row: Row) -> float:
    """The mean with the most shots that there is, for the order of the legend."""
    means = [cell.mean for cell in row.cells.values() if cell.mean is not None]
    return means[-1] if means else -1.0
