"""Keeps workers at work: one process for each seat, replaced when it dies."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from promptclip.errors import UserError, number_in_environment
from promptclip.grid import journal
from promptclip.grid.queue import LOGS, Queue, tail
from promptclip.grid.worker import GRACE, NOTHING_LEFT, WAS_STOPPED, WORN_OUT
from promptclip.stopping import SIGNALS

log = logging.getLogger(__name__)

_MAX_STILLBORN = 3  # workers in a row that die before they have taken a run
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def seats(
    workers: int | None = None, gpus: Sequence[str] = (), per_gpu: int = 1
) -> list[dict[str, str]]:
    """What each worker's environment has that others' have not.

    Args:
        workers: how many; None for one, or `per_gpu` on each GPU.
        gpus: numbers or names as `CUDA_VISIBLE_DEVICES` has them; () leaves that alone.
        per_gpu: workers that share one.

    Returns:
        For each worker its GPU, and its share of the cores where the caller's environment does
        not set a number of threads.

    Raises:
        UserError: if there would be no worker, or more than the GPUs shall have.
    """
    count = workers if workers is not None else max(1, len(gpus) * per_gpu)
    if count < 1 or per_gpu < 1:
        raise UserError(f"at least 1 worker is needed; got {count} and {per_gpu} on each GPU")
    if gpus and count > len(gpus) * per_gpu:
        raise UserError(
            f"{count} workers on {len(gpus)} GPUs are more than {per_gpu} on each; set --per-gpu"
        )
    threads = {name: str(max(1, cores() // count)) for name in _THREADS if name not in os.environ}
    # The first workers are spread over all GPUs before any gets its second.
    chosen = itertools.islice(itertools.cycle(gpus), count) if gpus else [None] * count
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}) for gpu in chosen]


def cores() -> int:
    """The number of cores that this process may use; on a cluster, those of its job."""
    if allotted := number_in_environment("SLURM_CPUS_ON_NODE", 0):
        return allotted
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Pool:
    """Workers on one machine, all of one grid.

    Args:
        folder: of a stored plan.
        seats: the extra environment of each worker, see `seats`.
        patient: keep on until every run of the grid is finished or given up, whoever does it;
            else until there is nothing left to take.
    """

    def __init__(
        self, folder: Path, seats: Sequence[dict[str, str]], *, patient: bool = True
    ) -> None:
        self._queue = Queue(folder)
        self._seats, self._patient = seats, patient
        self._workers: list[_Worker | None] = [None] * len(seats)
        self._closed = [False] * len(seats)
        self._numbers = itertools.count(1)
        self._stillborn = 0

    def run(self, tick: Callable[[], object] = lambda: None) -> None:
        """Work until the end.

        Args:
            tick: called some times in a second.

        Raises:
            UserError: if workers die before they can take a run.
        """
        try:
            while self._tended():
                tick()
                time.sleep(0.2)
        finally:
            self.stop()
            tick()

    def stop(self) -> None:
        """Stop all workers in good order, and those that do not obey without."""
        running = [worker.process for worker in self._workers if worker]
        for process in running:
            if process.stdin:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + GRACE + 5
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._workers = [None] * len(self._seats)

    def _tended(self) -> bool:
        """Look after every seat; False if there is nothing more to do for this pool."""
        for seat, worker in enumerate(self._workers):
            if worker and (status := worker.process.poll()) is not None:
                self._workers[seat] = None
                self._ended(seat, worker, status)
        if all(self._closed) and not any(self._workers):
            if not self._patient or not self._queue.left():
                return False
            # Others outside this pool are at what is left, or were, and are gone.
            time.sleep(1)
            self._closed = [not self._something_to_take()] * len(self._seats)
        for seat, worker in enumerate(self._workers):
            if not worker and not self._closed[seat]:
                self._workers[seat] = self._start(seat)
        return True

    def _something_to_take(self) -> bool:
        """Whether a worker would find a run, asked here because it takes seconds to start one."""
        with self._queue as queue:
            number = queue.take()
        return number is not None

    def _start(self, seat: int) -> _Worker:
        folder = self._queue.folder
        with _new_log(folder / LOGS, self._numbers) as out:
            file = Path(out.name)
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "promptclip"),
                    *("grid", "work", str(folder), "--worker", file.stem),
                ],
                env={**os.environ, "TQDM_DISABLE": "1", **self._seats[seat]},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return _Worker(file.stem, process, file)

    def _ended(self, seat: int, worker: _Worker, status: int) -> None:
        if worker.process.stdin:
            worker.process.stdin.close()
        began = journal.events(journal.path(self._queue.folder, worker.name))
        if began:
            self._stillborn = 0
        if status in (NOTHING_LEFT, WAS_STOPPED) or -status in SIGNALS:
            self._closed[seat] = True
        elif status != WORN_OUT:
            how = _told(status)
            log.error("worker %s %s, and is replaced", worker.name, how)
            self._queue.died(worker.name, how, worker.log)
            self._stillborn += not began
            if self._stillborn == _MAX_STILLBORN:
                lines = "\n".join(tail(worker.log))
                raise UserError(f"workers cannot start; {worker.log} ends with\n{lines}")


def _new_log(folder: Path, numbers: Iterator[int]) -> IO[bytes]:
    """The log of a new worker, named after it: like no other that the grid has had.

    A process on the same machine, or in a container that calls itself the same, may have had
    this one's id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        name = f"{socket.gethostname()}-{os.getpid()}-{next(numbers)}"
        with contextlib.suppress(FileExistsError):
            return (folder / f"{name}.log").open("xb")


def _told(status: int) -> str:
    """How a process has died."""
    if status >= 0:
        return f"ended with status {status}"
    hint = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
    names = {one.value: one.name for one in signal.Signals}
    return f"was killed by {names.get(-status, f'signal {-status}')}{hint}"
