"""Which classes a method gains and loses against zero-shot CLIP."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptclip.report import html
from promptclip.report.html import Markup, Section, folded, paragraph, tag
from promptclip.report.source import Run, Setting, Source, zero_shot

LONGEST = 10  # classes shown at either end of a long list
NOTE = (
    "Accuracy of each class minus that of zero-shot CLIP on the same pictures, in points of "
    "percent, the mean over the seeds that both have, of the results with the most shots. A class "
    "with few test pictures moves in large steps: with 4, one picture is 25 points."
)


@dataclass(frozen=True)
class Change:
    """Of one class.

    Attributes:
        pictures: in its test.
        before: accuracy of zero-shot CLIP in percent.
        after: that of the method.
    """

    classname: str
    pictures: int
    before: float
    after: float

    @property
    def gain(self) -> float:
        """In points of percent; negative for a loss."""
        return self.after - self.before


def section(source: Source) -> Section:
    """For each setting an overview, and behind it the classes of each method."""
    title, anchor = "Gains and losses by class", "classes"
    parts = list(_parts(source))
    if not parts:
        why = (
            "No method has per-class accuracies beside those of zero-shot CLIP "
            "(method zsclip) on the same classes, shots and seed."
        )
        return Section(anchor, title, empty=why)
    return Section(anchor, title, [paragraph(NOTE), *parts])


def _parts(source: Source) -> Iterator[Markup]:
    for setting, runs in source.by_setting().items():
        plain = [run for run in runs if zero_shot(run.place.method)]
        found = {
            label: changes
            for label, its in source.by_label(runs).items()
            if not zero_shot(its[0].place.method)
            and (changes := changes_of(its, beside(its[0], plain)))
        }
        if found:
            yield _overview(setting, found)
            for label, changes in found.items():
                yield folded(f"{label}: classes", _classes(f"{label}, {setting}", changes))


def beside(run: Run, plain: Sequence[Run]) -> list[Run]:
    """Zero-shot runs of one kind: with the configuration file of a run, else of the first name."""

    def kind(one: Run) -> tuple[bool, str, str]:
        return one.place.cfg != run.place.cfg, one.place.method, one.place.cfg

    chosen = min(map(kind, plain), default=None)
    return [one for one in plain if kind(one) == chosen]


def changes_of(runs: Sequence[Run], plain: Sequence[Run]) -> list[Change]:
    """Changes of every class with test pictures, largest gain first.

    Args:
        runs: of a method, of one setting.
        plain: those of zero-shot CLIP. Seeds that it lacks, or where it had other classes or
            pictures, are left out.
    """
    before = {run.place.seed: run for run in plain}
    pairs = [
        (before[run.place.seed], run)
        for run in runs
        if run.place.seed in before and _same(before[run.place.seed], run)
    ]
    if not pairs:
        return []
    changes = []
    for rows in zip(*(zip(_rows(old), _rows(new), strict=True) for old, new in pairs), strict=True):
        first = rows[0][1]
        if first["accuracy"] is None:
            continue
        old, new = (
            statistics.fmean(float(str(row[i]["accuracy"])) for row in rows) for i in (0, 1)
        )
        changes.append(Change(str(first["classname"]), int(str(first["num_test"])), old, new))
    return sorted(changes, key=lambda change: (-change.gain, change.classname))


def _rows(run: Run) -> Sequence[Mapping[str, object]]:
    rows: Sequence[Mapping[str, object]] = run.result.get("per_class", ())
    return rows


def _same(one: Run, other: Run) -> bool:
    """Whether both were tested on the same classes and as many pictures of each."""

    def tested(run: Run) -> list[tuple[object, object]]:
        return [(row["classname"], row["num_test"]) for row in _rows(run)]

    return bool(_rows(one)) and tested(one) == tested(other)


def _overview(setting: Setting, found: Mapping[str, Sequence[Change]]) -> Markup:
    rows = []
    for label, changes in found.items():
        better = sum(change.gain > 0 for change in changes)
        worse = sum(change.gain < 0 for change in changes)
        best, worst = changes[0], changes[-1]
        rows.append(
            (
                label,
                f"{better}",
                f"{len(changes) - better - worse}",
                f"{worse}",
                f"{best.classname} {best.gain:+.1f}" if best.gain > 0 else "none",
                f"{worst.classname} {worst.gain:+.1f}" if worst.gain < 0 else "none",
            )
        )
    headings = ("method", "classes up", "equal", "down", "largest gain", "largest loss")
    return html.table(f"{setting}: classes against zero-shot CLIP", headings, rows)


def _classes(caption: str, changes: Sequence[Change]) -> Markup:
    shown = list(changes)
    left_out = len(shown) - 2 * LONGEST
    if left_out > LONGEST:
        shown = [*shown[:LONGEST], *shown[-LONGEST:]]
        caption += f" (the {left_out} classes between are not shown)"
    largest = max((abs(change.gain) for change in shown), default=0) or 1.0
    rows = (
        (
            change.classname,
            change.pictures,
            f"{change.before:.1f}",
            f"{change.after:.1f}",
            f"{change.gain:+.1f}" if change.gain else "0.0",
            _bar(change.gain, largest),
        )
        for change in shown
    )
    headings = ("class", "test pictures", "zero-shot", "method", "gain", "gain as a bar")
    return html.table(caption, headings, rows)


def _bar(gain: float, largest: float) -> Markup:
    """To the right of the middle for a gain, hatched and to the left for a loss."""
    width = round(50 * abs(gain) / largest, 1)
    kind = "gain" if gain > 0 else "loss"
    bar = tag("span", class_=kind, style=f"width:{width}%") if gain else ""
    return tag("span", bar, class_="bar", aria_hidden="true")
