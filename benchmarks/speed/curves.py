"""Cost against the number of classes, of images, and of context tokens, as lines and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from speed.bench import TEXT, TEXTBOOK, Bench, Job
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

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return vars(self) | {"took": [one.as_json() for one in self.took]}


def curves(bench: Bench) -> Iterator[Curve]:
    """All lines."""
    sizes = bench.sizes
    few = sizes.textbook_classes
    text = f"{TEXT}, {few} classes"
    classes = sorted({*sizes.curve_classes, *sizes.classes, sizes.many_classes})
    yield from _both(bench, "classes", TEXT, classes,
                     lambda n: Job(TEXT, n, textbook=n <= few))  # fmt: skip
    yield from _both(bench, "context tokens", text, sizes.curve_contexts,
                     lambda n: Job(TEXT, few, textbook=True, context=n))  # fmt: skip
    for method in ("CoOp", "DAPT"):
        yield from _both(bench, "images", f"{method} step, {few} classes", sizes.curve_batches,
                         partial(_step, method, few))  # fmt: skip


def _step(method: str, classes: int, batch: int) -> Job:
    return Job(method, classes, textbook=True, batch=batch)


def _both(
    bench: Bench, over: str, work: str, at: Sequence[int], job: Callable[[int], Job]
) -> Iterator[Curve]:
    """Ours and, as far as it is taken, the textbook path."""
    found = [(number, way.how, done.took) for number in at
             for way, done in bench.compared([job(number)]).items()]  # fmt: skip
    for how, name in (("fp32", "ours"), (TEXTBOOK, TEXTBOOK)):
        points = [(number, took) for number, its, took in found if its == how]
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
