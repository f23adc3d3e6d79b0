"""Averages over data sets: over what, and never over what must not be averaged."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import pytest
from result_tree import at, config_of

from promptclip import results, table
from promptclip.table import Row, harmonic
from promptclip.tree import Place

DATASETS = ("caltech101", "dtd", "eurosat")
BASE = {"caltech101": 90, "dtd": 60, "eurosat": 75}


def half(root: Path, dataset: str, method: str, seed: int, name: str, **changes) -> Path:
    accuracy = changes.pop("accuracy", BASE[dataset] + seed - (20 if name == "new" else 0))
    place = Place("base2new", dataset, 16, method, "vit_b16", seed, name)
    return at(root, place, accuracy, **changes)


@pytest.fixture
def tree(tmp_path):
    for dataset, method, seed, name in itertools.product(
        DATASETS, ("CoOp", "DAPT"), (1, 2), ("base", "new")
    ):
        half(tmp_path, dataset, method, seed, name)
    return tmp_path


def averages(root: Path) -> list[Row]:
    return list(table.build(root).averages)


def test_a_seed_is_averaged_first(tree):
    coop, dapt = averages(tree)
    assert (coop.method, dapt.method) == ("CoOp", "DAPT")
    assert (coop.dataset, coop.datasets, coop.shots) == ("average", DATASETS, 16)
    assert coop.base.values == {1: 76, 2: 77}
    assert coop.new.values == {1: 56, 2: 57}
    assert coop.base.deviation == pytest.approx(0.5**0.5)
    # Of the averages, not the average of the data sets' H.
    assert coop.h.values == {1: harmonic(76, 56), 2: harmonic(77, 57)}
    assert coop.h_of_means == harmonic(76.5, 56.5)
    assert coop.seconds == 3 * 30
    title, rows = list(table.build(tree).groups)[-1]
    assert title == ("average over 3 data sets (caltech101, dtd, eurosat), 16 shots, base to new")
    assert rows == [coop, dapt]


def test_averages_stand_in_every_format(tree):
    found = table.build(tree)
    for form in ("text", "md", "latex", "html"):
        text = " ".join(table.render(found, form, width=100).split())
        assert "average over 3 data sets" in text
        assert "Average over data sets: the mean over the data sets for each seed" in text
    rows = list(csv.DictReader(io.StringIO(table.render(found, "csv"))))
    assert [row["dataset"] for row in rows[-2:]] == ["average", "average"]
    assert rows[-1]["datasets"] == "caltech101 dtd eurosat"
    assert float(rows[-1]["base_mean"]) == 76.5
    content = json.loads(table.render(found, "json"))
    assert content["averages"][0]["base"]["values"] == {"1": 76, "2": 77}
    assert len(content["rows"]) == 6


def test_a_missing_seed_is_left_out_of_the_average_and_marked(tree):
    lost = half(tree, "dtd", "CoOp", 2, "new")
    (lost / "result.json").unlink()
    results.failed(lost, RuntimeError("no"))
    coop, dapt = averages(tree)
    assert coop.base.lines() == ["76.50 ± 0.71"]
    assert coop.new.lines() == ["56.00", "incomplete seed 2"]
    assert coop.h.lines() == [f"{harmonic(76, 56):.2f}", "unpaired seed 2"]
    assert dapt.new.lines() == ["56.50 ± 0.71"]
    assert not table.build(tree).complete


def test_a_missing_data_set_is_said(tree):
    for seed in (1, 2):
        (half(tree, "dtd", "CoOp", seed, "new") / "result.json").unlink()
    coop, _ = averages(tree)
    # Base and new are over the same data sets, or H would mix them.
    remark = "2 of 3 data sets, without dtd"
    assert coop.base.lines() == ["84.00 ± 0.71", remark]
    assert coop.new.lines() == ["64.00 ± 0.71", remark]
    assert coop.h.lines()[1:] == [remark]
    assert not coop.base.complete


def test_few_shot_columns_are_averaged_one_by_one(tmp_path):
    for dataset, shots in (("dtd", 1), ("dtd", 4), ("eurosat", 1), ("dtd", 16), ("eurosat", 16)):
        for method in ("CoOp", "DAPT"):
            if (dataset, shots, method) != ("eurosat", 16, "DAPT"):
                place = Place("fewshot", dataset, shots, method, "vit_b16", 1)
                at(tmp_path, place, 40 + shots, lr=1 / shots)
    coop, dapt = averages(tmp_path)
    # Only one data set has four shots: nothing to average.
    assert list(coop.cells) == ["shots_1", "shots_16"]
    assert coop.cells["shots_16"].lines() == ["56.00"]
    assert dapt.cells["shots_16"].lines() == ["56.00", "1 of 2 data sets, without eurosat"]


def test_what_differs_by_yaml_is_averaged_and_nothing_else(tmp_path):
    def put(rates: dict[str, float], **more) -> Row:
        for (dataset, rate), name in itertools.product(rates.items(), ("base", "new")):
            config = config_of("DAPT", name, 1, "ViT-B/16", rate)
            half(tmp_path, dataset, "DAPT", 1, name, config=config | more)
        return averages(tmp_path)[0]

    # DAPT's yaml has a learning rate for each data set.
    assert put({"caltech101": 0.2, "dtd": 20.0}).base.lines() == ["76.00"]
    for dataset in ("caltech101", "dtd"):
        for name in ("base", "new"):
            config = config_of("CoOp", name, 1, "ViT-B/16", 1 if dataset == "dtd" else 2)
            half(tmp_path, dataset, "CoOp", 1, name, config=config)
    coop, dapt = averages(tmp_path)
    refusal = "not averaged: OPTIM.LR differ between data sets"
    assert coop.base.lines() == coop.h.lines() == ["", refusal]
    assert coop.h_of_means is None
    assert dapt.base.mean == 76
    assert coop.backbone == "ViT-B/16"


def test_two_backbones_are_not_averaged(tmp_path):
    # emoji's yaml names its CLIP.
    for dataset, backbone in (("emoji", "tiny-emoji"), ("dtd", "ViT-B/16")):
        config = config_of("CoOp", "all", 1, backbone)
        at(tmp_path, Place("fewshot", dataset, 1, "CoOp", "tiny", 1), 40, config=config)
    (row,) = averages(tmp_path)
    refusal = "not averaged: MODEL.BACKBONE.NAME differ between data sets"
    assert row.cells["shots_1"].lines() == ["", refusal]
    assert row.backbone == "several"


def test_what_is_not_averaged_over_seeds_is_not_averaged_over_data_sets(tree):
    half(tree, "dtd", "CoOp", 2, "new", lr=9)
    coop, dapt = averages(tree)
    assert coop.new.lines() == coop.base.lines() == ["", "not averaged"]
    assert dapt.base.mean == 76.5


def test_what_has_no_new_classes_has_no_average_of_them(tree):
    for dataset, seed in itertools.product(DATASETS, (1, 2)):
        half(tree, dataset, "LinearProbe", seed, "base", transfers=False)
    probe = averages(tree)[2]
    assert probe.base.lines() == ["76.50 ± 0.71"]
    assert probe.new.lines() == probe.h.lines() == ["", "n/a"]


def test_one_data_set_or_tests_elsewhere_have_no_average(tmp_path):
    half(tmp_path, "dtd", "CoOp", 1, "base")
    for source in ("emoji", "emoji_people"):
        at(tmp_path, Place("xd", source, 16, "CoOp", "tiny", 1, "dtd"), 5)
    assert averages(tmp_path) == []
