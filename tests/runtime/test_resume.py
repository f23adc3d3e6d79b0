"""A run that was stopped and started again equals one that was not."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_engine
import torch
from dassl.engine import resume
from tiny_engine import Careful, StoppedError
from torch import nn


def outcome(trainer):
    """Everything that must be equal, bit by bit."""
    return {
        "weights": {key: value.tolist() for key, value in trainer.model.state_dict().items()},
        "optimizer": str(trainer.optim.state_dict()),
        "scheduler": trainer.sched.state_dict(),
        "metrics": trainer.evaluator.evaluate(),
        "predictions": trainer.evaluator._y_pred,
        "best": trainer.best_result,
        "average": getattr(trainer, "average", torch.zeros(0)).tolist(),
        "scale": trainer.scaler.state_dict() if hasattr(trainer, "scaler") else None,
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.rand(2).tolist()),
    }


@pytest.fixture
def run(make_trainer, tmp_path):
    """Train in a folder, and again until no stop is left; return the last trainer and outcome."""

    def train(folder, stops=(), **overrides):
        for stop in (*stops, None):
            trainer = make_trainer(OUTPUT_DIR=str(tmp_path / folder), **overrides)
            trainer.stop_after = stop
            if stop is None:
                trainer.train()
            else:
                with pytest.raises(StoppedError):
                    trainer.train()
        return trainer, outcome(trainer)

    return train


SETTINGS = {
    "momentum": {},
    "workers": {"DATALOADER__NUM_WORKERS": 2},
    "best_val": {"TEST__FINAL_MODEL": "best_val", "OPTIM__LR": 0.3},
    "adam": {"OPTIM__NAME": "adam", "OPTIM__WARMUP_EPOCH": -1},
    "steps": {"OPTIM__LR_SCHEDULER": "multi_step", "OPTIM__STEPSIZE": (1, 2)},
    "augmented": {"INPUT__TRANSFORMS": ("random_translation", "randaugment2", "cutout")},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_stopped_in_the_middle_of_epochs(run, setting):
    overrides = {"TRAINER__NAME": "Careful", **SETTINGS[setting]}
    whole, expected = run("whole", **overrides)
    stopped, found = run("stopped", [(0, 1), (1, 0), (1, 3), (3, 2)], **overrides)
    assert found == expected
    assert stopped.start_epoch == 3
    assert stopped.seen == whole.seen[12:]


@pytest.mark.parametrize("setting", SETTINGS)
def test_stopped_in_the_middle_of_epochs_and_resumed_there(run, setting):
    """With files after each batch: the batch that was cut short is the only one done again."""
    overrides = {"TRAINER__NAME": "Careful", **SETTINGS[setting], "TRAIN__CHECKPOINT_STEPS": 1}
    whole, expected = run("whole", **overrides)
    stopped, found = run("stopped", [(0, 1), (1, 0), (1, 3), (3, 2)], **overrides)
    assert found == expected
    assert stopped.start_epoch == 3
    assert stopped.seen == whole.seen[14:]


@pytest.mark.parametrize("number", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("setting", ["workers", "best_val", "augmented"])
def test_a_stop_waits_for_the_batch_and_its_file(
    run, make_trainer, tmp_path, number, setting, monkeypatch, capsys
):
    overrides = {"TRAINER__NAME": "Careful", **SETTINGS[setting]}
    whole, expected = run("whole", **overrides)
    first = make_trainer(OUTPUT_DIR=str(tmp_path / "stopped"), **overrides)

    def forward_backward(batch):
        if len(first.seen) == number - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return Careful.forward_backward(first, batch)

    monkeypatch.setattr(first, "forward_backward", forward_backward)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert f"Stopped after batch {(number - 1) % 4 + 1}; start again" in capsys.readouterr().out
    second, found = run("stopped", **overrides)
    assert first.seen + second.seen == whole.seen
    if number == 16:  # nothing is left to train; the validation puts nothing back
        expected.pop("random"), found.pop("random")
    assert found == expected


def test_a_validation_that_is_cut_short_is_done_again(run, make_trainer, tmp_path, monkeypatch):
    overrides = {"TRAINER__NAME": "Careful", **SETTINGS["best_val"]}
    whole, expected = run("whole", **overrides)
    first = make_trainer(OUTPUT_DIR=str(tmp_path / "stopped"), **overrides)

    def test(split=None):
        if first.epoch == 2:
            raise StoppedError
        return Careful.test(first, split)

    monkeypatch.setattr(first, "test", test)
    with pytest.raises(StoppedError):
        first.train()
    second, found = run("stopped", **overrides)
    assert second.seen == whole.seen[12:]
    assert found == expected


@pytest.mark.parametrize("done", [1, 2, 3, 4])
@pytest.mark.parametrize("setting", ["momentum", "best_val"])
def test_stopped_after_each_epoch(run, make_trainer, tmp_path, done, setting, monkeypatch, capsys):
    overrides = {"TRAINER__NAME": "Careful", **SETTINGS[setting]}
    _, expected = run("whole", **overrides)
    first = make_trainer(OUTPUT_DIR=str(tmp_path / "stopped"), **overrides)

    def after_epoch():
        Careful.after_epoch(first)
        if first.epoch + 1 == done:
            raise StoppedError

    monkeypatch.setattr(first, "after_epoch", after_epoch)
    with pytest.raises(StoppedError):
        first.train()
    capsys.readouterr()
    second, found = run("stopped", **overrides)
    assert second.start_epoch == done
    assert len(second.seen) == (4 - done) * 4
    if done == 4:  # nothing is left to train, so nothing puts the generators back
        expected.pop("random"), found.pop("random")
        assert "Evaluate on the *test* set" in capsys.readouterr().out
    assert found == expected


def test_a_finished_run_is_tested_again_and_not_trained(run):
    finished, _ = run("out", TRAINER__NAME="Careful")
    again, _ = run("out", TRAINER__NAME="Careful")
    assert again.seen == []
    assert again.evaluator._y_pred == finished.evaluator._y_pred
    assert again.epoch == 3


def test_state_is_plain(run):
    trainer, _ = run("out", TRAINER__NAME="Careful")
    path = Path(trainer.output_dir, resume.CURRENT)
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 4
    assert set(state["models"]) == {"linear"}


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from tiny_engine import Careful

class Killed(Careful):
    def forward_backward(self, batch):
        if sys.argv[2:] and (self.epoch, self.batch_idx) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward_backward(batch)

cfg = get_cfg_default()
cfg.merge_from_file(sys.argv[1])
setup_logger(cfg.OUTPUT_DIR)
set_random_seed(cfg.SEED)
trainer = Killed(cfg)
trainer.train()
torch.save([trainer.model.state_dict(), trainer.evaluator._y_pred], cfg.OUTPUT_DIR + "/final")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_process(run, make_cfg, tmp_path):
    file = tmp_path / "cfg.yaml"
    cfg = make_cfg(OUTPUT_DIR=str(tmp_path / "killed"), TRAINER__NAME="Careful")
    file.write_text(cfg.dump())
    path = os.pathsep.join([str(Path(tiny_engine.__file__).parent), *filter(None, sys.path)])

    def start(*args):
        command = [sys.executable, "-c", KILLED, str(file), *args]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode

    assert start("die") == -signal.SIGKILL
    assert start() == 0
    weights, predictions = torch.load(tmp_path / "killed" / "final")
    whole, _ = run("whole", TRAINER__NAME="Careful")
    assert predictions == whole.evaluator._y_pred
    assert all(torch.equal(weights[key], value) for key, value in whole.model.state_dict().items())
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert log.count("Finish training") == 1
    assert log.count("epoch [3/4] batch [1/4]") == 2


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "torn":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        middle = len(content) // 3
        for index in range(middle, middle + 200):  # more than the padding between tensors
            content[index] = (content[index] + 1) % 256
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["torn", "empty", "flipped"])
def test_a_damaged_file_is_replaced_by_the_one_before(run, tmp_path, how, capsys):
    overrides = {"TRAINER__NAME": "Careful"}
    _, expected = run("whole", **overrides)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "whole", copy)
    damage(copy / resume.CURRENT, how)
    capsys.readouterr()
    again, found = run("copy", **overrides)
    assert "is damaged" in capsys.readouterr().out
    assert again.start_epoch == 3
    assert found == expected
    damage(copy / resume.CURRENT, how)
    damage(copy / resume.PREVIOUS, how)
    with pytest.raises(RuntimeError, match="resume.pth.tar"):
        run("copy", **overrides)


def test_any_flipped_bit_is_noticed_or_harmless(run, tmp_path):
    run("out", TRAINER__NAME="Careful")
    path = tmp_path / "out" / resume.CURRENT
    (tmp_path / "out" / resume.PREVIOUS).unlink()
    good, content = str(torch.load(path)), path.read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        broken = bytearray(content)
        broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            state = resume.read(str(path.parent))
        except RuntimeError:
            continue
        assert str(state) == good


def test_resume_from_another_folder(run, make_trainer, tmp_path):
    whole, _ = run("first", TRAINER__NAME="Careful", TEST__FINAL_MODEL="best_val")
    overrides = {"TRAINER__NAME": "Careful", "TEST__FINAL_MODEL": "best_val"}
    elsewhere = make_trainer(
        OUTPUT_DIR=str(tmp_path / "second"),
        RESUME=whole.output_dir,
        OPTIM__MAX_EPOCH=5,
        **overrides,
    )
    elsewhere.train()
    assert elsewhere.start_epoch == 4
    assert len(elsewhere.seen) == 4
    assert (tmp_path / "second" / "linear" / "model-best.pth.tar").exists()


def test_a_run_of_other_models_is_refused(run, make_trainer, tmp_path):
    run("out", TRAINER__NAME="Careful")
    other = make_trainer(OUTPUT_DIR=str(tmp_path / "out"))
    other.register_model("second", nn.Linear(1, 1))
    with pytest.raises(ValueError, match="'second'"):
        other.train()


def test_random_state_round_trip():
    torch.manual_seed(3)
    np.random.standard_normal()  # leaves a second number waiting
    random.gauss(0, 1)
    state = resume.random_state()

    def draw():
        return random.gauss(0, 1), random.random(), np.random.standard_normal(3), torch.rand(3)

    first = draw()
    resume.set_random_state(state)
    second = draw()
    assert first[:2] == second[:2]
    assert all((a == b).all() for a, b in zip(first[2:], second[2:], strict=True))
