"""`promptclip data split`, `import-split` and `export-split`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from promptclip.commands.data_check import add_root
from promptclip.errors import UserError

DATASET = "a file of configs/datasets without its .yaml, or the path of own pictures"
FORMS = ".json, .jsonl or .csv"


def add_to(data_commands: Any) -> None:
    """Add the commands."""
    split = _command(data_commands, "split", "make a split file where there is none", _split)
    split.add_argument("dataset", metavar="DATASET", help=DATASET)
    split.add_argument("--seed", type=int, default=1, metavar="S", help="(default: 1)")

    importing = _command(
        data_commands, "import-split", "take over splits or few-shot samples of others", _import
    )
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE",
                           help=f"CoOp's .pkl, or {FORMS}")  # fmt: skip
    importing.add_argument("--dataset", required=True, metavar="DATASET", help=DATASET)
    _sample_flags(importing, "of a file whose name does not say shot_K-seed_S")

    exporting = _command(
        data_commands, "export-split", "write a split or a few-shot sample for others", _export
    )
    exporting.add_argument("dataset", metavar="DATASET", help=DATASET)
    exporting.add_argument("file", type=Path, metavar="FILE", help=FORMS)
    _sample_flags(exporting, "of a few-shot sample (default: the whole split)")


def _command(data_commands: Any, name: str, help: str, function: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = data_commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}."
    )
    command.set_defaults(command=function)
    add_root(command)
    return command


def _sample_flags(command: argparse.ArgumentParser, of: str) -> None:
    command.add_argument("--shots", type=int, metavar="K", help=of)
    command.add_argument("--seed", type=int, metavar="S", help=of)


def _split(args: argparse.Namespace) -> int:
    from promptclip import split_files

    split_files.make(split_files.place_of(args.dataset, args.root), args.seed)
    return 0


def _import(args: argparse.Namespace) -> int:
    from promptclip import split_files

    if len(args.files) > 1 and (args.shots, args.seed) != (None, None):
        raise UserError("--shots and --seed are of one file; give the others on their own")
    place = split_files.place_of(args.dataset, args.root)
    for file in args.files:
        split_files.take_over(file, place, args.shots, args.seed)
    return 0


def _export(args: argparse.Namespace) -> int:
    from promptclip import split_files

    if (args.shots is None) != (args.seed is None):
        raise UserError("a few-shot sample has both --shots and --seed; give both or none")
    place = split_files.place_of(args.dataset, args.root)
    split_files.export(place, args.file, args.shots, args.seed)
    return 0
