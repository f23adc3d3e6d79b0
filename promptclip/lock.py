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
        OSError: on a file system without locks.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(file: IO[Any]) -> bool:
    """Whether another process has locked a part of a file that is open for reading.

    Raises:
        OSError: on a file system without locks.
    """
    # One that is shared between all who look, so that they do not take each other for the holder.
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    unlock(file)
    return False


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
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            if not try_lock(file):
                raise InUseError(
                    f"{folder} is in use by {_holder(file.name)}; wait until it has finished, or "
                    "give another --output-dir"
                )
        except OSError as error:  # some network file systems have no locks
            log.warning("cannot lock %s (%s): see to it that one process uses it", folder, error)
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "start": now}, file)
        file.flush()
        yield


def _holder(path: str) -> str:
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['start']}"
    except (OSError, ValueError, KeyError):  # it is just being written
        return "another process"
