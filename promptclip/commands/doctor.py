"""`promptclip doctor`: what this machine has, what is missing, what to do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

EPILOG = """Nothing is fetched and nothing is written. Exit status: 0 without a problem, 1 with one;
notes do not count. The report can be pasted where somebody is asked for help: it has names of
folders in it, and of this machine's parts."""


def add_to(commands: Any) -> None:
    """Add the command."""
    from promptclip.commands.data_check import add_root

    command = commands.add_parser(
        "doctor",
        help="what this machine has, what is missing, and what to do",
        description="Look at Python, packages, GPU, memory, weights, data sets and disks.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_doctor)
    add_root(command)
    flag = command.add_argument
    flag("--verify", action="store_true",
         help="compare the checksums of all weights (default: of the first GiB)")  # fmt: skip
    flag("--json", action="store_true", help="the report as JSON")


def _doctor(args: argparse.Namespace) -> int:
    from promptclip import doctor
    from promptclip.errors import printable

    parts = []
    for title, found in doctor.examine(root=args.root, verify=args.verify):
        parts.append((title, found))
        if not args.json:  # part by part, as some take a while
            lines = doctor.text(title, found).splitlines()
            sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
            sys.stdout.flush()
    if args.json:
        sys.stdout.write(json.dumps(doctor.as_json(parts), indent=1) + "\n")
    else:
        sys.stdout.write(f"{doctor.summary(parts)}\n")
    return 0 if doctor.is_well(parts) else 1
