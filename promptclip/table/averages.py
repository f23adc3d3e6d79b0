"""Averages over data sets: what the last row of a paper's table says, and over what."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from promptclip.table import layout
from promptclip.table.model import FIXED, TUNED, Cell, Row, combined
from promptclip.tree import TARGETS


def averages(rows: Sequence[Row]) -> Iterator[Row]:
    """The average of each method and configuration over the data sets of a protocol and shots.

    Tests elsewhere have none: each source has targets of its own, and their average already.

    Args:
        rows: in the order of protocol.
    """

    def group(row: Row) -> tuple[str, int]:
        return row.protocol, row.shots

    for (protocol, _), found in itertools.groupby(sorted(rows, key=group), group):
        members = list(found)
        datasets = tuple(dict.fromkeys(row.dataset for row in members))
        if protocol in TARGETS or len(datasets) < 2:
            continue
        seen = Counter(column for column, _ in {(c, r.dataset) for r in members for c in r.cells})
        columns = layout.columns(protocol, "", (name for name, n in seen.items() if n > 1))
        if not columns:
            continue
        methods: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in members:
            methods.setdefault((row.method, row.cfg, row.origin), {})[row.dataset] = row
        for _, of in sorted(methods.items()):
            yield _average(of, datasets, columns)


def _average(rows: Mapping[str, Row], datasets: tuple[str, ...], columns: Sequence[str]) -> Row:
    one = next(iter(rows.values()))
    seeds = sorted(set().union(*(row.seeds for row in rows.values())))
    # H is of the averages of base and new, so they are over the same data sets.
    together = columns if one.protocol == "base2new" else ()
    seconds = [row.seconds for row in rows.values()]
    counts = [row.trainable_parameters for row in rows.values()]
    cells = {
        column: _cell(rows, datasets, column, together or (column,), seeds) for column in columns
    }
    return Row(
        layout.AVERAGE,
        one.shots,
        one.method,
        one.cfg,
        cells,
        seeds=tuple(seeds),
        trainable_parameters=max((n for n in counts if n is not None), default=None),
        seconds=None if None in seconds else sum(s for s in seconds if s is not None),
        protocol=one.protocol,
        datasets=datasets,
        settings=_settings({row.settings for row in rows.values()}),
        origin=one.origin,
        configs={
            f"{d} {c}": config for d, row in rows.items() for c, config in row.configs.items()
        },
    )


def _settings(settings: set[str]) -> str:
    return TUNED if TUNED in settings else FIXED if settings == {FIXED} else ""


def _cell(
    rows: Mapping[str, Row],
    datasets: Sequence[str],
    column: str,
    together: Sequence[str],
    seeds: Sequence[int],
) -> Cell:
    """One column over the data sets that have something in all the columns that belong together."""

    def there(dataset: str) -> bool:
        cells = rows[dataset].cells if dataset in rows else {}
        return all(
            name in cells and (cells[name].values or not cells[name].applies) for name in together
        )

    present = [dataset for dataset in datasets if there(dataset)]
    cell = combined("incomplete", statistics.fmean, [rows[d].cells[column] for d in present])
    if present and not cell.applies:
        return cell
    absent = [dataset for dataset in datasets if dataset not in present]
    missing = {seed: "incomplete" for seed in seeds if seed not in cell.values}
    refusal = cell.refusal or _difference({d: rows[d] for d in present}, column)
    remark = f"{len(present)} of {len(datasets)} data sets"
    if 0 < len(absent) <= 3:
        remark += f", without {', '.join(absent)}"
    return Cell(
        cell.values, missing, refusal, pictures=cell.pictures, remark=remark if absent else ""
    )


def _difference(rows: Mapping[str, Row], column: str) -> str:
    """Why a column is not averaged: configurations that differ where no yaml says so.

    Another CLIP is another one even if a data set's yaml names it.
    """
    from promptclip.config import config_difference, keys_by_dataset

    first: dict[str, object] | None = None
    for row in rows.values():
        if column not in row.configs:
            continue
        config = copy.deepcopy(dict(row.configs[column]))
        own = config["DATASET"].items()
        config["DATASET"] = {key: value for key, value in own if key.startswith("IMBALANCE")}
        first = first or config
        may = keys_by_dataset(row.method, row.cfg, rows) - {"MODEL.BACKBONE.NAME"}
        keys = (
            {line.partition(":")[0] for line in config_difference(first, config)} - may - {"SEED"}
        )
        if keys:
            return f"not averaged: {', '.join(sorted(keys))} differ between data sets"
    return ""
