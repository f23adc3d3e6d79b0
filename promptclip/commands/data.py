"""`promptclip data`: data sets on disk, before anything is trained."""

from __future__ import annotations

from typing import Any

from promptclip.commands import data_check, data_get, data_splits


def add_to(commands: Any) -> None:
    """Add the group and its commands."""
    help = "data sets on disk and their splits"
    group = commands.add_parser("data", help=help, description=f"{help[0].upper()}{help[1:]}.")
    data_commands = group.add_subparsers(required=True, metavar="COMMAND")
    for module in (data_check, data_get, data_splits):
        module.add_to(data_commands)
