"""The one exception that means: the user can mend this."""

from __future__ import annotations

import os


class UserError(ValueError):
    """Input that cannot be used, told in one line: what was expected, what came, what to do.

    Command lines print the message without a traceback and exit with status 2.
    """


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
