"""What is compared with what: values of the same data set, shots, seed, protocol and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from promptclip import plugins
from promptclip.errors import UserError
from promptclip.table import Cell, Row, Table
from promptclip.table.layout import heading
from promptclip.tree import PROTOCOLS, TARGETS, of_shots


@dataclass(frozen=True)
class Contest:
    """Values of several methods that may be compared.

    Attributes:
        measure: "base", "new" or "H"; "accuracy" in other protocols.
        methods: their names, with the configuration where it was given.
        values: by data set and seed, one number of each method; in tests elsewhere the data set is
            the one tested on.
        unpaired: what is left out, and why.
    """

    protocol: str
    setting: str
    measure: str
    methods: tuple[str, ...]
    values: Mapping[str, Mapping[int, tuple[float, ...]]]
    unpaired: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Such as "base to new, 16 shots, H"."""
        parts = (PROTOCOLS[self.protocol], self.setting, self.measure)
        return ", ".join(part for part in parts if part)


@dataclass
class _Open:
    """A contest while it is filled."""

    values: dict[str, dict[int, tuple[float, ...]]] = field(default_factory=dict)
    unpaired: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def left_out(self) -> Iterator[str]:
        """One line for each data set and reason."""
        for (dataset, reason), seeds in self.unpaired.items():
            numbers = " ".join(map(str, seeds))
            yield f"{dataset} seed{'s' * (len(seeds) > 1)} {numbers}: {reason}"


def contests(table: Table, methods: Sequence[str]) -> list[Contest]:
    """Everything that a table has to compare methods by.

    Args:
        table: of results, from `promptclip.table.build`.
        methods: METHOD or METHOD/cfg, in any case of letters.

    Raises:
        UserError: if there are fewer than two methods, one twice, or one that the table does not
            have or has with several configurations.
    """
    rows = [_rows(table, name) for name in methods]
    labels = [found[0].method if "/" not in name else f"{found[0].method}/{found[0].cfg}"
              for name, found in zip(methods, rows, strict=True)]  # fmt: skip
    if len(set(labels)) < len(labels) or len(labels) < 2:
        raise UserError(f"expected two or more different methods, got {', '.join(labels)}")
    open_: dict[tuple[str, str, str], _Open] = {}
    groups = {(row.protocol, row.dataset, row.shots): None for found in rows for row in found}
    for group in groups:
        members = [
            next((row for row in found if (row.protocol, row.dataset, row.shots) == group), None)
            for found in rows
        ]
        for key, dataset, cells in _cells(members):
            contest = open_.setdefault(key, _Open())
            for seed in sorted({seed for cell in cells for seed in (*cell.values, *cell.problems)}):
                if reasons := _reasons(cells, labels, seed):
                    contest.unpaired.setdefault((dataset, ", ".join(reasons)), []).append(seed)
                else:
                    pair = tuple(cell.values[seed] for cell in cells)
                    contest.values.setdefault(dataset, {})[seed] = pair
    return [
        Contest(*key, tuple(labels), contest.values, tuple(contest.left_out()))
        for key, contest in open_.items()
    ]


def _rows(table: Table, name: str) -> list[Row]:
    """The rows of a method, all with the same configuration."""
    method, _, cfg = name.partition("/")
    of_method = [row for row in table.rows if row.method.lower() == method.lower()]
    if not of_method:  # "zsclip" is the name of a file; those are looked up last, as it takes time
        long = {row.method for row in table.rows if plugins.short_name(row.method) == method}
        of_method = [row for row in table.rows if row.method in long]
    found = [row for row in of_method if not cfg or row.cfg.lower() == cfg.lower()]
    if not found:
        known = sorted({f"{row.method}/{row.cfg}" for row in of_method or table.rows})
        raise UserError(f"no results of {name}; there are {', '.join(known)}")
    if len(cfgs := sorted({f"{row.method}/{row.cfg}" for row in found})) > 1:
        raise UserError(f"{name} has several configurations; name one of {', '.join(cfgs)}")
    return found


def _cells(
    rows: Sequence[Row | None],
) -> Iterator[tuple[tuple[str, str, str], str, list[Cell]]]:
    """For each measure of a group of rows: the contest it is part of, the data set, the cells."""
    one = next(row for row in rows if row is not None)
    absent = Cell({}, dict.fromkeys(one.seeds, "missing"))
    for column in dict.fromkeys(c for row in rows if row for c in _columns(row)):
        cells = [row.all_cells.get(column, absent) if row else absent for row in rows]
        if one.protocol == "base2new":
            yield (one.protocol, of_shots(one.shots), column), one.dataset, cells
        elif one.protocol in TARGETS:
            setting = f"from {one.dataset}, {of_shots(one.shots)}"
            yield (one.protocol, setting, "accuracy"), column, cells
        else:
            shots = [of_shots(one.shots)] if one.shots else []
            setting = ", ".join([*shots, heading(column)])
            yield (one.protocol, setting, "accuracy"), one.dataset, cells


def _columns(row: Row) -> list[str]:
    """The columns to compare by: targets without their source and their average."""
    if row.protocol in TARGETS:
        return [column for column in row.cells if column != row.dataset]
    return list(row.all_cells)


def _reasons(cells: Sequence[Cell], labels: Sequence[str], seed: int) -> list[str]:
    """Why a seed's values are not compared; empty if they are."""
    reasons = []
    for cell, label in zip(cells, labels, strict=True):
        if not cell.applies:
            reasons.append(f"{label} cannot have it")
        elif cell.refusal:
            reasons.append(f"{label} has runs of different configurations")
        elif seed not in cell.values:
            reasons.append(f"{label} {cell.problems.get(seed, 'missing')}")
    if not reasons:
        pictures = [cell.pictures.get(seed) for cell in cells]
        if None in pictures:
            reasons.append("which pictures were seen is not known")
        elif len(set(pictures)) > 1:
            reasons.append("different pictures (split_hash)")
    return reasons
