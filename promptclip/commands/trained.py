"""Flags of the commands that use a trained run."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip.errors import UserError
from promptclip.files import write_bytes

if TYPE_CHECKING:
    from promptclip.predictor import Predictor


def add_flags(command: Any) -> None:
    """Add which run, and how it is loaded."""
    command.add_argument("run", metavar="RUN", help="output folder of a finished run")
    flag = command.add_argument
    flag("--classes", default="", metavar="FILE",
         help="other class names, one in a line (default: those of training)")  # fmt: skip
    flag("--epoch", type=int, metavar="N", help="(default: the model that the run has tested)")
    flag("--backbone", metavar="CLIP", help="where the CLIP's weights are now (default: as in RUN)")
    flag("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def load(args: argparse.Namespace) -> Predictor:
    """The run of these flags.

    Raises:
        UserError: if it cannot be loaded.
    """
    from promptclip import predictor

    return predictor.load(
        args.run,
        classnames=_names(args.classes) if args.classes else None,
        epoch=args.epoch,
        backbone=args.backbone,
        device=args.device,
    )


def _names(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give a text file in UTF-8") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{file} holds no class name; expected one in each line")
    return names


def keep(content: bytes, file: Path) -> None:
    """Write a file, whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        write_bytes(content, file)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{file}: cannot be written ({why}); give another --out") from error


@contextlib.contextmanager
def apart() -> Iterator[Any]:
    """Give standard output for results alone; all else that is said goes to standard error."""
    output = sys.stdout
    logging.getLogger("promptclip").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        yield output
