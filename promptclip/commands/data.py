"""`promptclip data`: benchmarks on disk."""

from __future__ import annotations

from typing import Any

from promptclip.commands import data_check, data_get


def add_to(commands: Any) -> None:
    """Add the group and its commands."""
    group = commands.add_parser(
        "data", help="check and get data sets", description="Data sets on disk: docs/data.md."
    )
    data_commands = group.add_subparsers(required=True, metavar="COMMAND")
    for module in (data_check, data_get):
        module.add_to(data_commands)
