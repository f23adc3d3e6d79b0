"""The one exception that means: the user can mend this; and what means: the user has stopped it."""

from __future__ import annotations

import os


class UserError(ValueError):
    """Input that cannot be used, told in one line: what was expected, what came, what to do.

    Command lines print the message without a traceback and exit with status 2.
    """


def comes_of_a_stop(error: BaseException) -> bool:
    """Whether an error came up in the wake of ctrl-C, or of another signal made to act like it.

    Where that comes while a library writes a file, the library's own tidying up may fail, and hide
    what has happened: `torch.save` then raises a RuntimeError about positions in an archive.
    """
    earlier: BaseException | None = error
    while earlier is not None and not isinstance(earlier, KeyboardInterrupt):
        earlier = earlier.__context__
    return earlier is not None


def printable(text: str) -> str:
    """Text on one line, for any terminal and file.

    Names of files may hold line breaks, commands to a terminal, and bytes that are no text: they
    are written as Python writes them in a string.
    """
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def number_in_environment(name: str, default: int) -> int:
    """A whole number that an environment variable gives; the default without one.

    Raises:
        UserError: if it is something else.
    """
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(
            f"the environment variable {name} must be a whole number, got {text!r}; "
            "correct it, or take it away"
        )
    return int(text)
