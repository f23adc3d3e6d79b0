"""`prompts.safetensors`: what was learned, which anything can read and nothing can mistake."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import random_clip
import torch
from mini_benchmark import build, cfg_of
from safetensors import safe_open

import promptclip
from promptclip import plugins, prompt_file, tensor_file
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.files import DamagedError
from promptclip.prompts import TextContext
from promptclip.run import run

METHODS = plugins.methods()
SAVED = sorted(name for name, m in METHODS.items() if m.Model.learns or m.Model.fitted)
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", 1)
NEW = ("DATASET.SUBSAMPLE_CLASSES", "new", "OPTIM.MAX_EPOCH", 1)


@pytest.fixture(scope="module")
def trained(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The output folder of one epoch of a method on the base classes."""
    folder = tmp_path_factory.mktemp("trained")

    def of(method: str) -> Path:
        if not (folder / method).exists():
            run(cfg_of(method, mini, folder / method, *BASE))
        return folder / method

    return of


def states(trainer: Any) -> dict[str, Any]:
    """All that a test depends on, bit by bit."""
    return {
        f"{name}.{key}": value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
        for name in trainer._used
        for key, value in trainer._models[name].state_dict().items()
    }


@pytest.mark.parametrize("method", SAVED)
def test_it_holds_what_the_checkpoints_hold(method, trained, mini, tmp_path):
    folder, found = trained(method), []
    for place, epoch in ((folder, 1), (folder / prompt_file.NAME, None), (folder, None)):
        trainer = build(method, mini, tmp_path / "test", *BASE, seed=2)
        trainer.load_model(str(place), epoch=epoch)
        accuracy = trainer.test()
        predictions = trainer.evaluator._y_pred
        found.append((states(trainer), accuracy, predictions, trainer.model.chosen))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", SAVED)
def test_other_classes(method, trained, mini, tmp_path):
    trainer = build(method, mini, tmp_path, *NEW)
    file = str(trained(method) / prompt_file.NAME)
    if trainer.model.transfers:
        trainer.load_model(file)
        assert 0 <= trainer.test() <= 100
    else:
        with pytest.raises(UserError, match=f"{method} cannot change classes"):
            trainer.load_model(file)


def test_it_needs_safetensors_and_json_alone(trained, mini, tmp_path):
    folder = trained("CoOp")
    with safe_open(folder / prompt_file.NAME, "np") as file:
        about = json.loads(file.metadata()["about"])
        context = file.get_tensor("prompt_learner.ctx")
    trainer = build("CoOp", mini, tmp_path, *BASE)
    trainer.load_model(str(folder), epoch=1)
    assert (trainer.model.prompt_learner.ctx.detach().numpy() == context).all()
    result = json.loads((folder / "result.json").read_text())
    classes = [one["classname"] for one in result["per_class"]]
    assert about.pop("extra").keys() == {"prompt_learner"}
    assert about == {
        "schema": 1,
        "method": "CoOp",
        "epoch": 1,
        "promptclip": promptclip.__version__,
        "backbone": trainer.cfg.MODEL.BACKBONE.NAME,
        "backbone_sha256": tensor_file.tensors_hash(random_clip.random_state_dict()),
        "classnames": classes,
        "config_hash": result["config_hash"],
    }


def test_it_is_of_the_model_that_was_tested(mini, tmp_path):
    """Of the best epoch on validation, where that was asked for."""
    keys = ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3, "OPTIM.LR", 0.5)
    cfg = cfg_of("CoOp", mini, tmp_path / "run", *keys)
    result = run(cfg)
    best = torch.load(tmp_path / "run/prompt_learner/model-best.pth.tar", weights_only=True)
    tensors, about = prompt_file.read(tmp_path / "run" / prompt_file.NAME)
    assert about["epoch"] == best["epoch"]
    assert about["config_hash"] == config_hash(cfg)
    assert torch.equal(tensors["prompt_learner.ctx"], best["state_dict"]["ctx"])
    file = str(tmp_path / "run" / prompt_file.NAME)
    test = cfg_of("CoOp", mini, tmp_path / "test", *keys)
    again = run(test, eval_only=True, model_dir=file)
    assert (again["metrics"], again["per_class"]) == (result["metrics"], result["per_class"])
    # The folder is for that file's content, wherever it lies.
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert run(test, eval_only=True, model_dir=moved)["metrics"] == result["metrics"]
    with pytest.raises(UserError, match=r"written by another run \(model: "):
        run(test, eval_only=True, model_dir=str(tmp_path / "run"))


def test_what_learns_nothing_leaves_none(mini, tmp_path):
    run(cfg_of("ZeroshotCLIP", mini, tmp_path))
    assert not (tmp_path / prompt_file.NAME).exists()


def test_a_start(trained, mini, tmp_path):
    file = str(trained("MaPLe") / prompt_file.NAME)
    trainer = build("MaPLe", mini, tmp_path, "MODEL.INIT_WEIGHTS", file, seed=2)
    tensors, _ = prompt_file.read(Path(file))
    for name, parameter in trainer.model.prompt_learner.named_parameters():
        assert torch.equal(parameter, tensors[f"prompt_learner.{name}"])
    with pytest.raises(UserError, match="no checkpoint .*nowhere.safetensors; train first"):
        build("MaPLe", mini, tmp_path, "MODEL.INIT_WEIGHTS", "nowhere.safetensors")


def test_the_same_weights_may_have_another_name_and_others_the_same(trained, mini, tmp_path):
    file = str(trained("CoOp") / prompt_file.NAME)
    weights = tmp_path / "elsewhere.safetensors"
    shutil.copy(mini.parent / "clip.safetensors", weights)
    for precision in ("fp32", "bf16"):
        keys = ("MODEL.BACKBONE.NAME", str(weights), "TRAINER.COOP.PREC", precision)
        trainer = build("CoOp", mini, tmp_path / "run", *BASE, *keys)
        trainer.load_model(file)
        assert 0 <= trainer.test() <= 100
    random_clip.save(weights, seed=1)
    trainer = build("CoOp", mini, tmp_path / "run", *BASE, "MODEL.BACKBONE.NAME", str(weights))
    with pytest.raises(UserError, match="made with the backbone .*SHA-256.*give the same backbone"):
        trainer.load_model(file)


def test_what_does_not_fit_is_refused(trained, mini, tmp_path):
    coop, kgcoop = (str(trained(name) / prompt_file.NAME) for name in ("CoOp", "KgCoOp"))
    trainer = build("CoOp", mini, tmp_path, *BASE)
    with pytest.raises(UserError, match="made with method 'KgCoOp', but this run has 'CoOp'"):
        trainer.load_model(kgcoop)
    with pytest.raises(UserError, match="is of epoch 1, not 7; set --load-epoch"):
        trainer.load_model(coop, epoch=7)
    with pytest.raises(UserError, match="no checkpoint .*none.safetensors; train first"):
        trainer.load_model(str(tmp_path / "none.safetensors"))
    short = build("CoOp", mini, tmp_path, *BASE, "TRAINER.COOP.N_CTX", 2)
    with pytest.raises(UserError, match=r"does not fit: expected .*\(2, 32\).* got .*\(16, 32\)"):
        short.load_model(coop)
    dpt = trained("DPT") / prompt_file.NAME
    tensors, about = prompt_file.read(dpt)
    found = prompt_file.states(tensors, about)
    del found["visual_learner"]
    prompt_file.write(found, about, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match="does not hold visual_learner, but prompt_learner"):
        build("DPT", mini, tmp_path, *BASE).load_model(str(tmp_path / "half.safetensors"))


def test_another_file_or_a_damaged_one(trained, tmp_path):
    file = tmp_path / "file.safetensors"
    shutil.copy(trained("CoOp") / prompt_file.NAME, file)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    with pytest.raises(DamagedError, match="its checksum does not fit.*take another copy of it"):
        prompt_file.read(file)
    random_clip.save(file)
    with pytest.raises(DamagedError, match="file.safetensors is damaged"):
        prompt_file.read(file)
    tensors = {"a.b": torch.ones(1)}
    tensor_file.write(tensors, {"schema": 2}, file)
    with pytest.raises(UserError, match="no prompts of schema 1, which .* but of 2"):
        prompt_file.read(file)
    tensor_file.write(tensors, {"schema": 1, "method": "CoOp"}, file)
    with pytest.raises(UserError, match="holds no prompts: its metadata has no epoch, promptclip"):
        prompt_file.read(file)


def test_a_method_that_learns_more_than_such_a_file_holds(mini, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(TextContext, "get_extra_state", lambda self: {1, 2}, raising=False)
    monkeypatch.setattr(TextContext, "set_extra_state", lambda self, state: None, raising=False)
    monkeypatch.setattr("dassl.engine.trainer.save_checkpoint", lambda *args, **kwargs: None)
    if resume := sys.modules.get("dassl.engine.resume"):  # of our runtime
        monkeypatch.setattr(resume, "write", lambda *args: None)
    assert run(cfg_of("CoOp", mini, tmp_path, *BASE))["metrics"]
    assert "prompts.safetensors is not written: CoOp learns more" in caplog.text
    assert not (tmp_path / prompt_file.NAME).exists()
