"""Losses that any method can take on: on every method that learns what they act on."""

from __future__ import annotations

import pytest
import torch
from mini_benchmark import batch_of, build, cfg_of
from torch.nn import functional as F

from promptclip import plugins, regularizers
from promptclip.config import config_difference, config_hash
from promptclip.errors import UserError
from promptclip.losses import inter_dispersion, knowledge_distance
from promptclip.run import run

METHODS = {name: method.Model.learns for name, method in sorted(plugins.methods().items())}
NAMES = sorted(regularizers.defaults())  # as in configuration keys
NAMES = [name.lower() for name in NAMES]
ACTS_ON = {name: regularizers._REGISTRY[name].acts_on for name in NAMES}
PAIRS = [(name, method) for name in NAMES for method in METHODS if ACTS_ON[name] & METHODS[method]]
REFUSED = [(name, m) for name in NAMES for m in METHODS if not ACTS_ON[name] & METHODS[m]]


def names(*wanted):
    return ("TRAINER.REGULARIZERS", ",".join(wanted))


def step(trainer):
    """The summary of one step at the trainer's own rate, and the gradients of what is learned."""
    trainer.before_train()
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.batch_idx = 2, 0
    batch = batch_of(trainer)
    torch.manual_seed(0)  # of a method that draws in a step
    summary = trainer.forward_backward(batch)
    gradients = {
        f"{learner}.{name}": parameter.grad
        for learner, module in trainer._models.items()
        for name, parameter in module.named_parameters()
    }
    return summary, gradients


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_step_with_it(name, method, mini, tmp_path):
    own, without = step(build(method, mini, tmp_path / "own"))
    both, gradients = step(build(method, mini, tmp_path / "both", *names(name)))
    old = {key for key in own if key.startswith("loss_")} or {"loss_ce"}
    added = both.keys() - own.keys() - old
    assert added
    assert all(key.startswith("loss_") for key in added)
    for key in old & own.keys():  # the method's own terms are as they were
        assert both[key] == pytest.approx(own[key], rel=1e-5)
    extra = sum(both[key] for key in added)
    assert both["loss"] == pytest.approx(own["loss"] + extra, rel=1e-5)
    assert any(not torch.equal(gradients[key], one) for key, one in without.items())


@pytest.mark.parametrize(("name", "method"), REFUSED)
def test_refused_where_there_is_nothing_to_act_on(name, method, mini, tmp_path):
    with pytest.raises(UserError, match=f"'{name}' acts on .* {method} .*leave it out of TRAINER"):
        cfg_of(method, mini, tmp_path, *names(name))


def test_zero_shot_clip_is_refused():
    assert {name for name, method in REFUSED if method == "ZeroshotCLIP"} == set(NAMES)


@pytest.mark.parametrize("wanted", [["another"], ["kgcoop", "kgcoop"], ["kgcoop", "KgCoOp"]])
def test_unknown_or_named_twice(wanted, mini, tmp_path):
    message = "TRAINER.REGULARIZERS must name some of .*dapt.*kgcoop.*, each once; got "
    with pytest.raises(UserError, match=message + ", ".join(wanted).lower()):
        cfg_of("CoOp", mini, tmp_path, *names(*wanted))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("KGCOOP.W", -1.0, "at least 0"),
        ("KGCOOP.TEMPLATE", "a dog", 'text with "{}"'),
        ("DAPT.VIS_BETA", -0.1, "at least 0"),
    ],
)
def test_option_out_of_range(key, value, expected, mini, tmp_path):
    name = key.split(".")[0].lower()
    message = f"REGULARIZER.{key} must be {expected}, got {value!r}"
    with pytest.raises(UserError, match=message):
        cfg_of("CoOp", mini, tmp_path, *names(name), f"REGULARIZER.{key}", value)


def test_the_hash_covers_what_is_used(mini, tmp_path):
    def cfg(*overrides):
        return cfg_of("CoOp", mini, tmp_path, *overrides)

    plain = cfg()
    assert config_hash(cfg("REGULARIZER.KGCOOP.W", 1.0)) == config_hash(plain)
    used = cfg(*names("kgcoop"))
    assert "TRAINER.REGULARIZERS: ['kgcoop'], not 'absent'" in config_difference(used, plain)
    other = [
        cfg(*names("kgcoop"), "REGULARIZER.KGCOOP.W", 1.0),
        cfg(*names("dapt")),
        cfg(*names("dapt", "kgcoop")),
    ]
    assert len({config_hash(one) for one in (plain, used, *other)}) == 5
    assert config_hash(cfg(*names("kgcoop"), "REGULARIZER.DAPT.VIS_BETA", 9.0)) == config_hash(used)


def test_a_run_with_two(mini, tmp_path):
    cfg = cfg_of("DAPT", mini, tmp_path, *names("dapt", "kgcoop"), "OPTIM.MAX_EPOCH", 1)
    assert cfg.TRAINER.REGULARIZERS == ["dapt", "kgcoop"]
    assert run(cfg)["metrics"]
    log = (tmp_path / "log.txt").read_text()
    for term in ("ce", "intra", "inter", "dapt_intra", "dapt_inter", "kgcoop"):
        assert f"loss_{term} " in log
    shown = [line.strip() for line in log.splitlines()]
    assert "REGULARIZERS: ['dapt', 'kgcoop']" in shown
    assert shown.count("TXT_RBF_T: 2.0") == 2


def equal(ours, theirs):
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert ours["acc"] == theirs["acc"]


def test_kgcoop_is_coop_with_its_distance(mini, tmp_path):
    template = ("TEMPLATE", "a drawing of the {}.")
    trainer = build(
        "KgCoOp", mini, tmp_path / "own", "TRAINER.KGCOOP.CTX_INIT", "a photo of a",
        "TRAINER.KGCOOP.W", 3.0, f"TRAINER.KGCOOP.{template[0]}", template[1],
    )  # fmt: skip
    composed = build(
        "CoOp", mini, tmp_path / "coop", "TRAINER.COOP.CTX_INIT", "a photo of a",
        *names("kgcoop"), "REGULARIZER.KGCOOP.W", 3.0, f"REGULARIZER.KGCOOP.{template[0]}",
        template[1],
    )  # fmt: skip
    (ours, gradient), (theirs, other) = step(trainer), step(composed)
    equal(ours, theirs)
    assert ours["loss_ce"] == theirs["loss_ce"]
    assert ours["loss_kg"] == theirs["loss_kgcoop"] > 0
    torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8)


def test_dapt_is_its_prompts_with_its_dispersion(mini, tmp_path):
    betas = {"VIS_BETA": 10.0, "TXT_BETA": 0.5, "TXT_RBF_T": 3.0}

    def given(section, **values):
        return [word for key, value in values.items() for word in (f"{section}.{key}", value)]

    trainer = build("DAPT", mini, tmp_path / "own", *given("TRAINER.DAPT", **betas))
    composed = build(
        "DAPT", mini, tmp_path / "composed", *names("dapt"), *given("REGULARIZER.DAPT", **betas),
        *given("TRAINER.DAPT", VIS_BETA=0.0, TXT_BETA=0.0),
    )  # fmt: skip
    (ours, gradient), (theirs, other) = step(trainer), step(composed)
    equal(ours, theirs)
    for term in ("intra", "inter"):
        assert theirs[f"loss_{term}"] == 0
        assert ours[f"loss_{term}"] == theirs[f"loss_dapt_{term}"] > 0
    torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8)


def test_dispersion_is_only_of_what_is_learned(mini, tmp_path):
    summary, _ = step(build("CoOp", mini, tmp_path, *names("dapt")))
    assert "loss_dapt_inter" in summary
    assert "loss_dapt_intra" not in summary
    assert not (tmp_path / "class_means.safetensors").exists()  # nor computed for nothing


def units(*shape):
    torch.manual_seed(0)
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("loss", ["inter", "knowledge"])
def test_text_features_of_each_image(loss):
    text, known = units(4, 5, 16), units(5, 16)

    def value(features):
        return (
            inter_dispersion(features, 2.0)
            if loss == "inter"
            else knowledge_distance(features, known)
        )

    alone = torch.stack([value(one) for one in text])
    torch.testing.assert_close(value(text), alone.mean())
    shared = units(5, 16)
    torch.testing.assert_close(value(shared.expand(4, -1, -1)), value(shared))


def test_distance():
    known = units(5, 16)
    assert knowledge_distance(known, known) == 0
    assert knowledge_distance(-known, known) == pytest.approx(2)
    text = units(6, 16)[1:]
    cosines = F.cosine_similarity(text, known)
    torch.testing.assert_close(knowledge_distance(text, known), 1 - cosines.mean())


def test_words_that_are_the_template_start_at_no_distance(mini, tmp_path):
    trainer = build(
        "KgCoOp", mini, tmp_path, "TRAINER.KGCOOP.TEMPLATE", "a photo of a {}.",
        "TRAINER.KGCOOP.CTX_INIT", "a photo of a",
    )  # fmt: skip
    summary, gradients = step(trainer)
    assert 0 <= summary["loss_kg"] < 1e-9
    assert all(one.isfinite().all() for one in gradients.values())
