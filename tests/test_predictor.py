"""`promptclip.load`: a run's folder predicts what the run itself did, without its data."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_clip
import torch
from mini_benchmark import CLASSES, cfg_of
from PIL import Image

import promptclip
from promptclip import plugins, results
from promptclip.benchmark import read_picture
from promptclip.errors import UserError
from promptclip.files import read_record, write_record
from promptclip.predictor import Prediction, Predictor
from promptclip.run import _build, run

METHODS = sorted(plugins.methods())


def trained(method: str, mini: Path, folder: Path, *overrides: object) -> Path:
    """A finished run of two epochs."""
    run(cfg_of(method, mini, folder, "OPTIM.MAX_EPOCH", 2, *overrides))
    return folder


def of_the_test(method: str, mini: Path, folder: Path, other: Path) -> tuple[Any, torch.Tensor]:
    """The pictures of the run's test and their logits, as `--eval-only` computes them."""
    trainer = _build(
        cfg_of(method, mini, other, "OPTIM.MAX_EPOCH", 2, "TEST.FEATURE_CACHE", "off"),
        eval_only=True,
        model_dir=str(folder) if plugins.trains(method) else "",
        load_epoch=None,
    )
    logits: list[torch.Tensor] = []
    process = trainer.evaluator.process
    trainer.evaluator.process = lambda found, label: (logits.append(found), process(found, label))
    trainer.test()
    return [item.impath for item in trainer.dm.dataset.test], torch.cat(logits)


@pytest.fixture(scope="module")
def coop(mini, tmp_path_factory):
    return trained("CoOp", mini, tmp_path_factory.mktemp("coop") / "run")


@pytest.fixture(scope="module")
def picture(mini):
    return mini.parent / "mini" / "images" / "2" / "test_1.png"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_what_its_test_did(method, mini, tmp_path, monkeypatch):
    folder = trained(method, mini, tmp_path / "run")
    paths, expected = of_the_test(method, mini, folder, tmp_path / "test")
    # Somewhere else, where there are no data
    shutil.move(folder, tmp_path / "moved")
    monkeypatch.setattr(plugins.benchmark("Mini"), "dataset_dir", "gone")
    model = promptclip.load(tmp_path / "moved")
    assert (model.method, model.classnames) == (method, CLASSES)
    logits = model.logits(torch.stack([model.read(path) for path in paths]))
    near = 1e-6 if model.device.type == "cpu" else 1e-2  # of half precision, on a GPU
    torch.testing.assert_close(logits, expected, rtol=near, atol=near)
    ranked = list(model.predict_all(paths, batch_size=3))
    assert [CLASSES[one] for one in expected.argmax(-1).tolist()] == [
        r[0].classname for r in ranked
    ]
    likely = expected.softmax(-1).sort(descending=True).values
    found = torch.tensor([[one.probability for one in row] for row in ranked])
    torch.testing.assert_close(found, likely.cpu(), rtol=max(near, 1e-4), atol=near)


def test_a_path_an_image_and_a_tensor_are_the_same(coop, picture):
    model = promptclip.load(coop)
    expected = model.predict(str(picture))
    assert [type(one) for one in expected] == [Prediction] * len(CLASSES)
    assert expected == sorted(expected, key=lambda one: -one.probability)
    assert sum(one.probability for one in expected) == pytest.approx(1)
    with Image.open(picture) as image:
        assert model.predict(image) == expected
        tensor = model.transform(image.convert("RGB"))
        assert model.predict(tensor) == model.predict(tensor.double()) == expected
    assert model.predict(picture, top=2) == expected[:2]
    assert model.predict(picture, top=99) == expected


def test_images_of_any_mode(coop, picture):
    model = promptclip.load(coop)
    image = read_picture(str(picture))
    for mode in ("RGBA", "P", "L", "CMYK", "1", "I;16"):
        other = (
            image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
        )
        assert len(model.predict(other)) == len(CLASSES)
        assert other.mode == mode
    rgba = image.convert("RGBA")
    rgba.putalpha(0)  # dropped, not painted over, as in training
    assert model.predict(rgba) == model.predict(image)


def test_many_are_read_one_batch_at_a_time(coop, picture):
    model = promptclip.load(coop)
    asked: list[int] = []

    def endless() -> Any:
        while True:
            asked.append(1)
            yield picture

    found = model.predict_all(endless(), batch_size=2)
    alone = [one.classname for one in model.predict(picture)]
    assert [[one.classname for one in next(found)] for _ in range(3)] == [alone] * 3
    assert len(asked) == 4
    assert list(model.predict_all([])) == []


def test_other_classes(coop, mini, picture, tmp_path):
    names = ["blue thing", "red thing"]
    model = promptclip.load(coop, classnames=names)
    assert {one.classname for one in model.predict(picture)} == set(names)
    probe = trained("LinearProbe", mini, tmp_path / "probe")
    with pytest.raises(UserError, match="LinearProbe cannot change classes"):
        promptclip.load(probe, classnames=names)
    with pytest.raises(UserError, match="classnames must be a list of names, got the text 'dog'"):
        promptclip.load(coop, classnames="dog")


def test_the_best_epoch_and_a_named_one(mini, tmp_path):
    folder = trained("CoOp", mini, tmp_path, "TEST.FINAL_MODEL", "best_val", "OPTIM.LR", 0.5,
                     "TRAIN.CHECKPOINT_FREQ", 1)  # fmt: skip
    states = {
        name: torch.load(tmp_path / "prompt_learner" / name, weights_only=True)["state_dict"]["ctx"]
        for name in ("model-best.pth.tar", "model.pth.tar-1", "model.pth.tar-2")
    }
    assert not torch.equal(states["model.pth.tar-1"], states["model.pth.tar-2"])

    def ctx(**how: Any) -> torch.Tensor:
        return promptclip.load(folder, device="cpu", **how).model.prompt_learner.ctx

    assert torch.equal(ctx(), states["model-best.pth.tar"])
    assert torch.equal(ctx(epoch=1), states["model.pth.tar-1"])
    assert torch.equal(ctx(epoch=2), states["model.pth.tar-2"])


def test_the_callers_state_is_left_alone(coop, picture, capfd):
    before = logging.getLogger("promptclip").level, logging.getLogger("dassl").level
    files = sorted(path for path in coop.rglob("*"))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    torch.backends.cudnn.benchmark = True
    try:
        promptclip.load(coop).predict(picture)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert torch.is_grad_enabled()
    assert (logging.getLogger("promptclip").level, logging.getLogger("dassl").level) == before
    assert sorted(path for path in coop.rglob("*")) == files
    assert capfd.readouterr().out == ""


def test_importing_promptclip_imports_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import promptclip, sys; print('torch' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = promptclip.laod


def test_bad_images(coop, picture, tmp_path):
    model = promptclip.load(coop)
    (text := tmp_path / "notes.png").write_text("no picture")
    for image, message in (
        (tmp_path / "gone.png", "gone.png cannot be read as a picture .No such file"),
        (text, "it is no whole BMP"),
        (tmp_path, "it is no file"),
        (Image.new("RGB", (0, 3)), "it has no pixels"),
        (Image.new("F", (3, 3)), "32 bits"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(image)
    for tensor in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 32, 32), torch.zeros(3, 32, 32).byte()):
        with pytest.raises(UserError, match=r"of the shape \[3, 32, 32\]; got torch"):
            model.predict(tensor)
    with pytest.raises(UserError, match="top must be 1 or more, got 0"):
        model.predict(picture, top=0)
    with pytest.raises(UserError, match="batch_size must be 1 or more"):
        next(model.predict_all([picture], batch_size=0))


def edited(file: Path, **changes: Any) -> None:
    """A record with other values, and its checksum."""
    write_record(read_record(file) | changes, file)


def test_bad_runs(coop, mini, tmp_path):
    def copy(name: str) -> Path:
        return shutil.copytree(coop, tmp_path / name)

    with pytest.raises(UserError, match="is no run: it has no run.json; give"):
        promptclip.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no run: it has no run.json"):
        promptclip.load(mini)
    run(cfg_of("CoOp", mini, tmp_path / "new"), eval_only=True, model_dir=str(coop))
    with pytest.raises(UserError, match="tests a model that was trained in another folder"):
        promptclip.load(tmp_path / "new")
    (copy("bare") / "prompts.safetensors").unlink()
    (tmp_path / "bare" / results.RESULT_FILE).unlink()
    with pytest.raises(UserError, match="does not say which classes it is of"):
        promptclip.load(tmp_path / "bare")
    assert promptclip.load(tmp_path / "bare", classnames=CLASSES, epoch=2).classnames == CLASSES
    with pytest.raises(UserError, match="no checkpoint .*model.pth.tar-7"):
        promptclip.load(coop, epoch=7)
    edited(copy("other") / "run.json", config_hash="0" * 16)
    with pytest.raises(UserError, match="is of another run than its folder"):
        promptclip.load(tmp_path / "other")
    config = read_record(copy("method") / "run.json")["config"]
    config["TRAINER"]["NAME"] = "Gone"
    edited(tmp_path / "method" / "run.json", config=config)
    with pytest.raises(UserError, match="run.json: unknown method 'Gone'"):
        promptclip.load(tmp_path / "method")
    edited(tmp_path / "method" / "run.json", config={"TRAINER": None})
    with pytest.raises(UserError, match="does not say which method it is of"):
        promptclip.load(tmp_path / "method")
    edited(tmp_path / "method" / "run.json", config=[])
    with pytest.raises(UserError, match="does not say which method it is of"):
        promptclip.load(tmp_path / "method")
    edited(copy("names") / results.RESULT_FILE, template=7)
    with pytest.raises(UserError, match="expected text for class names and template, got 7"):
        promptclip.load(tmp_path / "names")
    (copy("torn") / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        promptclip.load(tmp_path / "torn")
    with pytest.raises(UserError, match="the device 'cuda:77' cannot be used"):
        promptclip.load(coop, device="cuda:77")
    for device in ("gpu", "meta"):
        with pytest.raises(UserError, match=f"the device '{device}' cannot be used"):
            promptclip.load(coop, device=device)


def test_a_clip_that_lies_elsewhere_now(coop, mini, tmp_path, picture):
    weights = tmp_path / "here.safetensors"
    shutil.copy(mini.parent / "clip.safetensors", weights)
    there = shutil.copytree(coop, tmp_path / "run")
    config = json.loads(json.dumps(read_record(there / "run.json")["config"]))
    config["MODEL"]["BACKBONE"]["NAME"] = "/nowhere/clip.safetensors"
    edited(there / "run.json", config=config)
    with pytest.raises(UserError, match="no weights '/nowhere/clip.safetensors'"):
        promptclip.load(there)
    found = promptclip.load(there, backbone=str(weights))
    assert isinstance(found, Predictor)
    assert found.predict(picture) == promptclip.load(coop).predict(picture)
    random_clip.save(weights, seed=1)
    with pytest.raises(UserError, match="give the same backbone"):
        promptclip.load(there, backbone=str(weights))
