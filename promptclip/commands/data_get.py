"""`promptclip data get`: fetch a data set, or say how to get it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from promptclip.commands.data_check import add_root, root_of
from promptclip.errors import UserError

EPILOG = """Nothing is fetched before you have said yes. Exit status: 0 if the pictures have been
fetched, 1 if they have not and you were told how to get them, 2 for unusable input or a failed
download, of which nothing is kept."""


def add_to(data_commands: Any) -> None:
    """Add the command."""
    command = data_commands.add_parser(
        "get",
        help="fetch a data set through torchvision, or say where it is",
        description="Fetch a data set's pictures through torchvision and lay them out as CoOp's; "
        "where that is not possible, say how to do it by hand.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_get)
    add_root(command)
    command.add_argument("name", metavar="NAME", help="such as dtd")
    command.add_argument("--yes", action="store_true", help="do not ask before the download")


def _get(args: argparse.Namespace) -> int:
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from promptclip import data_get, plugins

    kind = plugins.benchmark(args.name)
    download = data_get.source_of(kind).download
    if download is None:
        folder = Path(args.root or "DATA", kind.dataset_dir)
        sys.stdout.write(f"{data_get.guide(kind, folder)}\n")
        return 1
    root = Path(os.path.abspath(os.path.expanduser(root_of(args))))
    sys.stdout.write(f"{data_get.plan(kind, download, root)}\n")
    if not (args.yes or _agreed()):
        sys.stdout.write("nothing was fetched\n")
        return 1
    folder = data_get.fetch(kind, download, root)
    sys.stdout.write(f"{folder} is there.\n{data_get.guide(kind, folder)}\n")
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here; give --yes to fetch it")
    sys.stdout.write("Fetch it? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
