"""Picture files: read safely, and looked at without the machinery that trains on them.

Light to import: a process that only decodes pictures needs Pillow and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

# Pillow reads many more, some through other programs: an EPS file is run by Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)  # in small letters
MAX_PIXELS = 89_478_485  # above this Pillow warns; 268 MB in RGB
MAX_RATIO = 500  # of the sides: the short one is scaled to what CLIP takes, the long one with it

_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# What is so tomorrow as well, unlike an error of a disk or a network.
_LASTING = frozenset({None, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class UnreadableError(Exception):
    """A picture that cannot be used: why, in a few words without its path.

    Attributes:
        lasting: the file is at fault, and not the disk, the network or a permission.
    """

    def __init__(self, why: str, *, lasting: bool = True) -> None:
        super().__init__(why)
        self.lasting = lasting


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
            with _opened(path) as picture:
                if decode:
                    _as_rgb(picture)
        except UnreadableError as error:
            troubles.append(Trouble(path, "unreadable", str(error)))
    return troubles


def rgb(path: str) -> Image.Image:
    """The pixels of a picture in RGB; of several frames, the first.

    As Pillow's `convert`, which Dassl and CoOp call: transparency is dropped, not painted over,
    and the orientation in EXIF does not count. But 16 bits of grey become the upper 8 of them, as
    they do in colour, where Pillow would make everything white that is not nearly black.

    Call it inside of `quiet`.

    Raises:
        UnreadableError: if it cannot be used.
    """
    with _opened(path) as picture:
        return _as_rgb(picture)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """A picture whose head has been read; what goes wrong inside is an error of the picture."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            raise UnreadableError("it is no file")
        if not found.st_size:
            raise UnreadableError("it is empty")
        with Image.open(path, formats=FORMATS) as picture:
            _check_size(*picture.size)
            yield picture
    except (UnreadableError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableError(_TOO_LARGE) from None
    except UnidentifiedImageError as error:
        with open(path, "rb") as file:
            head = file.read(16)
        *most, last = FORMATS
        raise UnreadableError(
            f"it is no whole {', '.join(most)} or {last}, it begins with {head!r}"
        ) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise UnreadableError(why, lasting=error.errno in _LASTING) from error
    except Exception as error:  # a damaged file can raise anything
        raise UnreadableError(str(error) or type(error).__name__) from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """The same for a picture in memory, which stays as it is.

    Raises:
        UnreadableError: if it cannot be used.
    """
    try:
        _check_size(*picture.size)
        copy = picture.copy()
        copy.format = picture.format  # says what its numbers mean, and is not copied
        return _as_rgb(copy)
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # the file behind it may be damaged
        raise UnreadableError(str(error) or type(error).__name__) from error


_TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels, make it smaller"


def _check_size(width: int, height: int) -> None:
    if not width * height:
        raise UnreadableError("it has no pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableError(_TOO_LARGE)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnreadableError(
            f"it has {width} x {height} pixels, one side more than {MAX_RATIO} times the other"
        )


def _as_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    # No pixel depends on it here, and some kinds of it make Pillow warn.
    picture.info.pop("transparency", None)
    of_sixteen_bits = picture.mode == "I" and picture.format in ("PNG", "PPM")
    if picture.mode in _SIXTEEN_BITS or of_sixteen_bits:
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif picture.mode in ("I", "F"):
        raise UnreadableError(
            "its pixels have 32 bits, and nothing says which number is white; save it with 8 or 16"
        )
    return picture.convert("RGB")


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
