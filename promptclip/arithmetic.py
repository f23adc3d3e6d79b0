"""How numbers are computed: what trades speed for exactness is a setting, not a default of torch.

`COMPUTE` in the configuration has it; docs/performance.md tells what each costs and changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from promptclip import memory
from promptclip.errors import UserError

if TYPE_CHECKING:
    from yacs.config import CfgNode

log = logging.getLogger(__name__)

# What cuBLAS needs to sum in the same order every time (its documentation, "Results
# reproducibility"); it is read when the first product is computed.
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_OFF, _WARNING, _ERROR = 0, 1, 2  # of what cannot be deterministic, by torch's numbers


def arrange(cfg: CfgNode) -> None:
    """Tell torch what `cfg.COMPUTE` asks for; it holds for the whole process until told anew.

    Raises:
        UserError: if a GPU is named and not there: no run shall be on the CPU by mistake.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if cfg.USE_CUDA and named not in ("", "-1", "NoDevFiles") and not torch.cuda.is_available():
        raise UserError(
            f"CUDA_VISIBLE_DEVICES is {named!r}, but PyTorch finds no such GPU; correct it, "
            "or set USE_CUDA False to run on the CPU"
        )
    memory.keep_freed()
    _set(cfg)


@contextlib.contextmanager
def arranged(cfg: CfgNode) -> Iterator[None]:
    """The same inside, and what it was before outside: for programs of others."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    strictness = torch.get_deterministic_debug_mode()
    _set(cfg)
    try:
        yield
    finally:
        (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        ) = before
        _be_deterministic(strictness)


def _set(cfg: CfgNode) -> None:
    compute = cfg.COMPUTE
    torch.backends.cuda.matmul.allow_tf32 = compute.TF32
    torch.backends.cudnn.allow_tf32 = compute.TF32
    torch.backends.cudnn.benchmark = compute.CUDNN_BENCHMARK and not compute.DETERMINISTIC
    if compute.DETERMINISTIC and os.environ.setdefault(*_WORKSPACE) not in (":4096:8", ":16:8"):
        name, value = _WORKSPACE
        log.warning("%s=%s: set it to %s for equal numbers", name, os.environ[name], value)
    _be_deterministic(_ERROR if compute.DETERMINISTIC else _OFF)
    # Nothing here reads memory before it is written, so it need not be filled first
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _be_deterministic(strictness: int) -> None:
    # Not called where nothing changes: PyTorch imports its compiler to tell it, in a second
    if torch.get_deterministic_debug_mode() != strictness:
        torch.use_deterministic_algorithms(strictness != _OFF, warn_only=strictness == _WARNING)
