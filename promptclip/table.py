"""From a tree of `result.json` files to one table that hides nothing.

A row is a method under one configuration on one benchmark. Its cells are means over seeds with
the sample standard deviation; what is missing, failed or not comparable is said in its place.
Nothing is parsed out of logs.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from promptclip import results
from promptclip.errors import UserError

PHASES = {"train_base": "base", "test_new": "new"}  # folder of the output tree -> column
_RUN = re.compile(
    rf"/(?P<phase>{'|'.join(PHASES)})/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)"
    r"/(?P<method>[^/]+)/(?P<cfg>[^/]+)/seed(?P<seed>\d+)$"
)
_RowKey: TypeAlias = tuple[str, int, str, str]  # data set, shots, method, configuration
_CellKey: TypeAlias = tuple[str, int]  # column, seed
_Found: TypeAlias = Mapping[_CellKey, "dict[str, Any] | str"]  # a result, or why there is none
_HEADINGS = ("method", "base", "new", "H", "seeds", "params", "seconds")
CAPTION = (
    "Accuracy in percent, mean ± sample standard deviation over seeds. "
    "H: the harmonic mean of base and new for each seed, then as above."
)
H_OF_MEANS = "H of means: the harmonic mean of the two means, as published tables have it."


@dataclass(frozen=True)
class Cell:
    """One number per seed, and what stands in the place of the others.

    A refusal says why they are not averaged; then the values are still there one by one.
    """

    values: Mapping[int, float]
    problems: Mapping[int, str] = field(default_factory=dict)
    refusal: str = ""

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

    def notes(self) -> list[str]:
        """The refusal, and one line per kind of problem."""
        seeds: dict[str, list[int]] = {}
        for seed, problem in sorted(self.problems.items()):
            seeds.setdefault(problem, []).append(seed)
        lines = [
            f"{problem} seed{'s' if len(of) > 1 else ''} {' '.join(map(str, of))}"
            for problem, of in seeds.items()
        ]
        return [self.refusal, *lines] if self.refusal else lines

    def lines(self) -> list[str]:
        """The number, empty if there is none, and the notes."""
        number = "" if self.mean is None else f"{self.mean:.2f}"
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return [number + spread, *self.notes()]

    def as_json(self) -> dict[str, Any]:
        """All that is known, at full precision."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "interval95": self.interval,
            "values": {str(seed): value for seed, value in sorted(self.values.items())},
            "problems": {str(seed): problem for seed, problem in sorted(self.problems.items())},
            "refusal": self.refusal or None,
        }


@dataclass(frozen=True)
class Row:
    """A method under one configuration on one benchmark with some number of shots."""

    dataset: str
    shots: int
    method: str
    cfg: str
    base: Cell
    new: Cell
    seeds: tuple[int, ...]
    trainable_parameters: int | None
    seconds: float | None  # mean over seeds of base and new together

    @property
    def h(self) -> Cell:
        """Harmonic mean of each seed that has both halves."""
        base, new = self.base.values, self.new.values
        unpaired = dict.fromkeys(sorted(base.keys() ^ new.keys()), "unpaired")
        values = {
            seed: harmonic(base[seed], new[seed]) for seed in sorted(base.keys() & new.keys())
        }
        return Cell(values, unpaired, self.base.refusal)

    @property
    def h_of_means(self) -> float | None:
        """Harmonic mean of the means of base and of new, over the seeds that have both."""
        if self.base.refusal or not self.h.values:
            return None
        base, new = (
            statistics.fmean(c.values[s] for s in self.h.values) for c in (self.base, self.new)
        )
        return harmonic(base, new)


@dataclass(frozen=True)
class Table:
    """Rows in the order of data set, shots, method, configuration; notes on whole groups."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every cell of every row has all its seeds."""
        return not any(c.problems or c.refusal for row in self.rows for c in (row.base, row.new))


def harmonic(base: float, new: float) -> float:
    """Harmonic mean; 0 if either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """Quantile of Student's t distribution, by bisection.

    The distribution function is the finite sum for whole degrees of freedom (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4), with t = sqrt(freedom) tan(angle).
    """

    def inside(angle: float) -> float:
        """Probability of |T| < t."""
        odd = freedom % 2
        cosine, term, total = math.cos(angle), 1.0, 0.0
        if odd:
            term = math.cos(angle)
        for step in range(freedom // 2):
            total += term
            term *= cosine**2 * (2 * step + 1 + odd) / (2 * step + 2 + odd)
        partial = math.sin(angle) * total
        return 2 / math.pi * (angle + partial) if odd else partial

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def build(root: str | Path) -> Table:
    """Read a tree of base-to-new outputs.

    Args:
        root: any folder in the tree; from inside one half, the other half is read as well.

    Raises:
        UserError: if there is no such folder, or no run below it.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the output folder of some runs")
    runs: dict[_RowKey, dict[_CellKey, Path]] = {}
    for folder in _run_folders(root):
        match = _RUN.search(folder.as_posix())
        if match:
            row = (match["dataset"], int(match["shots"]), match["method"], match["cfg"])
            cell = (PHASES[match["phase"]], int(match["seed"]))
            if runs.setdefault(row, {}).setdefault(cell, folder) != folder:
                raise UserError(f"{root} holds several output trees; give one of them")
    if not runs:
        raise UserError(
            f"{root} holds no runs; expected {'/ and '.join(PHASES)}/ with "
            "<dataset>/shots_<k>/<method>/<cfg>/seed<s>/ below"
        )
    found = {
        row: {cell: _read(folder, row, cell) for cell, folder in cells.items()}
        for row, cells in runs.items()
    }
    # A seed that any method has is expected of all, so that a mean over fewer shows as such.
    expected: dict[tuple[str, int], set[int]] = {}
    for row, cells in runs.items():
        expected.setdefault(row[:2], set()).update(seed for _, seed in cells)
    rows = [_row(row, found[row], sorted(expected[row[:2]])) for row in sorted(runs)]
    return Table(tuple(rows), tuple(_notes(runs, found)))


def render(table: Table, format: str = "text", *, width: int | None = None) -> str:
    """Write a table as text.

    Args:
        table: from `build`.
        format: "text" for terminals, "md", "csv" or "json"; the last two at full precision.
        width: columns of the terminal; None asks it.

    Raises:
        UserError: for another format.
    """
    writers = {"md": _markdown, "csv": _csv, "json": _json}
    if format == "text":
        return _text(table, width)
    if format not in writers:
        raise UserError(f"the format must be one of text, {', '.join(writers)}, got {format!r}")
    return writers[format](table)


def _run_folders(root: Path) -> list[Path]:
    """Folders `seed<s>` below `root`, `root` itself, and their counterparts in the other half."""
    roots = {root}
    for index, part in enumerate(root.parts):
        if part in PHASES:
            roots |= {
                Path(*root.parts[:index], other, *root.parts[index + 1 :]) for other in PHASES
            }
    folders = {path for top in roots for path in (top, *top.glob("**/seed*")) if path.is_dir()}
    return sorted(folders)


def _read(folder: Path, row: _RowKey, cell: _CellKey) -> dict[str, Any] | str:
    """The result of a run, or in a few words why there is none."""
    result = results.read(folder)
    if result is None:
        if (folder / results.RESULT_FILE).exists():
            return "damaged result.json of"
        return "failed" if results.read_failure(folder) else "no result.json of"
    identity = (result["shots"], result["method"], result["subsample"], result["seed"])
    if identity != (*row[1:3], *cell):
        return "misplaced"
    return result if result["metrics"] else "untested"


def _row(key: _RowKey, found: _Found, seeds: Sequence[int]) -> Row:
    values: dict[str, dict[int, float]] = {phase: {} for phase in PHASES.values()}
    problems: dict[str, dict[int, str]] = {phase: {} for phase in PHASES.values()}
    trainable: list[int] = []
    seconds: dict[int, float] = {}
    for phase, seed in itertools.product(PHASES.values(), seeds):
        result = found.get((phase, seed), "missing")
        if isinstance(result, str):
            problems[phase][seed] = result
        else:
            values[phase][seed] = result["metrics"]["accuracy"]
            seconds[seed] = seconds.get(seed, 0.0) + sum(result["seconds"].values())
            trainable.append(result["trainable_parameters"])
    refusal = "not averaged" if _difference(found) else ""
    return Row(
        *key,
        base=Cell(values["base"], problems["base"], refusal),
        new=Cell(values["new"], problems["new"], refusal),
        seeds=tuple(seeds),
        trainable_parameters=max(trainable, default=None),
        seconds=statistics.fmean(seconds.values()) if seconds else None,
    )


def _difference(found: _Found) -> str:
    """The first two runs of a row whose configurations differ in more than seed and classes."""
    from promptclip.config import config_difference

    first: tuple[_CellKey, Any] | None = None
    for cell, result in sorted(found.items()):
        if isinstance(result, str):
            continue
        config = copy.deepcopy(result["config"])
        del config["SEED"], config["DATASET"]["SUBSAMPLE_CLASSES"]
        if first is None:
            first = cell, config
        elif difference := config_difference(first[1], config):
            (one, seed), (other, other_seed) = first[0], cell
            return (
                f"{one} seed {seed} and {other} seed {other_seed} have different configurations: "
                + "; ".join(difference)
            )
    return ""


def _notes(
    runs: Mapping[_RowKey, Mapping[_CellKey, Path]],
    found: Mapping[_RowKey, _Found],
) -> Iterator[str]:
    samples: dict[tuple[str, int, int], dict[Any, str]] = {}
    for row, cells in sorted(found.items()):
        dataset, shots, method, cfg = row
        name = f"{dataset}, {shots} shots, {method} ({cfg})"
        if difference := _difference(cells):
            yield f"{name} is not averaged: {difference}"
        for (phase, seed), result in sorted(cells.items()):
            if not isinstance(result, str):
                hashes = samples.setdefault((dataset, shots, seed), {})
                hashes.setdefault(result["split_hash"], method)
            elif failure := results.read_failure(runs[row][phase, seed]):
                message = " ".join(failure["message"].split())
                yield f"{name}, {phase} seed {seed} failed: {failure['error']}: {message}"
    for (dataset, shots, seed), hashes in sorted(samples.items()):
        if len(hashes) > 1:
            yield (
                f"{dataset}, {shots} shots, seed {seed}: {' and '.join(hashes.values())} saw "
                "different pictures (split_hash), do not compare them"
            )


def _groups(table: Table) -> Iterator[tuple[str, list[Row]]]:
    for (dataset, shots), rows in itertools.groupby(table.rows, lambda r: (r.dataset, r.shots)):
        yield f"{dataset}, {shots} shots, base to new", list(rows)


def _cells(row: Row, several: bool) -> list[list[str]]:
    """The columns that text and Markdown share, each a list of lines."""
    paired = len(row.h.values)
    return [
        [row.method, *([row.cfg] if several else [])],
        row.base.lines(),
        row.new.lines(),
        row.h.lines(),
        [str(paired) if paired == len(row.seeds) else f"{paired} of {len(row.seeds)}"],
        ["" if row.trainable_parameters is None else f"{row.trainable_parameters:,}"],
        ["" if row.seconds is None else f"{row.seconds:,.0f}"],
    ]


def _text(table: Table, width: int | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    out = io.StringIO()
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    for title, rows in _groups(table):
        console.print(title)
        cells = [_cells(row, several=len({r.cfg for r in rows}) > 1) for row in rows]
        first_lines = [_HEADINGS, *([cell[0] for cell in row] for row in cells)]
        widths = [max(map(len, column)) for column in zip(*first_lines, strict=True)]
        if sum(widths) + 2 * len(widths) > width:  # too narrow for numbers side by side
            for row in cells:
                console.print()
                for heading, cell in zip(_HEADINGS, row, strict=True):
                    console.print(f"{heading}: {', '.join(filter(None, cell))}")
            console.print()
            continue
        grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading, least in zip(_HEADINGS, widths, strict=True):
            justify: Literal["left", "right"] = "right" if grid.columns else "left"
            grid.add_column(heading, justify=justify, min_width=least)
        for row in cells:
            grid.add_row(*("\n".join(filter(None, cell)) for cell in row))
        console.print(grid)
    for line in (CAPTION, *table.notes):
        console.print(line)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().strip("\n").splitlines())


def _markdown(table: Table) -> str:
    lines = []
    headings = (*_HEADINGS[:4], "H of means", *_HEADINGS[4:])
    for title, rows in _groups(table):
        lines += [f"**{title}**", "", f"| {' | '.join(headings)} |", "|---" + "|---:" * 7 + "|"]
        for row in rows:
            cells = _cells(row, several=len({r.cfg for r in rows}) > 1)
            cells.insert(4, ["" if row.h_of_means is None else f"{row.h_of_means:.2f}"])
            texts = ("<br>".join(filter(None, cell)).replace("|", "\\|") for cell in cells)
            lines.append(f"| {' | '.join(texts)} |")
        lines.append("")
    lines += [f"{CAPTION} {H_OF_MEANS}", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics_of = ("mean", "deviation", "interval95", "n", "problems")
    writer.writerow(
        ["dataset", "shots", "method", "cfg", "seeds"]
        + [f"{column}_{name}" for column in ("base", "new", "h") for name in statistics_of]
        + ["h_of_means", "trainable_parameters", "seconds"]
    )
    for row in table.rows:
        record: list[Any] = [
            row.dataset,
            row.shots,
            row.method,
            row.cfg,
            " ".join(map(str, row.seeds)),
        ]
        for cell in (row.base, row.new, row.h):
            numbers = [] if cell.refusal else [cell.mean, cell.deviation, cell.interval]
            record += [*(numbers or [None] * 3), len(cell.values), "; ".join(cell.notes())]
        writer.writerow([*record, row.h_of_means, row.trainable_parameters, row.seconds])
    return out.getvalue()


def _json(table: Table) -> str:
    rows = [
        {
            "dataset": row.dataset,
            "shots": row.shots,
            "method": row.method,
            "cfg": row.cfg,
            "seeds": list(row.seeds),
            "base": row.base.as_json(),
            "new": row.new.as_json(),
            "h": row.h.as_json(),
            "h_of_means": row.h_of_means,
            "trainable_parameters": row.trainable_parameters,
            "seconds": row.seconds,
        }
        for row in table.rows
    ]
    content = {"caption": f"{CAPTION} {H_OF_MEANS}", "rows": rows, "notes": list(table.notes)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
