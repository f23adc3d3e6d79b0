"""Errors of the machine, told as what helps: memory, disk, processes that were killed."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

from promptclip.errors import UserError
from promptclip.stopping import stop_behind

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_WORKER = re.compile(r"DataLoader worker .*(?:exited unexpectedly|is killed by signal)", re.DOTALL)
_SHARED_MEMORY = re.compile(r"shared memory|/dev/shm|received 0 items of ancdata|torch_shm")
_PLACES = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "your quota of disk space is used up; make room",
    errno.EROFS: "the file system is read-only; write elsewhere (--output-dir, --output)",
    errno.EIO: "the disk or the network folder fails; see to it",
    errno.ESTALE: "the network folder has gone and come back; see to it",
    errno.EMFILE: "too many files are open; raise the limit (`ulimit -n`)",
}


@contextlib.contextmanager
def told(cfg: Any) -> Iterator[None]:
    """Raise what the machine does to a run as a `UserError` that says what helps.

    Args:
        cfg: the run's configuration.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not stop_behind(error) and (found := _helpful(error, cfg)):
            raise found from error
        raise


def _helpful(error: Exception, cfg: Any) -> UserError | None:
    chain = list(_chain(error))
    said = "\n".join(f"{type(one).__name__}: {one}" for one in chain)
    loader = f"DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS}"
    if any(isinstance(one, MemoryError) for one in chain) or _NO_MEMORY.search(said):
        batches = f"DATALOADER.TRAIN_X.BATCH_SIZE {cfg.DATALOADER.TRAIN_X.BATCH_SIZE}"
        tests = f"DATALOADER.TEST.BATCH_SIZE {cfg.DATALOADER.TEST.BATCH_SIZE}"
        return UserError(
            f"out of memory ({_first_line(error)}); what needs less: MODEL.MEMORY_BUDGET, the GiB "
            f"that the text tower may keep (now {cfg.MODEL.MEMORY_BUDGET:g}; 0 is half of what "
            f"was free); smaller batches ({batches}, {tests}); PREC bf16; {loader}; fewer runs at "
            "once (--workers, --per-gpu)"
        )
    if _SHARED_MEMORY.search(said):
        return UserError(
            f"loader workers have no room to hand over pictures ({_first_line(error)}); set "
            f"{loader} to 0, or give /dev/shm more (a container: --shm-size)"
        )
    if _WORKER.search(said):
        return UserError(
            f"a loader worker was killed ({_first_line(error)}), most likely because memory ran "
            f"out; set {loader} lower, 0 for none"
        )
    for one in chain:
        if isinstance(one, OSError) and one.errno in _PLACES:
            where = f" ({one.filename})" if one.filename else ""
            return UserError(
                f"{one.strerror}{where}: {_PLACES[one.errno]}, then start again to go on"
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came of."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
