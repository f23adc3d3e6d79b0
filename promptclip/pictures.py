"""Picture files, looked at without the machinery that trains on them.

Light to import: a process that only decodes pictures needs Pillow and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image

# What Pillow raises for a file that is truncated, no picture, or made to fill the memory.
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)  # in small letters


class Trouble(NamedTuple):
    """A picture that cannot be used: its path, one of `KINDS`, and what the reader said."""

    path: str
    kind: str
    detail: str = ""


KINDS = ("missing", "empty", "unreadable")


def look(paths: Sequence[str]) -> list[Trouble]:
    """Pictures that are not there or hold nothing, by what the file system says."""
    troubles = []
    for path in paths:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            troubles.append(Trouble(path, "missing"))
        except OSError as error:
            troubles.append(Trouble(path, "unreadable", error.strerror or str(error)))
        else:
            if not stat.S_ISREG(found.st_mode):
                troubles.append(Trouble(path, "unreadable", "it is no file"))
            elif not found.st_size:
                troubles.append(Trouble(path, "empty"))
    return troubles


def read(paths: Sequence[str], *, decode: bool) -> list[Trouble]:
    """Pictures that cannot be read: their heads, or every pixel of them with `decode`.

    Call it inside of `quiet`, from which it may run in several threads.
    """
    troubles = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                if decode:
                    picture.convert("RGB")
        except UNREADABLE as error:
            troubles.append(Trouble(path, "unreadable", str(error).replace(f" {path!r}", "")))
    return troubles


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Odd metadata is no fault of a picture, and no reason for Pillow to warn.

    The filters are those of the whole process, so threads must not change them one by one.
    """
    with warnings.catch_warnings():
        silence()
        yield


def silence() -> None:
    """The same for good, in a process that only reads pictures."""
    warnings.simplefilter("ignore")
