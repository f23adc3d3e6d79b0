"""Files and folders, seeds, images, and lookups with a suggestion."""

import json
import logging
import os
import random
import shutil
import stat
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import PIL
import torch
from PIL import Image

T = TypeVar("T")
# What pictures may be, by their content: for PostScript, say, Pillow would run another program.
PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
OFFLINE = "PROMPTCLIP_OFFLINE"
logger = logging.getLogger(__name__)


def mkdir_if_missing(dirname: str) -> None:
    """Make a folder and its parents unless it is there."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path` whole or not at all.

    The bytes go to a temporary file beside it, which is synced to the disk and then renamed. If the
    block raises, or the process dies, whatever stood at `path` stays.

    Args:
        path: the file to write; its folder is made if missing.

    Yields:
        The open temporary file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_intact(path: str | os.PathLike[str]) -> bool:
    """Compare the checksums in an archive, such as one of `torch.save`, with its contents.

    PyTorch itself does not: it reads whatever numbers a bit that has flipped leaves.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive can raise nearly anything
        return False


def check_isfile(fpath: str) -> bool:
    """Return whether a file is there, with a warning if not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def read_json(fpath: str) -> Any:
    """Return the contents of a JSON file."""
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj: Any, fpath: str) -> None:
    """Write a JSON file, whole or not at all, in the field's layout."""
    if os.path.basename(fpath).startswith("split_zhou_") and not os.path.exists(fpath):
        # Dataset files draw a split of their own when the published one is missing, silently.
        logger.warning(
            "%s was missing and is made from the pictures on this disk: "
            "results will not be comparable with published ones",
            fpath,
        )
    with atomic_write(fpath) as file:
        file.write(json.dumps(obj, indent=4, separators=(",", ": ")).encode())


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def refuse_offline(url: str, place: str) -> None:
    """Raise where the environment forbids the network, as promptclip does.

    Raises:
        RuntimeError: if the environment variable PROMPTCLIP_OFFLINE is set.
    """
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise RuntimeError(f"{url} is not downloaded, because {OFFLINE} is set; put it at {place}")


class _TLSAlone(urllib.request.HTTPRedirectHandler):
    """Follows redirections to addresses over TLS and to no others."""

    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        """Refuse an address that is not over TLS.

        Raises:
            ValueError: if it is not.
        """
        *_, url = args
        _check_address(url)
        return super().redirect_request(*args)


def _check_address(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError(f"expected an https address, got {url!r}")


def download_url(url: str, dst: str) -> None:
    """Download to a file over TLS, whole or not at all.

    Raises:
        ValueError: if the address, or one that it leads to, is not https.
        RuntimeError: if the environment variable PROMPTCLIP_OFFLINE is set.
    """
    _check_address(url)
    refuse_offline(url, dst)
    logger.info('* url="%s"', url)
    logger.info('* destination="%s"', dst)
    opener = urllib.request.build_opener(_TLSAlone)
    with opener.open(url) as response, atomic_write(dst) as file:
        shutil.copyfileobj(response, file)


def read_image(path: str) -> Image.Image:
    """Return a picture in RGB.

    Raises:
        OSError: if the file is missing, no picture or damaged; names it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise OSError("it is no file")
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            picture: Image.Image = image.convert("RGB")
            return picture
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # a damaged picture can raise anything
        raise OSError(f'Cannot read the image "{path}": {error}') from error


def collect_env_info() -> str:
    """Return versions of Python, torch, the system and its devices (some tenths of a second)."""
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """List a folder without dot files.

    Always in alphabetical order, so that nothing that is drawn from the list depends on the file
    system; `sort` is accepted for callers of the original.
    """
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


def get_most_similar_str_to_a_from_b(a: str, b: Sequence[str]) -> str | None:
    """Return the string in `b` most like `a`; None if `b` is empty."""
    return max(b, key=lambda name: SequenceMatcher(None, a, name).ratio(), default=None)


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Check that a name is known.

    Raises:
        ValueError: if not, with the known ones and the nearest.
    """
    if requested not in available:
        nearest = get_most_similar_str_to_a_from_b(requested, available)
        raise ValueError(
            f"expected one of {list(available)}, got {requested!r} (did you mean {nearest!r}?)"
        )


def tolist_if_not(x: T | list[T]) -> list[T]:
    """Return a list as it is, anything else as a list of one."""
    return x if isinstance(x, list) else [x]
