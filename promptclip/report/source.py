"""What is read from an output tree, once, for all sections."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip import plugins
from promptclip.report.figures import Style, styles
from promptclip.table.model import Row, Table
from promptclip.table.outcome import Outcome
from promptclip.table.reading import outcomes, places, tabulated
from promptclip.tree import PROTOCOLS, Place, of_shots

if TYPE_CHECKING:
    from promptclip.report.looking import Look


@dataclass(frozen=True)
class Run:
    """A folder of the tree, and what became of its run."""

    place: Place
    folder: Path
    outcome: Outcome

    @property
    def result(self) -> Mapping[str, Any]:
        """All of `result.json`; empty if it has none."""
        return self.outcome.result


@dataclass(frozen=True)
class Setting:
    """What runs of different methods must share to be compared."""

    protocol: str
    dataset: str
    target: str
    shots: int

    def __str__(self) -> str:
        """Such as "emoji, 16 shots, base to new, new classes"."""
        target = {"base": "base classes", "new": "new classes", "": ""}.get(
            self.target, f"on {self.target}"
        )
        parts = (self.dataset, of_shots(self.shots), PROTOCOLS[self.protocol], target)
        return ", ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """For names of files."""
        parts = (self.protocol, self.dataset, self.target, f"shots_{self.shots}")
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Source:
    """An output tree.

    Attributes:
        root: the folder that was given.
        table: of all results.
        runs: every run that the table has a place for and that has a folder.
        looked: whether models were asked to look at their pictures again.
        looks: what they saw, by setting and label of the method.
        blind: which could not, and why.
    """

    root: Path
    table: Table
    runs: tuple[Run, ...]
    looked: bool = False
    looks: Mapping[tuple[Setting, str], Look] = field(default_factory=dict)
    blind: tuple[str, ...] = ()

    @functools.cached_property
    def finished(self) -> tuple[Run, ...]:
        """Runs with a result."""
        return tuple(run for run in self.runs if run.outcome.accuracy is not None)

    @functools.cached_property
    def styles(self) -> dict[str, Style]:
        """By label of a method."""
        return styles(sorted({self.label(run.place) for run in self.runs}))

    @functools.cached_property
    def _cfgs(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for run in self.runs:
            found.setdefault(run.place.method, set()).add(run.place.cfg)
        return found

    def label(self, of: Place | Row) -> str:
        """What a method is called: with its configuration where it has several."""
        several = len(self._cfgs.get(of.method, ())) > 1
        return f"{of.method}/{of.cfg}" if several else of.method

    def by_setting(self, runs: Iterable[Run] | None = None) -> dict[Setting, list[Run]]:
        """Finished runs that may be compared; of few-shot, those with the most shots alone."""
        found: dict[Setting, list[Run]] = {}
        for run in self.finished if runs is None else runs:
            place = run.place
            setting = Setting(place.protocol, place.dataset, place.target, place.shots)
            found.setdefault(setting, []).append(run)
        most = {
            key: max(s.shots for s in found if replace(s, shots=0) == key)
            for key in {replace(setting, shots=0) for setting in found}
        }
        kept = (s for s in found if s.shots == most[replace(s, shots=0)])
        order = list(PROTOCOLS)
        return {
            setting: found[setting]
            for setting in sorted(
                kept, key=lambda s: (order.index(s.protocol), s.dataset, s.target, s.shots)
            )
        }

    def by_label(self, runs: Iterable[Run]) -> dict[str, list[Run]]:
        """Runs of each method, in the order of seeds."""
        found: dict[str, list[Run]] = {}
        for run in sorted(runs, key=lambda run: (self.label(run.place), run.place.seed)):
            found.setdefault(self.label(run.place), []).append(run)
        return found


def read(root: str | Path) -> Source:
    """Read an output tree.

    Raises:
        UserError: if there is no such folder, or no run below it.
    """
    where = places(root)
    found = outcomes(where)
    runs = {
        folder: Run(place, folder, found[row][spot])
        for row, spots in where.items()
        for spot, (place, folder) in spots.items()
        if folder.is_dir()
    }
    return Source(Path(root), tabulated(found), tuple(runs.values()))


@functools.cache
def zero_shot(method: str) -> bool:
    """Whether a method learns nothing, and is what others are compared with."""
    return not plugins.trains(method)


def grouped(rows: Iterable[Row], protocol: str) -> Iterator[tuple[str, list[Row]]]:
    """Rows of a protocol by what they are measured on, averages last."""
    found: dict[tuple[str, int, tuple[str, ...]], list[Row]] = {}
    for row in rows:
        if row.protocol == protocol and not row.part:
            found.setdefault((row.dataset, row.shots, row.datasets), []).append(row)
    for (dataset, shots, datasets), members in found.items():
        name = f"average over {', '.join(datasets)}" if datasets else dataset
        yield (f"{name}, {of_shots(shots)}" if shots else name), members
