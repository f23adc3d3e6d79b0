"""Checkpoints of CoOp-style repositories, which hold a scheduler, through the front door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import optim

from promptclip import results
from promptclip.cli import main
from promptclip.config import configs_dir

SHORT = ("DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2")


@pytest.fixture
def train(mini: Path) -> Any:
    def train(output: Path, *flags: object) -> int:
        tiny = configs_dir() / "trainers/CoOp/tiny.yaml"
        return main(
            [
                *("train", "--root", str(mini.parent), "--dataset-config-file", str(mini)),
                *("--config-file", str(tiny), "--trainer", "CoOp", "--seed", "1"),
                *("--output-dir", str(output), *map(str, flags), *SHORT),
            ]
        )

    return train


def old(state: dict[str, Any], optimizer: str, schedule: str) -> dict[str, Any]:
    """As Dassl.pytorch wrote it: the schedule after the warm-up, and its optimizer, are objects."""
    parameter = torch.nn.Parameter(state["ctx"].clone())
    kind: Any = getattr(optim, optimizer)
    stepped = kind([parameter], lr=0.1)
    parameter.sum().backward()
    stepped.step()
    successor = {
        "cosine": lambda: optim.lr_scheduler.CosineAnnealingLR(stepped, 50.0),
        "single_step": lambda: optim.lr_scheduler.StepLR(stepped, 2),
        "multi_step": lambda: optim.lr_scheduler.MultiStepLR(stepped, [1, 3]),
    }[schedule]()
    scheduler = {
        "successor": successor, "warmup_epoch": 1, "base_lrs": [0.1], "last_epoch": 50,
        "verbose": False, "_step_count": 51, "_get_lr_called_within_step": False,
        "_last_lr": [1e-5], "cons_lr": 1e-5,
    }  # fmt: skip
    buffers = {"token_prefix": torch.zeros(5, 1, 8), "token_suffix": torch.zeros(5, 9, 8)}
    return {
        "state_dict": state | buffers,
        "epoch": 50,
        "optimizer": stepped.state_dict(),
        "scheduler": scheduler,
        "val_result": None,
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as before torch 1.6"])
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("SGD", "cosine"), ("Adam", "single_step"), ("AdamW", "multi_step"), ("RMSprop", "cosine")],
)
def test_an_old_checkpoint_is_tested(train, tmp_path, optimizer, schedule, zipped, caplog):
    assert train(tmp_path / "run") == 0
    ours = torch.load(tmp_path / "run/prompt_learner/model.pth.tar-2", weights_only=True)
    state = {k: v for k, v in ours["state_dict"].items() if isinstance(v, torch.Tensor)}
    file = tmp_path / "old/prompt_learner/model.pth.tar-50"
    file.parent.mkdir(parents=True)
    content = old(state, optimizer, schedule)
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    admitted = torch.serialization.get_safe_globals()  # stand-ins, on the original Dassl
    torch.serialization.clear_safe_globals()
    with pytest.raises(Exception, match=r"weights_only|lr_scheduler"):  # it does hold objects
        torch.load(file, weights_only=True)
    torch.serialization.add_safe_globals(admitted)

    flags = ("--eval-only", "--model-dir", tmp_path / "old", "--load-epoch", 50)
    assert train(tmp_path / "again", *flags) == 0
    assert "trusting you" in caplog.text
    first, again = (results.read(tmp_path / name) for name in ("run", "again"))
    assert first is not None
    assert again is not None
    assert again["metrics"] == first["metrics"]


@pytest.mark.parametrize(
    "content",
    [{}, [], torch.zeros(2), {"state_dict": 3}, {"state_dict": {"origin._extra_state": 3}}, "text"],
    ids=["empty", "list", "tensor", "no tensors", "odd origin", "text"],
)
def test_what_is_no_checkpoint(train, tmp_path, content, capsys):
    file = tmp_path / "run/prompt_learner/model-best.pth.tar"
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    assert train(tmp_path / "out", "--eval-only", "--model-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} ")
    assert error.count("\n") == 1


def test_a_file_that_is_torn(train, tmp_path, capsys):
    assert train(tmp_path / "run") == 0
    file = tmp_path / "run/prompt_learner/model.pth.tar-2"
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        flags = ("--eval-only", "--model-dir", tmp_path / "run", "--load-epoch", 2)
        assert train(tmp_path / "out", *flags) == 2
        assert f"error: {file} was not read" in capsys.readouterr().err
