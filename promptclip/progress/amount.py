"""How much a command says of a run: all lines, one with the display of a terminal, or one alone."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Unsaid(io.StringIO):
    """Takes what is not to be seen.

    Attributes:
        terminal: where how far a run is may be seen all the same; None for nowhere.
    """

    def __init__(self, terminal: TextIO | None = None) -> None:
        super().__init__()
        self.terminal = terminal

    def write(self, text: str) -> int:
        """Let it go."""
        return len(text)


class _NoTerminal:
    """A stream on which others, such as tqdm, shall draw nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False


def is_terminal(stream: Any) -> bool:
    """Whether a stream, or what stands in for one, writes to a terminal."""
    return hasattr(stream, "isatty") and bool(stream.isatty())


@contextlib.contextmanager
def silence(quiet: bool = True, *, brief: bool = False) -> Iterator[None]:
    """Nothing on standard output; a run's messages are in its log.txt all the same.

    Args:
        quiet: nothing at all.
        brief: nothing but, on a terminal, how far the run is.
    """
    with contextlib.ExitStack() as stack:
        terminal = sys.stdout if brief and not quiet and is_terminal(sys.stdout) else None
        if quiet or brief:
            stack.enter_context(contextlib.redirect_stdout(Unsaid(terminal)))
        if quiet or (brief and terminal is None):
            stack.enter_context(contextlib.redirect_stderr(cast(TextIO, _NoTerminal(sys.stderr))))
        yield


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Silence for a trainer that is built for its model: warnings alone are told."""
    loggers = [logging.getLogger(name) for name in ("dassl", "promptclip")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with silence():  # the original Dassl prints
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add what chooses between the amounts."""
    flag: Any = command.add_mutually_exclusive_group().add_argument
    flag("--quiet", action="store_true", help="one line for each run; the rest is in its log.txt")
    flag("--brief", action="store_true",
         help="the same, and on a terminal how far the run is")  # fmt: skip


def without_bars(args: argparse.Namespace) -> None:
    """Have tqdm show none where nobody wants them; it reads this when it is imported."""
    if args.quiet or (args.brief and not is_terminal(sys.stdout)):
        os.environ.setdefault("TQDM_DISABLE", "1")
