"""Time and memory of pieces of work, done in turn, and how fast the machine multiplies matrices."""

from __future__ import annotations

import ctypes
import functools
import gc
import statistics
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

LONG = 100.0  # seconds
ROUNDS_OF_LONG = 2
RULE = (
    "What is compared is done in turn, and a ratio is the median of the ratios of neighbours. A "
    "first round measures memory and warms up. If it takes more than "
    f"{LONG:.0f} s, {ROUNDS_OF_LONG} follow, but what alone takes so long is not repeated."
)
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Measured:
    """What some work took.

    Attributes:
        each: seconds of every run; the first one warms up, and counts where it is the only one.
        bytes: peak of memory beyond what the process held before, in the first run.
        peak: of everything that the process held.
        speeds: of the machine in products of matrices, operations per second beside every run;
            empty where nobody asks.
        scaled: computed from a smaller piece of work.
    """

    each: tuple[float, ...]
    bytes: int = 0
    peak: int = 0
    speeds: tuple[float, ...] = ()
    scaled: bool = False

    @property
    def counted(self) -> slice:
        """Which of the runs count."""
        return slice(len(self.each) > 1, None)

    @property
    def runs(self) -> int:
        """How many runs count."""
        return len(self.each[self.counted])

    @property
    def seconds(self) -> float:
        """Of a run, median."""
        return statistics.median(self.each[self.counted])

    def times_faster(self, other: Measured) -> float:
        """How often as long as this the other takes: median of runs that were done in turn."""
        pairs = [*zip(self.each, other.each, strict=False)]
        return statistics.median(theirs / ours for ours, theirs in pairs[len(pairs) > 1 :])

    def share(self, operations: int) -> float:
        """Of the machine's speed in products of matrices, that so many operations of a run reach.

        Raises:
            RuntimeError: that speed was not measured.
        """
        if not self.speeds:
            raise RuntimeError("the machine's own speed was not measured: expected it beside runs")
        runs = [*zip(self.each, self.speeds, strict=True)][self.counted]
        return statistics.median(operations / seconds / speed for seconds, speed in runs)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self) | {"seconds": self.seconds, "runs": self.runs}

    def part(self, parts: int) -> Measured:
        """One of equal parts of the work."""
        return replace(self, each=tuple(seconds / parts for seconds in self.each))

    def scale(self, to: Callable[..., float], *others: Measured) -> Measured:
        """Computed run by run from this and others that were done in turn with it.

        Args:
            to: gives seconds for a run, of the seconds of this and of the others.
            others: further work.
        """
        runs = zip(self.each, *(other.each for other in others), strict=False)
        return replace(self, each=tuple(to(*seconds) for seconds in runs), scaled=True)


@dataclass(frozen=True)
class Piece:
    """Some work that can be done again and again.

    Attributes:
        work: what is measured.
        ready: what must be done before each run and is not measured.
        dtype: in which its products of matrices are; None if the machine's speed in these does not
            matter.
    """

    work: Callable[[], object]
    ready: Callable[[], object] = bool
    dtype: torch.dtype | None = None


def in_turn(
    pieces: Iterable[tuple[Key, Piece]], repeat: int, device: torch.device, product: int
) -> dict[Key, Measured]:
    """Do pieces of work in turn, in as many rounds as `RULE` says.

    So what the machine has of slow and quick minutes comes to all of them alike.

    Args:
        pieces: by name; asked for one by one in the first round, so memory that one holds before
            its first run does not weigh on those before it.
        repeat: rounds after the first.
        device: on which they run.
        product: rows of the matrices that tell the machine's speed.
    """
    known: dict[Key, Piece] = {}
    runs: dict[Key, list[Measured]] = {}
    for key, piece in pieces:
        known[key] = piece
        runs[key] = [_run(piece, device, product)]
    first = {key: taken[0].seconds for key, taken in runs.items()}
    rounds = repeat if sum(first.values()) <= LONG else min(repeat, ROUNDS_OF_LONG)
    for _ in range(rounds):
        for key, piece in known.items():
            if first[key] <= LONG:
                runs[key].append(_run(piece, device, product, as_before=True))
    return {key: _together(taken) for key, taken in runs.items()}


def _run(piece: Piece, device: torch.device, product: int, *, as_before: bool = False) -> Measured:
    """One run, with the machine's speed right before and after it where that matters."""
    piece.ready()
    if piece.dtype is None:
        return once(piece.work, device, as_before=as_before)
    speed = functools.partial(product_speed, product, piece.dtype, device)
    before = speed()
    found = once(piece.work, device, as_before=as_before)
    return replace(found, speeds=((before + speed()) / 2,))


def _together(runs: list[Measured]) -> Measured:
    return Measured(
        tuple(run.seconds for run in runs),
        runs[0].bytes,
        max(run.peak for run in runs),
        tuple(speed for run in runs for speed in run.speeds),
    )


def once(work: Callable[[], object], device: torch.device, *, as_before: bool = False) -> Measured:
    """Run some work one time; `as_before`, with the free memory that an earlier run has left.

    So a step finds it that is not the first. What is needed cannot be told then.
    """
    gc.collect()
    memory = _CudaMemory(device) if device.type == "cuda" else _ProcessMemory(trim=not as_before)
    before = memory.held()
    start = time.perf_counter()
    work()
    finish(device)
    seconds = time.perf_counter() - start
    peak = memory.peak()
    return Measured((seconds,), max(peak - before, 0), peak)


def finish(device: torch.device) -> None:
    """Wait for what a GPU has been asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _ProcessMemory:
    """Resident memory of this process (Linux with glibc)."""

    def __init__(self, *, trim: bool) -> None:
        self.trim = trim

    def held(self) -> int:
        if self.trim:  # what earlier work has freed would hide what this one needs
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return self._field("VmRSS")

    def peak(self) -> int:
        return self._field("VmHWM")

    @staticmethod
    def _field(name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split(f"{name}:")[1].split()[0])


class _CudaMemory:
    """What PyTorch has allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int:
        finish(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


PRODUCTS = 3  # median


def product_speed(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second in the product of two square matrices."""
    a, b, out = _matrices(size, dtype, device)
    seconds = []
    for _ in range(PRODUCTS):
        finish(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        finish(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


@functools.cache
def _matrices(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Two factors and a place for the product, which is in memory already."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return a, b, torch.mm(a, b)
