"""From the folders of an output tree to the rows of a table."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from promptclip.errors import UserError
from promptclip.table import layout, logs, outcome
from promptclip.table.averages import averages
from promptclip.table.found import Found, Group, Key, Spot, difference
from promptclip.table.model import FIXED, LOGS, TUNED, Cell, Row, Table
from promptclip.table.notes import notes
from promptclip.table.outcome import MISSING, Outcome
from promptclip.table.parts import taken_apart
from promptclip.tree import BALANCED, HALVES, PROTOCOLS, Place, find

Outcomes: TypeAlias = "dict[Spot, Outcome]"


def build(root: str | Path | None = None, *, logs_root: str | Path | None = None) -> Table:
    """Read a tree of outputs, of any protocols.

    Args:
        root: any folder in the tree; from inside one half, the other half is read as well, and
            with a test on another data set that on the source. None for logs alone.
        logs_root: an output folder of a CoOp-style repository, whose `log.txt` files are read into
            rows of their own.

    Raises:
        UserError: if there is no such folder, or no run below it.
    """
    found = outcomes(places(root)) if root is not None else {}
    warnings: list[str] = []
    if logs_root is not None:
        folder = _folder(logs_root)
        old, warnings = logs.find_all(folder, _run_folders(folder))
        for place in old:
            spots = found.setdefault(Key(_group(place), place.method, place.cfg, LOGS), {})
            for column, of in _spots(place):
                spots[Spot(column, place.seed)] = old.get(of, MISSING)
    if not found:
        raise UserError(f"no log of a run below {logs_root}; expected .../seed<s>/log.txt")
    return tabulated(found, warnings)


def outcomes(where: Mapping[Key, Mapping[Spot, tuple[Place, Path]]]) -> dict[Key, Outcomes]:
    """Read what became of every run of `places`."""
    return {
        row: {spot: outcome.of_run(*run) for spot, run in spots.items()}
        for row, spots in where.items()
    }


def tabulated(found: Mapping[Key, Found], warnings: Iterable[str] = ()) -> Table:
    """The table of what was found of each row.

    Args:
        found: of `outcomes`.
        warnings: notes that come after those on the rows.
    """
    expected = _expected(found)
    rows: list[Row] = []
    parts: list[Row] = []
    for key in sorted(found, key=lambda row: (list(PROTOCOLS).index(row.group.protocol), row)):
        rows.append(_row(key, found[key], expected[key.group]))
        parts += taken_apart(rows[-1], found[key])
    return Table(tuple(rows), (*notes(found), *warnings), tuple(averages(rows)), parts=tuple(parts))


def _folder(root: str | Path) -> Path:
    path = Path(os.path.abspath(root))
    if not path.is_dir():
        raise UserError(f"no folder {path}; give the output folder of some runs")
    return path


def places(root: str | Path) -> dict[Key, dict[Spot, tuple[Place, Path]]]:
    """Where the runs of each row lie, the tests on a source beside those elsewhere.

    Raises:
        UserError: if there is no such folder, or no run below it.
    """
    root = _folder(root)
    runs: dict[Key, dict[Spot, tuple[Place, Path]]] = {}
    for folder in _run_folders(root):
        if not (place := find(folder)):
            continue
        spots = runs.setdefault(Key(_group(place), place.method, place.cfg), {})
        output = folder.parents[len(place.path.parts) - 1]
        for column, of in _spots(place):
            where = (of, folder if of == place else output / of.path)
            if column == BALANCED and not where[1].is_dir():
                continue  # whoever asks for small ratios alone does not miss it
            if spots.setdefault(Spot(column, place.seed), where) != where:
                raise UserError(f"{root} holds several output trees; give one of them")
    if not runs:
        raise UserError(
            f"{root} holds no runs; expected {'/ and '.join(HALVES.values())}/, "
            f"{'/, '.join(p for p in PROTOCOLS if p != 'base2new')}/ with "
            "<dataset>/shots_<k>/<method>/<cfg>/seed<s>/ below"
        )
    return runs


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


def _group(place: Place) -> Group:
    return Group(place.protocol, place.dataset, 0 if place.protocol == "fewshot" else place.shots)


def _spots(place: Place) -> Iterator[tuple[str, Place]]:
    """The columns that a run is part of: its own, and that of the few-shot run beside it."""
    yield layout.column(place), place
    if place.source:
        yield BALANCED if place.protocol == "imbalance" else place.dataset, place.source


def _expected(found: Mapping[Key, Found]) -> dict[Group, set[Spot]]:
    """A column and a seed that any method of a group has are expected of all, so that gaps show.

    Old logs may lack a seed in all methods of one group: there the seeds of the whole protocol are
    expected, and those between.
    """
    expected: dict[Group, set[Spot]] = {}
    for row, spots in found.items():
        expected.setdefault(row.group, set()).update(spots)
    for protocol in {row.group.protocol for row in found if row.origin}:
        old = [row for row in found if row.origin and row.group.protocol == protocol]
        seen = {spot.seed for row in old for spot in found[row]}
        seeds = range(min(seen), max(seen) + 1)
        for group in {row.group for row in old}:
            columns = {spot.column for spot in expected[group]}
            expected[group] |= {Spot(column, seed) for column in columns for seed in seeds}
    return expected


def _row(key: Key, found: Found, expected: Iterable[Spot]) -> Row:
    protocol, dataset, shots = key.group
    seeds = sorted({spot.seed for spot in expected})
    columns = layout.columns(protocol, dataset, {spot.column for spot in expected})
    done = [(spot, read) for spot, read in sorted(found.items()) if read.accuracy is not None]
    counts = [r.trainable_parameters for _, r in done if r.trainable_parameters is not None]
    return Row(
        dataset,
        shots,
        key.method,
        key.cfg,
        {column: _cell(protocol, found, column, seeds) for column in columns},
        seeds=tuple(seeds),
        trainable_parameters=max(counts, default=None),
        seconds=_seconds(done),
        protocol=protocol,
        settings=_settings({read.tuned_on for _, read in done}),
        origin=key.origin,
        configs={spot.column: read.config for spot, read in reversed(done) if read.config},
    )


def _cell(protocol: str, found: Found, column: str, seeds: Iterable[int]) -> Cell:
    reads = {seed: found.get(Spot(column, seed), MISSING) for seed in seeds}
    values = {seed: r.accuracy for seed, r in reads.items() if r.accuracy is not None}
    problems = {seed: r.problem for seed, r in reads.items() if r.accuracy is None}
    transfers = all(read.transfers for read in found.values())
    if column == "new" and not transfers and set(problems.values()) == {MISSING.problem}:
        return Cell({}, applies=False)
    refusal = "not averaged" if difference(protocol, found, column) else ""
    pictures = {seed: r.pictures for seed, r in reads.items() if r.pictures}
    return Cell(values, problems, refusal, pictures=pictures)


def _settings(tuned_on: set[str]) -> str:
    """Where hyper-parameters come from; nothing is known without a result, or from a log."""
    if tuned_on - {"none", ""}:
        return TUNED
    return FIXED if tuned_on == {"none"} else ""


def _seconds(done: Iterable[tuple[Spot, Outcome]]) -> float | None:
    """Mean over seeds of all columns together; None if no run tells its time."""
    seconds: dict[int, float] = {}
    for spot, read in done:
        if read.seconds is not None:
            seconds[spot.seed] = seconds.get(spot.seed, 0.0) + read.seconds
    return statistics.fmean(seconds.values()) if seconds else None
