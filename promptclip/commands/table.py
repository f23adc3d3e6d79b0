"""`promptclip table`: the table of a folder of results."""

from __future__ import annotations

import argparse
import sys
from typing import Any

FORMATS = ("text", "md", "csv", "json", "latex", "html")


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "table",
        help="the table of a folder of results",
        description="Methods as rows, accuracies as mean and sample standard deviation.",
        epilog="docs/tables.md tells how to read it.",
    )
    command.set_defaults(command=_table)
    flag = command.add_argument
    flag("folder", nargs="?", help="such as output or output/base2new/train_base/emoji")
    flag("--format", choices=FORMATS, default="text", help="(default: text)")
    flag("--published", action="store_true", help="the papers' own numbers beside ours")
    flag("--from-logs", metavar="DIR",
         help="also read the log.txt files of a CoOp-style repository's output")  # fmt: skip


def _table(args: argparse.Namespace) -> int:
    from promptclip import table
    from promptclip.errors import UserError

    if not (args.folder or args.from_logs):
        raise UserError("give a folder of results, or --from-logs DIR, or both")
    found = table.build(args.folder, logs_root=args.from_logs)
    if args.published:
        found = table.with_published(found)
    sys.stdout.write(table.render(found, args.format).rstrip("\n") + "\n")
    return 0
