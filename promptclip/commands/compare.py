"""`promptclip compare`: which of two or more methods is better, as far as results can say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from promptclip.commands.protocols import names


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "compare",
        help="paired differences between methods, with intervals and tests",
        description="The first method against the others, on equal data sets, seeds and pictures.",
        epilog="The last word is the FOLDER if there is such a folder; else it is output. "
        "docs/tables.md tells what the tests say.",
    )
    command.set_defaults(command=_compare)
    flag = command.add_argument
    flag("methods", nargs="+", metavar="METHOD[/CFG] ... [FOLDER]", help="such as DAPT CoOp/tiny")
    flag("--format", choices=("text", "json"), default="text", help="(default: text)")
    flag("--plot", metavar="FILE", help="three methods or more: the critical-difference diagram "
         "as .pdf, .png or .svg (needs promptclip[stats])")  # fmt: skip


def _compare(args: argparse.Namespace) -> int:
    from promptclip import compare, table

    *most, folder = args.methods
    methods = names(" ".join(most))
    if len(methods) < 2 or not Path(folder).is_dir():
        methods, folder = names(" ".join(args.methods)), "output"
    contests = compare.contests(table.build(folder), methods)
    if args.plot:
        compare.plot(contests, Path(args.plot))
    write = compare.as_json if args.format == "json" else compare.as_text
    sys.stdout.write(write(contests))
    return 0
