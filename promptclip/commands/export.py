"""`promptclip export`: a trained run's classifier for programs that have no promptclip."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from promptclip.commands import trained
from promptclip.errors import UserError

log = logging.getLogger(__name__)


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "export",
        help="a trained run's classifier, for open_clip and others",
        description="Write a trained run's classifier on CLIP's image features as safetensors and "
        "JSON, which need no promptclip. A method that has none is refused.",
        epilog="docs/use.md tells what can be exported, and how to use it.",
    )
    command.set_defaults(command=_export)
    trained.add_flags(command)
    command.add_argument("--out", required=True, metavar="FOLDER", help="gets two files")


def _export(args: argparse.Namespace) -> int:
    from promptclip import export

    model, folder = trained.load(args), Path(args.out)
    try:
        found = export.export(model, folder)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{folder}: cannot be written ({why}); give another --out") from error
    log.info("%s and %s in %s: %d classes, %d features",
             export.WEIGHTS, export.ABOUT, folder, *found.weight.shape)  # fmt: skip
    return 0
