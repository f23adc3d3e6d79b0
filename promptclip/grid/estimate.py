"""How long runs will take, going by those that are finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from promptclip import results
from promptclip.tree import Place, find


class Estimate:
    """Seconds of a run, from finished runs that are as like it as there are.

    Args:
        finished: place and seconds of each.
    """

    def __init__(self, finished: Iterable[tuple[Place, float]]) -> None:
        self._known: dict[tuple[Any, ...], tuple[float, int]] = {}  # their sum and number
        for place, seconds in finished:
            for key in _keys(place):
                total, count = self._known.get(key, (0.0, 0))
                self._known[key] = total + seconds, count + 1

    def of(self, place: Place) -> float | None:
        """Seconds; None if there is nothing to go by."""
        for key in _keys(place):
            if key in self._known:
                total, count = self._known[key]
                return total / count
        return None

    def total(self, places: Iterable[Place]) -> tuple[float, int]:
        """Seconds of all together, and the number of those that nothing is known of."""
        each = [self.of(place) for place in places]
        return sum(filter(None, each)), each.count(None)


def from_tree(output: Path) -> Iterator[tuple[Place, float]]:
    """Place and seconds of every finished run of an output tree."""
    for file in sorted(output.glob(f"**/seed*/{results.RESULT_FILE}")):
        place, result = find(file.parent), results.read(file.parent)
        if place and result:
            yield place, sum(result["seconds"].values())


def told(seconds: float) -> str:
    """Such as "2 h 05 min", "3 min" or "12 s"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _keys(place: Place) -> Iterator[tuple[Any, ...]]:
    """What makes runs alike, the most alike first.

    A training and its test differ in protocol or classes.
    """
    kind = (place.protocol, place.classes)
    data = (place.dataset, place.target)
    yield kind, data, place.method, place.cfg, place.shots
    yield kind, data, place.method, place.cfg
    yield kind, place.method, place.cfg
    yield kind, place.method
    yield (kind,)
