"""`promptclip table`: the table of a folder of results."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "table",
        help="the table of a folder of results",
        description="Methods as rows, accuracies as mean and sample standard deviation.",
    )
    command.set_defaults(command=_table)
    command.add_argument("folder", help="such as output or output/base2new/train_base/emoji")
    command.add_argument("--format", choices=("text", "md", "csv", "json"), default="text")


def _table(args: argparse.Namespace) -> int:
    from promptclip import table

    sys.stdout.write(table.render(table.build(args.folder), args.format).rstrip("\n") + "\n")
    return 0
