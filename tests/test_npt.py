"""The trainer NPT and the regulariser npt, both NPT-style; there is no published code to match."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from mini_benchmark import cfg_of
from simplex import random_units

from promptclip import plugins, regularizers
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.losses import (
    ISOMORPHISM_FORMS,
    LANGUAGE_FORMS,
    language_modality_collapse,
    multi_modality_isomorphism,
)

MODELS = {name: method.Model for name, method in sorted(plugins.methods().items())}
LEARNERS = [name for name, model in MODELS.items() if model.learns & {"text", "image"}]


def step(method, mini, output, *overrides, rate=0.01):
    """A trainer, and what the first step of its first epoch reports."""
    cfg = cfg_of(method, mini, output, *overrides)
    set_random_seed(1)
    trainer = build_trainer(cfg)
    trainer.before_train()
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx, trainer.epoch = 2, 0, 0
    for optimizer in trainer._optims.values():
        optimizer.param_groups[0]["lr"] = rate
    return trainer, trainer.forward_backward(next(iter(trainer.train_loader_x)))


@pytest.mark.parametrize("method", LEARNERS)
def test_the_regulariser_goes_with_every_method_that_learns_features(method, mini, tmp_path):
    node = ("TRAINER.REGULARIZERS", "npt", "REGULARIZER.NPT.LC_WEIGHT", 0.5)
    trainer, report = step(method, mini, tmp_path, *node)
    assert ("loss_npt_lc" in report) == ("text" in MODELS[method].learns)
    assert report["loss_npt_mi"] > 0
    terms = sum(value for name, value in report.items() if name.startswith("loss_"))
    assert report["loss"] == pytest.approx(terms, rel=1e-5)
    for module in trainer._models.values():
        assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("lc", LANGUAGE_FORMS)
@pytest.mark.parametrize("mi", ISOMORPHISM_FORMS)
def test_every_form_can_be_chosen(lc, mi, mini, tmp_path):
    chosen = ("TRAINER.REGULARIZERS", "npt", "REGULARIZER.NPT.LC", lc, "REGULARIZER.NPT.MI", mi)
    _, added = step("CoOp", mini, tmp_path / "coop", *chosen)
    trainer, own = step("NPT", mini, tmp_path / "npt", "TRAINER.NPT.LC", lc, "TRAINER.NPT.MI", mi)
    assert (trainer.options.lc, trainer.options.mi) == (lc, mi)
    assert added["loss_npt_lc"] > 0
    assert own["loss_lc"] > 0


def output_of(classes=5, per_image=False):
    image = random_units(6, 8)
    text = random_units(6, classes, 8, seed=1) if per_image else random_units(classes, 8, seed=1)
    logits = torch.randn(6, classes, dtype=torch.float64)
    return SimpleNamespace(image_features=image, text_features=text, logits=logits)


LABEL = torch.tensor([0, 0, 0, 2, 2, 4])


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("learned", [{"text"}, {"image"}, {"text", "image"}])
def test_terms_are_weighted_and_those_that_cannot_move_left_out(learned, per_image):
    npt = regularizers.NeuralCollapse(lc="centred", mi="samples", lc_weight=2.0, mi_weight=3.0)
    npt.prepare(SimpleNamespace(model=SimpleNamespace(learns=frozenset(learned))))
    output = output_of(per_image=per_image)
    terms = npt.terms(output, LABEL)
    image, text = output.image_features, output.text_features
    expected = {"npt_mi": 3 * multi_modality_isomorphism(image, text, LABEL, "samples")}
    if "text" in learned:
        expected["npt_lc"] = 2 * language_modality_collapse(text, "centred")
    torch.testing.assert_close(terms, expected)


def test_the_trainer_adds_both_losses_to_the_cross_entropy():
    method = plugins.methods()["NPT"]
    options = method.Options(lc_weight=2.0, mi_weight=3.0)
    output = output_of()
    terms = method.losses(SimpleNamespace(options=options), output, LABEL)
    image, text = output.image_features, output.text_features
    expected = {
        "ce": F.cross_entropy(output.logits, LABEL),
        "lc": 2 * language_modality_collapse(text),
        "mi": 3 * multi_modality_isomorphism(image, text, LABEL),
    }
    torch.testing.assert_close(terms, expected)


def test_weights_of_0_leave_the_gradients_and_still_report(mini, tmp_path):
    off = ("REGULARIZER.NPT.LC_WEIGHT", 0, "REGULARIZER.NPT.MI_WEIGHT", 0)
    plain, _ = step("CoOp", mini, tmp_path / "plain")
    weighed, report = step("CoOp", mini, tmp_path / "off", "TRAINER.REGULARIZERS", "npt", *off)
    assert report["loss_npt_lc"] == report["loss_npt_mi"] == 0
    for one, other in zip(
        plain.model.prompt_learner.parameters(),
        weighed.model.prompt_learner.parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("loss", ["lc", "mi"])
def test_a_heavy_weight_brings_its_loss_down(loss, mini, tmp_path):
    weights = {f"TRAINER.NPT.{name}_WEIGHT": 0 for name in ("LC", "MI")}
    weights[f"TRAINER.NPT.{loss.upper()}_WEIGHT"] = 20
    pairs = [part for pair in weights.items() for part in pair]
    trainer, report = step("NPT", mini, tmp_path, *pairs)
    first = report[f"loss_{loss}"]
    batch = next(iter(trainer.train_loader_x))
    for _ in range(20):
        report = trainer.forward_backward(batch)
    assert report[f"loss_{loss}"] < 0.9 * first


def test_both_towers_are_prompted(mini, tmp_path):
    options = ("TRAINER.NPT.CTX_INIT", "a photo of a", "TRAINER.NPT.VIS_NUM_TOKENS", 5)
    trainer, _ = step("NPT", mini, tmp_path, *options, "TRAINER.NPT.PROMPT_DEPTH", 2)
    config = trainer.model.clip.config
    shapes = {name: tuple(p.shape) for name, p in trainer.model.prompt_learner.named_parameters()}
    assert shapes == {"text.ctx": (4, config.text_width), "image.ctx": (2, 5, config.visual_width)}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TRAINER.NPT.LC", "flat", "LC must be one of target, centred, spread, got 'flat'"),
        ("TRAINER.NPT.MI", "flat", "MI must be one of means, samples, gram, got 'flat'"),
        ("TRAINER.NPT.LC_WEIGHT", -1, "LC_WEIGHT must be at least 0"),
        ("TRAINER.NPT.MI_WEIGHT", -1, "MI_WEIGHT must be at least 0"),
        ("TRAINER.NPT.N_CTX", 0, "N_CTX must be at least 1"),
        ("TRAINER.NPT.VIS_NUM_TOKENS", 0, "VIS_NUM_TOKENS must be at least 1"),
        ("TRAINER.NPT.PROMPT_DEPTH", 0, "PROMPT_DEPTH must be at least 1"),
        ("REGULARIZER.NPT.LC", "flat", "REGULARIZER.NPT.LC must be one of target"),
        ("REGULARIZER.NPT.MI", "flat", "REGULARIZER.NPT.MI must be one of means"),
        ("REGULARIZER.NPT.LC_WEIGHT", -1, "REGULARIZER.NPT.LC_WEIGHT must be at least 0"),
        ("REGULARIZER.NPT.MI_WEIGHT", -1, "REGULARIZER.NPT.MI_WEIGHT must be at least 0"),
    ],
)
def test_bad_values_are_named(key, value, message, mini, tmp_path):
    with pytest.raises(UserError, match=message):
        cfg_of("NPT", mini, tmp_path, "TRAINER.REGULARIZERS", "npt", key, value)


def test_a_depth_beyond_the_tower_is_named(mini, tmp_path):
    with pytest.raises(UserError, match="PROMPT_DEPTH must be at most 3, the layers .* got 4"):
        build_trainer(cfg_of("NPT", mini, tmp_path, "TRAINER.NPT.PROMPT_DEPTH", 4))


def test_the_hash_knows_the_regulariser_only_where_it_is_used(mini, tmp_path):
    def hashed(*overrides):
        return config_hash(cfg_of("CoOp", mini, tmp_path, *overrides))

    weight = ("REGULARIZER.NPT.MI_WEIGHT", 7)
    used = ("TRAINER.REGULARIZERS", "npt")
    assert hashed() == hashed(*weight)
    assert len({hashed(), hashed(*used), hashed(*used, *weight)}) == 3


@pytest.mark.parametrize("options", [("NPT",), ("CoOp", "TRAINER.REGULARIZERS", "npt")])
def test_a_run_says_that_it_is_no_reproduction(options, mini, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "promptclip"):
        step(options[0], mini, tmp_path, *options[1:])
    assert "NPT-style" in caplog.text
