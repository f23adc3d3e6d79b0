"""`promptclip plot`: the figures of a report, as files for papers."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from promptclip.commands.report import looking, read

log = logging.getLogger(__name__)


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "plot",
        help="the figures of a report as PDF, PNG or SVG",
        description="Writes each figure of `promptclip report` as a file, named as its section.",
        epilog="docs/report.md tells what the figures show.",
    )
    command.set_defaults(command=_plot)
    flag = command.add_argument
    flag("folder", nargs="?", default="output", help="(default: output)")
    flag("--out", metavar="FOLDER", default="figures", help="(default: figures)")
    flag("--format", choices=("pdf", "png", "svg"), default="pdf", help="(default: pdf)")
    flag("--dpi", type=int, default=200, help="of png (default: 200)")
    looking(command)


def _plot(args: argparse.Namespace) -> int:
    from promptclip import report
    from promptclip.errors import UserError
    from promptclip.files import write_bytes
    from promptclip.report.figures import encoded, named

    if not 20 <= args.dpi <= 2400:
        raise UserError(f"--dpi must be 20 to 2400, got {args.dpi}")
    drawings = [drawing for section in report.sections(read(args)) for drawing in section.drawings]
    if not drawings:
        raise UserError(f"nothing in {args.folder} can be drawn; its runs have no results yet")
    try:
        for name, drawing in named(drawings).items():
            file = Path(args.out, f"{name}.{args.format}")
            write_bytes(encoded(drawing, args.format, dpi=args.dpi), file)
    except OSError as error:
        raise UserError(
            f"{args.out} cannot be written ({error.strerror}); give another --out"
        ) from None
    log.info("figures in %s: %d", args.out, len(drawings))
    return 0
