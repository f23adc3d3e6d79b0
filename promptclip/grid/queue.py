"""Which run a worker takes next.

A run is finished if its folder holds a whole result of the planned configuration. It is claimed by
a lock on its byte of one file, which the system releases when the worker dies. Failures are files;
a run that has failed `MAX_FAILURES` times is not taken again until the grid is started anew.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from promptclip import results, run_file
from promptclip.files import DamagedError, read_record, write_record
from promptclip.grid import journal, plan
from promptclip.lock import try_lock, unlock

MAX_FAILURES = 2
TAIL_LINES = 12
CLAIMS = "claims"
FAILURES = "failures"
LOGS = "logs"
_LOOK_AGAIN = 5.0  # seconds, at a run that something outside the grid is at
_NAME = re.compile(r"(\d+)-([0-9a-f]+)-\d+-.*\.json")  # of a failure: run, hash, time, worker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """One attempt at a run that did not end with a result.

    Attributes:
        run: its number in the plan.
        hash: of its configuration.
        worker: who tried.
        error: in a line.
        log: the file that says more; "" if there is none.
        tail: its last lines.
    """

    run: int
    hash: str
    worker: str
    error: str
    log: str = ""
    tail: Sequence[str] = ()


class Queue:
    """The runs of a grid, for one process.

    What is left in the block of a `with` statement is no longer claimed. A process that takes runs
    must have one queue only: closing the file of the claims anywhere in it releases them all.

    Args:
        folder: of a stored plan.
    """

    def __init__(self, folder: Path) -> None:
        stored = plan.load(folder)
        self.folder, self.runs, self.hashes = folder, stored.runs, stored.hashes
        self.skipped = stored.skipped
        self._claims: IO[bytes] | None = None
        # To look for a file is faster by far than to read thousands of results.
        self._finished = {
            event["run"]
            for file in journal.files(folder)
            for event in self.events(file)
            if event["event"] == journal.DONE
            and (self.runs[event["run"]].folder / results.RESULT_FILE).is_file()
        }
        self._open = list(range(len(self.runs)))  # not known to be finished
        numbers = {run.place: number for number, run in enumerate(self.runs)}
        models = (run.model for run in self.runs)
        self._trainings = [numbers[model.place] if model else None for model in models]
        self._elsewhere: dict[int, float] = {}  # held by something outside the grid, until when

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        if self._claims:
            self._claims.close()
            self._claims = None

    def take(self) -> int | None:
        """Claim a run that can be started now, the untried ones first.

        Returns:
            Its number, to be given back with `release`; None if there is none at the moment.

        Raises:
            NoLocksError: on a file system without locks.
        """
        failed = self._failed()
        for number in sorted(self._unknown(), key=failed.__getitem__):
            if failed[number] >= MAX_FAILURES or self._elsewhere.get(number, 0) > time.monotonic():
                continue
            if not self._ready(number, failed) or not self._claim(number):
                continue
            # Somebody may have finished it, or failed, between our look and our claim.
            if not self.finished(number) and self._failed()[number] < MAX_FAILURES:
                return number
            self.release(number)
        return None

    def release(self, number: int) -> None:
        """Give up the claim on a run."""
        if self._claims:
            unlock(self._claims, start=number, length=1)

    def held_elsewhere(self, number: int) -> None:
        """Leave a run alone for a while: another command is at it."""
        self._elsewhere[number] = time.monotonic() + _LOOK_AGAIN

    def finished(self, number: int) -> bool:
        """Whether a run has a whole result of the planned configuration."""
        run = self.runs[number]
        if number not in self._finished and results.read_of(run.folder, self.hashes[number]):
            self._finished.add(number)
        return number in self._finished

    def waiting(self) -> bool:
        """Whether runs may come up that nobody is at now: tests, or what others outside hold."""
        failed, now = self._failed(), time.monotonic()
        return any(
            failed[number] < MAX_FAILURES
            and (self._elsewhere.get(number, 0) > now or not self._ready(number, failed))
            for number in self._unknown()
        )

    def left(self) -> int:
        """The number of runs that are neither finished nor given up."""
        failed = self._failed()
        return sum(
            failed[number] < MAX_FAILURES and not self.finished(number)
            for number in list(self._unknown())
        )

    def events(self, file: Path) -> list[journal.Event]:
        """What a worker has written of runs of this plan.

        One that was made anew since may have another run under a number.
        """
        return [one for one in journal.events(file) if self._planned(one["run"], one["hash"])]

    def fail(self, number: int, worker: str, error: str, log: Path, tail: Sequence[str]) -> None:
        """Write down a failure; the arguments are what a `Failure` has."""
        known = str(log) if log.is_file() else ""
        failure = Failure(number, self.hashes[number], worker, error, known, tail)
        name = f"{number:05d}-{failure.hash}-{time.time_ns()}-{worker}.json"
        write_record(asdict(failure), self.folder / FAILURES / name)

    def failures(self) -> list[Failure]:
        """All failures since the grid was last started, those of a run in order of time."""
        found = []
        for file, number in sorted(self._failure_files()):
            hash = self.hashes[number]
            try:
                failure = Failure(**read_record(file))
                if (failure.run, failure.hash) != (number, hash):
                    raise DamagedError(f"{file} is damaged (it is of another run)")
                texts = (failure.worker, failure.error, failure.log, *failure.tail)
                if not all(isinstance(text, str) for text in texts):
                    raise DamagedError(f"{file} is damaged (its texts are none)")
            except FileNotFoundError:  # just forgiven
                continue
            except (DamagedError, TypeError) as error:
                failure = Failure(number, hash, "unknown", f"why is not known any more: {error}")
            found.append(failure)
        return found

    def withdraw_damaged(self) -> None:
        """Delete results that are not whole, so that their runs are not taken for finished.

        A look at every result, for the command that starts a grid; workers go by the files alone.
        """
        for number in sorted(self._finished):
            folder, hash = self.runs[number].folder, self.hashes[number]
            if results.read_of(folder, hash) is not None:
                continue
            with contextlib.suppress(DamagedError):  # the run itself will be refused by name
                purpose = run_file.read(folder)
                if purpose is not None and purpose["config_hash"] == hash:
                    file = folder / results.RESULT_FILE
                    log.warning("%s is damaged; its run is done again", file)
                    file.unlink(missing_ok=True)
                    self._finished.discard(number)

    def forgive(self) -> None:
        """Forget failures, so that what has failed is tried again."""
        for file in (self.folder / FAILURES).glob("*.json"):
            if not file.is_dir():
                file.unlink(missing_ok=True)

    def died(self, worker: str, how: str, log: Path) -> None:
        """Write down that a worker died, if that was in the middle of a run."""
        start = journal.unfinished(self.events(journal.path(self.folder, worker)))
        if start and not self.finished(start["run"]):
            results.failed(self.runs[start["run"]].folder, RuntimeError(how))
            self.fail(start["run"], worker, how, log, last_words(log))

    def _planned(self, number: int, hash: str) -> bool:
        return 0 <= number < len(self.hashes) and self.hashes[number] == hash

    def _ready(self, number: int, failed: Counter[int]) -> bool:
        """Whether a run has what it needs; one whose training was given up fails with reason."""
        trained = self._trainings[number]
        return trained is None or self.finished(trained) or failed[trained] >= MAX_FAILURES

    def _unknown(self) -> Iterator[int]:
        """Runs that are not known to be finished."""
        self._open = [number for number in self._open if number not in self._finished]
        return iter(self._open)

    def _failed(self) -> Counter[int]:
        """How often each run has failed."""
        return Counter(number for _, number in self._failure_files())

    def _failure_files(self) -> Iterator[tuple[Path, int]]:
        """The file of each failure of a run of this plan, and the run's number."""
        for file in (self.folder / FAILURES).glob("*.json"):
            named = _NAME.fullmatch(file.name)
            if named and file.is_file() and self._planned(int(named[1]), named[2]):
                yield file, int(named[1])

    def _claim(self, number: int) -> bool:
        self._claims = self._claims or (self.folder / CLAIMS).open("a+b")
        return try_lock(self._claims, start=number, length=1)


def last_words(file: Path) -> list[str]:
    """The end of the log of a process that has died: what Python said of it if it said anything."""
    lines = tail(file, 100)
    for number, line in enumerate(lines):
        if line.startswith("Fatal Python error"):
            return lines[number : number + 2 * TAIL_LINES]
    return lines[-TAIL_LINES:]


def tail(file: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log that say something; none if there is no such file."""
    if not file.is_file():
        return []
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 16_384))
            text = opened.read().decode("utf-8", "replace")
    except OSError:
        return []
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    return list(itertools.islice(said, max(0, len(said) - lines), None))
