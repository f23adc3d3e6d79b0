"""Mends the original Dassl.pytorch (0.6.3), where a user has that one, for current PyTorch.

Our own `runtime/` passes the probe and is left alone.
"""

from __future__ import annotations

import functools
import io
import logging
import pickle
import sys
import warnings
from typing import Any

import torch
from torch import optim
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm


class _Attributes:
    """Stands in for an object of an old checkpoint: its attributes, and nothing that runs."""


def _plain_dict(factory: Any) -> dict[Any, Any]:
    """Stand in for `defaultdict`."""
    del factory
    return {}


# What a checkpoint of the original holds besides tensors: the schedule after the warm-up, and in
# it the optimizer.
_STAND_INS: list[Any] = [
    (dict, "builtins.dict"),
    (_plain_dict, "collections.defaultdict"),
    *(
        (_Attributes, f"{kind.__module__}.{kind.__qualname__}")
        for kind in (
            *(lr_scheduler.CosineAnnealingLR, lr_scheduler.MultiStepLR, lr_scheduler.StepLR),
            *(optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD),
        )
    ),
    (_Attributes, "dassl.optim.radam.RAdam"),
]


class _Scheduler(LRScheduler):
    """Stands between torch's scheduler and Dassl's warm-up, which was written for torch 1."""

    successor: LRScheduler  # the schedule after the warm-up

    def __init__(
        self, optimizer: optim.Optimizer, last_epoch: int = -1, verbose: bool = False
    ) -> None:
        super().__init__(optimizer, last_epoch)  # torch has dropped `verbose`

    def state_dict(self) -> dict[str, Any]:
        """Plain values only, so that the checkpoint loads without unpickling classes."""
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue, with an optimizer that is this run's: an older checkpoint brings a copy."""
        state = dict(state_dict)
        successor = state.pop("successor")
        if not isinstance(successor, dict):
            successor = {k: v for k, v in vars(successor).items() if k != "optimizer"}
        self.successor.load_state_dict(successor)
        super().load_state_dict(state)


def repair() -> None:
    """Import `dassl` and, if the probe shows that it needs it, make it work here.

    Its warm-up scheduler can be built again; checkpoints become plain, and older ones can be read
    without unpickling anything else; logging is not disabled; standard output is not closed; bars
    of tests are drawn on terminals alone.
    """
    imported_before = "dassl.data" in sys.modules
    disabled = logging.root.manager.disable
    import dassl.engine
    from dassl.optim.lr_scheduler import ConstantWarmupScheduler

    if _works(ConstantWarmupScheduler):
        return
    logging.disable(logging.NOTSET if imported_before else disabled)
    (base,) = ConstantWarmupScheduler.__bases__
    base.__bases__ = (_Scheduler,)
    torch.serialization.add_safe_globals(_STAND_INS)
    trainer: Any = dassl.engine.trainer
    trainer.tqdm = functools.partial(tqdm, disable=None)
    tee: Any = vars(dassl.utils.logger).get("Logger")
    if tee is not None:
        tee.close = _close_file


class _Probe(optim.Optimizer):
    """An optimiser for a schedule to set its rate: PyTorch's own import its compiler (a second)."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({**self.defaults, **param_group})


def _works(scheduler_class: Any) -> bool:
    """Whether a warm-up scheduler can be built, and its state read without unpickling classes."""
    optimizer = _Probe([torch.zeros(1, requires_grad=True)], {"lr": 1.0})
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = scheduler_class(optimizer, lr_scheduler.StepLR(optimizer, 1), 1, 0.1)
        torch.save(scheduler.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (TypeError, Warning, pickle.UnpicklingError):
        return False
    return True


def _close_file(tee: Any) -> None:
    """Close the log file of Dassl's stdout, and not the stdout behind it."""
    if tee.file is not None:
        tee.file.close()
