"""An assignment to start from: what to run, and a table of claims to fill in."""

from __future__ import annotations

import csv
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from promptclip.errors import UserError
from promptclip.files import write_bytes
from promptclip.grade import submission
from promptclip.grade.claims import place_of
from promptclip.grade.submission import COLUMNS
from promptclip.tree import Place

log = logging.getLogger(__name__)

TABLE = "claims.csv"
_FILLED = ("split_hash", "config_hash", "accuracy")
_METHODS = ("ZeroshotCLIP", "CoOp", "VPT")
_README = """# Few-shot learning with emoji

A small CLIP has learned what pictures of emoji and their names have to do with each other, from
emoji that are not in this assignment. Here it meets others, in 41 classes such as "animal mammal"
or "food fruit". Can it be taught half of the classes with a few pictures of each, and what does
that cost it on the other half?

## Before you start

Install promptclip as its README says, and try `promptclip --version`. Everything runs on a laptop
without a GPU; nothing is downloaded. If your computer has an NVIDIA GPU, leave it out, so that all
compute alike: `export CUDA_VISIBLE_DEVICES=-1`.

## What to do

1. Train on the base classes, test on the base and the new classes: zero-shot CLIP, which learns
   nothing; CoOp, which learns words of the prompt; VPT, which learns tokens beside the patches of
   the picture.

   ```bash
   promptclip base2new zsclip,coop,vpt emoji 1 --brief
   ```

   A run that was interrupted goes on with the same command.

2. Look at the table, and into `output/base2new/train_base/emoji/shots_16/CoOp/tiny/seed1/log.txt`.

   ```bash
   promptclip table output
   ```

3. Put your numbers into `claims.csv`, and your name into its first column. The command does the
   numbers; by hand, they are `split_hash`, `config_hash` and `metrics`, `accuracy` of each run's
   `result.json`.

   ```bash
   promptclip grade output --fill claims.csv
   ```

4. Answer in `answers.md`: Which method is best on base classes, which on new ones? One test picture
   is about one point here. What would convince you that a difference is none of chance? What does
   CoOp lose on new classes, and why does zero-shot CLIP not lose it?

## What to hand in

A folder with your name, and in it `claims.csv` and `answers.md`, or `output` in the place of
`claims.csv`. Files that are links are not read.

## How it is checked

Your teacher's computer compares the hashes, which say with which pictures and which settings a
number came about, does runs again, and compares accuracies. A number that cannot come out of so
many test pictures, or that another run has, is noticed. The settings are those of promptclip as it
was installed, so leave files of `configs/` as they are.
"""


def make(folder: Path) -> Path:
    """Write an assignment into a new folder, whole or not at all.

    Raises:
        UserError: if there is something already, or the folder cannot be written.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; give a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
            made = Path(parent, folder.name)
            write_bytes(_README.encode(), made / "README.md")
            write_bytes(_written([list(COLUMNS), *_rows()]).encode(), made / TABLE)
            made.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error
    return folder


def fill(table: Path, output: Path) -> list[int]:
    """Put hashes and accuracies of finished runs into the rows of a table that have no accuracy.

    Args:
        table: a CSV file of claims, which is written anew in one step.
        output: of the runs.

    Returns:
        The rows that stay empty, because there is no such run.

    Raises:
        UserError: if one of both cannot be read, or the table cannot be written.
    """
    found: dict[Place, submission.Entry] = {}
    for entry in submission.read(output):
        if entry.fault:
            log.warning("%s: %s", entry.where, entry.fault)
        else:
            found[place_of(entry.values)] = entry
    if not table.is_file():
        raise UserError(f"no file {table}; the table to fill in comes with the assignment")
    left = []
    claimed = submission.read(table)
    rows = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline="")))
    columns = submission.columns_of(rows[0])
    for entry in claimed:
        if entry.values.get("accuracy"):
            continue
        try:
            ours = _match(_place(entry), found)
        except UserError as error:
            raise UserError(f"{entry.where}: {error}") from None
        if ours is None:
            left.append(entry.row)
            continue
        for column in _FILLED:
            rows[entry.row - 1][columns.index(column)] = ours.values[column]
    try:
        write_bytes(_written(rows).encode(), table)
    except OSError as error:
        raise UserError(f"{table} cannot be written ({error.strerror})") from error
    return left


def _place(entry: submission.Entry) -> Place:
    if entry.fault:
        raise UserError(entry.fault)
    return place_of(entry.values)


def _match(place: Place, found: dict[Place, submission.Entry]) -> submission.Entry | None:
    """The run of a row; one that names no yaml means any, if there is one only."""
    same = [
        entry for one, entry in found.items() if replace(place, cfg=place.cfg or one.cfg) == one
    ]
    return same[0] if len(same) == 1 else None


def _rows() -> Iterator[list[str]]:
    for method in _METHODS:
        for target in ("base", "new"):
            row = {"method": method, "cfg": "tiny", "dataset": "emoji", "protocol": "base2new"}
            row |= {"target": target, "shots": "16", "seed": "1"}
            yield [row.get(column, "") for column in COLUMNS]


def _written(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
