"""Processors, GPUs, memory, and what of promptclip is slow on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from promptclip.doctor.finding import GIB, NOTE, OK, PROBLEM, Finding, gib

_LITTLE = 4 * GIB  # free memory
_SETTINGS = "docs/performance.md has the settings that take less memory, MODEL.MEMORY_BUDGET first"


def examine() -> Iterator[Finding]:
    """What PyTorch finds."""
    import torch

    from promptclip import memory, results

    cores, threads = _cores(), torch.get_num_threads()
    used = f"{cores} cores for this process, {threads} threads in PyTorch"
    yield Finding(OK, f"{results.hardware(torch.device('cpu'))['cpu']}, {used}")
    if threads < cores and not os.environ.get("OMP_NUM_THREADS"):
        yield Finding(NOTE, f"PyTorch leaves {cores - threads} cores idle", "set OMP_NUM_THREADS")
    yield _memory(memory.available(torch.device("cpu")), "memory")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.device("cuda", number)
            name = torch.cuda.get_device_name(device)
            yield _memory(memory.available(device), f"the memory of {device}, {name},")
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                yield Finding(NOTE, f"{device} has no bf16: half precision is fp16, with scaling")
    elif torch.backends.mps.is_available():
        yield Finding(OK, "Apple's GPU (MPS)")
    else:
        yield from _no_gpu(torch.version.cuda)


def _cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(free: int, what: str) -> Finding:
    text = f"{gib(free)} of {what} are free"
    return Finding(OK, text) if free >= _LITTLE else Finding(NOTE, text, _SETTINGS)


def _no_gpu(built_for: str | None) -> Iterator[Finding]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named not in ("", "-1", "NoDevFiles"):
        yield Finding(
            PROBLEM,
            f"CUDA_VISIBLE_DEVICES is {named!r}, but PyTorch finds no such GPU",
            "correct it, or set USE_CUDA False to run on the CPU",
        )
    version = f"is built for CUDA {built_for}" if built_for else "is built without CUDA"
    yield Finding(
        NOTE,
        f"no GPU is found; PyTorch {version}",
        "training a ViT-B/16 or larger will be slow; the small CLIP (tiny) is made for CPUs. "
        "If there is a GPU, `nvidia-smi` must see it, and PyTorch must be built for it "
        "(https://pytorch.org/get-started/locally)",
    )
