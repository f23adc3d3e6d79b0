"""Cost against the number of classes, of images, and of context tokens, as lines and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from speed.bench import Bench, Compared
from speed.measure import Measured
from speed.table import MEGABYTE


@dataclass(frozen=True)
class Curve:
    """A line.

    Attributes:
        over: what is varied.
        name: of the line.
        at: numbers of classes, images or tokens.
        took: what the work took there.
    """

    over: str
    name: str
    at: list[int]
    took: list[Measured]


def curves(bench: Bench) -> Iterator[Curve]:
    """All lines."""
    sizes = bench.sizes
    few = sizes.textbook_classes
    text = f"text tower, {few} classes"
    classes = sorted({*sizes.curve_classes, *sizes.classes, sizes.many_classes})
    yield from _both("classes", "text tower", classes, bench.text)
    yield from _both("context tokens", text, sizes.curve_contexts, partial(bench.text, few, "fp32"))
    for method in ("CoOp", "DAPT"):
        work, step = f"{method} step, {few} classes", partial(bench.step, method, few, "fp32")
        yield from _both("images", work, sizes.curve_batches, step)


def _both(
    over: str, work: str, at: Sequence[int], compared: Callable[[int], Compared]
) -> Iterator[Curve]:
    """Ours and, as far as it was taken, the textbook path."""
    found = [(number, compared(number)) for number in at]
    for name in ("ours", "textbook"):
        points = [(number, getattr(one, name)) for number, one in found if getattr(one, name)]
        yield Curve(over, f"{work}, {name}", *map(list, zip(*points, strict=True)))


def draw(lines: Sequence[Curve], folder: Path) -> list[Path]:
    """Write `cost.png` and `cost.svg`: seconds above, memory below.

    Returns:
        The files.
    """
    from matplotlib.figure import Figure  # an extra, `promptclip[plots]`

    varied = list(dict.fromkeys(line.over for line in lines))
    figure = Figure(figsize=(5 * len(varied), 8), layout="constrained")
    for axes, over in zip(figure.subplots(2, len(varied), squeeze=False).T, varied, strict=True):
        for line in lines:
            if line.over == over:
                style = "--o" if line.name.endswith("textbook") else "-o"
                axes[0].plot(line.at, [one.seconds for one in line.took], style, label=line.name)
                megabytes = [one.bytes / MEGABYTE for one in line.took]
                axes[1].plot(line.at, megabytes, style, label=line.name)
        for one, unit in zip(axes, ("seconds", "memory beyond the weights, MB"), strict=True):
            one.set_xlabel(over)
            one.set_ylabel(unit)
            if over == "classes":  # from a hundred to many thousands
                one.set_xscale("log")
                one.set_yscale("log")
            else:
                one.set_ylim(bottom=0)
            one.grid(alpha=0.3)
        axes[0].legend(fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"cost{suffix}" for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file)
    return files
