"""Learning rates against their closed form, and resumed at any epoch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


def cfg_of(**values: Any) -> Any:
    cfg = get_cfg_default().OPTIM
    cfg.NAME = "sgd"
    for key, value in values.items():
        cfg[key] = value
    return cfg


def parts(cfg: Any) -> tuple[Any, Any]:
    optimizer = build_optimizer(nn.Linear(1, 1), cfg)
    return optimizer, build_lr_scheduler(optimizer, cfg)


def rates(optimizer: Any, scheduler: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


schedules = st.fixed_dictionaries(
    {
        "LR": st.floats(1e-6, 10),
        "MAX_EPOCH": st.integers(1, 60),
        "LR_SCHEDULER": st.just("cosine"),
        "WARMUP_EPOCH": st.integers(-1, 8),
        "WARMUP_TYPE": st.sampled_from(["constant", "linear"]),
        "WARMUP_CONS_LR": st.floats(1e-8, 1e-2),
        "WARMUP_MIN_LR": st.floats(1e-8, 1e-2),
    }
)


@settings(max_examples=80, deadline=None)
@given(schedules)
def test_warm_up_and_cosine_in_closed_form(values: dict[str, Any]) -> None:
    warm_up, epochs, rate = values["WARMUP_EPOCH"], values["MAX_EPOCH"], values["LR"]

    def expected(epoch: int) -> float:
        if epoch >= warm_up:  # the cosine begins with the first epoch after the warm-up
            past = epoch - max(warm_up, 0)
            return rate / 2 * (1 + math.cos(math.pi * past / epochs))
        if values["WARMUP_TYPE"] == "constant":
            return float(values["WARMUP_CONS_LR"])
        return rate * epoch / warm_up if epoch else float(values["WARMUP_MIN_LR"])

    found = rates(*parts(cfg_of(**values)), epochs)
    closed = [expected(epoch) for epoch in range(epochs)]
    assert found == pytest.approx(closed, rel=1e-6, abs=1e-12 * rate)


@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(0, 60), st.sampled_from(["cosine", "single_step", "multi_step"]))
def test_resumed_at_any_epoch(values: dict[str, Any], stop: int, kind: str) -> None:
    steps = {"single_step": (3,), "multi_step": (2, 5)}.get(kind, (-1,))
    cfg = cfg_of(**{**values, "LR_SCHEDULER": kind, "STEPSIZE": steps})
    whole = rates(*parts(cfg), 60)
    optimizer, scheduler = parts(cfg)
    begun = rates(optimizer, scheduler, stop)
    states = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = parts(cfg)
    for part, state in zip((optimizer, scheduler), states, strict=True):
        part.load_state_dict(state)
    assert begun + rates(optimizer, scheduler, 60 - stop) == whole
