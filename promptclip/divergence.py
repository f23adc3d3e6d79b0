"""A loss that is no number: where it came up, what else is none, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptclip.errors import UserError


class DivergedError(UserError, FloatingPointError):
    """The loss is infinite or NaN."""


def diverged(trainer: Any, terms: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Exception:
    """The error for a loss that is infinite or NaN.

    Args:
        trainer: at a step of its training.
        terms: of the loss, by name.
        found: what the loss was computed from, by name, in the order of the computation; the
            learned tensors stand before all.
    """
    cfg = trainer.cfg
    values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
    learned = {
        f"the learned {name}": parameter
        for learner in trainer.model.learners.values()
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
    broken = [what for what, x in {**learned, **found}.items() if not torch.isfinite(x).all()]
    first = f"the first that is no number: {broken[0]}" if broken else "all it is made of is finite"
    return DivergedError(
        f"the loss is infinite or NaN in epoch {trainer.epoch + 1}, batch {trainer.batch_idx + 1} "
        f"({values}); {first}. {_reason(broken, cfg)}. Checkpoints of before stay; started again "
        "with the same settings, it comes to the same end"
    )


def _reason(broken: list[str], cfg: Any) -> str:
    """The likely reason and its remedy, by what is broken first."""
    method = cfg.TRAINER.NAME.upper()
    precision = cfg.TRAINER[method].PREC
    if broken and broken[0] == "pictures":
        return "A picture or INPUT.PIXEL_STD is at fault; `promptclip data check --deep` reads all"
    reasons = [
        f"the steps may be too large: lower OPTIM.LR ({cfg.OPTIM.LR:g}), or warm up longer "
        "(OPTIM.WARMUP_EPOCH)"
    ]
    if precision in ("fp16", "amp"):
        reasons.append(f"fp16 ends at 65,504: set TRAINER.{method}.PREC bf16 or fp32")
    return "Likely " + "; or ".join(reasons)
