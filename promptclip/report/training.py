"""Terms of the loss by epoch, from the logs of runs, finished or not."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
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
_EPOCH = re.compile(r"epoch \[(\d{1,9})/\d{1,9}\] batch \[\d{1,9}/\d{1,9}\] ")
_MEAN = re.compile(r"\b(loss(?:_\w{1,40})?) \S{1,30} \(([-+.\de]{1,30})\)")


def section(source: Source) -> Section:
    """A figure for each method in each setting."""
    title, anchor = "Training", "training"
    parts: list[Part] = []
    for setting, runs in source.by_setting(source.runs).items():
        found = {label: read_all(its) for label, its in source.by_label(runs).items()}
        drawings = [_drawing(setting, *one) for one in found.items() if one[1]]
        if drawings:
            parts += [tag("h3", setting), *drawings]
    if not parts:
        return Section(anchor, title, empty="No run in this folder has a log of training.")
    return Section(anchor, title, [paragraph(NOTE), *parts])


def read_all(runs: Sequence[Run]) -> list[Curves]:
    """The curves of every run that has a log of training."""
    return [curves for run in runs if (curves := read(run.folder))]


def read(folder: Path) -> Curves:
    """The numbers of every epoch in the logs of a folder; of an epoch that is in twice, the last.

    Lines that are none of training, and numbers that are not finite, are passed over; so is a
    log that cannot be read.
    """
    found: Curves = {}
    for file in sorted(folder.glob("log.txt*"), key=_age):
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in iter(lambda: lines.readline(LONGEST_LINE), ""):
                    if match := _EPOCH.match(line):
                        for name, value in _numbers(line):
                            found.setdefault(name, {})[int(match[1])] = value
        except OSError:
            continue
    return found


def _numbers(line: str) -> Iterator[tuple[str, float]]:
    for name, number in _MEAN.findall(line):
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


def _drawing(setting: Setting, label: str, curves: Sequence[Curves]) -> Drawing:
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
            shown = "sum" if name == "loss" else name.removeprefix("loss_")
            axes.plot(list(means), list(means.values()), label=shown, markersize=3,
                      **style._asdict())  # fmt: skip
            drawn += means.values()
            first, last = min(means), max(means)
            told.append(f"{shown} from {means[first]:.3g} to {means[last]:.3g}")
        figures.in_points(axes, "loss", drawn)
        axes.set_xlabel("epoch")
        figures.whole_numbers(axes)
        figures.legend(figure, axes)
    alt = f"Loss of {label} by epoch, {setting}: {'; '.join(told)}."
    name = f"training-{setting.slug}-{label}"
    return Drawing(name, label, alt, figure)


def _means(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Over the seeds that have an epoch."""
    epochs = sorted(set().union(*curves))
    return {e: statistics.fmean(one[e] for one in curves if e in one) for e in epochs}
