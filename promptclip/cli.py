"""The command line: `train.py`, `promptclip` and `python -m promptclip`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

import promptclip
from promptclip.commands import (
    cache,
    compare,
    completion,
    data,
    doctor,
    export,
    grade,
    grid,
    plot,
    predict,
    protocols,
    report,
    table,
    train,
)
from promptclip.errors import UserError, printable
from promptclip.stopping import Stopped, stoppable

# Modules that are not there in an environment where nothing was installed.
SETUP = "`bash scripts/quickstart.sh` makes an environment, or activate yours"
MISSING = {
    "dassl": "`pip install ./runtime` in the checkout installs the one that comes with promptclip",
    **dict.fromkeys(("PIL", "numpy", "open_clip", "rich", "safetensors", "scipy"), SETUP),
    **dict.fromkeys(("torch", "torchvision", "tqdm", "yacs", "yaml"), SETUP),
}


class Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Bare messages to the `sys.stdout` of that moment; a terminal obeys nothing of them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        return "\n".join(map(printable, super().format(record).expandtabs().split("\n")))

    @property
    def stream(self):  # type: ignore[no-untyped-def]  # noqa: D102
        return sys.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 if some run has failed; 2 for unusable input; 128 and the number of
        the signal if stopped, such as 130 for ctrl-C and 143 for `kill`.
    """
    _make_output_safe()
    args = build_parser().parse_args(argv)
    logger = logging.getLogger("promptclip")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(Console())
    try:
        with stoppable():
            return int(args.command(args))
    except UserError as error:
        return _fail(f"error: {printable(str(error))}", 2)
    except ModuleNotFoundError as error:
        if error.name not in MISSING:
            raise
        return _fail(f"error: no module {error.name} in {sys.prefix}; {MISSING[error.name]}", 2)
    except Stopped as stop:
        return _fail(f"stopped by {stop}; start again to go on", stop.status)
    except KeyboardInterrupt:
        return _fail("interrupted; start again to go on", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _make_output_safe() -> None:
    """No class name or path may fail at a terminal that lacks its letters, or that is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def train_py() -> int:
    """`train.py`: the command `train`."""
    return main(["train", *sys.argv[1:]])


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"{message}\n")
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="promptclip", description=promptclip.__doc__)
    parser.add_argument("--version", action="version", version=promptclip.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    modules = (train, protocols, grid, table, report, plot, compare, predict, export)
    for module in (*modules, grade, data, cache, doctor, completion):
        module.add_to(commands)
    return parser
