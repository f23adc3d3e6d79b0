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
LEASE_FILE = ".lease"  # where nothing can be locked
_LOOKS, _PAUSE = 25, 0.01  # at who holds a lock, and seconds between them


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
    who holds the lock: host, process id and start time. Where nothing can be locked, a file that is
    there only as long as the folder is held takes the lock's place.

    Raises:
        InUseError: if another process holds the folder.
        UserError: if it can be neither made nor written.
    """
    with contextlib.ExitStack() as held:
        while True:
            file = held.enter_context(_opened(folder))
            try:
                if not try_lock(file):
                    raise InUseError(
                        f"{folder} is in use by {_holder(file.name)}; wait until it has finished, "
                        "or give another --output-dir"
                    )
            except NoLocksError as error:
                log.warning("%s: %s takes the place of the lock", error, LEASE_FILE)
                held.enter_context(_leased(folder))
                break
            if _in_place(file):
                break
        file.truncate(0)
        json.dump(_myself(), file)
        file.flush()
        yield


def _in_place(file: IO[Any]) -> bool:
    """Whether an open file is still the one of its name, which who held it may have taken away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


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


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Wait until no other process is inside with the same file, which is gone afterwards.

    The system lets the next one in when a process ends, however it ends. Where the file cannot be
    made or locked, all are let in at once.
    """
    opened = _entered(file)
    try:
        yield
    finally:
        if opened:
            file.unlink(missing_ok=True)  # while it is locked: whoever waits looks whether it is
            opened.close()


def _entered(file: Path) -> IO[bytes] | None:
    """A file open and locked, after all who hold it; None if it cannot be."""
    while True:
        opened = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = file.open("a+b")
            if not try_lock(opened):
                log.info("Waiting for another process, which is at %s", file)
                fcntl.lockf(opened, fcntl.LOCK_EX)
            if _in_place(opened):
                return opened
        except FileNotFoundError:
            pass  # taken away between two looks
        except (OSError, NoLocksError) as error:
            log.debug("%s cannot be locked: %s", file, error)
            if opened:
                opened.close()
            return None
        if opened:
            opened.close()


@contextlib.contextmanager
def _leased(folder: Path) -> Iterator[None]:
    """Hold a folder by a file that is made only where it is not there.

    It outlives a process that is killed. One of this machine can be seen to be dead, and its file
    is taken away; of one elsewhere that is the user's to say.
    """
    file, own = folder / LEASE_FILE, json.dumps(_myself())
    while True:
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(own)
            break
        except FileExistsError:
            if not _taken_away(file):
                raise InUseError(
                    f"{folder} is in use by {_holder(str(file))}; files cannot be locked here, so "
                    f"if that process has died, delete {file}; else wait until it has finished, or "
                    "give another --output-dir"
                ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _taken_away(file: Path) -> bool:
    """Remove the lease of a process of this machine that has died; False if it may live."""
    try:
        content = file.read_text(encoding="utf-8")
        holder = json.loads(content)
        here = holder["host"] == socket.gethostname()
        if not here or _alive(int(holder["pid"]), str(holder["born"])):
            return False
    except FileNotFoundError:
        return True
    except (OSError, ValueError, LookupError, TypeError):  # it is just being written, or garbage
        return False
    aside = file.with_name(f"{LEASE_FILE}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        file.rename(aside)
        if aside.read_text(encoding="utf-8") != content:  # it was, and has made its own since
            aside.rename(file)
            return False
        aside.unlink()
    return True


def _alive(pid: int, born: str) -> bool:
    """Whether a process of this machine still runs, and is the one that was meant."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    now = _born(pid)
    return "" in (born, now) or born == now


def _born(pid: int) -> str:
    """When a process was started, in the system's own count; "" where it does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _myself() -> dict[str, Any]:
    now, pid = time.strftime("%Y-%m-%d %H:%M:%S"), os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": now, "born": _born(pid)}


def _try(file: IO[Any], kind: int, start: int, length: int) -> bool:
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise NoLocksError(file, error) from None
    return True


def _holder(path: str) -> str:
    """Who holds a lock, by what it writes into the file as soon as it has it."""
    for _ in range(_LOOKS):
        try:
            holder = json.loads(Path(path).read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']} since {holder['start']}"
        except (OSError, ValueError, LookupError, TypeError):  # just being written, or garbage
            time.sleep(_PAUSE)
    return "another process"
