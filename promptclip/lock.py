"""One process in an output folder at a time."""

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

from promptclip.errors import UserError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process.

    The system releases the lock when its process ends, however it ends; loader workers do not
    inherit it. So nothing stale is ever left, and the file that stays behind means nothing.
    It says who holds the lock: host, process id and start time.

    Raises:
        UserError: if another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{folder} is in use by {_holder(file.name)}; wait until it has finished, or give "
                "another --output-dir"
            ) from None
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
