"""One process that takes runs from the queue until none is left.

It stops at a signal, leaving a checkpoint (of the last step, in training) and no claim, and when
the process that has started it is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from promptclip.errors import UserError
from promptclip.grid.journal import BUSY, DONE, FAILED, START, STOPPED, Journal
from promptclip.grid.queue import Queue, tail
from promptclip.lock import InUseError
from promptclip.progress.amount import silence
from promptclip.stopping import SIGNALS

log = logging.getLogger(__name__)

# How a worker ends. Every other status means that it has died.
NOTHING_LEFT, WORN_OUT, WAS_STOPPED = 0, 75, 76
GRACE = 20.0  # seconds between a signal and the end of the process, come what may
_POLL = 0.5  # seconds
_GROWTH = 2**29  # bytes, besides half of what the first run left


def work(folder: Path, name: str) -> int:
    """Take runs from a grid's queue until there is nothing left to take.

    Args:
        folder: of a stored plan.
        name: of this worker, for its journal; no other may have had it.

    Returns:
        One of the three exit statuses above.
    """
    faulthandler.enable(2)  # into the log, whatever `sys.stderr` is
    _end_with_parent()
    with _stoppable():
        try:
            with Queue(folder) as queue, Journal(folder, name) as write:
                return _work(queue, write, name)
        except KeyboardInterrupt:
            return WAS_STOPPED


def _work(queue: Queue, write: Journal, name: str) -> int:
    grown = _grown()
    while True:
        number = queue.take()
        if number is None:
            if not queue.waiting():
                return NOTHING_LEFT
            time.sleep(_POLL)
            continue
        try:
            sound = _carry_out(queue, number, write, name)
        finally:
            queue.release(number)
        if not sound or grown():
            return WORN_OUT


def _carry_out(queue: Queue, number: int, write: Journal, name: str) -> bool:
    """Do a claimed run and write down how it ended.

    Returns:
        Whether this process is fit for another: after an unexpected error the accelerator may
        refuse everything that follows.
    """
    run, which = queue.runs[number], (number, queue.hashes[number])
    write(START, *which, what=str(run.place.path))
    try:
        with silence():
            result = run(planned=queue.hashes[number])
    except InUseError as error:
        log.info("%s: %s", run.place.path, error)
        write(BUSY, *which)
        queue.held_elsewhere(number)
        return True
    except (Exception, SystemExit) as error:
        log.error("%s: failed", run.place.path, exc_info=True)
        run.failed(error)
        file = run.folder / "log.txt"
        where = [] if isinstance(error, UserError) else traceback.format_exc().splitlines()[-4:-1]
        queue.fail(number, name, f"{type(error).__name__}: {error}", file, [*tail(file), *where])
        write(FAILED, *which)
        return isinstance(error, UserError)
    except KeyboardInterrupt:
        log.info("%s: stopped", run.place.path)
        write(STOPPED, *which)
        raise
    seconds = sum(result["seconds"].values())
    accuracy = result["metrics"]["accuracy"] if result["metrics"] else None
    write(DONE, *which, seconds=seconds, accuracy=accuracy)
    log.info("%s: done in %.0f s", run.place.path, seconds)
    return True


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Have the first signal raise `KeyboardInterrupt`, and end the process if that gets lost."""
    last_resort = threading.Timer(GRACE, os._exit, (WAS_STOPPED,))
    last_resort.daemon = True

    def stop(number: int, frame: Any) -> None:
        for other in SIGNALS:
            # Not SIG_IGN: Python complains of a signal that came together with this one.
            signal.signal(other, lambda number, frame: None)
        last_resort.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        last_resort.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Stop when standard input is closed: the pool holds its other end while it lives."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        # Not what a pool sends that lives: the same signal twice would not wait for a step's end
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=watch, daemon=True).start()


def _grown() -> Callable[[], bool]:
    """Tells after each run whether this process has come to hold much more than after its first."""
    first = 0

    def grown() -> bool:
        nonlocal first
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
        now = _resident()
        first = first or now
        return now > 1.5 * first + _GROWTH

    return grown


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
