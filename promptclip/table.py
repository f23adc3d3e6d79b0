"""From a tree of `result.json` files to tables that hide nothing.

A row is a method under one configuration on one benchmark. Its cells are means over seeds with
the sample standard deviation; what is missing, failed or not comparable is said in its place.
Nothing is parsed out of logs.
"""

from __future__ import annotations

import copy
import csv
import functools
import io
import itertools
import json
import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from promptclip import results
from promptclip.errors import UserError
from promptclip.tree import HALVES, OWN, OWN_YAML, PROTOCOLS, TARGETS, Place, find, of_shots

_Group: TypeAlias = tuple[str, str, int]  # protocol, data set, shots (0 where they are columns)
_RowKey: TypeAlias = tuple[_Group, str, str]  # its group, method, configuration
_CellKey: TypeAlias = tuple[str, int]  # column, seed
_Found: TypeAlias = Mapping[_CellKey, "dict[str, Any] | str"]  # a result, or why there is none
CAPTION = "Accuracy in percent, mean ± sample standard deviation over seeds."
_CAPTIONS = {
    "H": "H: the harmonic mean of base and new for each seed, then as above.",
    "average": "average: the mean over the targets for each seed, then as above.",
}
# Origins of a split that need no word; None is of results from before it was noted.
_USUAL_SPLITS = ("coop", "data set", "built-in", "own", None)
H_OF_MEANS = "H of means: the harmonic mean of the two means, as published tables have it."


@dataclass(frozen=True)
class Cell:
    """One number per seed, and what stands in the place of the others.

    A refusal says why they are not averaged; then the values are still there one by one. A cell
    that does not apply is one that the method cannot have.
    """

    values: Mapping[int, float]
    problems: Mapping[int, str] = field(default_factory=dict)
    refusal: str = ""
    applies: bool = True

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
        if not self.applies:
            return ["n/a"]
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
            "applies": self.applies,
        }


@dataclass(frozen=True)
class Row:
    """A method under one configuration on one benchmark.

    Attributes:
        dataset: that was trained on.
        shots: of every cell; 0 in "fewshot", where they are the columns.
        cells: by column: "base" and "new", "shots_<k>", or the data sets of the tests, of which
            the first is `dataset`.
        seconds: mean over seeds of all cells together.
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

    @property
    def summary(self) -> dict[str, Cell]:
        """H or the average of each seed that has all cells, under its heading; may be empty."""
        if self.protocol == "base2new":
            return {"H": _combined("unpaired", lambda pair: harmonic(*pair), self.cells.values())}
        if self.protocol in TARGETS:
            targets = [cell for column, cell in self.cells.items() if column != self.dataset]
            return {"average": _combined("incomplete", statistics.fmean, targets)}
        return {}

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

    @property
    def complete_seeds(self) -> set[int]:
        """Seeds that have every cell."""
        return set(self.seeds).intersection(*(c.values for c in self.cells.values() if c.applies))


@dataclass(frozen=True)
class Table:
    """Rows in the order of protocol, data set, shots, method, configuration; notes on groups."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every cell of every row has all its seeds."""
        return not any(c.problems or c.refusal for row in self.rows for c in row.cells.values())

    @property
    def groups(self) -> Iterator[tuple[str, list[Row]]]:
        """Rows that are to be compared, and what they have in common."""
        for (protocol, dataset, shots), rows in itertools.groupby(
            self.rows, lambda row: (row.protocol, row.dataset, row.shots)
        ):
            source = "from " if protocol in TARGETS else ""
            yield f"{source}{_named(dataset, shots)}, {PROTOCOLS[protocol]}", list(rows)

    @property
    def caption(self) -> str:
        """What the numbers are."""
        summaries = dict.fromkeys(name for row in self.rows for name in row.summary)
        return " ".join([CAPTION, *(_CAPTIONS[name] for name in summaries)])


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
    """Read a tree of outputs, of any protocols.

    Args:
        root: any folder in the tree; from inside one half, the other half is read as well, and
            with a test on another data set that on the source.

    Raises:
        UserError: if there is no such folder, or no run below it.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the output folder of some runs")
    runs: dict[_RowKey, dict[_CellKey, tuple[Place, Path]]] = {}
    for folder in _run_folders(root):
        if not (place := find(folder)):
            continue
        group = (place.protocol, place.dataset, 0 if place.protocol == "fewshot" else place.shots)
        cells = runs.setdefault((group, place.method, place.cfg), {})
        wanted = [(_column(place), place, folder)]
        if place.source:
            output = folder.parents[len(place.path.parts) - 1]
            wanted.append((place.dataset, place.source, output / place.source.path))
        for column, of, path in wanted:
            if cells.setdefault((column, place.seed), (of, path)) != (of, path):
                raise UserError(f"{root} holds several output trees; give one of them")
    if not runs:
        raise UserError(
            f"{root} holds no runs; expected {'/ and '.join(HALVES.values())}/, "
            f"{'/, '.join(p for p in PROTOCOLS if p != 'base2new')}/ with "
            "<dataset>/shots_<k>/<method>/<cfg>/seed<s>/ below"
        )
    found = {
        row: {cell: _read(*where) for cell, where in cells.items()} for row, cells in runs.items()
    }
    # A seed and a column that any method has are expected of all, so that what is missing shows.
    expected: dict[_Group, set[_CellKey]] = {}
    for (group, *_), cells in runs.items():
        expected.setdefault(group, set()).update(cells)
    rows = [
        _row(row, found[row], _columns(row[0], expected[row[0]]), expected[row[0]])
        for row in sorted(runs, key=lambda row: (list(PROTOCOLS).index(row[0][0]), row))
    ]
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
        if part in HALVES.values():
            roots |= {
                Path(*root.parts[:index], other, *root.parts[index + 1 :])
                for other in HALVES.values()
            }
    folders = {path for top in roots for path in (top, *top.glob("**/seed*")) if path.is_dir()}
    return sorted(folders)


def _column(place: Place) -> str:
    return place.target or f"shots_{place.shots}"


def _columns(group: _Group, expected: Iterable[_CellKey]) -> list[str]:
    """The columns of a group of rows in the order of the table."""
    protocol, dataset, _ = group
    if protocol == "base2new":
        return list(HALVES)
    seen = sorted({column for column, _ in expected})
    if protocol == "fewshot":
        return sorted(seen, key=lambda column: int(column.removeprefix("shots_")))
    order = [dataset, *TARGETS[protocol].get(dataset, ())]
    return [column for column in order if column in seen] + [c for c in seen if c not in order]


def _named(dataset: str, shots: int) -> str:
    return f"{dataset}, {of_shots(shots)}" if shots else dataset


def _heading(column: str) -> str:
    shots = column.removeprefix("shots_")
    return column if shots == column else of_shots(int(shots))


def _combined(word: str, mean: Callable[[list[float]], float], cells: Iterable[Cell]) -> Cell:
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
    )


def _read(place: Place, folder: Path) -> dict[str, Any] | str:
    """The result of a run, or in a few words why there is none."""
    result = results.read(folder)
    if result is None:
        if (folder / results.RESULT_FILE).exists():
            return "damaged result.json of"
        if results.read_failure(folder):
            return "failed"
        return "no result.json of" if folder.is_dir() else "missing"
    identity = (result["shots"], result["method"], result["subsample"], result["seed"])
    if identity != (place.shots, place.method, place.classes, place.seed):
        return "misplaced"
    if result.get("dataset") != (_registered(place.benchmark) or result.get("dataset")):
        return "misplaced"
    return result if result["metrics"] else "untested"


@functools.cache
def _registered(dataset: str) -> str | None:
    """DATASET.NAME of a file of `configs/datasets`; None if it is not one of them."""
    from promptclip.config import configs_dir, read_yaml

    stem = OWN_YAML if dataset.startswith(OWN) else dataset
    file = configs_dir() / "datasets" / f"{stem}.yaml"
    name: str | None = read_yaml(file)["DATASET"]["NAME"] if file.is_file() else None
    return name


def _row(key: _RowKey, found: _Found, columns: Sequence[str], expected: Iterable[_CellKey]) -> Row:
    (protocol, dataset, shots), method, cfg = key
    seeds = sorted({seed for _, seed in expected})
    trainable: list[int] = []
    seconds: dict[int, float] = {}
    cells = {}
    transfers = all(
        result.get("transfers", True) for result in found.values() if not isinstance(result, str)
    )
    for column in columns:
        values: dict[int, float] = {}
        problems: dict[int, str] = {}
        for seed in seeds:
            result = found.get((column, seed), "missing")
            if isinstance(result, str):
                problems[seed] = result
            else:
                values[seed] = result["metrics"]["accuracy"]
                seconds[seed] = seconds.get(seed, 0.0) + sum(result["seconds"].values())
                trainable.append(result["trainable_parameters"])
        if column == "new" and not transfers and set(problems.values()) == {"missing"}:
            cells[column] = Cell({}, applies=False)
        else:
            refusal = "not averaged" if _difference(protocol, found, column) else ""
            cells[column] = Cell(values, problems, refusal)
    return Row(
        dataset,
        shots,
        method,
        cfg,
        cells,
        seeds=tuple(seeds),
        trainable_parameters=max(trainable, default=None),
        seconds=statistics.fmean(seconds.values()) if seconds else None,
        protocol=protocol,
    )


def _difference(protocol: str, found: _Found, column: str = "") -> str:
    """The first two runs of a row whose configurations differ in more than they must.

    In "fewshot", a yaml may say something else for each number of shots: only runs of one column
    are compared, of `column` or of any.
    """
    from promptclip.config import config_difference

    by_column = protocol == "fewshot"
    first: dict[str, tuple[_CellKey, Any]] = {}
    for cell, result in sorted(found.items()):
        if isinstance(result, str) or (by_column and column and cell[0] != column):
            continue
        config = copy.deepcopy(result["config"])
        del config["SEED"], config["DATASET"]["SUBSAMPLE_CLASSES"]
        if protocol in TARGETS:
            del config["DATASET"]
        (one, seed), config_of_one = first.setdefault(cell[0] if by_column else "", (cell, config))
        if difference := config_difference(config_of_one, config):
            return (
                f"{one} seed {seed} and {cell[0]} seed {cell[1]} have different configurations: "
                + "; ".join(difference)
            )
    return ""


def _notes(
    runs: Mapping[_RowKey, Mapping[_CellKey, tuple[Place, Path]]],
    found: Mapping[_RowKey, _Found],
) -> Iterator[str]:
    samples: dict[tuple[str, int, int], dict[Any, str]] = {}
    tuned: dict[str, list[str]] = {}
    whole: dict[str, dict[Any, list[str]]] = {}  # data set -> origin and hash -> whose
    for row, cells in sorted(found.items()):
        (protocol, dataset, shots), method, cfg = row
        name = f"{_named(dataset, shots)}, {method} ({cfg})"
        if difference := _difference(protocol, cells):
            yield f"{name} is not averaged: {difference}"
        for (column, seed), result in sorted(cells.items()):
            place, folder = runs[row][column, seed]
            if not isinstance(result, str):
                hashes = samples.setdefault((place.benchmark, place.shots, seed), {})
                hashes.setdefault(result["split_hash"], method)
                split = (result.get("split_origin"), result.get("split_file_hash"))
                whose = whole.setdefault(place.benchmark, {}).setdefault(split, [])
                whose.append(f"{method} ({cfg}) seed {seed}")
                if (on := result.get("tuned_on", "none")) != "none":
                    tuned.setdefault(on, []).append(f"{method} ({cfg})")
            elif failure := results.read_failure(folder):
                message = " ".join(failure["message"].split())
                yield f"{name}, {column} seed {seed} failed: {failure['error']}: {message}"
    for on, methods in tuned.items():
        names = ", ".join(dict.fromkeys(methods))
        yield f"{names}: hyper-parameters chosen on {on} pictures in each run"
    for dataset, splits in sorted(whole.items()):
        yield from _split_notes(dataset, splits)
    for (dataset, shots, seed), hashes in sorted(samples.items()):
        if len(hashes) > 1:
            yield (
                f"{_named(dataset, shots)}, seed {seed}: {' and '.join(hashes.values())} saw "
                "different pictures (split_hash), do not compare them"
            )


def _split_notes(
    dataset: str, splits: Mapping[tuple[str | None, str | None], Sequence[str]]
) -> Iterator[str]:
    """What a reader must know of the splits that runs on a data set had."""
    for origin, file_hash in splits:
        if origin not in _USUAL_SPLITS:
            short = str(file_hash)[:12]
            yield f'{dataset}: the split is "{origin}" (hash {short}), not from a publication'
    known = {split: names for split, names in splits.items() if split != (None, None)}
    if len(known) > 1:
        whose = "; ".join(
            f"{', '.join(dict.fromkeys(names))} had {origin or 'an unknown one'} "
            f"(hash {str(file_hash)[:12]})"
            for (origin, file_hash), names in known.items()
        )
        yield f"{dataset}: runs had different splits, do not compare them: {whose}"


def _grid(rows: Sequence[Row]) -> tuple[list[str], list[list[list[str]]]]:
    """What text and Markdown share: headings, and for each row the cells, each a list of lines."""
    headings = ["method", *map(_heading, rows[0].cells), *rows[0].summary]
    several = len({row.cfg for row in rows}) > 1
    grid = []
    for row in rows:
        done = len(row.complete_seeds)
        grid.append(
            [
                [row.method, *([row.cfg] if several else [])],
                *(cell.lines() for cell in (*row.cells.values(), *row.summary.values())),
                [str(done) if done == len(row.seeds) else f"{done} of {len(row.seeds)}"],
                ["" if row.trainable_parameters is None else f"{row.trainable_parameters:,}"],
                ["" if row.seconds is None else f"{row.seconds:,.0f}"],
            ]
        )
    return [*headings, "seeds", "params", "seconds"], grid


def _text(table: Table, width: int | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    out = io.StringIO()
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    for title, rows in table.groups:
        console.print(title)
        headings, cells = _grid(rows)
        first_lines = [headings, *([cell[0] for cell in row] for row in cells)]
        widths = [max(map(len, column)) for column in zip(*first_lines, strict=True)]
        if sum(widths) + 2 * len(widths) > width:  # too narrow for numbers side by side
            for row in cells:
                console.print()
                for heading, cell in zip(headings, row, strict=True):
                    console.print(f"{heading}: {', '.join(filter(None, cell))}")
            console.print()
            continue
        grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading, least in zip(headings, widths, strict=True):
            justify: Literal["left", "right"] = "right" if grid.columns else "left"
            grid.add_column(heading, justify=justify, min_width=least)
        for row in cells:
            grid.add_row(*("\n".join(filter(None, cell)) for cell in row))
        console.print(grid)
    for line in (table.caption, *table.notes):
        console.print(line)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().strip("\n").splitlines())


def _markdown(table: Table) -> str:
    lines = []
    for title, rows in table.groups:
        headings, grid = _grid(rows)
        if "H" in headings:
            after = headings.index("H") + 1
            headings.insert(after, "H of means")
            for row, cells in zip(rows, grid, strict=True):
                cells.insert(after, ["" if row.h_of_means is None else f"{row.h_of_means:.2f}"])
        rule = "|---" + "|---:" * (len(headings) - 1) + "|"
        lines += [f"**{title}**", "", f"| {' | '.join(headings)} |", rule]
        for cells in grid:
            texts = ("<br>".join(filter(None, cell)).replace("|", "\\|") for cell in cells)
            lines.append(f"| {' | '.join(texts)} |")
        lines.append("")
    lines += [_long_caption(table), *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _long_caption(table: Table) -> str:
    has_h = any("H" in row.summary for row in table.rows)
    return f"{table.caption} {H_OF_MEANS}" if has_h else table.caption


def _csv(table: Table) -> str:
    """One table for each protocol, with all columns that its rows have."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics_of = ("mean", "deviation", "interval95", "n", "problems")
    for protocol, group in itertools.groupby(table.rows, lambda row: row.protocol):
        rows = list(group)
        columns = list(dict.fromkeys(c for row in rows for c in (*row.cells, *row.summary)))
        of_means = ["h_of_means"] if "H" in columns else []
        writer.writerow(
            ["dataset", "shots", "method", "cfg", "seeds"]
            + [f"{column.lower()}_{name}" for column in columns for name in statistics_of]
            + [*of_means, "trainable_parameters", "seconds", "protocol"]
        )
        for row in rows:
            seeds = " ".join(map(str, row.seeds))
            record: list[Any] = [row.dataset, row.shots or None, row.method, row.cfg, seeds]
            cells = {**row.cells, **row.summary}
            for column in columns:
                if (cell := cells.get(column)) is None:
                    record += [None] * len(statistics_of)
                    continue
                numbers = [] if cell.refusal else [cell.mean, cell.deviation, cell.interval]
                record += [*(numbers or [None] * 3), len(cell.values), "; ".join(cell.notes())]
            record += [row.h_of_means] if of_means else []
            writer.writerow([*record, row.trainable_parameters, row.seconds, protocol])
    return out.getvalue()


def _json(table: Table) -> str:
    rows = [
        {
            "protocol": row.protocol,
            "dataset": row.dataset,
            "shots": row.shots or None,
            "method": row.method,
            "cfg": row.cfg,
            "seeds": list(row.seeds),
            **{name.lower(): c.as_json() for name, c in {**row.cells, **row.summary}.items()},
            **({"h_of_means": row.h_of_means} if "H" in row.summary else {}),
            "trainable_parameters": row.trainable_parameters,
            "seconds": row.seconds,
        }
        for row in table.rows
    ]
    content = {"caption": _long_caption(table), "rows": rows, "notes": list(table.notes)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
