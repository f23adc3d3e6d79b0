"""What every method must do. A method is tested by being registered; none is named here."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from mini_benchmark import CLASSES, batch_of, build, cfg_of

import promptclip
from promptclip import plugins
from promptclip.clip.model import FrozenCLIP
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.run import run

METHODS = sorted(plugins.methods())


LEARNERS = [name for name in METHODS if plugins.methods()[name].Model.learns]
FITTED = [name for name in METHODS if plugins.methods()[name].Model.fitted]  # no epochs
SAVED = sorted(LEARNERS + FITTED)


def steps(trainer: Any, count: int) -> list[float]:
    """Losses of `count` steps on one batch, in the middle of an epoch."""
    trainer.before_train()
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = count + 1, 0
    batch = batch_of(trainer)
    return [trainer.forward_backward(batch)["loss"] for _ in range(count)]


def clip_weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.clip.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_forward(method, mini, tmp_path):
    trainer = build(method, mini, tmp_path)
    output = trainer.model(batch_of(trainer)["img"])
    assert output.logits.shape == (8, len(CLASSES))
    for features in (output.image_features, output.text_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))


def learned(trainer: Any) -> dict[str, torch.nn.Parameter]:
    """Every tensor that is given to an optimiser and needs a gradient, by learner and name."""
    return {
        f"{model}.{name}": parameter
        for model, module in trainer._models.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def set_rate(trainer: Any, rate: float) -> None:
    """Replace the rate of the warm-up, which would not show."""
    for optimizer in trainer._optims.values():
        optimizer.param_groups[0]["lr"] = rate


@pytest.mark.parametrize("method", LEARNERS)
def test_only_the_prompts_learn_and_all_of_them(method, mini, tmp_path):
    trainer = build(method, mini, tmp_path)
    before = clip_weights(trainer)
    start = {name: parameter.detach().clone() for name, parameter in learned(trainer).items()}
    set_rate(trainer, 0.1)
    steps(trainer, 1)
    after = trainer.model.clip.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    ours = {id(parameter) for parameter in learned(trainer).values()}
    assert ours == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    for name, parameter in learned(trainer).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert not torch.equal(parameter, start[name]), name
    assert trainer.num_trainable == sum(p.numel() for p in start.values())


@pytest.mark.parametrize("method", LEARNERS)
def test_loss_falls_on_one_batch(method, mini, tmp_path):
    trainer = build(method, mini, tmp_path)
    set_rate(trainer, 0.02)
    losses = steps(trainer, 10)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", SAVED)
def test_checkpoint_loads_strictly_into_other_classes(method, mini, tmp_path):
    base = ("DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", 1)
    trained = build(method, mini, tmp_path / "base", *base)
    trained.train()
    other = build(
        method, mini, tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new", "OPTIM.MAX_EPOCH", 1
    )
    assert other.num_classes != trained.num_classes
    if not other.model.transfers:
        with pytest.raises(UserError, match="classes"):
            other.load_model(str(tmp_path / "base"), epoch=1)
        return
    other.load_model(str(tmp_path / "base"), epoch=1)
    for model, module in trained._models.items():
        if model not in other.model.training_only:
            state = other._models[model].state_dict()
            for name, tensor in module.named_parameters():
                assert torch.equal(state[name], tensor)
    assert 0 <= other.test() <= 100


@pytest.mark.parametrize("method", SAVED)
def test_checkpoint_of_another(method, mini, tmp_path):
    build(method, mini, tmp_path, "OPTIM.MAX_EPOCH", 1).train()
    file = tmp_path / "prompt_learner" / "model.pth.tar-1"
    whole = file.read_bytes()
    trainer = build(method, mini, tmp_path / "other")
    for what in ("method", "backbone"):
        file.write_bytes(whole)
        checkpoint = torch.load(file, weights_only=True)
        checkpoint["state_dict"]["origin._extra_state"][what] = "another"
        torch.save(checkpoint, file)
        with pytest.raises(UserError, match=f"with {what} 'another', but this run"):
            trainer.load_model(str(tmp_path), epoch=1)
    with pytest.raises(UserError, match="no checkpoint .*model.pth.tar-7"):
        trainer.load_model(str(tmp_path), epoch=7)


@pytest.mark.parametrize("method", LEARNERS)
def test_init_weights(method, mini, tmp_path):
    trained = build(method, mini, tmp_path, "OPTIM.MAX_EPOCH", 1)
    trained.train()
    file = tmp_path / "prompt_learner" / "model.pth.tar-1"
    started = build(method, mini, tmp_path / "other", "MODEL.INIT_WEIGHTS", str(file), seed=2)
    state = started.model.prompt_learner.state_dict()
    for name, tensor in trained.model.prompt_learner.named_parameters():
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_numbers(method, mini, tmp_path):
    results = [run(cfg_of(method, mini, tmp_path / str(i), seed=i // 2)) for i in range(3)]
    assert results[0]["metrics"] == results[1]["metrics"]
    if method in SAVED:
        states = [
            torch.load(tmp_path / str(i) / "prompt_learner" / "model.pth.tar-3", weights_only=True)
            for i in (0, 1, 2)
        ]
        first, same, other = (
            [t for t in state["state_dict"].values() if isinstance(t, torch.Tensor)]
            for state in states
        )
        assert all(map(torch.equal, first, same))
        assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize("method", LEARNERS)
def test_interrupted_run_ends_like_an_uninterrupted_one(method, mini, tmp_path, monkeypatch):
    whole = run(cfg_of(method, mini, tmp_path / "whole"))
    trainer_class = plugins.methods()[method]
    forward_backward = trainer_class.forward_backward

    def dies(self, batch):
        if self.epoch == 1 and self.batch_idx == 1:
            raise KeyboardInterrupt
        return forward_backward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_class, "forward_backward", dies)
        with pytest.raises(KeyboardInterrupt):
            run(cfg_of(method, mini, tmp_path / "parts"))
    assert not (tmp_path / "parts" / "result.json").exists()
    parts = run(cfg_of(method, mini, tmp_path / "parts"))
    assert parts["metrics"] == whole["metrics"]
    files = sorted((tmp_path / "whole").glob("*/model.pth.tar-3"))
    assert files
    for file in files:
        twin = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
        one, other = (torch.load(f, weights_only=True)["state_dict"] for f in (file, twin))
        for name, tensor in one.items():
            if isinstance(tensor, torch.Tensor):
                assert torch.equal(tensor, other[name]), f"{file.parent.name} {name}"


@pytest.mark.parametrize("method", FITTED)
def test_interrupted_fit_ends_like_an_uninterrupted_one(method, mini, tmp_path, monkeypatch):
    whole = run(cfg_of(method, mini, tmp_path / "whole"))

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plugins.methods()[method], "test", dies)
        with pytest.raises(KeyboardInterrupt):
            run(cfg_of(method, mini, tmp_path / "parts"))
    parts = run(cfg_of(method, mini, tmp_path / "parts"))
    assert (parts["metrics"], parts["chosen"]) == (whole["metrics"], whole["chosen"])


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("final", ["last_step", "best_val"])
def test_a_fitted_checkpoint_gives_the_numbers_of_its_run(final, method, mini, tmp_path):
    key = ("TEST.FINAL_MODEL", final)
    trained = run(cfg_of(method, mini, tmp_path / "train", *key))
    tested = run(
        cfg_of(method, mini, tmp_path / "test", *key, seed=2),  # another few-shot sample
        eval_only=True,
        model_dir=str(tmp_path / "train"),
        load_epoch=None if final == "best_val" else 3,
    )
    for what in ("metrics", "per_class", "tuned_on", "chosen", "trainable_parameters"):
        assert tested[what] == trained[what]


@pytest.mark.parametrize("method", FITTED)
def test_a_fitted_method_has_no_start(method, mini, tmp_path):
    with pytest.raises(UserError, match="leave MODEL.INIT_WEIGHTS empty"):
        build(method, mini, tmp_path, "MODEL.INIT_WEIGHTS", "somewhere.pth.tar")


@pytest.mark.parametrize("method", METHODS)
def test_unknown_key(method, mini, tmp_path):
    with pytest.raises(UserError, match=f"unknown key TRAINER.{method.upper()}.PRECC"):
        cfg_of(method, mini, tmp_path, f"TRAINER.{method.upper()}.PRECC", "fp32")


@pytest.mark.parametrize("method", METHODS)
def test_value_out_of_range(method, mini, tmp_path):
    key = f"TRAINER.{method.upper()}.PREC"
    with pytest.raises(UserError, match=f"{key} must be .* got 'fp64'"):
        cfg_of(method, mini, tmp_path, key, "fp64")


@pytest.mark.parametrize("method", LEARNERS)
def test_precisions_on_the_cpu(method, mini, tmp_path):
    key = f"TRAINER.{method.upper()}.PREC"
    losses = {
        name: steps(build(method, mini, tmp_path / name, key, name), 3)
        for name in ("fp32", "fp16", "bf16", "amp")
    }
    for precision, found in losses.items():
        assert found == pytest.approx(losses["fp32"], rel=0.1), precision


@pytest.mark.parametrize("method", LEARNERS)
def test_fast_path_trains_like_the_textbook_path(method, mini, tmp_path):
    losses, ends = [], []
    # Not Adam: where a gradient is near 0, rounding decides over its step
    plain = ("OPTIM.NAME", "sgd", "MODEL.EXACT_TEXTBOOK")
    for textbook in (False, True):
        trainer = build(method, mini, tmp_path / str(textbook), *plain, textbook)
        assert trainer.model.clip.textbook == textbook
        set_rate(trainer, 0.01)  # a loss in free fall multiplies rounding
        losses.append(steps(trainer, 5))
        ends.append([p.detach() for p in learned(trainer).values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for fast, textbook in zip(*ends, strict=True):
        assert (fast - textbook).abs().max() < 1e-5 * textbook.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_text_features_are_computed_once_per_test(method, mini, tmp_path, monkeypatch):
    calls = []
    encode_text = FrozenCLIP.encode_text

    def counted(*args, **kwargs):
        calls.append(1)
        return encode_text(*args, **kwargs)

    monkeypatch.setattr(FrozenCLIP, "encode_text", counted)
    counts = []
    for batch_size in (4, 100):
        size = ("DATALOADER.TEST.BATCH_SIZE", batch_size)
        trainer = build(method, mini, tmp_path / str(batch_size), *size)
        trainer.test()
        batches = len(trainer.test_loader) if trainer.model.text_by_image else 1
        counts.append(len(calls) / batches)
        calls.clear()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("method", METHODS)
def test_published_yaml_loads(method, mini):
    cfg = build_cfg(method, mini, configs_dir() / "trainers" / method / "vit_b16.yaml")
    assert cfg.TRAINER.NAME == method


def trainer_files() -> list[Path]:
    folders = (Path(place) / "trainers" for place in promptclip.__path__)
    return sorted(file for folder in folders for file in folder.glob("*.py"))


@pytest.mark.parametrize("file", trainer_files(), ids=lambda file: file.stem)
def test_trainer_file_is_short_and_documented(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 120
    assert "arXiv" in (ast.get_docstring(ast.parse(text)) or "")


def test_no_run_of_six_lines_stands_in_two_trainer_files():
    seen: dict[tuple[str, ...], Path] = {}
    for file in trainer_files():
        lines = [line.strip() for line in file.read_text().splitlines()]
        lines = [
            line for line in lines if line and not line.startswith(("import ", "from ", "#", ")"))
        ]
        for start in range(len(lines) - 5):
            window = tuple(lines[start : start + 6])
            assert seen.setdefault(window, file) == file, window
