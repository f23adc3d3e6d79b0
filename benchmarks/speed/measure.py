"""Time and memory of a piece of work, and how fast the machine multiplies matrices."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SLOW, VERY_SLOW = 5.0, 60.0  # seconds
RULE = (
    "A first run measures memory and warms up. Of the textbook path, what takes more than "
    f"{SLOW:.0f} s then runs twice; what takes more than {VERY_SLOW:.0f} s runs once in all."
)


@dataclass(frozen=True)
class Measured:
    """What some work took.

    Attributes:
        seconds: median.
        bytes: peak of memory beyond what the process held before, in the first run.
        peak: of everything that the process held.
        runs: that the median is of.
        scaled: computed from a smaller piece of work.
    """

    seconds: float
    bytes: int
    peak: int
    runs: int
    scaled: bool = False


def measure(
    work: Callable[[], object], repeat: int, device: torch.device, *, yardstick: bool = False
) -> Measured:
    """Run some work as often as `RULE` says.

    Args:
        work: what is measured.
        repeat: how often; a first run that warms up does not count.
        device: on which it runs.
        yardstick: it is the slow path that ours is compared with.
    """
    first = once(work, device)
    if first.seconds > VERY_SLOW:
        return first
    count = min(repeat, 2) if yardstick and first.seconds > SLOW else repeat
    runs = [once(work, device, as_before=True) for _ in range(count)]
    peak = max(run.peak for run in (first, *runs))
    return Measured(statistics.median(run.seconds for run in runs), first.bytes, peak, count)


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
    return Measured(seconds, max(peak - before, 0), peak, 1)


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


def product_speed(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second in the product of two square matrices, median of five."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / measure(lambda: torch.mm(a, b, out=out), 5, device).seconds
