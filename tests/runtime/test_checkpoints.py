"""Files that hold weights."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from dassl.utils import (
    atomic_write,
    count_num_param,
    init_network_weights,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    save_checkpoint,
)
from torch import nn


def test_layout(make_trainer, tmp_path, capsys):
    trainer = make_trainer(TRAIN__CHECKPOINT_FREQ=3)
    trainer.train()
    folder = tmp_path / "out" / "linear"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoint", "model.pth.tar-3", "model.pth.tar-4")
    ]
    assert (folder / "checkpoint").read_text() == "model.pth.tar-4\n"
    saved = torch.load(folder / "model.pth.tar-4", weights_only=True)
    assert list(saved) == ["state_dict", "optimizer", "scheduler", "epoch", "val_result"]
    assert saved["epoch"] == 4
    assert saved["val_result"] is None
    assert isinstance(saved["state_dict"], OrderedDict)
    assert torch.equal(saved["state_dict"]["2.weight"], trainer.model[2].weight)


def test_best_model(make_trainer, tmp_path, capsys):
    trainer = make_trainer(TEST__FINAL_MODEL="best_val")
    trainer.train()
    best = torch.load(tmp_path / "out" / "linear" / "model-best.pth.tar", weights_only=True)
    assert best["val_result"] == trainer.best_result
    assert torch.equal(best["state_dict"]["2.weight"], trainer.model[2].weight)
    out = capsys.readouterr().out
    assert "Deploy the model with the best val performance" in out
    assert out.count("Evaluate on the *val* set") == 4


def test_load_model(make_trainer, tmp_path, capsys):
    trained = make_trainer()
    trained.train()
    fresh = make_trainer()
    capsys.readouterr()
    fresh.load_model(trained.output_dir, epoch=4)
    assert "model.pth.tar-4 to linear (epoch=4)" in capsys.readouterr().out
    assert torch.equal(fresh.model[2].weight, trained.model[2].weight)
    fresh.load_model("")
    assert "skipped" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="model-best"):
        fresh.load_model(trained.output_dir)


def test_module_prefix_is_stripped(tmp_path):
    state = {"state_dict": {"module.weight": torch.ones(1)}, "epoch": 7}
    save_checkpoint(state, str(tmp_path), is_best=True)
    assert list(state["state_dict"]) == ["module.weight"]
    for name in ("model.pth.tar-7", "model-best.pth.tar"):
        assert list(load_checkpoint(str(tmp_path / name))["state_dict"]) == ["weight"]


def test_load_checkpoint_refuses(tmp_path):
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_checkpoint(str(tmp_path / "missing"))
    torch.save({"state_dict": Path("x")}, tmp_path / "code")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(str(tmp_path / "code"))


@pytest.mark.parametrize("schedule", ["cosine", "step", "multi_step"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_checkpoints_of_the_original_can_be_read(tmp_path, make_trainer, schedule, optimizer):
    """They hold the schedule after the warm-up as an object, and the optimizer in it."""
    model = nn.Linear(2, 2)
    momentum = {"momentum": 0.9} if optimizer in ("SGD", "RMSprop") else {}
    optim = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1, **momentum)
    successor = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optim, 4.0),
        "step": lambda: torch.optim.lr_scheduler.StepLR(optim, 2),
        "multi_step": lambda: torch.optim.lr_scheduler.MultiStepLR(optim, [1, 3]),
    }[schedule]()
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    scheduler = {"successor": successor, "warmup_epoch": 1, "last_epoch": 1, "cons_lr": 1e-5}
    state = {"state_dict": model.state_dict(), "epoch": 1, "optimizer": optim.state_dict()}
    torch.save({**state, "scheduler": scheduler, "val_result": None}, tmp_path / "old")
    checkpoint = load_checkpoint(str(tmp_path / "old"))
    trainer = make_trainer()
    if schedule == "cosine":
        trainer.sched.load_state_dict(checkpoint["scheduler"])
        assert trainer.sched.successor.T_max == 4.0
        assert trainer.sched.successor.optimizer is trainer.optim


def test_resume_from_checkpoints_alone(make_trainer, tmp_path, capsys):
    """Without the file for exact resume, Dassl's own checkpoints continue the schedule."""
    whole = make_trainer(TRAIN__CHECKPOINT_FREQ=1, OUTPUT_DIR=str(tmp_path / "whole"))
    whole.train()
    whole_log = capsys.readouterr().out

    trainer = make_trainer(TRAIN__CHECKPOINT_FREQ=1)
    trainer.max_epoch = 2
    trainer.train()
    for file in Path(trainer.output_dir).glob("resume*"):
        file.unlink()
    capsys.readouterr()
    resumed = make_trainer(TRAIN__CHECKPOINT_FREQ=1)
    resumed.train()
    log = capsys.readouterr().out
    assert "Found checkpoint at" in log
    assert resumed.start_epoch == 2

    def rates(text):
        lines = [line.split() for line in text.splitlines() if line.startswith("epoch")]
        return [line[line.index("lr") + 1] for line in lines]

    assert rates(log) == rates(whole_log)[8:]


def test_atomic_write(tmp_path):
    file = tmp_path / "new" / "file"
    with atomic_write(file) as stream:
        stream.write(b"first")
        assert not file.exists()
    assert file.read_bytes() == b"first"

    def fail():
        with atomic_write(file) as stream:
            stream.write(b"second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_bytes() == b"first"
    assert os.listdir(file.parent) == ["file"]


def test_pretrained_weights(tmp_path, capsys):
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 3)))
    before = model.b.bias.clone()
    weights = {
        "module.a.weight": torch.ones(2, 2),
        "b.bias": torch.ones(4),
        "c": torch.ones(1),
        "note": "not a tensor",
    }
    for content in (weights, {"state_dict": weights}):
        torch.save(content, tmp_path / "weights")
        nn.init.zeros_(model.a.weight)
        load_pretrained_weights(model, str(tmp_path / "weights"))
        assert torch.equal(model.a.weight, torch.ones(2, 2))
        assert torch.equal(model.b.bias, before)
        discarded = "Layers discarded due to unmatched keys or size: ['b.bias', 'c', 'note']"
        assert discarded in capsys.readouterr().out
    torch.save({"c": torch.ones(1)}, tmp_path / "weights")
    with pytest.warns(UserWarning, match="Cannot load"):
        load_pretrained_weights(model, str(tmp_path / "weights"))


def test_layers_and_counts():
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 3)))
    assert count_num_param(model) == 15
    assert count_num_param(params=model.a.parameters()) == 6
    assert count_num_param(params=[{"params": model.a.weight}, {"params": [model.a.bias]}]) == 6
    with pytest.raises(ValueError, match="neither"):
        count_num_param()
    open_specified_layers(model, "b")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert (model.a.training, model.b.training) == (False, True)
    open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="c"):
        open_specified_layers(model, ["c"])


@pytest.mark.parametrize("kind", ["normal", "xavier", "kaiming", "orthogonal"])
def test_initialisation(kind):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))
    nn.init.zeros_(model[1].weight)
    init_network_weights(model, kind)
    assert model[0].weight.std() > 0
    assert torch.equal(model[0].bias, torch.zeros(4))
    assert torch.equal(model[1].weight, torch.ones(4))
    with pytest.raises(ValueError, match="init_type"):
        init_network_weights(model, "ones")
