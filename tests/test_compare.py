"""Comparisons: numbers checked by hand or against scipy, nothing left out in silence."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from result_tree import at
from scipy import stats

from promptclip import compare, results, table
from promptclip.cli import main
from promptclip.compare.inference import estimate, groups, holm, smallest_wilcoxon
from promptclip.compare.report import limits, pairs
from promptclip.errors import UserError
from promptclip.tree import Place

DATASETS = ("caltech101", "dtd", "emoji", "eurosat", "food101", "sun397", "ucf101")
T_2 = 4.302653  # Student's t, 0.975 with 2 degrees of freedom (tables)


def few_shot(root: Path, dataset: str, method: str, seed: int, accuracy: float, **changes) -> Path:
    cfg = changes.pop("cfg", "tiny")
    return at(root, Place("fewshot", dataset, 4, method, cfg, seed), accuracy, **changes)


def grow(root: Path, gains: dict[str, tuple[float, float, float]], methods=("DAPT", "CoOp")):
    """CoOp has 50 everywhere, DAPT its gains more with each seed."""
    for dataset, of_seeds in gains.items():
        for seed, gain in enumerate(of_seeds, 1):
            few_shot(root, dataset, methods[0], seed, 50 + gain)
            few_shot(root, dataset, methods[1], seed, 50)


def only_contest(root: Path, *methods: str) -> compare.Contest:
    (contest,) = compare.contests(table.build(root), methods)
    return contest


def test_paired_differences_by_hand(tmp_path):
    gains = {d: (i + 1.0, i + 2.0, i + 6.0) for i, d in enumerate(DATASETS[:5])}
    grow(tmp_path, gains)
    contest = only_contest(tmp_path, "dapt", "CoOp")
    assert (contest.title, contest.unpaired) == ("few-shot, all classes, 4 shots, accuracy", ())
    found = compare.versus(contest)
    first = found.by_dataset["caltech101"]
    assert (first.n, first.mean) == (3, 3)  # of 1, 2 and 6
    half = T_2 * math.sqrt(7) / math.sqrt(3)  # (4 + 1 + 9) / 2 = 7
    assert first.t == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert 1 <= first.bootstrap[0] < 3 < first.bootstrap[1] <= 6
    # The means 3, 4, 5, 6, 7: t with 4 degrees of freedom is 2.776, deviation sqrt(2.5).
    assert found.overall.mean == 5
    assert found.overall.t[1] - 5 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), abs=1e-5)
    assert found.p == found.smallest_p == 2 / 2**5


def test_the_bootstrap_is_scipys_and_the_same_twice():
    differences = [0.4, -1.0, 2.5, 3.0, 0.1]
    found = estimate(differences)
    rng = np.random.default_rng(0)
    resampled = rng.integers(0, 5, (9999, 5))
    means = np.array(differences)[resampled].mean(axis=1)
    assert found.bootstrap == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.1)
    assert estimate(differences) == found
    assert estimate([1.0]) == compare.inference.Estimate(1, 1, None, None)


@pytest.mark.parametrize(
    ("means", "p"),
    [
        # Sums of the ranks of the smaller side: 0 of 5, 1 of 6, and 3 of 4 (1 and 2).
        ((1.0, 2.0, 3.0, 4.0, 5.0), 2 / 32),
        ((-1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 4 / 64),
        ((-1.0, -2.0, 3.0, 4.0), 10 / 16),
        # What does not differ is left out.
        ((0.0, 1.0, 2.0, 3.0), 2 / 8),
        # Equals: ranks 1.5 1.5 3; the negative side has 1.5, as have or less 3 of 8 patterns.
        ((1.0, -1.0, 2.0), 6 / 8),
    ],
)
def test_wilcoxon_by_counting(tmp_path, means, p):
    grow(tmp_path, {DATASETS[i]: (mean,) * 3 for i, mean in enumerate(means)})
    found = compare.versus(only_contest(tmp_path, "DAPT", "CoOp"))
    assert found.p == pytest.approx(p)
    assert found.smallest_p == smallest_wilcoxon(sum(mean != 0 for mean in means))


def test_no_difference_is_not_tested(tmp_path):
    grow(tmp_path, dict.fromkeys(DATASETS[:3], (0.0, 0.0, 0.0)))
    contest = only_contest(tmp_path, "DAPT", "CoOp")
    assert compare.versus(contest).p is None
    assert "nothing to test" in compare.as_text([contest])


@pytest.mark.parametrize(
    ("datasets", "seeds", "sentences"),
    [
        (
            5,
            3,
            ["cannot go below p = 0.25", "5 data sets: Wilcoxon's test cannot go below p = 0.0625"],
        ),
        (1, 2, ["over 2 cannot go below p = 0.5", "One data set: this says nothing about others"]),
        (6, 1, ["One seed of a data set has no interval"]),
        (7, 6, []),
    ],
)
def test_too_few_to_conclude_is_said(tmp_path, datasets, seeds, sentences):
    for dataset, seed in itertools.product(DATASETS[:datasets], range(seeds)):
        few_shot(tmp_path, dataset, "DAPT", seed, 60 + seed)
        few_shot(tmp_path, dataset, "CoOp", seed, 50)
    contest = only_contest(tmp_path, "DAPT", "CoOp")
    found = list(limits(contest))
    assert len(found) == len(sentences)
    for line, sentence in zip(found, sentences, strict=True):
        assert sentence in line
        assert line in compare.as_text([contest])


def test_what_is_not_paired_is_listed_and_not_counted(tmp_path):
    grow(tmp_path, dict.fromkeys(DATASETS[:5], (1.0, 2.0, 3.0)))
    lost = few_shot(tmp_path, "dtd", "DAPT", 2, 99)
    (lost / "result.json").unlink()
    results.failed(lost, RuntimeError("no"))
    few_shot(tmp_path, "emoji", "DAPT", 1, 99, split_hash="others")
    few_shot(tmp_path, "eurosat", "DAPT", 3, 99, lr=9)
    for seed in (1, 2, 3):
        few_shot(tmp_path, "food101", "CoOp", seed, 99, split_hash=None)
        few_shot(tmp_path, "sun397", "CoOp", seed, 99)
    contest = only_contest(tmp_path, "DAPT", "CoOp")
    assert contest.unpaired == (
        "dtd seed 2: DAPT failed",
        "emoji seed 1: different pictures (split_hash)",
        "eurosat seeds 1 2 3: DAPT has runs of different configurations",
        "food101 seeds 1 2 3: which pictures were seen is not known",
        "sun397 seeds 1 2 3: DAPT missing",
    )
    found = compare.versus(contest)
    assert {d: e.n for d, e in found.by_dataset.items()} == {"caltech101": 3, "dtd": 2, "emoji": 2}
    assert found.by_dataset["dtd"].mean == 2  # of 1 and 3
    text = compare.as_text([contest])
    assert all(f"not compared, {line}" in text for line in contest.unpaired)


def test_nothing_in_common(tmp_path):
    few_shot(tmp_path, "dtd", "DAPT", 1, 60)
    few_shot(tmp_path, "emoji", "CoOp", 1, 60)
    contest = only_contest(tmp_path, "DAPT", "CoOp")
    assert compare.versus(contest) is compare.rank(contest) is None
    assert "Nothing can be compared" in compare.as_text([contest])
    assert json.loads(compare.as_json([contest]))["contests"][0]["versus"] == []


SCORES = {  # of four methods; their ranks are below
    "caltech101": (90.0, 80.0, 70.0, 60.0),
    "dtd": (70.0, 60.0, 50.0, 50.0),
    "emoji": (30.0, 35.0, 20.0, 10.0),
    "eurosat": (99.0, 98.0, 95.0, 90.0),
    "food101": (80.0, 70.0, 75.0, 60.0),
    "sun397": (60.0, 50.0, 40.0, 30.0),
}
RANKS = [(1, 2, 3, 4), (1, 2, 3.5, 3.5), (2, 1, 3, 4), (1, 2, 3, 4), (1, 3, 2, 4), (1, 2, 3, 4)]
METHODS = ("MaPLe", "IVLP", "VPT", "CoOp")


@pytest.fixture
def ranked(tmp_path):
    for dataset, seed in itertools.product(SCORES, (1, 2)):
        for method, score in zip(METHODS, SCORES[dataset], strict=True):
            few_shot(tmp_path, dataset, method, seed, score + (0.5 if seed == 1 else -0.5))
    return tmp_path


def test_friedman_and_nemenyi_by_hand(ranked):
    found = compare.rank(only_contest(ranked, *reversed(METHODS)))
    means = [statistics.fmean(column) for column in zip(*RANKS, strict=True)]
    assert found.ranks == pytest.approx(dict(zip(METHODS, means, strict=True)))
    assert list(found.ranks) == list(METHODS)
    assert found.p == pytest.approx(stats.friedmanchisquare(*zip(*SCORES.values(), strict=True))[1])
    # The statistic itself (Demšar 2006), with the correction for one pair of equals.
    n, k = 6, 4
    statistic = 12 * n / (k * (k + 1)) * (sum(r * r for r in means) - k * (k + 1) ** 2 / 4)
    statistic /= 1 - (2**3 - 2) / (n * k * (k * k - 1))
    assert found.p == pytest.approx(stats.chi2.sf(statistic, 3))
    assert found.smallest_p == pytest.approx(stats.chi2.sf(18, 3))
    # 2.569: Demšar's table 5, four methods.
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 6)), abs=1e-3)
    assert found.groups == (("MaPLe", "IVLP", "VPT"), ("VPT", "CoOp"))


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_nemenyis_quantiles(tmp_path, k, q):
    for method, dataset in itertools.product(range(k), DATASETS[:2]):
        few_shot(tmp_path, dataset, f"M{method}", 1, method)
    found = compare.rank(only_contest(tmp_path, *(f"M{method}" for method in range(k))))
    assert found.critical_difference == pytest.approx(q * math.sqrt(k * (k + 1) / 12), rel=1e-3)


def test_groups_are_maximal():
    ranks = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 3.5, "e": 9.0}
    assert groups(ranks, 1.0) == (("a", "b", "c"),)
    assert groups(ranks, 1.5) == (("a", "b", "c"), ("c", "d"))
    assert groups(ranks, 0.1) == ()
    assert groups(ranks, 10) == (tuple("abcde"),)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_several_methods_against_the_first(ranked):
    contest = only_contest(ranked, *METHODS)
    found = pairs(contest)
    assert [pair.methods for pair in found] == [("MaPLe", name) for name in METHODS[1:]]
    # IVLP: one of six against, the smallest but two; the others lose everywhere.
    assert [pair.p for pair in found][1:] == [2 / 64, 2 / 64]
    assert [pair.adjusted_p for pair in found] == holm([pair.p for pair in found])
    text = compare.as_text([contest])
    assert "Friedman over 6 data sets: p = 0.00" in text
    # Three tests of 2 / 2^6 each.
    assert (
        "6 data sets: Wilcoxon's test, adjusted for 3 comparisons, cannot go below p = 0.09375"
        in (text)
    )
    assert "; 7 data sets could." in text
    assert "not told apart: MaPLe, IVLP, VPT\nnot told apart: VPT, CoOp\n" in text
    diagram = text.splitlines()
    start = next(i for i, line in enumerate(diagram) if line.split()[:2] == ["rank", "1"])
    assert diagram[start].split() == ["rank", "1", "2", "3", "4"]
    marks = [line.index(" o") for line in diagram[start + 1 : start + 5]]
    assert marks == sorted(marks)
    assert [line.strip() for line in diagram[start + 5 : start + 7]] == ["=" * 29, "=" * 17]
    content = json.loads(compare.as_json([contest]))["contests"][0]
    assert content["ranking"]["p"] == compare.rank(contest).p
    assert content["values"]["emoji"]["1"] == [30.5, 35.5, 20.5, 10.5]


def test_every_protocol_has_its_measures(tmp_path):
    for method, seed in itertools.product(("CoOp", "DAPT"), (1, 2)):
        more = 5 if method == "DAPT" else 0
        for half in ("base", "new"):
            at(tmp_path, Place("base2new", "emoji", 16, method, "tiny", seed, half), 40 + more)
        for target in ("emoji_line", "emoji_openmoji"):
            at(tmp_path, Place("dg", "emoji", 16, method, "tiny", seed, target), 30 + 2 * more)
        at(tmp_path, Place("fewshot", "emoji", 16, method, "tiny", seed), 50)
    found = compare.contests(table.build(tmp_path), ["DAPT", "CoOp"])
    assert [contest.title for contest in found] == [
        "base to new, 16 shots, base",
        "base to new, 16 shots, new",
        "base to new, 16 shots, H",
        "few-shot, all classes, 16 shots, accuracy",
        "domain generalisation, from emoji, 16 shots, accuracy",
    ]
    assert not any(contest.unpaired for contest in found)
    assert [compare.versus(contest).overall.mean for contest in found] == [5, 5, 5, 0, 10]
    assert set(found[-1].values) == {"emoji_line", "emoji_openmoji"}


def test_halves_of_other_pictures_have_no_h(tmp_path):
    for method, half in itertools.product(("CoOp", "DAPT"), ("base", "new")):
        place = Place("base2new", "emoji", 16, method, "tiny", 1, half)
        at(tmp_path, place, 40, split_hash="a" if half == "base" else method)
    found = compare.contests(table.build(tmp_path), ["DAPT", "CoOp"])
    assert [len(contest.unpaired) for contest in found] == [0, 1, 1]


def test_configurations_are_named(tmp_path):
    few_shot(tmp_path, "dtd", "CoOp", 1, 50)
    few_shot(tmp_path, "dtd", "CoOp", 1, 60, cfg="long")
    with pytest.raises(UserError, match="several configurations; name one of CoOp/long, CoOp/tiny"):
        only_contest(tmp_path, "CoOp", "CoOp/long")
    contest = only_contest(tmp_path, "CoOp/long", "coop/TINY")
    assert contest.methods == ("CoOp/long", "CoOp/tiny")
    assert compare.versus(contest).overall.mean == 10
    with pytest.raises(UserError, match="no results of MaPLe; there are CoOp/long, CoOp/tiny"):
        only_contest(tmp_path, "MaPLe", "CoOp/long")
    with pytest.raises(UserError, match="no results of CoOp/x; there are"):
        only_contest(tmp_path, "CoOp/x", "CoOp/long")
    with pytest.raises(UserError, match="two or more different methods, got CoOp/long, CoOp/long"):
        only_contest(tmp_path, "CoOp/long", "CoOp/LONG")


def test_a_method_goes_by_the_name_of_its_file(tmp_path):
    for method in ("ZeroshotCLIP", "CoOp"):
        few_shot(tmp_path, "dtd", method, 1, 50)
    assert only_contest(tmp_path, "zsclip", "coop").methods == ("ZeroshotCLIP", "CoOp")


def test_the_command(ranked, capsys, monkeypatch):
    assert main(["compare", "MaPLe", "IVLP", str(ranked)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("MaPLe against IVLP: few-shot, all classes, 4 shots, accuracy\n")
    assert "  over data sets  6" in text
    monkeypatch.chdir(ranked.parent)
    ranked.rename(ranked.parent / "output")
    assert main(["compare", "MaPLe", "IVLP", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["contests"]) == 1
    assert main(["compare", "MaPLe", "IVLP", "nowhere"]) == 2
    assert "no results of nowhere" in capsys.readouterr().err
    assert main(["compare", "maple,ivlp", "output", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["contests"]) == 1


@pytest.mark.parametrize(("suffix", "head"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_the_figure(ranked, tmp_path, capsys, suffix, head):
    file = tmp_path / "figures" / f"cd.{suffix}"
    assert main(["compare", *METHODS, str(ranked), "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(head)
    assert "Friedman" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn(ranked, monkeypatch):
    contest = only_contest(ranked, *METHODS)
    with pytest.raises(UserError, match=r"\.pdf, \.png, \.svg file, got cd\.doc"):
        compare.plot([contest], Path("cd.doc"))
    with pytest.raises(UserError, match="needs three methods"):
        compare.plot([only_contest(ranked, *METHODS[:2])], Path("cd.pdf"))
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(UserError, match=r"no module scikit_posthocs; pip install 'promptclip"):
        compare.plot([contest], Path("cd.pdf"))
