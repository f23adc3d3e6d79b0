"""Accuracies of some of the classes: of those frequent and rare in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from promptclip.imbalance import GROUPS
from promptclip.table.found import Found
from promptclip.table.model import Cell, Row


def taken_apart(row: Row, found: Found) -> Iterator[Row]:
    """A row for each column of `row` with imbalanced training pictures: head, medium and tail.

    Balanced training, where it is there to compare with, is taken apart as well.
    """
    for column, cell in row.cells.items():
        whole = {
            spot.seed: read.result
            for spot, read in found.items()
            if spot.column == column and read.result
        }
        measured = {seed: r["groups"] for seed, r in whole.items() if "groups" in r}
        rare = any(whole[seed]["config"]["DATASET"].get("IMBALANCE", 1.0) < 1 for seed in measured)
        if not (rare or row.protocol == "imbalance"):
            continue
        cells = {}
        for group in GROUPS:
            accuracy = {seed: groups[group]["accuracy"] for seed, groups in measured.items()}
            problems = {
                **cell.problems,
                **{seed: "not measured" for seed in whole if seed not in measured},
                **{seed: "no pictures" for seed, value in accuracy.items() if value is None},
            }
            values = {seed: value for seed, value in accuracy.items() if value is not None}
            cells[group] = Cell(values, problems, cell.refusal, pictures=cell.pictures)
        # What one column of a row has cost is not known.
        yield replace(
            row, cells=cells, part=column, trainable_parameters=None, seconds=None, published={}
        )
