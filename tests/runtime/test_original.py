"""The original Dassl: what `repair` does to it, and our methods on it where it is at hand.

Set PROMPTCLIP_TEST_DASSL to the folder (or folders, as in PYTHONPATH) from which the original
Dassl.pytorch and its requirements can be imported.
"""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dassl.engine.trainer
import dassl.optim.lr_scheduler
import dassl.utils.logger
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from tqdm import tqdm

from promptclip import original_dassl

ORIGINAL = os.environ.get("PROMPTCLIP_TEST_DASSL")
# What promptclip promises on either engine; tests of our engine's own doings are elsewhere.
ON_BOTH = (
    *("bad_input", "bad_pictures", "checkpoints", "feature_cache", "few_shot", "imbalance", "kill"),
    *("memory", "methods", "own_pictures", "progress", "prompt_file", "protocols", "results"),
    "run",
)


def test_our_runtime_is_left_alone():
    bases = dassl.optim.lr_scheduler.ConstantWarmupScheduler.__bases__
    allowed = torch.serialization.get_safe_globals()
    original_dassl.repair()
    assert dassl.optim.lr_scheduler.ConstantWarmupScheduler.__bases__ == bases
    assert torch.serialization.get_safe_globals() == allowed


class WarmUp(LRScheduler):
    """As the field wrote schedulers for torch 1: `verbose` comes third."""

    def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch, verbose)

    def step(self, epoch=None):
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
        else:
            super().step(epoch)


class ConstantWarmUp(WarmUp):
    def __init__(self, optimizer, successor, warmup_epoch, cons_lr):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch)

    def get_lr(self):
        warm = self.last_epoch >= self.warmup_epoch
        return self.successor.get_last_lr() if warm else [self.cons_lr]


@pytest.fixture
def repaired(monkeypatch):
    """A Dassl with the original's defects, after `repair`."""
    tee = type("Logger", (), {"close": lambda self: self.console.close()})
    monkeypatch.setattr(dassl.optim.lr_scheduler, "ConstantWarmupScheduler", ConstantWarmUp)
    monkeypatch.setattr(dassl.utils.logger, "Logger", tee, raising=False)
    monkeypatch.setattr(dassl.engine.trainer, "tqdm", tqdm)
    allowed, bases = torch.serialization.get_safe_globals(), WarmUp.__bases__
    logging.disable(logging.WARNING)
    original_dassl.repair()
    yield SimpleNamespace(scheduler=ConstantWarmUp, tee=tee)
    WarmUp.__bases__ = bases
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
    logging.disable(logging.NOTSET)


def build(scheduler_class):
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.002, momentum=0.9)
    return optimizer, scheduler_class(optimizer, CosineAnnealingLR(optimizer, 6.0), 1, 1e-5)


def advance(optimizer, scheduler, epochs):
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("plain", [True, False])
def test_repaired_scheduler_warms_up_saves_and_resumes(repaired, plain):
    optimizer, scheduler = build(repaired.scheduler)
    rates = advance(optimizer, scheduler, 3)
    assert rates == pytest.approx([1e-5, 0.002, 0.001866025403784439])
    state = scheduler.state_dict()
    if not plain:  # as unrepaired code on an older torch saved it
        state["successor"] = scheduler.successor
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), state], file)
    rest = advance(optimizer, scheduler, 3)
    file.seek(0)
    saved = torch.load(file)
    optimizer, scheduler = build(repaired.scheduler)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert advance(optimizer, scheduler, 3) == rest


def test_repair_undoes_what_the_import_did(repaired):
    assert logging.root.manager.disable == logging.NOTSET
    tee = repaired.tee()
    tee.console, tee.file = sys.stdout, io.StringIO()
    tee.close()
    assert tee.file.closed
    assert not sys.stdout.closed


def test_bars_of_the_original_are_for_terminals_alone(repaired, capsys):
    assert list(dassl.engine.trainer.tqdm([1, 2])) == [1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINAL, reason="PROMPTCLIP_TEST_DASSL is not set")
def test_promptclip_on_the_original():
    root = Path(__file__).parents[2]
    paths = [ORIGINAL, str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # The original and its requirements warn a lot, so warnings are no errors here.
    files = [f"tests/test_{name}.py" for name in ON_BOTH]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", *files]
    which = "import dassl, sys; sys.exit('promptclip' in dassl.__version__)"
    assert subprocess.run([sys.executable, "-c", which], env=environment).returncode == 0
    assert subprocess.run(command, cwd=root, env=environment).returncode == 0
