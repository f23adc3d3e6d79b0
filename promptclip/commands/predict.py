"""`promptclip predict`: what a trained run sees in pictures."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from promptclip.commands import trained
from promptclip.errors import UserError, printable

if TYPE_CHECKING:
    from promptclip.predictor import Prediction, Predictor

    Found = tuple[str, list[Prediction]]

EPILOG = """Exit status: 0 if all was predicted, 1 if some picture could not be read (each is named
on standard error, and the others are predicted), 2 for unusable input."""


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "predict",
        help="what a trained run sees in pictures",
        description="Rank the classes of a trained run for pictures.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_predict)
    trained.add_flags(command)
    flag = command.add_argument
    flag("images", nargs="+", metavar="IMAGE",
         help="a picture; a folder, for all pictures below it; - for paths on standard input, "
         "one in a line")  # fmt: skip
    flag("--top", type=int, default=5, metavar="K", help="classes of each picture (default: 5)")
    flag("--format", choices=("csv", "json"), default="csv", help="(default: csv)")
    flag("--out", default="", metavar="FILE", help="(default: standard output)")
    flag("--batch-size", type=int, metavar="N", help="pictures at once (default: as in RUN)")


def _predict(args: argparse.Namespace) -> int:
    if args.top < 1:
        raise UserError(f"--top must be 1 or more, got {args.top}")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, got {args.batch_size}")
    faults = _Faults()
    with trained.apart() as output:
        model = trained.load(args)
        size = args.batch_size or model.cfg.DATALOADER.TEST.BATCH_SIZE
        found = _ranked(model, _paths(args.images, faults), size, args.top, faults)
        if args.out:
            text = io.StringIO(newline="")
            _write(found, args.format, text)
            trained.keep(text.getvalue().encode(errors="backslashreplace"), Path(args.out))
        else:
            _write(found, args.format, output)
    return faults.status()


class _Faults:
    """Pictures that cannot be predicted: each is named, and counted."""

    def __init__(self) -> None:
        self.number = self.predicted = 0

    def tell(self, message: str) -> None:
        self.number += 1
        sys.stderr.write(f"{printable(message)}\n")

    def status(self) -> int:
        if self.number:
            sys.stderr.write(f"{self.number} could not be read, {self.predicted} predicted\n")
        elif not self.predicted:
            raise UserError("there is no picture to predict; give paths or a folder with pictures")
        return 1 if self.number else 0


def _paths(words: Iterable[str], faults: _Faults) -> Iterator[str]:
    """The pictures that the words of a command line mean."""
    for word in words:
        if word == "-":
            if sys.stdin is None:  # closed by whoever started us
                raise UserError("- means standard input, which is closed; give paths")
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        elif os.path.isdir(word):
            found = _below(word)
            first = next(found, None)
            if first is None:
                faults.tell(f"{word}: the folder holds no picture, by the ends of names")
            else:
                yield first
                yield from found
        else:
            yield word


def _below(folder: str) -> Iterator[str]:
    """Files with a picture's suffix anywhere in a folder, but hidden ones, in the order of names.

    What else lies there is left out, and counted on standard error.
    """
    from promptclip.pictures import SUFFIXES

    others: list[str] = []
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = os.path.join(place, name)
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield path
            else:
                others.append(path)
    if others:
        count = f"{len(others)} files that are no pictures by their names are left out"
        sys.stderr.write(f"{printable(f'{folder}: {count}, the first is {others[0]}')}\n")


def _ranked(
    model: Predictor, paths: Iterable[str], size: int, top: int, faults: _Faults
) -> Iterator[Found]:
    """Each picture that can be read, and its classes."""
    import torch

    def readable() -> Iterator[tuple[str, torch.Tensor]]:
        for path in paths:
            try:
                yield path, model.read(path)
            except UserError as error:
                faults.tell(str(error))

    pictures = readable()
    while batch := list(itertools.islice(pictures, size)):
        logits = model.logits(torch.stack([picture for _, picture in batch]))
        for (path, _), row in zip(batch, logits, strict=True):
            faults.predicted += 1
            yield path, model.ranked(row, top=top)


def _write(found: Iterable[Found], form: str, file: TextIO) -> None:
    """CSV with a row for each class of each picture, or JSON with an object for each picture."""
    if form == "json":
        rows = [
            {
                "image": path,
                "predictions": [
                    {"class": name, "probability": likely} for name, likely in predictions
                ],
            }
            for path, predictions in found
        ]
        file.write(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    from promptclip.table.data import inert

    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "probability"))
    for path, predictions in found:
        for rank, (name, likely) in enumerate(predictions, 1):
            writer.writerow((inert(path), rank, inert(name), f"{likely:.6f}"))
        file.flush()
