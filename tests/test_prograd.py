"""ProGrad: what is taken from a gradient, which terms it is the gradient of, and the start."""

from __future__ import annotations

import pytest
import torch
from mini_benchmark import CLASSES, batch_of, build
from torch.nn import functional as F

from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.losses import distillation, without_conflict
from promptclip.prompts import word_vectors


def pair(cosine):
    """A gradient and a direction, [3, 4], at an angle."""
    torch.manual_seed(0)
    along, across = torch.linalg.qr(torch.randn(12, 2)).Q.T
    gradient = 2 * (cosine * along + (1 - cosine**2) ** 0.5 * across)
    return gradient.view(3, 4), 3 * along.view(3, 4)


def test_what_agrees_is_kept():
    for cosine in (0.0, 0.3, 1.0):
        gradient, direction = pair(cosine)
        torch.testing.assert_close(without_conflict(gradient, direction), gradient)


@pytest.mark.parametrize("strength", [0.0, 0.8, 1.0, 2.0])
def test_what_conflicts_is_taken_away(strength):
    gradient, direction = pair(-0.6)
    result = without_conflict(gradient, direction, strength)
    before, after = ((one * direction).sum().item() for one in (gradient, result))
    assert after == pytest.approx((1 - strength) * before, abs=1e-6)
    along = direction / direction.norm()
    for one in (gradient, result):  # what is left is the same across
        torch.testing.assert_close(
            one - (one * along).sum() * along, gradient - (gradient * along).sum() * along
        )
    torch.testing.assert_close(without_conflict(gradient, 1e4 * direction, strength), result)


def test_no_direction():
    gradient, _ = pair(-0.5)
    assert torch.equal(without_conflict(gradient, torch.zeros_like(gradient)), gradient)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distillation_is_the_divergence_up_to_a_constant(temperature):
    torch.manual_seed(0)
    teacher, logits = torch.randn(6, 5), torch.randn(6, 5)
    probability = (teacher / temperature).softmax(-1)
    divergence = F.kl_div(
        (logits / temperature).log_softmax(-1), probability, reduction="batchmean"
    )
    entropy = -(probability * probability.log()).sum(-1).mean()
    torch.testing.assert_close(
        distillation(logits, teacher, temperature), (divergence + entropy) * temperature**2
    )
    teacher.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(teacher, teacher.detach(), temperature), teacher)
    assert gradient.abs().max() < 1e-6


def terms_of(trainer, batch):
    """Every term of a step, regularisers' included."""
    output = trainer.model(batch["img"])
    terms = trainer.losses(output, batch["label"])
    for regularizer in trainer.regularizers:
        terms |= regularizer.terms(output, batch["label"])
    return terms


@pytest.mark.parametrize("regularizers", ["", "kgcoop"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step(scaled, strength, regularizers, mini, tmp_path):
    given = ["TRAINER.PROGRAD.LAM", strength]
    if regularizers:
        given += ["TRAINER.REGULARIZERS", regularizers, "REGULARIZER.KGCOOP.W", 1.0]
    trainer = build("ProGrad", mini, tmp_path, *given)
    trainer.before_train()
    batch, ctx = batch_of(trainer), trainer.model.prompt_learner.ctx
    # Labels that zero-shot CLIP gives least, so that the two gradients conflict
    known = trainer.model.template_features()
    cosines = trainer.model(batch["img"]).image_features @ known.T
    batch["label"] = cosines.argmin(-1)
    terms = terms_of(trainer, batch)
    assert set(terms) == {"ce", "kl"} | ({regularizers} if regularizers else set())
    domain = sum(value for name, value in terms.items() if name != "kl")
    (towards,) = torch.autograd.grad(domain, ctx, retain_graph=True)
    (general,) = torch.autograd.grad(terms["kl"], ctx)
    assert (towards * general).sum() < 0
    expected = without_conflict(towards, general, strength)
    assert (expected - towards).abs().max() > 1e-3 * towards.abs().max()

    terms = terms_of(trainer, batch)
    factor = 1.0
    if scaled:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        factor = 1024.0
    trainer.model.zero_grad()
    trainer.backward(torch.stack(list(terms.values())).sum(), terms)
    error = (ctx.grad / factor - expected).abs().max()
    assert error < 1e-5 * expected.abs().max()


def test_the_teacher_is_zero_shot_clip(mini, tmp_path):
    zero = build("ZeroshotCLIP", mini, tmp_path / "zero")
    trainer = build("ProGrad", mini, tmp_path / "own")
    batch = batch_of(trainer)
    output = trainer.model(batch["img"])
    teacher = zero.model(batch["img"]).logits
    terms = trainer.losses(output, batch["label"])
    torch.testing.assert_close(terms["kl"], distillation(output.logits, teacher))
    key = "TRAINER.PROGRAD.TEMPLATE"
    other = build("ProGrad", mini, tmp_path / "other", key, "a type of pet, a photo of a {}.")
    assert other.losses(output, batch["label"])["kl"] != terms["kl"]
    with pytest.raises(UserError, match=f"{key} must be text with \"{{}}\", got 'a pet'"):
        build("ProGrad", mini, tmp_path / "none", key, "a pet")


@pytest.mark.parametrize("csc", [False, True])
def test_words_stand_at_the_end_of_the_context(csc, mini, tmp_path):
    words = ("TRAINER.PROGRAD.CTX_INIT", "a photo of a")
    own = ("TRAINER.PROGRAD.CSC", csc, *words)
    model = build("ProGrad", mini, tmp_path, *own, "TRAINER.PROGRAD.N_CTX", 6).model
    ctx = model.prompt_learner.ctx.detach()
    assert ctx.shape == ((len(CLASSES), 6, 32) if csc else (6, 32))
    assert not ctx[..., :2, :].any()
    expected = word_vectors(model.clip, "a photo of a").expand_as(ctx[..., 2:, :])
    assert torch.equal(ctx[..., 2:, :], expected)
    with pytest.raises(
        UserError, match="N_CTX must be at least 4, the tokens of .*CTX_INIT, got 3"
    ):
        build("ProGrad", mini, tmp_path, *words, "TRAINER.PROGRAD.N_CTX", 3)


@pytest.mark.parametrize(
    ("key", "value"), [("N_CTX", 0), ("T", 0.0), ("LAM", -1.0), ("CLASS_TOKEN_POSITION", "top")]
)
def test_refused(key, value, mini, tmp_path):
    with pytest.raises(UserError, match=f"TRAINER.PROGRAD.{key} must be"):
        build("ProGrad", mini, tmp_path, f"TRAINER.PROGRAD.{key}", value)


@pytest.mark.parametrize("recipe", ["vit_b16", "rn50"])
def test_recipes_start_from_the_words_of_their_template(recipe):
    from dassl.data.datasets import DATASET_REGISTRY

    for dataset in sorted((configs_dir() / "datasets").glob("*.yaml")):
        if dataset.stem.startswith("emoji"):  # not published
            continue
        cfg = build_cfg("ProGrad", dataset, configs_dir() / f"trainers/ProGrad/{recipe}.yaml")
        own = DATASET_REGISTRY.get(cfg.DATASET.NAME).template
        options = cfg.TRAINER.PROGRAD
        assert f"{options.CTX_INIT} {{}}." == (options.TEMPLATE or own), dataset.stem
