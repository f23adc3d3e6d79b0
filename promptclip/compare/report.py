"""What a comparison says, as text and as JSON; and what it cannot say, as a sentence."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from promptclip.compare import diagram
from promptclip.compare.inference import (
    LEVEL,
    RESAMPLES,
    RESAMPLING_SEED,
    Estimate,
    Ranking,
    Versus,
    holm,
    rank,
    smallest_wilcoxon,
    versus,
)
from promptclip.compare.pairing import Contest

METHODS = (
    f"Differences in points of percent. Intervals: 95%, by Student's t and by the bootstrap "
    f"({RESAMPLES} resamples, seed {RESAMPLING_SEED}; too narrow for few values). Over data sets, "
    "each counts with its mean over seeds."
)


def as_text(contests: Sequence[Contest]) -> str:
    """A report for people."""
    parts = ["\n".join(_contest(contest)) for contest in contests]
    return "\n\n".join([*parts, METHODS]) + "\n"


def as_json(contests: Sequence[Contest]) -> str:
    """All numbers at full precision."""
    content = {
        "methods": METHODS,
        "contests": [
            {
                "protocol": contest.protocol,
                "setting": contest.setting,
                "measure": contest.measure,
                "methods": list(contest.methods),
                "values": {
                    dataset: {str(seed): list(values) for seed, values in seeds.items()}
                    for dataset, seeds in contest.values.items()
                },
                "versus": [_fields(pair) for pair in pairs(contest)],
                "ranking": _fields(ranking) if (ranking := _ranking(contest)) else None,
                "unpaired": list(contest.unpaired),
                "limits": list(limits(contest)),
            }
            for contest in contests
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _fields(found: Versus | Ranking) -> dict[str, Any]:
    return dataclasses.asdict(found)


def pairs(contest: Contest) -> list[Versus]:
    """The first method against each other one, p adjusted if there are several."""
    found = [versus(contest, 0, other) for other in range(1, len(contest.methods))]
    known = [pair for pair in found if pair]
    p_values = {index: pair.p for index, pair in enumerate(known) if pair.p is not None}
    if len(p_values) < 2:
        return known
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        dataclasses.replace(pair, adjusted_p=adjusted.get(index))
        for index, pair in enumerate(known)
    ]


def _ranking(contest: Contest) -> Ranking | None:
    return rank(contest) if len(contest.methods) > 2 else None


def limits(contest: Contest) -> Iterator[str]:
    """What the numbers of seeds and of data sets cannot carry."""
    if not contest.values:
        yield "Nothing can be compared: no data set and seed is the same for all."
        return
    yield from _limit_of_seeds([len(seeds) for seeds in contest.values.values()])
    n, tests = len(contest.values), len(contest.methods) - 1
    least = tests * smallest_wilcoxon(n)  # Holm's first step
    if n == 1:
        yield "One data set: this says nothing about others."
    elif least > LEVEL:
        test = "Wilcoxon's test" + (f", adjusted for {tests} comparisons," if tests > 1 else "")
        yield (
            f"{n} data sets: {test} cannot go below p = {least:.4g}, so it cannot show a "
            f"difference at {LEVEL:.0%} whatever the values are; {_enough(tests)} data sets could."
        )
    if (ranking := _ranking(contest)) and ranking.smallest_p > LEVEL:
        yield (
            f"{n} data sets and {len(contest.methods)} methods: Friedman's test "
            f"cannot go below p = {ranking.smallest_p:.2g}."
        )


def _limit_of_seeds(counts: Sequence[int]) -> Iterator[str]:
    few, many = min(counts), max(counts)
    if few == 1:
        yield "One seed of a data set has no interval, and tells nothing about other seeds."
    elif few < _enough(1):
        yield (
            f"{few if few == many else f'{few} to {many}'} seeds of a data set: a signed-rank test "
            f"over {few} cannot go below p = {smallest_wilcoxon(few):.4g}; the t interval takes "
            "differences for normal."
        )


def _enough(tests: int) -> int:
    """The fewest values with which one of several signed-rank tests can reach the level."""
    return next(n for n in itertools.count(1) if tests * smallest_wilcoxon(n) <= LEVEL)


def _contest(contest: Contest) -> Iterator[str]:
    first, *others = contest.methods
    yield f"{first} against {', '.join(others)}: {contest.title}"
    found = pairs(contest)
    if found:
        yield ""
    for pair in found:
        yield from _versus(pair)
    if ranking := _ranking(contest):
        yield from _ranked(ranking)
    yield from limits(contest)
    for line in contest.unpaired:
        yield f"not compared, {line}"


def _versus(pair: Versus) -> Iterator[str]:
    head = ["data set", "n", "mean", "t interval", "bootstrap"]
    rows = [[dataset, *_cells(found)] for dataset, found in pair.by_dataset.items()]
    if len(rows) > 1:
        rows.append(["over data sets", *_cells(pair.overall)])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    yield " - ".join(pair.methods)
    for row in (head, *rows):
        name, *cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(["", row[0].ljust(len(name)), *cells]).rstrip()
    if len(pair.by_dataset) > 1:
        yield f"  {_wilcoxon(pair)}"
    yield ""


def _wilcoxon(pair: Versus) -> str:
    if pair.p is None or pair.smallest_p is None:
        return "Wilcoxon over data sets: no difference anywhere, nothing to test"
    holm = "" if pair.adjusted_p is None else f", {pair.adjusted_p:.3g} adjusted by Holm"
    return (
        f"Wilcoxon over data sets: p = {pair.p:.3g}{holm} (smallest possible {pair.smallest_p:.3g})"
    )


def _cells(found: Estimate) -> list[str]:
    return [str(found.n), f"{found.mean:+.2f}", _interval(found.t), _interval(found.bootstrap)]


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _ranked(ranking: Ranking) -> Iterator[str]:
    n = len(ranking.datasets)
    if ranking.p is None:
        yield f"Mean ranks over {n} data sets; no difference anywhere, nothing to test."
    else:
        yield (
            f"Friedman over {n} data sets: p = {ranking.p:.3g} (smallest possible "
            f"{ranking.smallest_p:.3g}); critical difference of mean ranks "
            f"{ranking.critical_difference:.2f} (Nemenyi, {LEVEL:.0%})"
        )
    yield ""
    yield from (f"  {line}" for line in diagram.lines(ranking))
    yield ""
    if ranking.p is not None and ranking.p > LEVEL:
        yield "Friedman's test finds no difference, so neither does the diagram."
    for group in ranking.groups:
        yield f"not told apart: {', '.join(group)}"
