"""How a grid stands: read from its folder, by anybody, whether or not somebody works on it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptclip.errors import printable
from promptclip.grid import journal
from promptclip.grid.estimate import Estimate, told
from promptclip.grid.queue import MAX_FAILURES, Failure, Queue
from promptclip.tree import HALVES, Place

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_RUNNING = 16  # lines
_BAR = 30  # characters


@dataclass(frozen=True)
class Status:
    """What is known of each run, by its number.

    Attributes:
        places: of all runs of the plan.
        done: with a whole result.
        running: worker and time of start (seconds since the epoch).
        failed: tried as often as it may be, each with its failures.
        retried: failed, and to be tried again.
        workers: that are alive.
        seconds: that finished runs took.
        skipped: what was asked for and cannot be run.
    """

    places: Sequence[Place]
    done: frozenset[int]
    running: Mapping[int, tuple[str, float]]
    failed: Mapping[int, Sequence[Failure]]
    retried: frozenset[int]
    workers: int
    seconds: Mapping[int, float]
    skipped: Sequence[str]

    @property
    def missing(self) -> list[int]:
        """Neither done, nor running, nor given up."""
        known = {*self.done, *self.running, *self.failed}
        return [number for number in range(len(self.places)) if number not in known]

    @property
    def open(self) -> list[int]:
        """Neither done nor given up."""
        return [*self.missing, *self.running]

    @property
    def complete(self) -> bool:
        """Whether every run of the plan is done, and nothing was left out of it."""
        return len(self.done) == len(self.places) and not self.skipped

    def left(self) -> str:
        """The time that is left, or the work if nobody is at it."""
        if not self.open:
            return ""
        estimate = Estimate((self.places[n], seconds) for n, seconds in self.seconds.items())
        seconds, unknown = estimate.total(self.places[number] for number in self.open)
        if unknown == len(self.open):
            return "no run has finished here yet, so how long it takes cannot be said"
        now = time.time()
        for number, (_, start) in self.running.items():
            seconds -= min(now - start, estimate.of(self.places[number]) or 0.0)
        rest = f", and {unknown} runs of a kind that has not finished yet" if unknown else ""
        if not self.workers:
            return f"{told(seconds)} of work left{rest}; nobody is at it"
        return f"about {told(seconds / self.workers)} left with {self.workers} workers{rest}"


class Reader:
    """Reads how a grid stands, again and again."""

    def __init__(self, folder: Path) -> None:
        self._queue = Queue(folder)
        self._next = 0.0

    @property
    def folder(self) -> Path:
        """Of the grid."""
        return self._queue.folder

    def poll(self) -> Status | None:
        """How it stands; None if it was read only just now.

        That is a second ago, or longer for a large grid on a slow disk.
        """
        start = time.monotonic()
        if start < self._next:
            return None
        status = self.read()
        self._next = start + max(1.0, 20 * (time.monotonic() - start))
        return status

    def read(self) -> Status:
        """How it stands now."""
        queue = self._queue
        done = frozenset(n for n in range(len(queue.runs)) if queue.finished(n))
        running, seconds, workers = {}, {}, 0
        for file in journal.files(queue.folder):
            events = queue.events(file)
            for event in events:
                if event["event"] == journal.DONE and event["run"] in done:
                    seconds[event["run"]] = event["seconds"]
            if not journal.alive(file):
                continue
            workers += 1
            start = journal.unfinished(events)
            if start and start["run"] not in done:
                running[start["run"]] = (file.stem, start["time"])
        failures: dict[int, list[Failure]] = {}
        for failure in queue.failures():
            if failure.run not in done:
                failures.setdefault(failure.run, []).append(failure)
        given_up = {n: all_ for n, all_ in failures.items() if len(all_) >= MAX_FAILURES}
        return Status(
            [run.place for run in queue.runs],
            done,
            running,
            given_up,
            frozenset(failures.keys() - given_up.keys()),
            workers,
            seconds,
            queue.skipped,
        )


def news(before: Status, now: Status) -> Iterator[str]:
    """A line for each run that has been done or given up in between."""
    done = [(number, "done") for number in sorted(now.done - before.done)]
    failed = [
        (number, f"failed: {printable(now.failed[number][-1].error)}")
        for number in sorted(now.failed.keys() - before.failed.keys())
    ]
    first = len(before.done) + len(before.failed) + 1
    for count, (number, how) in enumerate([*done, *failed], first):
        took = f" ({told(now.seconds[number])})" if number in now.seconds else ""
        yield f"[{count}/{len(now.places)}] {now.places[number].path}: {how}{took}"


def shown(status: Status, folder: Path) -> RenderableType:
    """Bars for each protocol and data set, what is running, and what has failed and why."""
    from rich.console import Group
    from rich.text import Text

    lines = [_bars(status), Text(status.left())]
    lines += [Text(printable(line)) for line in (*_running(status), *failures(status))]
    return Group(Text(printable(str(folder)), style="bold"), *(line for line in lines if str(line)))


def failures(status: Status) -> Iterator[str]:
    """Each run that was given up, with its last error and the last lines of its log."""
    for number, tried in sorted(status.failed.items()):
        last = tried[-1]
        yield f"failed: {status.places[number].path}: {printable(last.error)}"
        if last.tail:
            yield f"    the end of {printable(last.log) or 'its traceback'}:"
            yield from (f"    | {printable(line)}" for line in last.tail)
    yield from (f"failed: {printable(line)}" for line in status.skipped)


def _bars(status: Status) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    parts = {"done": status.done, "running": status.running, "failed": status.failed}
    parts["missing"] = status.missing
    part_of = {number: part for part, numbers in parts.items() for number in numbers}
    groups: dict[str, Counter[str]] = {}
    for number, place in enumerate(status.places):
        counts = groups.setdefault(_group(place), Counter())
        counts.update((part_of[number], "of"))
    if len(groups) > 1:
        groups["all"] = sum(groups.values(), Counter[str]())
    table = Table(box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(max_width=_BAR)  # what gives way where a line is short
    columns = (*parts, "of")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, counts in groups.items():
        bar = ProgressBar(total=counts["of"], completed=counts["done"])
        table.add_row(printable(name), bar, *(str(counts[column]) for column in columns))
    return table


def _group(place: Place) -> str:
    """What a line of the bars is about."""
    other = place.target if place.target not in HALVES else ""
    return f"{place.protocol} {place.dataset}" + (f", {other}" if other else "")


def _running(status: Status) -> Iterator[str]:
    now = time.time()
    lines = [
        f"running: {status.places[number].path}, for {told(now - start)}, {worker}"
        for number, (worker, start) in sorted(status.running.items())
    ]
    yield from lines[:_SHOWN_RUNNING]
    if len(lines) > _SHOWN_RUNNING:
        yield f"... and {len(lines) - _SHOWN_RUNNING} more"
    yield from (
        f"failed once, will be tried again: {status.places[number].path}"
        for number in sorted(status.retried - status.running.keys())
    )
