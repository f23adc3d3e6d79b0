"""`promptclip data check`: is it all there?"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from promptclip.errors import UserError

if TYPE_CHECKING:
    from promptclip.data_check import Report

EPILOG = """Exit status: 0 if all that was asked for is whole (without names: all that is there),
1 if not, 2 for unusable input."""


def add_to(data_commands: Any) -> None:
    """Add the command."""
    command = data_commands.add_parser(
        "check",
        help="which data sets are there, whether they are whole, and what to do if not",
        description="Say of each data set whether it is complete, and name every fault.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_check)
    add_root(command)
    flag = command.add_argument
    flag("names", nargs="*", metavar="NAME", help="such as dtd (default: all)")
    flag("--deep", action="store_true", help="decode every picture, not the heads of some")
    flag("--workers", type=_positive, metavar="N", help="(default: one for each core, at most 8)")


def add_root(command: Any) -> None:
    """Add `--root`; the environment variable is the one of the scripts."""
    command.add_argument(
        "--root",
        default=os.environ.get("DATA", ""),
        metavar="DIR",
        help="the folder that holds the data sets (default: the environment variable DATA)",
    )


def root_of(args: argparse.Namespace) -> str:
    """The data root that was given.

    Raises:
        UserError: if there is none.
    """
    if not args.root:
        raise UserError("give the folder that holds the data sets with --root, or set DATA")
    return str(args.root)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _check(args: argparse.Namespace) -> int:
    root = root_of(args)
    from rich.console import Console
    from rich.progress import Progress

    from promptclip import data_check

    console = Console(stderr=True)
    reports = []
    with Progress(
        console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    ) as progress:
        found = data_check.check(args.names, root, progress, deep=args.deep, workers=args.workers)
        for report in found:
            reports.append(report)
            progress.stop()  # it shares the terminal with the answer
            sys.stdout.write("".join(f"{line}\n" for line in _lines(report)))
            sys.stdout.flush()
            progress.start()
    states = Counter(report.state for report in reports)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    sys.stdout.write(f"{counts} in {os.path.abspath(os.path.expanduser(root))}\n")
    whole = states["complete"] + states["present"]
    asked = len(reports) if args.names else max(1, len(reports) - states["absent"])
    return int(whole < asked)


def _lines(report: Report) -> list[str]:
    what = str(report.sizes) if report.sizes else ""
    if report.state == "absent":
        what = f"{report.folder} is not there; `promptclip data get {report.name}` says more"
    first = f"{report.name:<15} {report.state:<8} {what}".rstrip()
    faults = [f"  fault: {fault}" for fault in report.faults]
    return [first, *faults, *(f"  note: {note}" for note in report.notes)]
