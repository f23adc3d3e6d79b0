"""One process at a time: in an output folder, or at some part of a shared job.

The system releases a lock when its process ends, however it ends, so nothing stale is ever left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from promptclip.errors import UserError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


class InUseError(UserError):
    """Another process holds the folder."""


class NoLocksError(UserError):
    """A file lies where nothing can be locked, as on some network file systems."""

    def __init__(self, file: IO[Any], error: OSError) -> None:
        super().__init__(
            f"cannot lock {file.name} ({error}); processes can share an output folder only on a "
            "file system with locks"
        )


def try_lock(file: IO[Any], *, start: int = 0, length: int = 0) -> bool:
    """Lock a file that is open for writing, or some bytes of it, for this process; do not wait.

    Closing the file, or another handle of the same file in this process, releases the lock.

    Args:
        file: the bytes need not exist.
        start: of the part to be locked, in bytes.
        length: of that part; 0 for all from `start` on.

    Returns:
        False if another process holds a part of it.

    Raises:
        NoLocksError: on a file system without locks.
    """
    return _try(file, fcntl.LOCK_EX, start, length)


def is_locked(file: IO[Any]) -> bool:
    """Whether another process has locked a part of a file that is open for reading.

    Raises:
        NoLocksError: on a file system without locks.
    """
    # With a lock that those who look share, so that none takes another for the holder.
    free = _try(file, fcntl.LOCK_SH, 0, 0)
    if free:
        unlock(file)
    return not free


def unlock(file: IO[Any], *, start: int = 0, length: int = 0) -> None:
    """Release what `try_lock` has locked."""
    fcntl.lockf(file, fcntl.LOCK_UN, length, start)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process.

    Loader workers do not inherit the lock, and the file that stays behind means nothing. It says
    who holds the lock: host, process id and start time.

    Raises:
        InUseError: if another process holds the folder.
        UserError: if it can be neither made nor written.
    """
    with _opened(folder) as file:
        try:
            if not try_lock(file):
                raise InUseError(
                    f"{folder} is in use by {_holder(file.name)}; wait until it has finished, or "
                    "give another --output-dir"
                )
        except NoLocksError as error:
            log.warning("%s: see to it that only one uses %s", error, folder)
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "start": now}, file)
        file.flush()
        yield


def _opened(folder: Path) -> IO[str]:
    """The file of the lock in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder}: expected a folder that can be written ({error.strerror}: {error.filename});"
            " give another for the output"
        ) from error


def _try(file: IO[Any], kind: int, start: int, length: int) -> bool:
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise NoLocksError(file, error) from None
    return True


def _holder(path: str) -> str:
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['start']}"
    except (OSError, ValueError, KeyError):  # it is just being written
        return "another process"
