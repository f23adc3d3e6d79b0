"""Intervals and tests, and the smallest p that could have come out.

Over the seeds of one data set and over data sets the differences are treated alike: seeds answer
whether another sample of that benchmark would give the same, data sets whether another benchmark
would. Tests over data sets take the mean over seeds of each (Demšar, JMLR 2006).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptclip.compare.pairing import Contest
from promptclip.table import t_quantile

LEVEL = 0.05
RESAMPLES = 9999
RESAMPLING_SEED = 0
_DIGITS = 9  # of a mean; beyond them, equals differ by rounding


@dataclass(frozen=True)
class Estimate:
    """A mean of differences and where it may lie.

    Attributes:
        n: how many differences.
        mean: in points of percent.
        t: the 95% interval if differences are normal; None for fewer than two.
        bootstrap: the 95% percentile interval of resampled means; None for fewer than two.
    """

    n: int
    mean: float
    t: tuple[float, float] | None
    bootstrap: tuple[float, float] | None


@dataclass(frozen=True)
class Versus:
    """The first of two methods minus the second.

    Attributes:
        by_dataset: over the seeds of each.
        overall: over the data sets' means.
        p: of Wilcoxon's signed-rank test over data sets, two-sided; None if there is nothing to
            test. Data sets without a difference are left out.
        smallest_p: that could come out with as many data sets.
        adjusted_p: by Holm's method, where there are several such tests.
    """

    methods: tuple[str, str]
    by_dataset: Mapping[str, Estimate]
    overall: Estimate
    p: float | None
    smallest_p: float | None
    adjusted_p: float | None = None


@dataclass(frozen=True)
class Ranking:
    """Three or more methods over data sets.

    Attributes:
        ranks: mean rank by method, best first; 1 is best, equals share.
        datasets: that all methods have.
        p: of Friedman's test (chi-square); None if there is nothing to test.
        smallest_p: that could come out with as many methods and data sets.
        critical_difference: of mean ranks, by Nemenyi, at `LEVEL`.
        groups: largest sets of methods that it does not tell apart.
    """

    ranks: Mapping[str, float]
    datasets: tuple[str, ...]
    p: float | None
    smallest_p: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]


def estimate(differences: Sequence[float]) -> Estimate:
    """Mean with both intervals."""
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return Estimate(n, mean, None, None)
    half = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Estimate(n, mean, (mean - half, mean + half), _bootstrap(differences))


def _bootstrap(differences: Sequence[float]) -> tuple[float, float]:
    import numpy as np
    from scipy import stats

    interval = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(RESAMPLING_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def versus(contest: Contest, first: int = 0, second: int = 1) -> Versus | None:
    """Compare two methods of a contest; None if they share nothing."""
    by_dataset = {
        dataset: [values[first] - values[second] for values in seeds.values()]
        for dataset, seeds in contest.values.items()
    }
    if not by_dataset:
        return None
    means = [round(statistics.fmean(each), _DIGITS) for each in by_dataset.values()]
    unequal = [mean for mean in means if mean]
    return Versus(
        methods=(contest.methods[first], contest.methods[second]),
        by_dataset={dataset: estimate(found) for dataset, found in by_dataset.items()},
        overall=estimate(means),
        p=_wilcoxon(unequal),
        smallest_p=smallest_wilcoxon(len(unequal)) if unequal else None,
    )


def _wilcoxon(differences: Sequence[float]) -> float | None:
    import numpy as np
    from scipy import stats

    if not differences:
        return None
    # The tabulated distribution knows no equals. Up to 13 data sets all signs are gone through.
    equals = len({abs(difference) for difference in differences}) < len(differences)
    rng = np.random.default_rng(RESAMPLING_SEED)
    method = stats.PermutationMethod(RESAMPLES, rng=rng) if equals else "exact"
    return float(stats.wilcoxon(differences, method=method).pvalue)


def smallest_wilcoxon(n: int) -> float:
    """When all n differences have one sign: 2 of the 2^n patterns of signs are as extreme."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for being the smallest, second, ... of several (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def rank(contest: Contest) -> Ranking | None:
    """Rank all methods of a contest over its data sets; None if they share fewer than two."""
    import numpy as np
    from scipy import stats

    if len(contest.values) < 2:
        return None
    means = dataset_means(contest)
    count, k = means.shape
    ranks = stats.rankdata(-means, axis=1).mean(axis=0)
    differ = bool(np.ptp(means, axis=1).any())
    p = float(stats.friedmanchisquare(*means.T).pvalue) if differ else None
    q = stats.studentized_range.ppf(1 - LEVEL, k, math.inf) / math.sqrt(2)
    critical = float(q * math.sqrt(k * (k + 1) / (6 * count)))
    order = {contest.methods[i]: float(ranks[i]) for i in np.argsort(ranks, kind="stable")}
    return Ranking(
        ranks=order,
        datasets=tuple(contest.values),
        p=p,
        smallest_p=float(stats.chi2.sf(count * (k - 1), k - 1)),
        critical_difference=critical,
        groups=groups(order, critical),
    )


def dataset_means(contest: Contest):  # type: ignore[no-untyped-def]
    """Means over seeds, [data sets, methods]."""
    import numpy as np

    means = [np.mean(list(seeds.values()), axis=0) for seeds in contest.values.values()]
    return np.round(means, _DIGITS)


def groups(ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Largest runs of neighbours whose ends lie no further apart than the critical difference.

    Args:
        ranks: best first.
        critical: in ranks.
    """
    names = list(ranks)
    runs: list[tuple[str, ...]] = []
    reached = 0
    for start, name in enumerate(names):
        end = sum(ranks[other] - ranks[name] <= critical for other in names[start:]) + start
        if end - start > 1 and end > reached:
            runs.append(tuple(names[start:end]))
            reached = end
    return tuple(runs)
