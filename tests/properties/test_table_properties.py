"""What tables say, with seeds missing and with one alone, against Python's `statistics`."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptclip.table import Cell, Row, layout, t_quantile
from promptclip.table.model import combined

t_quantile(1)  # loads scipy before hypothesis measures time

PERCENT = st.floats(0, 100)
VALUES = st.dictionaries(st.integers(0, 6), PERCENT, max_size=6)


def row(protocol: str, **cells: dict[int, float]) -> Row:
    seeds = tuple(sorted(set().union(*cells.values())))
    found = {column: Cell(values) for column, values in cells.items()}
    return Row("one", 16, "CoOp", "tiny", found, seeds, 1, 1, protocol=protocol)


@given(VALUES)
def test_mean_and_deviation(values: dict[int, float]) -> None:
    cell, numbers = Cell(values), list(values.values())
    assert cell.mean == (statistics.fmean(numbers) if numbers else None)
    assert cell.deviation == (statistics.stdev(numbers) if len(numbers) > 1 else None)
    if len(numbers) > 1:
        half = t_quantile(len(numbers) - 1) * statistics.stdev(numbers) / math.sqrt(len(numbers))
        assert cell.interval == pytest.approx(half)
    else:
        assert cell.interval is None
    for line in cell.lines():
        assert "nan" not in line


@settings(deadline=None)
@given(VALUES, VALUES)
def test_h_is_of_the_seeds_that_have_both(base: dict[int, float], new: dict[int, float]) -> None:
    found = row("base2new", base=base, new=new)
    both = sorted(base.keys() & new.keys())
    h = {seed: statistics.harmonic_mean([base[seed], new[seed]]) for seed in both}
    assert found.h.values.keys() == h.keys()
    for seed in both:
        assert found.h.values[seed] == pytest.approx(h[seed])
    assert found.h.problems.keys() == base.keys() ^ new.keys()
    assert found.complete_seeds == set(both)
    if not both:
        assert found.h.mean is found.h_of_means is None
        return
    assert found.h.mean == pytest.approx(statistics.fmean(h.values()))
    if len(both) > 1:
        assert found.h.deviation == pytest.approx(statistics.stdev(h.values()), abs=1e-9)
    means = [statistics.fmean(half[seed] for seed in both) for half in (base, new)]
    assert found.h_of_means == pytest.approx(statistics.harmonic_mean(means))
    low, high = sorted(means)
    assert low - 1e-9 <= (found.h_of_means or 0) <= high + 1e-9


@settings(deadline=None)
@given(VALUES, st.lists(VALUES, min_size=1, max_size=4))
def test_the_average_of_targets_leaves_the_source_out(
    source: dict[int, float], targets: list[dict[int, float]]
) -> None:
    others = {f"target{number}": values for number, values in enumerate(targets)}
    average = row("xd", one=source, **others).summary[layout.AVERAGE]
    whole = set.intersection(*(set(values) for values in targets))
    assert set(average.values) == whole
    for seed in whole:
        assert average.values[seed] == pytest.approx(statistics.fmean(v[seed] for v in targets))
    assert set(average.problems) == set().union(*targets) - whole


@given(st.lists(VALUES, max_size=4))
def test_what_is_refused_or_cannot_be_stays_so(cells: list[dict[int, float]]) -> None:
    refused = [Cell(values, refusal="not averaged") for values in cells]
    together = combined("incomplete", statistics.fmean, refused)
    assert together.mean is together.deviation is together.interval is None
    none = combined("incomplete", statistics.fmean, [*map(Cell, cells), Cell({}, applies=False)])
    assert (none.values, none.applies) == ({}, False)
