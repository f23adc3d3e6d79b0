"""The table: right numbers, and nothing hidden."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_tree import HALVES, elsewhere, few_shot, folder_of, put

from promptclip import results, table
from promptclip.errors import UserError
from promptclip.table import Cell, Row, Table, harmonic, t_quantile

t_quantile(1)  # loads scipy before hypothesis measures time


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two methods, three seeds."""
    for method, seed in itertools.product(("CoOp", "DAPT"), (1, 2, 3)):
        put(tmp_path, "base", method, seed, 60 + seed)
        put(tmp_path, "new", method, seed, 50 - seed**2)
    return tmp_path


percents = st.floats(0, 100)


@given(st.lists(st.tuples(percents, percents), min_size=1, max_size=8))
def test_arithmetic(pairs: list[tuple[float, float]]) -> None:
    base, new = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    row = Row(
        "emoji", 16, "CoOp", "tiny", {"base": Cell(base), "new": Cell(new)}, tuple(base), 1, 1
    )
    h = [statistics.harmonic_mean(pair) for pair in pairs]
    for cell, values in ((row.base, base.values()), (row.new, new.values()), (row.h, h)):
        assert cell.mean == pytest.approx(sum(values) / len(pairs))
        if len(pairs) == 1:
            assert cell.deviation is cell.interval is None
        else:
            squares = sum((value - sum(values) / len(pairs)) ** 2 for value in values)
            assert cell.deviation == pytest.approx(math.sqrt(squares / (len(pairs) - 1)), abs=1e-6)
            assert cell.interval == pytest.approx(
                t_quantile(len(pairs) - 1) * cell.deviation / math.sqrt(len(pairs))
            )
    means = [sum(values.values()) / len(pairs) for values in (base, new)]
    assert row.h_of_means == pytest.approx(statistics.harmonic_mean(means))


def test_harmonic_mean() -> None:
    assert harmonic(60, 40) == 48
    assert harmonic(0, 50) == harmonic(50, 0) == harmonic(0, 0) == 0


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Abramowitz and Stegun 1964, table 26.10
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)],
)
def test_t_quantile(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=6e-4)


def test_a_complete_tree(tree: Path) -> None:
    found = table.build(tree)
    assert [row.method for row in found.rows] == ["CoOp", "DAPT"]
    assert found.complete
    assert not found.notes
    row = found.rows[0]
    assert (row.dataset, row.shots, row.cfg, row.seeds) == ("emoji", 16, "tiny", (1, 2, 3))
    assert (row.base.mean, row.base.deviation) == (62, 1)
    assert row.trainable_parameters == 8192
    assert row.seconds == 30
    text = table.render(found, width=80)
    assert text.startswith("emoji, 16 shots, base to new\n")
    line = re.search(r"CoOp.*", text)
    assert line
    h = [harmonic(60 + seed, 50 - seed**2) for seed in (1, 2, 3)]
    expected = f"{statistics.mean(h):.2f} ± {statistics.stdev(h):.2f}"
    assert re.split(r"\s{2,}", line[0].strip()) == [
        "CoOp", "62.00 ± 1.00", "45.33 ± 4.04", expected, "3", "8,192", "30"
    ]  # fmt: skip
    assert "mean ± sample standard deviation" in text
    assert "harmonic mean of base and new for each seed" in " ".join(text.split())


@pytest.mark.parametrize(
    "below",
    ["", "base2new", "base2new/train_base", "base2new/test_new/emoji", "base2new/test_new/emoji/"
     "shots_16/CoOp", "base2new/train_base/emoji/shots_16/CoOp/tiny"],
)  # fmt: skip
def test_any_folder_of_the_tree(tree: Path, below: str) -> None:
    row = table.build(tree / below).rows[0]
    assert row == table.build(tree).rows[0]


def test_a_single_seed_has_no_spread(tree: Path) -> None:
    row = table.build(folder_of(tree, "base", "CoOp", 2)).rows[0]
    assert (row.seeds, row.base.lines(), row.new.lines()) == ((2,), ["62.00"], ["46.00"])


def test_what_is_missing_shows(tree: Path) -> None:
    (folder_of(tree, "new", "CoOp", 3) / "result.json").unlink()
    folder_of(tree, "new", "CoOp", 3).rmdir()
    results.failed(folder_of(tree, "base", "CoOp", 4), RuntimeError("out\nof memory"))
    (folder_of(tree, "base", "DAPT", 1) / "result.json").write_text("{")
    (folder_of(tree, "base", "DAPT", 2) / "result.json").unlink()
    other = folder_of(tree, "new", "DAPT", 2) / "result.json"
    (folder_of(tree, "new", "DAPT", 3) / "result.json").write_bytes(other.read_bytes())
    found = table.build(tree)
    assert not found.complete
    coop, dapt = found.rows
    assert coop.base.lines() == ["62.00 ± 1.00", "failed seed 4"]
    assert coop.new.lines()[1:] == ["missing seeds 3 4"]
    assert coop.h.lines()[1:] == ["unpaired seed 3"]
    assert dapt.base.lines()[1:] == [
        "damaged result.json of seed 1", "no result.json of seed 2", "missing seed 4"
    ]  # fmt: skip
    assert dapt.new.lines()[1:] == ["misplaced seed 3", "missing seed 4"]
    assert dapt.h.values == {}
    assert dapt.h.lines() == ["", "unpaired seeds 1 2 3"]
    assert dapt.h_of_means is None
    assert found.notes == (
        "emoji, 16 shots, CoOp (tiny), base seed 4 failed: RuntimeError: out of memory",
    )
    for form in ("text", "md", "csv"):
        text = " ".join(table.render(found, form, width=200).split())
        for note in ("failed seed 4", "missing seeds 3 4", "damaged", "no result.json"):
            assert note in text
    assert json.loads(table.render(found, "json"))["rows"][0]["base"]["problems"] == {"4": "failed"}


def test_h_of_means_is_over_paired_seeds(tree: Path) -> None:
    (folder_of(tree, "new", "CoOp", 3) / "result.json").unlink()
    row = table.build(tree).rows[0]
    assert row.h_of_means == harmonic((61 + 62) / 2, (49 + 46) / 2)


def test_runs_without_any_result_are_not_guessed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "base", "MaPLe", 1)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("* accuracy: 85.0%\n")
    text = table.render(table.build(tmp_path), width=100)
    assert "no result.json of" in text
    assert "85" not in text


def test_different_configurations_are_not_averaged(tree: Path) -> None:
    put(tree, "new", "CoOp", 3, 41, lr=0.1)
    found = table.build(tree)
    assert found.rows[0].base.mean is found.rows[0].h.mean is found.rows[0].h_of_means is None
    assert found.rows[1].base.mean == 62
    text = " ".join(table.render(found, width=100).split())
    assert "not averaged" in text
    assert (
        "base seed 1 and new seed 3 have different configurations: OPTIM.LR: 0.002, not 0.1" in text
    )
    assert "62.00" not in table.render(found, "csv").splitlines()[1]


def test_different_samples_are_noted(tree: Path) -> None:
    put(tree, "base", "DAPT", 2, 62, split_hash="other")
    assert "seed 2: CoOp and DAPT saw different pictures" in table.build(tree).notes[0]


def test_configurations_of_a_method_are_rows_of_their_own(tree: Path) -> None:
    for half in HALVES:
        old = folder_of(tree, half, "DAPT", 1).parent
        new = old.parent.parent / "CoOp" / "long"
        old.rename(new)
        for seed in (1, 2, 3):
            put(tree, half, "CoOp", seed, 70)
            (folder_of(tree, half, "CoOp", seed) / "result.json").replace(
                new / f"seed{seed}" / "result.json"
            )
    text = table.render(table.build(tree), "md")
    assert "| CoOp<br>long | 70.00 ± 0.00 |" in text
    assert "| CoOp<br>tiny |" in text


@pytest.mark.parametrize("width", range(10, 130, 7))
def test_no_width_loses_a_number(tree: Path, width: int) -> None:
    found = table.build(tree)
    text = table.render(found, width=width)
    assert max(map(len, text.splitlines())) <= width
    packed = "".join(text.split())
    for row in found.rows:
        for cell in (row.base, row.new, row.h):
            assert "".join(cell.lines()[0].split()) in packed
    if width >= 80:
        assert "62.00 ± 1.00" in text


def test_csv_and_json_are_at_full_precision(tree: Path) -> None:
    row = table.build(tree).rows[0]
    written = next(csv.DictReader(io.StringIO(table.render(table.build(tree), "csv"))))
    assert float(written["h_mean"]) == row.h.mean
    assert written["seeds"] == "1 2 3"
    content = json.loads(table.render(table.build(tree), "json"))
    assert content["rows"][0]["h"]["interval95"] == row.h.interval
    assert content["rows"][0]["base"]["values"] == {"1": 61, "2": 62, "3": 63}
    assert "published" in content["caption"]


def test_markdown(tree: Path) -> None:
    lines = table.render(table.build(tree), "md").splitlines()
    assert lines[2] == "| method | base | new | H | H of means | seeds | params | seconds |"
    assert {line.count("|") for line in lines if line.startswith("|")} == {9}


def test_bad_input(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        table.build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no runs; expected train_base/"):
        table.build(tmp_path / "empty")
    with pytest.raises(UserError, match="text, md, csv, json, latex, html, got 'xls'"):
        table.render(Table(()), "xls")
    (tmp_path / "base2new").rename(tmp_path / "one")
    put(tmp_path, "base", "CoOp", 1, 50)
    with pytest.raises(UserError, match="several output trees"):
        table.build(tmp_path)


@pytest.fixture
def forest(tree: Path) -> Path:
    """The same with the other protocols."""
    for method, seed in itertools.product(("CoOp", "DAPT"), (1, 2, 3)):
        for shots in (16, 2, 1):
            # The epochs differ with the shots, as in the published recipes.
            few_shot(tree, method, shots, seed, 30 + shots + seed, lr=1 / shots)
    for method, seed in itertools.product(("CoOp", "DAPT"), (1, 2)):
        for target, accuracy in (("emoji_line", 20), ("emoji_openmoji", 41)):
            elsewhere(tree, "dg", target, method, seed, accuracy + seed, lr=1 / 16)
        elsewhere(tree, "xd", "emoji_people", method, seed, 5, lr=1 / 16)
    return tree


def test_few_shot(forest: Path) -> None:
    found = table.build(forest / "fewshot")
    assert found.complete
    assert not found.notes
    row = found.rows[0]
    assert [cell.mean for cell in row.cells.values()] == [33, 34, 48]
    text = table.render(found, width=80)
    assert text.startswith("emoji, few-shot, all classes\n")
    heading, line = (re.search(rf"{word} .*", text) for word in ("method", "CoOp"))
    assert heading is not None
    assert line is not None
    assert re.split(r"\s{2,}", heading[0]) == [
        "method", "1 shot", "2 shots", "16 shots", "seeds", "params", "seconds"
    ]  # fmt: skip
    assert re.split(r"\s{2,}", line[0]) == [
        "CoOp", "33.00 ± 1.00", "34.00 ± 1.00", "48.00 ± 1.00", "3", "8,192", "45"
    ]  # fmt: skip
    assert "harmonic" not in text


def test_few_shot_hides_nothing(forest: Path) -> None:
    few_shot(forest, "CoOp", 2, 3, 70, lr=9)
    (forest / "fewshot/emoji/shots_16/DAPT/tiny/seed1/result.json").unlink()
    few_shot(forest, "CoOp", 4, 1, 40)
    coop, dapt = table.build(forest / "fewshot").rows
    assert [cell.lines() for cell in coop.cells.values()] == [
        ["33.00 ± 1.00"], ["", "not averaged"], ["40.00", "missing seeds 2 3"], ["48.00 ± 1.00"]
    ]  # fmt: skip
    assert dapt.cells["shots_4"].lines() == ["", "missing seeds 1 2 3"]
    assert dapt.cells["shots_16"].lines() == ["48.50 ± 0.71", "no result.json of seed 1"]
    assert table.build(forest / "fewshot").notes == (
        "emoji, CoOp (tiny) is not averaged: shots_2 seed 1 and shots_2 seed 3 have different "
        "configurations: OPTIM.LR: 0.5, not 9",
    )


def test_tests_elsewhere_stand_beside_the_source_and_its_seeds(forest: Path) -> None:
    row = table.build(forest / "dg").rows[0]
    assert list(row.cells) == ["emoji", "emoji_openmoji", "emoji_line"]
    assert row.seeds == (1, 2)  # the source has a third seed
    assert [cell.mean for cell in row.cells.values()] == [47.5, 42.5, 21.5]
    assert row.summary["average"].values == {1: 31.5, 2: 32.5}
    (forest / "dg/emoji/emoji_line/shots_16/CoOp/tiny/seed2/result.json").unlink()
    (forest / "fewshot/emoji/shots_16/CoOp/tiny/seed1/result.json").unlink()
    (forest / "fewshot/emoji/shots_16/CoOp/tiny/seed1").rmdir()
    row = table.build(forest / "dg/emoji").rows[0]
    assert row.cells["emoji"].lines() == ["48.00", "missing seed 1"]
    assert row.summary["average"].lines() == ["31.50", "incomplete seed 2"]
    assert row.complete_seeds == set()
    elsewhere(forest, "dg", "emoji_line", "DAPT", 1, 21, dataset="EmojiOpenMoji", lr=1 / 16)
    assert table.build(forest / "dg").rows[1].cells["emoji_line"].problems == {1: "misplaced"}


def test_a_source_of_another_configuration_is_not_averaged_with_its_tests(forest: Path) -> None:
    few_shot(forest, "CoOp", 16, 1, 47, lr=9)
    coop, dapt = table.build(forest / "xd").rows
    assert coop.summary["average"].lines() == ["", "not averaged"]
    assert dapt.summary["average"].mean == 5


def test_a_folder_of_several_protocols(forest: Path) -> None:
    found = table.build(forest)
    assert found.complete
    titles = [title for title, _ in found.groups]
    assert titles == [
        "emoji, 16 shots, base to new",
        "emoji, few-shot, all classes",
        "from emoji, 16 shots, cross-dataset",
        "from emoji, 16 shots, domain generalisation",
    ]
    for form in ("text", "md"):
        text = table.render(found, form, width=100)
        assert all(title in text for title in titles)
        assert all(
            words in " ".join(text.split()) for words in ("H: the harm", "average: the mean")
        )
    tables = re.split(r"(?m)^(?=dataset,)", table.render(found, "csv"))[1:]
    rows = [next(csv.DictReader(io.StringIO(part))) for part in tables]
    assert [row["protocol"] for row in rows] == ["base2new", "fewshot", "xd", "dg"]
    assert float(rows[1]["shots_16_mean"]) == 48
    assert float(rows[3]["average_mean"]) == 32
    content = json.loads(table.render(found, "json"))["rows"]
    assert content[2]["shots_16"]["values"] == {"1": 47, "2": 48, "3": 49}
    assert content[2]["shots"] is None


def test_columns_of_several_data_sets(forest: Path) -> None:
    folder = forest / "fewshot/emoji_people/shots_8/CoOp/tiny/seed1"
    put(forest, "all", "CoOp", 1, 50, shots=8, folder=folder, dataset="EmojiPeople")
    rows = list(csv.DictReader(io.StringIO(table.render(table.build(forest / "fewshot"), "csv"))))
    assert (rows[0]["shots_8_mean"], rows[0]["shots_8_n"]) == ("", "")
    assert (rows[2]["shots_8_mean"], rows[2]["shots_8_n"]) == ("50.0", "1")


def test_new_classes_do_not_apply_to_what_does_not_transfer(tree: Path) -> None:
    for seed in (1, 2, 3):
        put(tree, "base", "DAPT", seed, 60, transfers=False)
        (folder_of(tree, "new", "DAPT", seed) / "result.json").unlink()
        folder_of(tree, "new", "DAPT", seed).rmdir()
    found = table.build(tree)
    assert found.complete
    dapt = found.rows[1]
    assert (dapt.new.lines(), dapt.h.lines()) == (["", "n/a"], ["", "n/a"])
    assert dapt.h_of_means is None
    line = re.search(r"DAPT.*", table.render(found, width=100))
    assert line
    assert line[0].split()[-5:] == ["n/a", "n/a", "3", "8,192", "15"]
    results.failed(folder_of(tree, "new", "DAPT", 1), RuntimeError("tried"))
    assert table.build(tree).rows[1].new.lines() == ["", "failed seed 1", "missing seeds 2 3"]


def test_what_was_tuned_is_told(tree: Path) -> None:
    for seed in (1, 2, 3):
        put(tree, "base", "DAPT", seed, 60, tuned_on="validation")
        put(tree, "base", "CoOp", seed, 60, tuned_on="none")
    found = table.build(tree)
    assert found.notes == (
        "DAPT (tiny): hyper-parameters chosen on validation pictures in each run",
    )
    assert found.notes[0] in table.render(found, "md")
