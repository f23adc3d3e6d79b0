"""PromptSRC's consistency terms, its teacher, and its aggregation over epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mini_benchmark import cfg_of

from promptclip import plugins, templates
from promptclip.errors import UserError
from promptclip.losses import feature_consistency, logit_consistency
from promptclip.run import run
from promptclip.trainer import unit

EARLY = ("TRAINER.PROMPTSRC.GPA_MEAN", 2, "TRAINER.PROMPTSRC.GPA_STD", 1, "OPTIM.MAX_EPOCH", 4)


def build(mini: Path, output: Path, *overrides: object) -> Any:
    """A trainer that aggregates over four epochs."""
    return plugins.methods()["PromptSRC"](cfg_of("PromptSRC", mini, output, *EARLY, *overrides))


def checkpoint(output: Path, epoch: int = 4) -> dict[str, torch.Tensor]:
    file = output / "prompt_learner" / f"model.pth.tar-{epoch}"
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_consistency_terms():
    random = torch.Generator().manual_seed(0)
    own, teacher = (torch.randn(4, 5, generator=random) for _ in range(2))
    assert feature_consistency(own, own) == 0
    torch.testing.assert_close(feature_consistency(own, teacher), (own - teacher).abs().mean())
    p, q = teacher.softmax(-1), own.softmax(-1)
    divergence = (p * (p / q).log()).sum() / 20
    torch.testing.assert_close(logit_consistency(own, teacher), divergence)
    assert logit_consistency(own, own) == 0
    assert logit_consistency(own, teacher) != logit_consistency(teacher, own)


def test_templates():
    assert len(templates.IMAGENET) == len(set(templates.IMAGENET)) == 80
    assert len(templates.IMAGENET_SELECT) == 7
    assert set(templates.IMAGENET_SELECT) < set(templates.IMAGENET)
    assert len(templates.PROMPTSRC) == 60
    assert "a photo of a {}." in templates.PROMPTSRC
    assert all(template.count("{}") == 1 for template in templates.IMAGENET)


def test_teacher_is_the_mean_of_raw_features(mini, tmp_path):
    trainer = build(mini, tmp_path)
    trainer.before_train()
    trainer.close_writer()
    raw = torch.stack([trainer.model.encode_template(t) for t in templates.PROMPTSRC])
    torch.testing.assert_close(trainer.teacher, unit(raw.sum(0)))
    assert not torch.allclose(trainer.teacher, unit(unit(raw).sum(0)), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "amp", "fp16", "bf16"])
def test_every_precision_has_all_terms(precision, mini, tmp_path):
    trainer = build(mini, tmp_path, "TRAINER.PROMPTSRC.PREC", precision)
    trainer.before_train()
    trainer.close_writer()
    trainer.num_batches, trainer.batch_idx = 2, 0
    summary = trainer.forward_backward(next(iter(trainer.train_loader_x)))
    for term in ("ce", "text", "image", "kl"):
        assert summary[f"loss_{term}"] > 0


@pytest.mark.parametrize("gpa", [(2, 1), (15, 1), (30, 30), (-1000, 0.1), (1000, 1)])
def test_weights_sum_to_one(gpa, mini, tmp_path):
    own = ("TRAINER.PROMPTSRC.GPA_MEAN", gpa[0], "TRAINER.PROMPTSRC.GPA_STD", gpa[1])
    trainer = build(mini, tmp_path, *own)
    trainer.before_train()
    trainer.close_writer()
    weights = trainer.epoch_weights
    assert weights.shape == (4,)
    assert weights.sum().item() == pytest.approx(1)
    nearest = min(range(4), key=lambda epoch: abs(epoch + 1 - gpa[0]))
    assert weights.argmax() == nearest


def test_aggregate(mini, tmp_path):
    trainer = build(mini, tmp_path)
    trainer.before_train()
    trainer.close_writer()
    prompts = list(trainer.model.prompt_learner.parameters())
    history = [[torch.randn_like(p) for p in prompts] for _ in range(4)]
    for trainer.epoch, values in enumerate(history):
        for prompt, value in zip(prompts, values, strict=True):
            prompt.data.copy_(value)
        trainer.aggregate()
        if trainer.epoch < 3:
            assert all(map(torch.equal, prompts, values))
    gauss = [torch.exp(torch.tensor(-((epoch - 2) ** 2) / 2)) for epoch in (1, 2, 3, 4)]
    for number, prompt in enumerate(prompts):
        parts = [g * values[number] for g, values in zip(gauss, history, strict=True)]
        torch.testing.assert_close(prompt.data, sum(parts) / sum(gauss))


def test_aggregate_of_constant_prompts_is_the_prompts(mini, tmp_path):
    trainer = build(mini, tmp_path)
    trainer.before_train()
    trainer.close_writer()
    prompts = list(trainer.model.prompt_learner.parameters())
    before = [prompt.detach().clone() for prompt in prompts]
    for trainer.epoch in range(4):
        trainer.aggregate()
    for prompt, value in zip(prompts, before, strict=True):
        torch.testing.assert_close(prompt.data, value)


def test_last_checkpoint_holds_the_sum(mini, tmp_path):
    run(cfg_of("PromptSRC", mini, tmp_path, *EARLY, "TRAIN.CHECKPOINT_FREQ", 1))
    last, before = checkpoint(tmp_path), checkpoint(tmp_path, 3)
    for name in ("text.ctx", "text.deep", "visual.ctx"):
        total = f"sum_{name.replace('.', '_')}"
        assert torch.equal(last[name], last[total])
        assert not torch.allclose(before[name], before[total])


@pytest.mark.slow
@pytest.mark.parametrize("dies_in", [0, 1, 3])
def test_interrupted_aggregation(dies_in, mini, tmp_path, monkeypatch):
    run(cfg_of("PromptSRC", mini, tmp_path / "whole", *EARLY))
    trainer = plugins.methods()["PromptSRC"]
    forward_backward = trainer.forward_backward

    def dies(self, batch):
        if self.epoch == dies_in and self.batch_idx == 1:
            raise KeyboardInterrupt
        return forward_backward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "forward_backward", dies)
        with pytest.raises(KeyboardInterrupt):
            run(cfg_of("PromptSRC", mini, tmp_path / "parts", *EARLY))
    run(cfg_of("PromptSRC", mini, tmp_path / "parts", *EARLY))
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_new_training_starts_a_new_sum(mini, tmp_path):
    run(cfg_of("PromptSRC", mini, tmp_path / "first", *EARLY))
    file = tmp_path / "first" / "prompt_learner" / "model.pth.tar-4"
    trainer = build(mini, tmp_path / "second", "MODEL.INIT_WEIGHTS", str(file))
    assert all(total.abs().sum() > 0 for _, total in trainer.model.sums())
    trainer.before_train()
    trainer.close_writer()
    assert all(total.abs().sum() == 0 for _, total in trainer.model.sums())
    assert torch.equal(trainer.model.text_prompter.ctx, checkpoint(tmp_path / "first")["text.ctx"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("GPA_STD", 0), ("TEXT_LOSS_WEIGHT", -1), ("IMAGE_LOSS_WEIGHT", -0.5)],
)
def test_out_of_range(key, value, mini, tmp_path):
    with pytest.raises(UserError, match=f"TRAINER.PROMPTSRC.{key} must be .*got {float(value)}"):
        cfg_of("PromptSRC", mini, tmp_path, f"TRAINER.PROMPTSRC.{key}", value)
