"""Zero-shot ensembles, CLIP-Adapter, Tip-Adapter, the linear probe, and what they chose."""

from __future__ import annotations

import random
import types
from typing import Any

import numpy as np
import pytest
import torch
from mini_benchmark import CLASSES, Mini, build, cfg_of
from random_clip import TINY
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torch.utils.data import DataLoader

from promptclip import logistic
from promptclip.cache import Cache, search
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.run import run
from promptclip.templates import IMAGENET, IMAGENET_SELECT
from promptclip.trainer import Origin, unit


def images(trainer: Any) -> torch.Tensor:
    """The first test batch."""
    batch: dict[str, torch.Tensor] = next(iter(trainer.test_loader))
    return batch["img"]


# ---------------------------------------------------------------- ensembles


def test_published_prompts():
    assert len(IMAGENET) == len(set(IMAGENET)) == 80
    assert len(IMAGENET_SELECT) == 7
    assert set(IMAGENET_SELECT) < set(IMAGENET)
    assert all(template.count("{}") == 1 for template in IMAGENET)


@pytest.mark.parametrize(
    ("choice", "templates"),
    [
        ("benchmark", (Mini.template,)),
        ("select", (*IMAGENET_SELECT, Mini.template)),
        ("imagenet", IMAGENET),
    ],
)
def test_an_ensemble_is_the_mean_of_unit_vectors(choice, templates, mini, tmp_path):
    trainer = build("ZeroshotCLIP", mini, tmp_path, "TRAINER.ZEROSHOTCLIP.TEMPLATES", choice)
    expected = sum(unit(trainer.model.encode_template(template)) for template in templates)
    torch.testing.assert_close(trainer.model.unit_text_features(), unit(expected))


def test_on_imagenet_the_seven_are_all(mini, tmp_path):
    trainer = build("ZeroshotCLIP", mini, tmp_path, "TRAINER.ZEROSHOTCLIP.TEMPLATES", "select")
    assert len(trainer.model.templates) == 8
    trainer.cfg = trainer.cfg.clone()
    trainer.cfg.defrost()
    trainer.cfg.DATASET.NAME = "ImageNet"
    trainer.build_model()
    assert trainer.model.templates == IMAGENET_SELECT


@pytest.mark.parametrize("method", ["ZeroshotCLIP", "TipAdapter"])
def test_unknown_templates(method, mini, tmp_path):
    with pytest.raises(UserError, match="TEMPLATES must be .* got 'eighty'"):
        cfg_of(method, mini, tmp_path, f"TRAINER.{method.upper()}.TEMPLATES", "eighty")


# ------------------------------------------------------------- CLIP-Adapter


def test_clip_adapter_by_hand(mini, tmp_path):
    key = "TRAINER.CLIPADAPTER."
    trainer = build("CLIPAdapter", mini, tmp_path, f"{key}RATIO", 0.6, f"{key}REDUCTION", 3)
    model, pixels = trainer.model, images(trainer)
    first, second = (p.detach() for p in model.prompt_learner.parameters())
    assert first.shape == (TINY.embed_dim // 3, TINY.embed_dim)
    frozen = model.clip.encode_image(pixels)
    new = (F.relu(frozen @ first.T) @ second.T).clamp(min=0)
    output = model(pixels)
    torch.testing.assert_close(output.image_features, unit(0.6 * new + 0.4 * frozen))
    torch.testing.assert_close(output.text_features, model.template_features())


def test_clip_adapter_takes_another_template(mini, tmp_path):
    key = "TRAINER.CLIPADAPTER.TEMPLATE"
    model = build("CLIPAdapter", mini, tmp_path, key, "a drawing of a {}.").model
    torch.testing.assert_close(
        model.unit_text_features(), model.template_features("a drawing of a {}.")
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("RATIO", 0.0, "in (0, 1]"),
        ("REDUCTION", 0, f"1 to {TINY.embed_dim}, the features"),
        ("REDUCTION", TINY.embed_dim + 1, f"1 to {TINY.embed_dim}, the features"),
        ("TEMPLATE", "a photo", 'text with "{}"'),
    ],
)
def test_clip_adapter_refuses(key, value, expected, mini, tmp_path):
    with pytest.raises(UserError) as caught:
        build("CLIPAdapter", mini, tmp_path, f"TRAINER.CLIPADAPTER.{key}", value)
    assert f"TRAINER.CLIPADAPTER.{key} must be {expected}, got {value!r}" in str(caught.value)


# -------------------------------------------------------------- Tip-Adapter


FREE = ("TRAINER.TIPADAPTER.FINETUNE", False)
FIXED = ("TRAINER.TIPADAPTER.SEARCH", "none")


def test_keys_are_unit_means_of_views_and_values_are_labels(mini, tmp_path):
    trainer = build("TipAdapter", mini, tmp_path, "TRAINER.TIPADAPTER.AUGMENT_EPOCH", 3)
    trainer.fill_cache()
    cache, pictures = trainer.model.prompt_learner, trainer.train_loader_x.dataset
    torch.manual_seed(trainer.cfg.SEED)
    views = [next(iter(DataLoader(pictures, 100)))["img"] for _ in range(3)]
    assert not torch.equal(views[0], views[1])
    features = torch.stack([trainer.model.clip.encode_image(view) for view in views])
    torch.testing.assert_close(cache.keys.detach(), unit(features.mean(0)), atol=1e-5, rtol=1e-5)
    labels = [pictures.data_source[i].label for i in range(len(pictures))]
    assert cache.values.argmax(1).tolist() == labels
    assert cache.values.sum() == len(labels)


def test_the_views_draw_from_generators_of_their_own(mini, tmp_path):
    trainer = build("TipAdapter", mini, tmp_path)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    trainer.fill_cache()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    first = trainer.model.prompt_learner.keys.detach().clone()
    torch.rand(5)
    trainer.fill_cache()
    assert torch.equal(first, trainer.model.prompt_learner.keys.detach())


def test_logits_by_hand_and_the_choice_is_for_tests(mini, tmp_path):
    trainer = build("TipAdapter", mini, tmp_path)
    trainer.fill_cache()
    model, pixels = trainer.model, images(trainer)
    model.chosen.update(alpha=2.0, beta=5.0)
    keys, values = model.prompt_learner.keys.detach(), model.prompt_learner.values
    features = unit(model.clip.encode_image(pixels))
    known = model.clip.logit_scale * features @ model.template_features().T
    for mode, alpha, beta in (("train", 1.17, 1.0), ("eval", 2.0, 5.0)):
        trainer.set_model_mode(mode)
        near = torch.exp(-beta * (1 - features @ keys.T)) @ values
        torch.testing.assert_close(model(pixels).logits.detach(), known + alpha * near)


def test_search_takes_the_first_of_the_best():
    torch.manual_seed(0)
    cache = Cache([0, 0, 1, 2, 2], 6, 3, learned=False)
    cache.keys.data.copy_(unit(torch.randn(5, 6)))
    features, label, logits = unit(torch.randn(40, 6)), torch.arange(40) % 3, torch.randn(40, 3)
    best = (-1.0, 0.0, 0.0)
    for i in range(8):
        for j in range(5):
            beta, alpha = 0.1 + i * (6 - 0.1) / 8, 0.1 + j * (4 - 0.1) / 5
            whole = logits + alpha * cache(features, beta)
            accuracy = (whole.argmax(-1) == label).double().mean().item()
            if accuracy > best[0]:
                best = accuracy, beta, alpha
    found = search(cache, features, label, logits, (6, 4), (8, 5))
    assert found == pytest.approx((best[1], best[2], 100 * best[0]))


@pytest.mark.parametrize("variant", [(), FREE], ids=["learned", "free"])
def test_a_run_says_what_it_chose_and_its_checkpoint_knows(variant, mini, tmp_path):
    trained = run(cfg_of("TipAdapter", mini, tmp_path / "train", *variant))
    assert trained["tuned_on"] == "validation"
    assert trained["chosen"].keys() == {"alpha", "beta"}
    assert trained["trainable_parameters"] == (0 if variant else 20 * TINY.embed_dim)
    # Another seed and fewer shots: other training pictures, and another number of them
    tested = run(
        cfg_of("TipAdapter", mini, tmp_path / "test", *variant, "DATASET.NUM_SHOTS", 1, seed=2),
        eval_only=True,
        model_dir=str(tmp_path / "train"),
        load_epoch=3,
    )
    for what in ("metrics", "per_class", "tuned_on", "chosen"):
        assert tested[what] == trained[what]


@pytest.mark.parametrize("variant", [(), FREE], ids=["learned", "free"])
def test_nothing_chosen(variant, mini, tmp_path):
    result = run(cfg_of("TipAdapter", mini, tmp_path, *variant, *FIXED))
    assert (result["tuned_on"], result["chosen"]) == ("none", {})


def test_best_on_validation_keeps_its_own_choice(mini, tmp_path):
    key = ("TEST.FINAL_MODEL", "best_val", "TRAINER.TIPADAPTER.SEARCH_STEP", (20, 5))
    result = run(cfg_of("TipAdapter", mini, tmp_path, *key))
    file = tmp_path / "prompt_learner" / "model-best.pth.tar"
    state = torch.load(file, weights_only=True)["state_dict"]
    assert result["chosen"] == state["origin._extra_state"]["chosen"]


def test_training_free_runs_repeat_and_differ_by_seed(mini, tmp_path):
    keys = []
    for index, seed in enumerate((1, 1, 2)):
        run(cfg_of("TipAdapter", mini, tmp_path / str(index), *FREE, seed=seed))
        file = tmp_path / str(index) / "prompt_learner" / "model.pth.tar-3"
        keys.append(torch.load(file, weights_only=True)["state_dict"]["keys"])
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])


def test_learned_keys_start_from_a_checkpoint(mini, tmp_path):
    run(cfg_of("TipAdapter", mini, tmp_path / "first", *FREE, "DATASET.NUM_SHOTS", 2))
    file = tmp_path / "first" / "prompt_learner" / "model.pth.tar-3"
    trainer = build("TipAdapter", mini, tmp_path / "next", "MODEL.INIT_WEIGHTS", str(file))
    trainer.before_train()
    trainer.close_writer()
    keys = torch.load(file, weights_only=True)["state_dict"]["keys"]
    assert torch.equal(trainer.model.prompt_learner.keys, keys)


@pytest.mark.parametrize("variant", [(), FREE], ids=["learned", "free"])
def test_a_cache_of_other_classes(variant, mini, tmp_path):
    base = (*variant, "DATASET.SUBSAMPLE_CLASSES", "base")
    run(cfg_of("TipAdapter", mini, tmp_path / "base", *base))
    trainer = build("TipAdapter", mini, tmp_path / "all", *variant)
    with pytest.raises(UserError) as caught:
        trainer.load_model(str(tmp_path / "base"), epoch=3)
    message = str(caught.value)
    assert "TipAdapter cannot change classes" in message
    assert "made for 3 classes, this run has 5" in message
    assert "'white ox', 'yellow fire engine'" in message


def test_classes_in_another_order():
    saved = Origin("TipAdapter", "B", ["cat", "dog"]).get_extra_state()
    Origin("TipAdapter", "B", ["cat", "dog"]).set_extra_state(saved)
    with pytest.raises(UserError, match="classes.*they differ in 'their order'"):
        Origin("TipAdapter", "B", ["dog", "cat"]).set_extra_state(saved)


@pytest.mark.parametrize("label", [[0, 0, 1, 5], [0, 0, -1, 1], [0, 1]])
def test_labels_that_do_not_fit(label):
    cache = Cache([0, 1, 2, 2], 3, 3, learned=False)
    with pytest.raises(UserError, match=r"expected a label for each key, from 0 to 2"):
        cache.load_state_dict({"keys": torch.zeros(4, 3), "_extra_state": {"label": label}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ALPHA", -1.0),
        ("BETA", -1.0),
        ("AUGMENT_EPOCH", 0),
        ("SEARCH", "test"),
        ("SEARCH_SCALE", (7.0,)),
        ("SEARCH_STEP", (200, 0)),
    ],
)
def test_tip_adapter_refuses(key, value, mini, tmp_path):
    with pytest.raises(UserError, match=f"TRAINER.TIPADAPTER.{key} must be"):
        cfg_of("TipAdapter", mini, tmp_path, f"TRAINER.TIPADAPTER.{key}", value)


# ------------------------------------------------- pictures to choose with


@pytest.mark.parametrize("method", ["TipAdapter", "LinearProbe"])
@pytest.mark.parametrize("part", ["none", "empty", "test"])
def test_nothing_is_chosen_on_test_pictures(part, method, mini, tmp_path):
    """As on ImageNet, where CoOp's layout has no validation pictures."""
    trainer = build(method, mini, tmp_path)
    test = trainer.dm.dataset.test
    val = {"none": None, "empty": [], "test": test[:1]}[part]
    trainer.dm.dataset = types.SimpleNamespace(
        train_x=trainer.dm.dataset.train_x, val=val, test=test
    )
    why = "they are the test pictures" if part == "test" else "are none"
    with pytest.raises(UserError, match=f"{why}; set TRAINER.{method.upper()}.SEARCH none"):
        trainer.train()
    assert not list(tmp_path.glob("prompt_learner/*"))


@pytest.mark.parametrize("method", ["TipAdapter", "LinearProbe"])
@pytest.mark.parametrize("file", ["vit_b16", "rn50"])
def test_recipes_choose_nothing_on_imagenet(file, method):
    yaml = configs_dir() / "trainers" / method / f"{file}.yaml"
    for dataset, expected in (("imagenet", "none"), ("caltech101", "val")):
        cfg = build_cfg(method, configs_dir() / "datasets" / f"{dataset}.yaml", yaml)
        assert cfg.TRAINER[method.upper()].SEARCH == expected


@pytest.mark.parametrize("method", ["TipAdapter", "LinearProbe"])
def test_regularisers_are_refused(method, mini, tmp_path, monkeypatch):
    from promptclip import regularizers

    class Both(regularizers.Regularizer):
        name = "both"
        acts_on = frozenset({"text", "image"})

    monkeypatch.setitem(regularizers._REGISTRY, "both", Both)
    with pytest.raises(UserError, match=f"'both' acts on image and text.* but {method} learns"):
        cfg_of(method, mini, tmp_path, "TRAINER.REGULARIZERS", ["both"])


# ------------------------------------------------------------- linear probe


def blobs(classes: int, count: int, spread: float = 2.0, width: int = 12) -> tuple[Any, Any]:
    """Features of overlapping classes, shifted as CLIP's are, and labels."""
    random = np.random.default_rng(classes)
    centres = random.normal(size=(classes, width))
    label = np.arange(count) % classes
    features = centres[label] + spread * random.normal(size=(count, width)) + 3
    return features.astype(np.float32), label


def probabilities(features: Any, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    return (torch.from_numpy(features).double() @ weight.T + bias).softmax(-1).numpy()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("c", [1e-4, 1e-2, 0.316, 1.0, 100.0])
def test_same_optimum_as_scikit_learn(c, classes):
    features, label = blobs(classes, 200)
    probe, _ = blobs(classes, 50, spread=4.0)
    theirs = LogisticRegression(C=c, max_iter=20_000, tol=1e-9).fit(features.astype(float), label)
    ours = logistic.fit(torch.from_numpy(features), torch.from_numpy(label), classes, c)
    difference = np.abs(probabilities(probe, *ours) - theirs.predict_proba(probe.astype(float)))
    assert difference.max() < (1e-4 if c <= 1 else 1e-3)


def published_search(train: Any, val: Any, rounds: int, **stop: float) -> tuple[float, Any]:
    """What lpclip/linear_probe.py does, told anew: C, and the classifier of the last round."""

    def fitted(c: float) -> tuple[float, Any]:
        model = LogisticRegression(solver="lbfgs", C=c, **{"max_iter": 1000, **stop}).fit(*train)
        return float((model.predict(val[0]) == val[1]).mean()), model

    grid = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    peak = grid[int(np.argmax([fitted(c)[0] for c in grid]))]
    low, high = peak / 10, peak * 10
    for _ in range(rounds):
        (left, one), (right, other) = fitted(low), fitted(high)
        middle = 10 ** ((np.log10(low) + np.log10(high)) / 2)
        if left < right:
            best, low = (high, other), middle
        else:
            best, high = (low, one), middle
    return best


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [5, 10])
@pytest.mark.parametrize(
    ("spread", "rounds", "stop"),
    [
        (1.0, 1, {}),
        (1.0, 8, {}),
        # scikit-learn's own tolerance leaves a strongly penalised classifier near its start, and
        # the search then goes elsewhere
        (1.5, 8, {"tol": 1e-8, "max_iter": 2000}),
    ],
)
def test_same_choice_as_the_published_search(spread, rounds, stop, classes):
    features, label = blobs(classes, 800, spread)
    features *= np.float32(0.1)
    train, val = (features[:200], label[:200]), (features[200:], label[200:])
    c, theirs = published_search(train, val, rounds, **stop)

    def solve(exponent: float) -> Any:
        return logistic.fit(*map(torch.from_numpy, train), classes, 10**exponent)

    def accuracy(exponent: float) -> float:
        return float((probabilities(val[0], *solve(exponent)).argmax(-1) == val[1]).mean())

    exponent = logistic.search(accuracy, rounds)
    assert 10**exponent == pytest.approx(c)
    ours = probabilities(val[0], *solve(exponent))
    assert np.abs(ours - theirs.predict_proba(val[0])).max() < (1e-3 if stop else 2e-2)
    assert (ours.argmax(-1) == theirs.predict(val[0])).mean() > 0.99


def test_search_asks_once_and_prefers_the_first_and_the_left():
    asked: list[float] = []

    def flat(exponent: float) -> float:
        asked.append(exponent)
        return 0.5

    assert logistic.search(flat, 8) == 5.0  # a tenth of 1e6, the first of the list
    assert len(asked) == len(set(asked))


def test_linear_probe_is_scikit_learns_on_raw_test_views(mini, tmp_path):
    trainer = build("LinearProbe", mini, tmp_path, "TRAINER.LINEARPROBE.SEARCH", "none")
    trainer.train()
    view = trainer.test_loader.dataset.transform
    pictures = [
        (view(trainer.train_loader_x.dataset._picture(item.impath)), item.label)
        for item in trainer.dm.dataset.train_x
    ]
    features = trainer.model.clip.encode_image(torch.stack([pixels for pixels, _ in pictures]))
    label = [label for _, label in pictures]
    theirs = LogisticRegression(C=0.316, max_iter=20_000, tol=1e-9)
    theirs.fit(features.double().numpy(), label)
    pixels = images(trainer)
    expected = theirs.predict_proba(trainer.model.clip.encode_image(pixels).double().numpy())
    with torch.no_grad():
        ours = trainer.model(pixels).logits.softmax(-1).numpy()
    assert np.abs(ours - expected).max() < 1e-3
    assert trainer.model.chosen == {}


def test_linear_probe_says_what_it_chose(mini, tmp_path):
    result = run(cfg_of("LinearProbe", mini, tmp_path))
    assert result["tuned_on"] == "validation"
    assert 1e-7 <= result["chosen"]["c"] <= 1e7
    assert result["trainable_parameters"] == len(CLASSES) * (TINY.embed_dim + 1)
    assert result["metrics"]["accuracy"] > 60  # one colour for each class


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
@pytest.mark.parametrize(
    "method", [("LinearProbe",), ("TipAdapter", *FREE)], ids=["LinearProbe", "TipAdapter"]
)
def test_fitted_in_other_precisions(method, precision, mini, tmp_path):
    logits = []
    for name in ("fp32", precision):
        key = f"TRAINER.{method[0].upper()}."
        trainer = build(
            method[0],
            mini,
            tmp_path / name,
            *method[1:],
            f"{key}PREC",
            name,
            f"{key}SEARCH",
            "none",
        )
        trainer.train()
        with torch.no_grad():
            logits.append(trainer.model(images(trainer)).logits)
    assert logits[0].dtype == logits[1].dtype == torch.float32
    assert (logits[1] - logits[0]).abs().max() < 0.1 * logits[0].abs().max()


@pytest.mark.parametrize(("key", "value"), [("C", 0.0), ("SEARCH", "test"), ("SEARCH_STEP", 0)])
def test_linear_probe_refuses(key, value, mini, tmp_path):
    with pytest.raises(UserError, match=f"TRAINER.LINEARPROBE.{key} must be"):
        cfg_of("LinearProbe", mini, tmp_path, f"TRAINER.LINEARPROBE.{key}", value)
