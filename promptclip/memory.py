"""How much memory there is, and how much of it a computation's backward pass will need."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

GIB = 2**30
_C = ctypes.CDLL(None) if os.name == "posix" else None
_MEMORY = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")  # of Linux; batch systems and containers set their limits there
# Of glibc's malloc.h: M_MMAP_MAX, blocks taken from the system one by one; M_TRIM_THRESHOLD, free
# bytes at the end that it keeps. And the variables that set the same.
_KEEP = {-4: 0, -1: 2**31 - 1}
_DECIDED = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
_OWN_GROUP = Path("/proc/self/cgroup")


def available(device: torch.device) -> int:
    """Bytes that this process can still take on a device.

    On a CPU, what the machine has free or can free at once, or what is left to the control group
    of this process (version 2), where that is less. Where the system does not tell, half of all
    memory.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min([_free(), *_left_to_groups()])


def _free() -> int:
    try:
        fields = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_to_groups() -> Iterator[int]:
    """What the limits of this process's group and of those around it leave, where there are any."""
    try:
        own = _OWN_GROUP.read_text().splitlines()[0].removeprefix("0::/")
    except (OSError, IndexError):
        return
    for group in (folder := _GROUPS / own, *folder.parents):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such group, or "max", which is no limit
            continue
        # Files that were read or written count as used until somebody needs the room
        unneeded = dict(line.split() for line in lines).get("inactive_file", 0)
        yield max(limit - used + int(unneeded), 0)


def keep_freed() -> None:
    """Have what is freed on a CPU used again, rather than returned to the system: for good.

    The C library of most Linux systems takes each larger tensor from the system and returns it; the
    system fills it with zeros anew, which took a sixth of a ViT-B/16 step (docs/performance.md).
    Who has set the library's own variables has decided otherwise.
    """
    mallopt = getattr(_C, "mallopt", None)  # other C libraries have none
    if mallopt is not None and not any(name in os.environ for name in _DECIDED):
        for what, value in _KEEP.items():
            mallopt(what, value)


def give_back(device: torch.device) -> None:
    """Return to the system what has been freed on a CPU.

    The C library of most Linux systems keeps freed blocks. Between tensors that stay as much again
    was seen to be lost to them.
    """
    trim = getattr(_C, "malloc_trim", None)  # other C libraries have none
    if device.type == "cpu" and trim is not None:
        trim(0)


class Saved:
    """Bytes that autograd keeps for the backward pass."""

    bytes = 0


@contextmanager
def saved_for_backward(without: Iterable[Tensor]) -> Iterator[Saved]:
    """Count what is computed inside and kept for the backward pass.

    Args:
        without: tensors that are in memory anyway, such as weights.
    """
    seen = {tensor.untyped_storage().data_ptr() for tensor in without}
    saved = Saved()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            saved.bytes += storage.nbytes()
        return tensor.detach()  # the result of an operation would else hold what holds it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
