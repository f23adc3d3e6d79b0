"""Numbers by epoch, from the logs of runs, finished or not: terms of the loss, neural collapse."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from promptclip.report import figures
from promptclip.report.figures import Drawing
from promptclip.report.html import Part, Section, paragraph, tag
from promptclip.report.source import Run, Setting, Source

Curves: TypeAlias = "dict[str, dict[int, float]]"  # by name of a number, by epoch

NOTE = (
    "Means over the batches of an epoch up to the last one that the log has a line of; the thick "
    "line is the mean over seeds, thin ones are single seeds. The sum and every term of the loss "
    "are drawn as they enter the sum, with their weights. Of runs with several numbers of shots, "
    "those with the most. Runs that have failed or are not finished are among them."
)
LONGEST_LINE = 10_000
TERMS = 20  # a log that has more is none of ours
LARGEST = 1e30  # a loss beyond has no mean


@dataclass(frozen=True)
class Kind:
    """Lines of a log that draw curves.

    Attributes:
        name: how the names of its figures begin.
        title: of the vertical axis, and what is said of the curves.
        line: how such a line begins; its group is the epoch.
        number: a name and a number in it.
        sum_of: the name of the curve that is the sum of others, and how the others begin.
    """

    name: str
    title: str
    line: re.Pattern[str]
    number: re.Pattern[str]
    sum_of: str = ""

    def shown(self, name: str) -> str:
        """A curve's name in a legend."""
        if name == self.sum_of:
            return "sum"
        return name.removeprefix(f"{self.sum_of}_").replace("_", " ")


_EPOCH = r"epoch \[(\d{1,9})/\d{1,9}\] "
LOSS = Kind(
    "training",
    "loss",
    re.compile(rf"{_EPOCH}batch \[\d{{1,9}}/\d{{1,9}}\] "),
    re.compile(r"\b(loss(?:_\w{1,40})?) \S{1,30} \(([-+.\de]{1,30})\)"),
    sum_of="loss",
)
COLLAPSE = Kind(
    "collapse",
    "neural collapse",
    re.compile(rf"{_EPOCH}collapse "),
    re.compile(
        r"\b(nc1_variability|nc2_equiangular_image|nc2_equiangular_text|nc3_self_duality"
        r"|nc4_nearest_mean) ([-+.\de]{1,30})"
    ),
)


def section(source: Source) -> Section:
    """A figure for each method in each setting."""
    title, anchor = "Training", "training"
    parts: list[Part] = []
    for setting, runs in source.by_setting(source.runs).items():
        if drawings := drawn(source, setting, runs, LOSS):
            parts += [tag("h3", setting), *drawings]
    if not parts:
        return Section(anchor, title, empty="No run in this folder has a log of training.")
    return Section(anchor, title, [paragraph(NOTE), *parts])


def drawn(source: Source, setting: Setting, runs: Sequence[Run], kind: Kind) -> list[Drawing]:
    """A figure for each method that has such curves."""
    found = {label: read_all(its, kind) for label, its in source.by_label(runs).items()}
    return [_drawing(kind, setting, *one) for one in found.items() if one[1]]


def read_all(runs: Sequence[Run], kind: Kind) -> list[Curves]:
    """The curves of every run that has them in its log."""
    return [curves for run in runs if (curves := read(run.folder, kind))]


def read(folder: Path, kind: Kind = LOSS) -> Curves:
    """The numbers of every epoch in the logs of a folder; of an epoch that is in twice, the last.

    Other lines, and numbers that are not finite, are passed over; so is a
    log that cannot be read.
    """
    found: Curves = {}
    for file in sorted(folder.glob("log.txt*"), key=_age):
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in iter(lambda: lines.readline(LONGEST_LINE), ""):
                    if match := kind.line.match(line):
                        for name, value in _numbers(line, kind):
                            found.setdefault(name, {})[int(match[1])] = value
        except OSError:
            continue
    return found


def _numbers(line: str, kind: Kind) -> Iterator[tuple[str, float]]:
    for name, number in kind.number.findall(line):
        try:
            value = float(number)
        except ValueError:
            continue
        if abs(value) < LARGEST:  # and not NaN
            yield name, value


def _age(file: Path) -> tuple[float, str]:
    try:
        return file.stat().st_mtime, file.name
    except OSError:  # taken away since, or a link that leads nowhere
        return 0.0, file.name


def _drawing(kind: Kind, setting: Setting, label: str, curves: Sequence[Curves]) -> Drawing:
    names = list(dict.fromkeys(name for one in curves for name in one))[:TERMS]
    told = []
    with figures.look():
        figure, axes = figures.axes(height=2.6)
        drawn: list[float] = []
        for name, style in figures.styles(names).items():
            for one in curves if len(curves) > 1 else ():
                points = one.get(name, {})
                axes.plot(list(points), list(points.values()), color=style.color, linewidth=0.5,
                          alpha=0.6)  # fmt: skip
            means = _means([one.get(name, {}) for one in curves])
            shown = kind.shown(name)
            axes.plot(list(means), list(means.values()), label=shown, markersize=3,
                      **style._asdict())  # fmt: skip
            drawn += means.values()
            first, last = min(means), max(means)
            told.append(f"{shown} from {means[first]:.3g} to {means[last]:.3g}")
        figures.in_points(axes, kind.title, drawn)
        axes.set_xlabel("epoch")
        figures.whole_numbers(axes)
        figures.legend(figure, axes)
    alt = f"{kind.title.capitalize()} of {label} by epoch, {setting}: {'; '.join(told)}."
    name = f"{kind.name}-{setting.slug}-{label}"
    return Drawing(name, label, alt, figure)


def _means(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Over the seeds that have an epoch."""
    epochs = sorted(set().union(*curves))
    return {e: statistics.fmean(one[e] for one in curves if e in one) for e in epochs}
