"""`promptclip report`: what an output tree says, as one page."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "report",
        help="one HTML page of a folder of results, with tables and figures",
        description="Tables, figures and what runs have kept, in one file that needs no network.",
        epilog="docs/report.md tells what the sections show.",
    )
    command.set_defaults(command=_report)
    flag = command.add_argument
    flag("folder", nargs="?", default="output", help="(default: output)")
    flag("--out", metavar="FILE.html", default="report.html", help="(default: report.html)")
    looking(command)


def looking(command: Any) -> None:
    """Flags of commands that may load models again."""
    flag = command.add_argument
    flag("--look", metavar="METHOD[,...]", help="load the models of these methods, or of all, and "
         "have them look at their test pictures again")  # fmt: skip
    flag("--root", default="", metavar="DIR",
         help="with --look: where the data sets are now (default: where they were)")  # fmt: skip


def read(args: argparse.Namespace) -> Any:
    """The tree, with the looks that were asked for.

    Raises:
        UserError: for unusable input.
    """
    from promptclip import plugins, report
    from promptclip.commands.protocols import names
    from promptclip.errors import UserError

    if args.root and not args.look:
        raise UserError("--root is for --look, and would have no effect here")
    source = report.read(args.folder)
    if not args.look:
        return source
    wanted = [] if args.look == "all" else [plugins.trainer_name(n) for n in names(args.look)]
    return report.look(source, wanted, args.root)


def _report(args: argparse.Namespace) -> int:
    from promptclip import report
    from promptclip.errors import UserError
    from promptclip.files import write_bytes

    file = Path(args.out)
    if file.suffix not in (".html", ".htm"):
        raise UserError(f"a report is a .html file, got {file}")
    if file.is_dir():
        raise UserError(f"{file} is a folder; give a file")
    content = report.page(f"Results in {args.folder}", report.sections(read(args)))
    try:
        write_bytes(content.encode(errors="backslashreplace"), file)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror}); give another --out"
        ) from None
    log.info("%s is written (%.1f MB)", file, len(content) / 1e6)
    return 0
