"""Cells, rows and tables: the numbers, and what stands in the place of those that are not there."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from promptclip.table import layout
from promptclip.tree import TARGETS

CAPTION = "Accuracy in percent, mean ± sample standard deviation over seeds."
_CAPTIONS = {
    "H": "H: the harmonic mean of base and new for each seed, then as above.",
    layout.AVERAGE: "average: the mean over the targets for each seed, then as above.",
}
_BY_FREQUENCY = (
    "head, medium, tail: the thirds of the classes with the most, the middle and the fewest "
    "training pictures."
)
OVER_DATASETS = (
    "Average over data sets: the mean over the data sets for each seed that has all of them, then "
    "as above; its H is that of a seed's mean base and mean new."
)
H_OF_MEANS = "H of means: the harmonic mean of the two means, as published tables have it."
PUBLISHED = "published: a paper's own number, and ours minus it."
FIXED, TUNED = "fixed", "tuned on validation"
ALL_FIXED = "All hyper-parameters were fixed before the runs."
LOGS = "read from logs"


@dataclass(frozen=True)
class Cell:
    """One number per seed, and what stands in the place of the others.

    Attributes:
        values: accuracy in percent by seed.
        problems: by seed, why there is no value.
        refusal: why the values are not averaged; they are still there one by one.
        applies: False for a cell that the method cannot have.
        pictures: by seed, the hash of the pictures that the value comes from; no entry if unknown.
        remark: what the number is not over, such as "10 of 11 data sets".
    """

    values: Mapping[int, float]
    problems: Mapping[int, str] = field(default_factory=dict)
    refusal: str = ""
    applies: bool = True
    pictures: Mapping[int, str] = field(default_factory=dict)
    remark: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        if self.refusal or not self.values:
            return None
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None with fewer than two seeds."""
        if self.refusal or len(self.values) < 2:
            return None
        return statistics.stdev(self.values.values())

    @property
    def interval(self) -> float | None:
        """Half the width of the 95% t-interval of the mean; None with fewer than two seeds."""
        if self.deviation is None:
            return None
        n = len(self.values)
        return t_quantile(n - 1) * self.deviation / math.sqrt(n)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, left out or refused."""
        return not (self.problems or self.refusal or self.remark)

    def notes(self) -> list[str]:
        """The refusal or the remark, and one line per kind of problem."""
        if not self.applies:
            return ["n/a"]
        seeds: dict[str, list[int]] = {}
        for seed, problem in sorted(self.problems.items()):
            seeds.setdefault(problem, []).append(seed)
        lines = [
            f"{problem} seed{'s' if len(of) > 1 else ''} {' '.join(map(str, of))}"
            for problem, of in seeds.items()
        ]
        return [*filter(None, (self.refusal, self.remark)), *lines]

    @property
    def number(self) -> str:
        """Mean and deviation; empty if there is none."""
        number = "" if self.mean is None else f"{self.mean:.2f}"
        return number + ("" if self.deviation is None else f" ± {self.deviation:.2f}")

    def lines(self) -> list[str]:
        """The number, empty if there is none, and the notes."""
        return [self.number, *self.notes()]

    def as_json(self) -> dict[str, Any]:
        """All that is known, at full precision."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "interval95": self.interval,
            "values": {str(seed): value for seed, value in sorted(self.values.items())},
            "problems": {str(seed): problem for seed, problem in sorted(self.problems.items())},
            "refusal": self.refusal or None,
            "remark": self.remark or None,
            "applies": self.applies,
        }


@dataclass(frozen=True)
class Published:
    """A number of a paper, for a cell whose setting is the same.

    Attributes:
        value: accuracy in percent.
        source: the paper or repository, with the table.
    """

    value: float
    source: str


@dataclass(frozen=True)
class Row:
    """A method under one configuration on one benchmark, or its average over several.

    Attributes:
        dataset: that was trained on; "average" in a row over several.
        shots: of every cell; 0 in "fewshot", where they are the columns.
        cells: by column: "base" and "new", "shots_<k>", "ratio_<r>", or the data sets of the tests,
            of which the first is `dataset`. In a part: "head", "medium" and "tail".
        seconds: mean over seeds of all cells together.
        datasets: over which a row is averaged; empty in a row of one.
        settings: `FIXED`, or `TUNED` if some run chose hyper-parameters on validation pictures;
            empty if it is not known.
        origin: "" for results of this package, else what they were read from (`LOGS`).
        configs: by column, the configuration of one run.
        published: by column, or "H of means", what papers have there.
        part: the column whose classes this row takes apart by their training pictures; "" for none.
    """

    dataset: str
    shots: int
    method: str
    cfg: str
    cells: Mapping[str, Cell]
    seeds: tuple[int, ...]
    trainable_parameters: int | None
    seconds: float | None
    protocol: str = "base2new"
    datasets: tuple[str, ...] = ()
    settings: str = FIXED
    origin: str = ""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)
    part: str = ""

    @property
    def summary(self) -> dict[str, Cell]:
        """H or the average of each seed that has all cells, under its heading; may be empty."""
        if self.part:
            return {}
        if self.protocol == "base2new":
            return {"H": combined("unpaired", lambda pair: harmonic(*pair), self.cells.values())}
        if self.protocol in TARGETS:
            targets = [cell for column, cell in self.cells.items() if column != self.dataset]
            return {layout.AVERAGE: combined("incomplete", statistics.fmean, targets)}
        return {}

    @property
    def all_cells(self) -> dict[str, Cell]:
        """The cells and the summary."""
        return {**self.cells, **self.summary}

    @property
    def base(self) -> Cell:
        """Base classes in "base2new"."""
        return self.cells["base"]

    @property
    def new(self) -> Cell:
        """New classes in "base2new"."""
        return self.cells["new"]

    @property
    def h(self) -> Cell:
        """Harmonic mean of each seed that has both halves in "base2new"."""
        return self.summary["H"]

    @property
    def h_of_means(self) -> float | None:
        """Harmonic mean of the means of base and of new, over the seeds that have both."""
        h = self.summary.get("H")
        if h is None or h.refusal or not h.values:
            return None
        base, new = (statistics.fmean(c.values[s] for s in h.values) for c in self.cells.values())
        return harmonic(base, new)

    def mean(self, column: str) -> float | None:
        """What stands in a column, that of the H of means included."""
        return self.h_of_means if column == layout.H_OF_MEANS else self.all_cells[column].mean

    @property
    def complete_seeds(self) -> set[int]:
        """Seeds that have every cell."""
        return set(self.seeds).intersection(*(c.values for c in self.cells.values() if c.applies))

    @property
    def backbone(self) -> str:
        """CLIP's name; empty if it is not known, "several" if there is more than one."""
        models = (config.get("MODEL", {}) for config in self.configs.values())
        names = {str(model.get("BACKBONE", {}).get("NAME", "")) for model in models}
        return names.pop() if len(names) == 1 else "several" if names else ""


@dataclass(frozen=True)
class Table:
    """Rows in the order of protocol, data set, shots, method, configuration; notes on groups.

    Attributes:
        averages: over the data sets of a protocol with the same shots, where there are several.
        parts: of rows with imbalanced training pictures, one for each column.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    averages: tuple[Row, ...] = ()
    parts: tuple[Row, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every cell of every row has all its seeds."""
        return all(cell.complete for row in self.rows for cell in row.cells.values())

    @property
    def all_rows(self) -> list[Row]:
        """The averages of a protocol stand behind its rows."""
        protocols = dict.fromkeys(row.protocol for row in self.rows)
        return [
            row
            for protocol in protocols
            for row in (*self.rows, *self.averages)
            if row.protocol == protocol
        ]

    @property
    def groups(self) -> Iterator[tuple[str, list[Row]]]:
        """Rows that are to be compared, and what they have in common; parts after their rows."""

        def key(row: Row) -> tuple[str, str, int, tuple[str, ...]]:
            return row.protocol, row.dataset, row.shots, row.datasets

        for common, rows in itertools.groupby(self.all_rows, key):
            yield layout.title(*common), list(rows)
            own = [row for row in self.parts if key(row) == common]
            for part in dict.fromkeys(row.part for row in own):
                yield layout.title(*common, part), [row for row in own if row.part == part]

    @property
    def caption(self) -> str:
        """What the numbers are."""
        rows = self.all_rows
        parts = [
            CAPTION,
            *(_CAPTIONS[name] for name in dict.fromkeys(n for r in rows for n in r.summary)),
        ]
        if self.averages:
            parts.append(OVER_DATASETS)
        if self.parts:
            parts.append(_BY_FREQUENCY)
        if any(row.published for row in rows):
            parts.append(PUBLISHED)
        if rows and all(row.settings == FIXED for row in rows):
            parts.append(ALL_FIXED)
        return " ".join(parts)

    @property
    def long_caption(self) -> str:
        """The same with what only some formats have."""
        has_h = any("H" in row.summary for row in self.rows)
        return f"{self.caption} {H_OF_MEANS}" if has_h else self.caption


def harmonic(base: float, new: float) -> float:
    """Harmonic mean; 0 if either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def combined(word: str, mean: Callable[[list[float]], float], cells: Iterable[Cell]) -> Cell:
    """One number for each seed that has all cells; `word` for a seed that has not."""
    cells = list(cells)
    if not cells or not all(cell.applies for cell in cells):
        return Cell({}, applies=False)
    seeds = sorted(set().union(*(cell.values for cell in cells)))
    whole = [seed for seed in seeds if all(seed in cell.values for cell in cells)]
    return Cell(
        {seed: mean([cell.values[seed] for cell in cells]) for seed in whole},
        {seed: word for seed in seeds if seed not in whole},
        next((cell.refusal for cell in cells if cell.refusal), ""),
        pictures={
            seed: "+".join(cell.pictures[seed] for cell in cells)
            for seed in whole
            if all(seed in cell.pictures for cell in cells)
        },
        remark=next((cell.remark for cell in cells if cell.remark), ""),
    )
