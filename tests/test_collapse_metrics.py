"""Measures of neural collapse: at collapse, in closed form, and in a run."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mini_benchmark import cfg_of
from simplex import random_units, rotation, simplex

from promptclip import collapse, plugins, results
from promptclip.collapse import METRICS, TestFeatures, collapse_metrics, listed
from promptclip.config import config_hash
from promptclip.report import training
from promptclip.run import run

AT_COLLAPSE = [name for name in METRICS if name != "effective_rank_text"]
METHODS = sorted(plugins.methods())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("classes", "dimensions"), [(2, 4), (5, 4), (5, 24), (100, 128)])
def test_every_measure_is_0_at_a_simplex(dtype, classes, dimensions):
    etf = simplex(classes, dimensions).to(dtype)
    label = torch.arange(classes).repeat_interleave(3)[1:]  # not all equally often
    found = collapse_metrics(etf[label], etf, label)
    assert tuple(found) == METRICS
    for name in AT_COLLAPSE:
        assert found[name] == pytest.approx(0, abs=1e-6), name
    assert found["effective_rank_text"] == pytest.approx(classes - 1, rel=1e-5)


def test_no_measure_is_0_for_random_features():
    label = torch.arange(10).repeat(8)
    found = collapse_metrics(random_units(80, 16), random_units(10, 16, seed=1), label)
    for name in AT_COLLAPSE:
        assert found[name] > 0.01, name


def test_classes_without_pictures():
    """Some corners of a simplex are, seen from their own mean, a simplex again."""
    etf = simplex(6, 8)
    label = torch.tensor([5, 0, 3, 3])
    found = collapse_metrics(etf[label], etf, label)
    for name in AT_COLLAPSE:
        assert found[name] == pytest.approx(0, abs=1e-6), name
    assert found["effective_rank_text"] == pytest.approx(5)
    # An answer that no mean stands for is one that the means disagree with
    answers = torch.tensor([5, 1, 3, 3])
    assert collapse_metrics(etf[label], etf, label, answers)["nc4_nearest_mean"] == 0.25


def test_variability_by_hand():
    # Two classes at -1 and 1, pictures at a distance d of their mean: d^2 / 1 / 2
    features = torch.tensor([[0.7], [1.3], [-1.1], [-0.9]])
    label = torch.tensor([0, 0, 1, 1])
    found = collapse_metrics(features, None, label)
    assert found["nc1_variability"] == pytest.approx((0.3**2 + 0.1**2) / 2 / 2)
    # Each class counts the same: more pictures of one change nothing
    more = torch.cat([features, features[:2]]), torch.cat([label, label[:2]])
    assert collapse_metrics(more[0], None, more[1])["nc1_variability"] == pytest.approx(
        found["nc1_variability"]
    )


@pytest.mark.parametrize(("classes", "dimensions"), [(4, 9), (9, 4)])
def test_variability_by_definition(classes, dimensions):
    features, label = random_units(60, dimensions), torch.arange(60) % classes
    groups = [features[label == c] for c in range(classes)]
    means = torch.stack([group.mean(0) for group in groups])
    within = torch.stack([group.T.cov(correction=0) for group in groups]).mean(0)
    between = means.T.cov(correction=0)
    expected = (within @ torch.linalg.pinv(between, rtol=1e-9)).trace() / classes
    found = collapse.variability(features, label, collapse.class_means(features, label))
    assert found == pytest.approx(expected.item())


def test_variability_does_not_divide_by_rounding():
    """Two classes of equal means: what separates them is a direction of rounding errors."""
    etf = simplex(4, 8).float()
    means = etf[[0, 1, 2, 2]]
    label = torch.arange(4).repeat(50)
    noise = 0.1 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    noise -= collapse.class_means(noise, label)[label].float()
    found = collapse_metrics(means[label] + noise, None, label)
    assert 0 < found["nc1_variability"] < 1


def test_geometry_by_hand():
    vectors = torch.tensor([[3.0, 0], [0, 1], [-1, 0]])
    length = torch.tensor([3.0, 1, 1])
    assert collapse.equinorm(vectors) == pytest.approx(
        (length.std(correction=0) / length.mean()).item()
    )
    cosines = torch.tensor([0.0, -1, 0])
    assert collapse.equiangular(vectors) == pytest.approx(cosines.std(correction=0).item())
    assert collapse.max_angle(vectors) == pytest.approx((cosines + 0.5).abs().mean().item())


def test_self_duality_by_hand():
    a, b = random_units(5, 8), random_units(5, 8, seed=1)
    assert collapse.self_duality(a, 7 * a) == pytest.approx(0)
    assert collapse.self_duality(a, -a) == pytest.approx(4)
    cosine = (a * b).sum() / a.norm() / b.norm()
    assert collapse.self_duality(a, b) == pytest.approx(2 - 2 * cosine.item())


def test_a_rotation_between_the_modalities_is_seen_by_duality_alone():
    etf = simplex(5, 8)
    label = torch.arange(5)
    found = collapse_metrics(etf @ rotation(8, seed=3), etf, label, label)
    assert found["nc3_self_duality"] > 0.1
    for name in AT_COLLAPSE:
        if name != "nc3_self_duality":
            assert found[name] == pytest.approx(0, abs=1e-6), name


def test_disagreement_by_hand():
    text = torch.tensor([[1.0, 0], [0, 1]])
    image = F.normalize(torch.tensor([[1, 0.1], [1, 0.9], [0.9, 1], [0.6, 1]]), dim=-1)
    label = torch.tensor([0, 1, 1, 1])
    # The second picture is nearer to the first class's text and the second one's mean
    assert collapse_metrics(image, text, label)["nc4_nearest_mean"] == 0.25
    assert collapse_metrics(image, text, label, 1 - label)["nc4_nearest_mean"] == 1


@pytest.mark.parametrize(
    ("vectors", "rank"),
    [(torch.eye(6)[:4], 4), (torch.ones(4, 6), 1), (simplex(4, 6), 3), (torch.eye(6)[:1], 1)],
)
def test_effective_rank(vectors, rank):
    assert collapse.effective_rank(vectors) == pytest.approx(rank)


def test_one_picture_of_each_class():
    features = random_units(5, 8)
    found = collapse_metrics(features, random_units(5, 8, seed=1), torch.arange(5))
    assert found["nc1_variability"] == pytest.approx(0)
    assert None not in found.values()


def test_what_cannot_be_said_is_none():
    features, text, label = random_units(6, 8), random_units(3, 8, seed=1), torch.arange(6) % 3
    one_class = collapse_metrics(features, text, torch.full((6,), 2))
    of_text = {name for name in METRICS if name.endswith("_text")}
    assert {name for name, value in one_class.items() if value is not None} == of_text
    one_name = collapse_metrics(features, text[:1].expand(3, -1), label)
    assert one_name["nc3_self_duality"] is one_name["nc2_equinorm_text"] is None
    assert one_name["effective_rank_text"] == pytest.approx(1)
    same_means = collapse_metrics(features[:1].expand(6, -1), text, label)
    assert same_means["nc1_variability"] is same_means["nc4_nearest_mean"] is None
    no_text = collapse_metrics(features, None, label)
    assert {name for name, value in no_text.items() if value is None} == {
        *of_text, "nc3_self_duality", "nc4_nearest_mean"
    }  # fmt: skip
    assert set(collapse_metrics(features * torch.nan, text, label).values()) == {None}
    assert set(collapse_metrics(features[:0], None, label[:0]).values()) == {None}


def test_pieces_of_a_large_test_give_the_same(monkeypatch):
    features, text, label = random_units(50, 8), random_units(7, 8, seed=1), torch.arange(50) % 7
    whole = collapse_metrics(features, text, label)
    parts = collapse._parts
    monkeypatch.setattr(collapse, "_parts", lambda *tensors: parts(*tensors, size=16))
    assert collapse_metrics(features, text, label) == pytest.approx(whole)


def batch(logits, image, text):
    return SimpleNamespace(logits=logits, image_features=image, text_features=text)


@pytest.mark.parametrize("by_image", [False, True])
def test_batches_are_collected(by_image):
    image, label = random_units(9, 8).float(), torch.arange(9) % 4
    logits, text = torch.randn(9, 4), random_units(9, 4, 8, seed=1).float()
    text = text if by_image else text[0]
    tested = TestFeatures()
    for part in (slice(0, 5), slice(5, 9)):
        tested.add_label(label[part])
        tested.add_output(batch(logits[part], image[part], text[part] if by_image else text))
    shared = F.normalize(text.mean(0), dim=-1) if by_image else text
    expected = collapse_metrics(image, shared, label, logits.argmax(-1))
    assert tested.metrics() == pytest.approx(expected, rel=1e-4)


def test_a_method_without_text_features_is_told_of(caplog):
    tested = TestFeatures()
    tested.add_label(torch.tensor([0, 1]))
    tested.add_output(batch(torch.eye(2), torch.eye(2), None))
    with caplog.at_level(logging.WARNING):
        found = tested.metrics()
    assert "no text features" in caplog.text
    assert found["nc1_variability"] == 0
    assert "* nc3_self_duality: not defined" in listed(found).splitlines()


ASKED = ("TEST.COLLAPSE_METRICS", True)
SHORT = ("OPTIM.MAX_EPOCH", 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_measures_on_request(method, mini, tmp_path, caplog):
    plain = run(cfg_of(method, mini, tmp_path / "plain", *SHORT))
    assert "collapse" not in plain
    assert "neural collapse" not in caplog.text
    asked = run(cfg_of(method, mini, tmp_path / "asked", *SHORT, *ASKED))
    assert asked["metrics"] == plain["metrics"]
    assert tuple(asked["collapse"]) == METRICS
    assert results.read(tmp_path / "asked")["collapse"] == asked["collapse"]
    assert all(0 <= value < 1e9 for value in asked["collapse"].values() if value is not None)
    assert f"=> neural collapse\n{listed(asked['collapse'])}" in caplog.messages


def test_a_test_is_measured_on_its_own_split_and_only_the_last_one(mini, tmp_path, caplog):
    found = {}
    for split in ("val", "test"):
        options = ("TEST.SPLIT", split, "TEST.FINAL_MODEL", "best_val")
        result = run(cfg_of("CoOp", mini, tmp_path / split, *ASKED, *options))
        found[split] = result["collapse"]
    assert caplog.text.count("=> neural collapse") == 2
    assert found["val"]["nc1_variability"] != found["test"]["nc1_variability"]


def test_only_a_run_that_asks_has_another_hash(mini, tmp_path):
    plain, asked = (cfg_of("CoOp", mini, tmp_path, *more) for more in ((), ASKED))
    old = json.loads(json.dumps(plain))
    del old["TEST"]["COLLAPSE_METRICS"]
    assert config_hash(old) == config_hash(plain) != config_hash(asked)


@pytest.mark.parametrize(("method", "cache"), [("CoOp", ""), ("CoCoOp", "off"), ("VPT", "")])
def test_a_run_is_watched_by_epoch_and_does_not_notice(method, cache, mini, tmp_path):
    given = ("TEST.FEATURE_CACHE", cache, "OPTIM.MAX_EPOCH", 3, *ASKED)
    plain = run(cfg_of(method, mini, tmp_path / "plain", *given))
    watched = run(cfg_of(method, mini, tmp_path / "watched", *given, "TEST.COLLAPSE_EVERY", 2))
    assert watched["metrics"] == plain["metrics"]
    assert watched["collapse"] == plain["collapse"]
    learned = [
        (tmp_path / name / "prompt_learner/model.pth.tar-3").read_bytes()
        for name in ("plain", "watched")
    ]
    assert learned[0] == learned[1]
    curves = training.read(tmp_path / "watched", training.COLLAPSE)
    assert set(curves) == {name for name in METRICS if training.COLLAPSE.number.match(f"{name} 1")}
    for name, curve in curves.items():
        assert list(curve) == [0, 2, 3]
        assert curve[3] == pytest.approx(watched["collapse"][name], rel=1e-3)
    assert curves["nc3_self_duality"][0] != curves["nc3_self_duality"][3]
    assert not training.read(tmp_path / "plain", training.COLLAPSE)
