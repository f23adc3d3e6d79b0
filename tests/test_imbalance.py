"""Class imbalance from the sample to the table."""

from __future__ import annotations

import csv
import io
import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import build_dataset
from hypothesis import given
from hypothesis import strategies as st
from mini_benchmark import cfg_of, make

from promptclip import protocols, results, table
from promptclip.config import config_difference, config_hash
from promptclip.errors import UserError
from promptclip.few_shot import Picture, split_hash
from promptclip.imbalance import (
    GROUPS,
    class_order,
    generator_of,
    group_accuracies,
    groups,
    listed,
    profile_counts,
    thin,
)
from promptclip.run import run
from promptclip.tree import Place, find


@pytest.mark.parametrize(
    ("most", "classes", "ratio", "profile", "counts"),
    [
        # 16 * 0.25^(r/4): 16, 11.3, 8, 5.7, 4
        (16, 5, 0.25, "exponential", [16, 11, 8, 5, 4]),
        # 16 * 0.06^(r/4): 16, 7.9, 3.9, 1.9, 0.96, of which at least one stays
        (16, 5, 0.06, "exponential", [16, 7, 3, 1, 1]),
        # 0.01^(1/2) is 0.1, and its tenth power a rounding error away from a whole number
        (100, 3, 0.01, "exponential", [100, 10, 1]),
        # long-tailed CIFAR-10 with imb_factor 0.01 of imbalance_cifar.py
        (5000, 10, 0.01, "exponential", [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (5000, 10, 0.1, "step", [5000] * 5 + [500] * 5),
        (16, 5, 0.25, "step", [16, 16, 16, 4, 4]),
        (16, 4, 1, "step", [16] * 4),
        (16, 4, 1, "exponential", [16] * 4),
        (2, 3, 0.06, "exponential", [2, 1, 1]),
        (7, 1, 0.5, "exponential", [7]),
        (7, 1, 0.5, "step", [7]),
        (7, 0, 0.5, "exponential", []),
    ],
)
def test_profiles_by_hand(
    most: int, classes: int, ratio: float, profile: str, counts: list[int]
) -> None:
    assert profile_counts(most, classes, ratio, profile) == counts


def sample_of(*counts: int) -> list[Picture]:
    """Pictures of classes 0, 1, ... in a mixed order."""
    pictures = [
        Picture(f"{label}/{number}.png", label, f"class {label}")
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    random.Random(0).shuffle(pictures)
    return pictures


def counts_of(pictures: list[Picture]) -> dict[int, int]:
    return dict(sorted(Counter(picture.label for picture in pictures).items()))


def thinned(pictures: list[Picture], *orders: list[int], seed: int = 1, **how: Any) -> Any:
    how = {"ratio": 0.25, "profile": "exponential"} | how
    return thin(pictures, orders, generator=random.Random(seed), **how)


def test_classes_are_thinned_in_their_order_and_pictures_stay_in_theirs() -> None:
    pictures = sample_of(8, 8, 8)
    kept = thinned(pictures, [2, 0, 1])
    assert counts_of(kept) == {0: 4, 1: 2, 2: 8}
    assert kept == [picture for picture in pictures if picture in kept]
    assert thinned(pictures, [2, 0, 1], ratio=1.0) == pictures


def test_which_pictures_are_kept_is_drawn_and_smaller_ratios_keep_a_part() -> None:
    pictures = sample_of(*[16] * 6)
    order = [3, 5, 1, 0, 2, 4]
    sets = [set(thinned(pictures, order, ratio=ratio)) for ratio in (1, 0.5, 0.25, 0.06)]
    assert sets[0] > sets[1] > sets[2] > sets[3]
    assert thinned(pictures, order) == thinned(pictures, order)
    assert thinned(pictures, order) != thinned(pictures, order, seed=2)


def test_each_half_has_a_profile_of_its_own() -> None:
    assert counts_of(thinned(sample_of(8, 8, 8, 8, 8), [1, 0, 2], [4, 3])) == {
        **{1: 8, 0: 4, 2: 2},
        **{4: 8, 3: 2},
    }


def test_a_scarce_class_gives_what_it_has() -> None:
    # The profile is 16, 8, 4 of the most frequent class's 16, whichever class comes first.
    assert counts_of(thinned(sample_of(3, 16, 5), [0, 1, 2])) == {0: 3, 1: 8, 2: 4}
    assert counts_of(thinned(sample_of(3, 16, 1), [1, 0, 2])) == {0: 3, 1: 16, 2: 1}


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=12),
    st.floats(1e-4, 1),
    st.sampled_from(["exponential", "step"]),
    st.randoms(use_true_random=False),
)
def test_whatever_the_sample_every_class_stays(
    counts: list[int], ratio: float, profile: str, generator: random.Random
) -> None:
    pictures = sample_of(*counts)
    order = class_order(range(len(counts)), generator)
    assert sorted(order) == list(range(len(counts)))
    kept = counts_of(thin(pictures, [order], ratio=ratio, profile=profile, generator=generator))
    allowed = profile_counts(max(counts), len(counts), ratio, profile)
    assert [kept[label] for label in order] == [
        min(counts[label], may) for label, may in zip(order, allowed, strict=True)
    ]


def test_the_order_depends_on_benchmark_and_seed_alone() -> None:
    orders = [
        class_order(labels, generator_of(name, seed))
        for labels in (list(range(30)), list(range(30))[::-1])
        for name in ("Emoji", "EmojiPeople")
        for seed in (1, 2)
    ]
    assert orders[:4] == orders[4:]
    assert len({tuple(order) for order in orders}) == 4
    state = random.getstate()
    unseeded = [class_order(range(30), generator_of("Emoji", -1)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]
    assert random.getstate() == state
    # On every machine and Python, or results of two machines could not be compared
    assert class_order(range(6), generator_of("Emoji", 1)) == [4, 0, 5, 3, 2, 1]


@pytest.mark.parametrize(
    ("counts", "order", "expected"),
    [
        ([8, 4, 2], [0, 1, 2], "head medium tail"),
        ([2, 8, 4], [1, 2, 0], "tail head medium"),
        ([5, 5, 5, 5, 5], [4, 2, 0, 1, 3], "medium tail head tail head"),  # by the order alone
        ([1, 9, 9, 9], [0, 1, 2, 3], "tail head medium medium"),  # a scarce class is rare
        ([3, 3], [1, 0], "tail head"),
        ([3], [0], "medium"),
    ],
)
def test_groups_are_thirds_by_training_pictures(
    counts: list[int], order: list[int], expected: str
) -> None:
    found = groups(counts, order)
    assert list(found) == list(GROUPS)
    of = {label: name for name, labels in found.items() for label in labels}
    assert [of[label] for label in range(len(counts))] == expected.split()


def test_accuracy_of_groups_by_hand() -> None:
    rows = [
        {"num_test": 4, "accuracy": 25.0},
        {"num_test": 10, "accuracy": 90.0},
        {"num_test": 0, "accuracy": None},
        {"num_test": 30, "accuracy": 50.0},
        {"num_test": 0, "accuracy": None},
    ]
    found = group_accuracies(rows, [1, 16, 1, 8, 2], [0, 1, 2, 3, 4])
    assert found == {
        "head": {"accuracy": 60, "num_test": 40, "num_train": [8, 16], "classes": [1, 3]},
        "medium": {"accuracy": None, "num_test": 0, "num_train": [2, 2], "classes": [4]},
        "tail": {"accuracy": 25, "num_test": 4, "num_train": [1, 1], "classes": [0, 2]},
    }
    two = group_accuracies(rows[:2], [1, 2], [0, 1])["medium"]
    assert two == {"accuracy": None, "num_test": 0, "num_train": None, "classes": []}
    assert listed(found).splitlines() == [
        "* head: 60.0% (8 to 16 training pictures of each of 2 classes)",
        "* tail: 25.0% (1 training picture of each of 2 classes)",
    ]


# ------------------------------------------------------------------ benchmarks and runs


def data_of(mini: Path, *overrides: Any, method: str = "CoOp", seed: int = 1) -> Any:
    cfg = cfg_of(method, mini, mini.parent / "unused", *overrides, seed=seed)
    return build_dataset(cfg)


def trained_on(dataset: Any) -> list[tuple[str, int]]:
    return [(Path(d.impath).name, d.label) for d in dataset.train_x]


def test_a_benchmark_is_thinned_and_the_saved_sample_is_not(tmp_path: Path, caplog: Any) -> None:
    mini = make(tmp_path)
    balanced = data_of(mini)
    file = tmp_path / "mini/split_fewshot/shot_4-seed_1.json"
    before = file.read_bytes()
    caplog.set_level(logging.INFO, logger="promptclip.benchmark")
    rare = data_of(mini, "DATASET.IMBALANCE", 0.25)
    assert file.read_bytes() == before
    assert "10 of 20 training pictures are kept, 4 of the most frequent" in caplog.text
    saved = json.loads(before)
    assert balanced.split_hash == saved["split_hash"]
    # 4 * 0.25^(r/4): 4, 2.8, 2, 1.4, 1
    counts = Counter(label for _, label in trained_on(rare))
    assert [counts[label] for label in rare.class_order] == [4, 2, 2, 1, 1]
    assert set(trained_on(rare)) < set(trained_on(balanced))
    assert rare.class_order == balanced.class_order
    # The hash is of what was seen: the kept pictures, and the validation pictures of the sample.
    of_path = {path: (path, label, name) for path, label, name in saved["train"]}
    seen = [Picture(*of_path["/".join(Path(d.impath).parts[-2:])]) for d in rare.train_x]
    assert rare.split_hash == split_hash(seen, [Picture(*row) for row in saved["val"]])
    for part in ("val", "test"):
        assert [d.impath for d in getattr(rare, part)] == [
            d.impath for d in getattr(balanced, part)
        ]


def test_the_sample_is_the_same_for_all_methods_and_another_for_each_seed(mini: Path) -> None:
    rare = ("DATASET.IMBALANCE", 0.25)
    samples = [trained_on(data_of(mini, *rare, method=m)) for m in ("CoOp", "TipAdapter", "NPT")]
    assert samples[0] == samples[1] == samples[2]
    orders = {tuple(data_of(mini, *rare, seed=seed).class_order) for seed in range(6)}
    assert len(orders) > 1


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_halves_have_the_ratio_and_share_a_hash(mini: Path, profile: str) -> None:
    rare = ("DATASET.IMBALANCE", 0.5, "DATASET.IMBALANCE_PROFILE", profile)
    of = {
        half: data_of(mini, *rare, "DATASET.SUBSAMPLE_CLASSES", half)
        for half in ("base", "new", "all")
    }
    # 4 * 0.5^(r/2): 4, 2.8, 2 of the three base classes; 4, 2 of the two new ones
    base = {"exponential": [4, 2, 2], "step": [4, 4, 2]}[profile]
    for half, expected in (("base", base), ("new", [4, 2])):
        counts = Counter(label for _, label in trained_on(of[half]))
        assert [counts[label] for label in of[half].class_order] == expected
    assert of["base"].split_hash == of["new"].split_hash != of["all"].split_hash
    whole = of["all"].class_order
    assert of["base"].class_order == [label for label in whole if label < 3]
    assert of["new"].class_order == [label - 3 for label in whole if label >= 3]


@pytest.mark.parametrize("shots", [-1, 16])
def test_all_pictures_and_more_shots_than_there_are(mini: Path, shots: int) -> None:
    rare = data_of(mini, "DATASET.NUM_SHOTS", shots, "DATASET.IMBALANCE", 0.5)
    counts = Counter(label for _, label in trained_on(rare))
    # All six: 6 * 0.5^(r/4): 6, 5.05, 4.2, 3.6, 3
    assert [counts[label] for label in rare.class_order] == [6, 5, 4, 3, 3]


def test_keys_are_checked_and_change_the_hash_only_where_they_say_something(mini: Path) -> None:
    def cfg(*overrides: Any) -> Any:
        return cfg_of("CoOp", mini, mini.parent / "unused", *overrides)

    for value in (0, -1, 1.5, "nan"):
        with pytest.raises(UserError, match=r"DATASET.IMBALANCE must be (between 0.0001|a number)"):
            cfg("DATASET.IMBALANCE", value)
    with pytest.raises(UserError, match=r"PROFILE must be one of exponential, step; .*mean step"):
        cfg("DATASET.IMBALANCE_PROFILE", "stop")
    old = json.loads(json.dumps(cfg()))
    del old["DATASET"]["IMBALANCE"], old["DATASET"]["IMBALANCE_PROFILE"]
    step = ("DATASET.IMBALANCE_PROFILE", "step")
    assert config_hash(old) == config_hash(cfg()) == config_hash(cfg(*step))
    rare = ("DATASET.IMBALANCE", 0.25)
    assert len({config_hash(c) for c in (cfg(), cfg(*rare), cfg(*rare, *step))}) == 3
    assert config_difference(cfg(*rare, *step), old) == [
        "DATASET.IMBALANCE: 0.25, not 'absent'",
        "DATASET.IMBALANCE_PROFILE: 'step', not 'absent'",
    ]


def test_a_run_tells_its_groups(mini: Path, tmp_path: Path) -> None:
    cfg = cfg_of("CoOp", mini, tmp_path / "run", "DATASET.IMBALANCE", 0.25)
    result = run(cfg)
    dataset = build_dataset(cfg)
    trained = Counter(label for _, label in trained_on(dataset))
    assert result["num_train"] == [trained[label] for label in range(5)]
    assert result["groups"] == group_accuracies(
        result["per_class"], result["num_train"], dataset.class_order
    )
    assert sum(group["num_test"] for group in result["groups"].values()) == 20
    mean = sum(g["accuracy"] * g["num_test"] for g in result["groups"].values()) / 20
    assert mean == pytest.approx(result["metrics"]["accuracy"])
    log = (tmp_path / "run/log.txt").read_text()
    assert "=> by training pictures\n* head: " in log
    test = cfg_of("CoOp", mini, tmp_path / "test", "DATASET.SUBSAMPLE_CLASSES", "new",
                  "DATASET.IMBALANCE", 0.25)  # fmt: skip
    tested = run(test, eval_only=True, model_dir=str(tmp_path / "run"), load_epoch=3)
    assert "groups" not in tested  # it was trained on other pictures


# ------------------------------------------------------------------ protocol and table


@pytest.fixture
def start(mini: Path, tmp_path: Path, caplog: Any) -> Any:
    """Runs a protocol on the miniature benchmark; gives its status and its lines."""
    caplog.set_level(logging.INFO, logger="promptclip.protocols")

    def start(*methods: str, protocol: Any = protocols.imbalance, **kwargs: Any) -> Any:
        caplog.clear()
        usual: dict[str, Any] = {"root": str(mini.parent), "shots": 4, "seeds": (1,)}
        usual |= {"output": str(tmp_path), "overrides": ["OPTIM.MAX_EPOCH", 1], "quiet": True}
        status = protocol(methods, str(mini), **usual | kwargs)
        lines = [r.getMessage() for r in caplog.records if r.name == "promptclip.protocols"]
        return status, lines

    return start


def test_ratios_are_columns_and_the_balanced_run_is_the_few_shot_run(
    start: Any, tmp_path: Path
) -> None:
    status, lines = start("zsclip", "coop", seeds=(1, 2), ratios=(1, 0.25, 0.06))
    assert status == 0
    assert lines[0].startswith("[1/12] ZeroshotCLIP, seed 1, mini, 4 shots: ")
    assert lines[-2].startswith("[12/12] CoOp, seed 2, mini, 4 shots, ratio 0.06: ")
    assert lines[-1].startswith("mini, 4 shots, class imbalance\n")
    for part in ("balanced", "ratio 0.25", "ratio 0.06"):
        assert f"\nmini, 4 shots, class imbalance: {part}\n" in lines[-1]
    assert "head, medium, tail: the thirds" in " ".join(lines[-1].split())
    status, lines = start("coop", protocol=protocols.fewshot, shots=[4])
    assert (status, len(lines)) == (0, 1)  # nothing was left to do
    found = table.build(tmp_path / "imbalance")
    assert found.complete
    assert not found.notes
    coop = found.rows[0]
    assert list(coop.cells) == ["ratio_1", "ratio_0.25", "ratio_0.06"]
    assert (coop.method, coop.seeds, coop.summary) == ("CoOp", (1, 2), {})
    folder = tmp_path / "imbalance/mini/ratio_0.06/shots_4/CoOp/tiny/seed1"
    result = results.read(folder)
    assert result
    part = next(p for p in found.parts if (p.method, p.part) == ("CoOp", "ratio_0.06"))
    assert {name: cell.values[1] for name, cell in part.cells.items()} == {
        name: group["accuracy"] for name, group in result["groups"].items()
    }
    place = find(folder)
    assert place == Place("imbalance", "mini", 4, "CoOp", "tiny", 1, "ratio_0.06")
    assert place.ratio == 0.06
    assert tmp_path / place.path == folder


def test_all_formats_have_the_groups(start: Any, tmp_path: Path) -> None:
    start("zsclip", seeds=(1, 2), ratios=(0.25, 1))
    found = table.build(tmp_path / "imbalance")
    markdown = table.render(found, "md")
    assert "| method | balanced | ratio 0.25 | seeds | params | seconds |" in markdown
    assert "**mini, 4 shots, class imbalance: ratio 0.25**" in markdown
    assert markdown.count("| method | head | medium | tail | seeds |\n") == 2
    content = json.loads(table.render(found, "json"))
    assert [part["part"] for part in content["parts"]] == ["ratio_1", "ratio_0.25"]
    whole, parts = (
        list(csv.DictReader(io.StringIO(f"dataset,{text}")))
        for text in table.render(found, "csv").split("dataset,")[1:]
    )
    assert whole[0]["ratio_0.25_n"] == "2"
    assert [(row["part"], row["tail_n"]) for row in parts] == [
        ("ratio_1", "2"), ("ratio_0.25", "2")
    ]  # fmt: skip
    assert float(parts[1]["head_mean"]) == content["parts"][1]["head"]["mean"]


def test_without_the_balanced_run_nothing_is_missed(start: Any, tmp_path: Path) -> None:
    assert start("zsclip", ratios=[0.25])[0] == 0
    found = table.build(tmp_path)
    assert [list(row.cells) for row in found.rows] == [["ratio_0.25"]]
    assert found.complete


def test_what_is_missing_failed_or_misplaced_shows(start: Any, tmp_path: Path) -> None:
    start("zsclip", seeds=(1, 2), ratios=(1, 0.25, 0.5))
    folder = tmp_path / "imbalance/mini/ratio_0.25/shots_4/ZeroshotCLIP/tiny"
    (folder / "seed1/result.json").unlink()
    results.failed(folder / "seed1", RuntimeError("out of memory"))
    other = tmp_path / "imbalance/mini/ratio_0.5/shots_4/ZeroshotCLIP/tiny/seed2/result.json"
    (folder / "seed2/result.json").write_bytes(other.read_bytes())
    found = table.build(tmp_path / "imbalance")
    assert not found.complete
    assert found.rows[0].cells["ratio_0.25"].problems == {1: "failed", 2: "misplaced"}
    part = next(part for part in found.parts if part.part == "ratio_0.25")
    assert [cell.problems for cell in part.cells.values()] == [{1: "failed", 2: "misplaced"}] * 3
    assert any("ratio_0.25 seed 1 failed: RuntimeError: out of memory" in n for n in found.notes)


def test_profiles_are_not_mixed_in_a_row(start: Any, tmp_path: Path) -> None:
    step = ["OPTIM.MAX_EPOCH", 1, "DATASET.IMBALANCE_PROFILE", "step"]
    start("zsclip", ratios=(1, 0.25))
    assert start("zsclip", ratios=(1, 0.5), overrides=step)[0] == 0  # balanced has no profile
    (row,) = table.build(tmp_path / "imbalance").rows
    assert {name: cell.refusal for name, cell in row.cells.items()} == {
        "ratio_1": "", "ratio_0.5": "not averaged", "ratio_0.25": "not averaged"
    }  # fmt: skip
    with pytest.raises(UserError, match=r"another run .DATASET.IMBALANCE_PROFILE: 'step', not"):
        start("zsclip", ratios=(0.25,), overrides=step)


def test_base_to_new_under_imbalance_has_the_groups_of_base(start: Any, tmp_path: Path) -> None:
    overrides = ["OPTIM.MAX_EPOCH", 1, "DATASET.IMBALANCE", 0.25]
    assert start("coop", protocol=protocols.base2new, overrides=overrides)[0] == 0
    found = table.build(tmp_path)
    assert not found.notes
    assert [(part.part, list(part.cells), part.summary) for part in found.parts] == [
        ("base", list(GROUPS), {})
    ]


def test_unusable_ratios(start: Any, tmp_path: Path) -> None:
    for message, kwargs in {
        r"a ratio below 1, got 1; .*promptclip fewshot": {"ratios": [1]},
        r"a ratio below 1, got none": {"ratios": []},
        r"DATASET.IMBALANCE must be between 0.0001 and 1; got 0.0": {"ratios": [0.5, 0.0]},
        r"DATASET.IMBALANCE must be between": {"ratios": [0.5, 2.0]},
        r"DATASET.IMBALANCE cannot be set here: class imbalance sets it": {
            "overrides": ["DATASET.IMBALANCE", 0.5]
        },
    }.items():
        with pytest.raises(UserError, match=message):
            start("zsclip", **kwargs)
    assert not any(tmp_path.iterdir())


def test_the_command_line(monkeypatch: Any) -> None:
    from promptclip.cli import main

    calls = []
    monkeypatch.setattr(protocols, "imbalance", lambda *a, **k: calls.append((a, k)) or 0)
    assert main(["imbalance", "coop", "emoji_people", "1"]) == 0
    assert main(["imbalance", "--ratios", "0.5 0.1,1", "--shots", "8", "npt", "emoji"]) == 0
    assert [(a, k["ratios"], k["shots"], list(k["seeds"])) for a, k in calls] == [
        ((["coop"], "emoji_people"), [1, 0.25, 0.06], 16, [1]),
        ((["npt"], "emoji"), [0.5, 0.1, 1], 8, [1, 2, 3]),
    ]
