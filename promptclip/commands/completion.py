"""`promptclip completion`: a script that makes a shell complete what is typed."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

from promptclip.errors import UserError

SHELLS = ("bash", "zsh", "fish")
EPILOG = """bash: put  eval "$(promptclip completion bash)"  into ~/.bashrc. zsh: write it to a file
_promptclip in a folder of $fpath. fish: to ~/.config/fish/completions/promptclip.fish."""
_FOLDERS = frozenset({"DIR", "FOLDER", "RUN"})
_FILES = frozenset({"FILE", "PATH", "IMAGE", "YAML"})
_METHODS = frozenset({"METHOD", "METHODS", "METHOD[,METHOD...]"})
_DATA_SETS = frozenset({"DATASET", "SOURCE", "DATASET[,DATASET...]"})


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "completion",
        help="make a shell complete commands, flags and names",
        description="Write a script for a shell, which completes commands, flags, methods, data "
        "sets and paths.",
        epilog=EPILOG,
    )
    command.set_defaults(command=_completion)
    command.add_argument("shell", choices=SHELLS)


def _completion(args: argparse.Namespace) -> int:
    from promptclip.cli import build_parser

    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError(
            "the package shtab, which writes such scripts, is not installed; "
            '`pip install "promptclip[completion]"` brings it'
        ) from None
    parser = build_parser()
    known = {_METHODS: _methods(), _DATA_SETS: _data_sets()}
    for action in _actions(parser):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        for metavars, names in known.items():
            if metavar in metavars:
                action.choices = names
    sys.stdout.write(shtab.complete(parser, args.shell).rstrip("\n") + "\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _methods() -> list[str]:
    """Names that need no import of a method."""
    package = importlib.import_module("promptclip.trainers")
    return sorted(file.name for file in pkgutil.iter_modules(package.__path__))


def _data_sets() -> list[str]:
    from promptclip.config import configs_dir

    return sorted(file.stem for file in (configs_dir() / "datasets").glob("*.yaml"))
