"""`result.json`: whole or not there, and true to the last digit."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dassl.config import get_cfg_default
from hypothesis import given
from hypothesis import strategies as st

from promptclip import results
from promptclip.errors import UserError
from promptclip.results import metrics, per_class

TRUE = [0, 0, 0, 1, 1, 3]
PREDICTED = [0, 1, 2, 1, 1, 0]


def trainer_of(
    y_true: Sequence[int] = TRUE, y_pred: Sequence[int] = PREDICTED, **attributes: Any
) -> SimpleNamespace:
    """What `collect` reads of a Dassl trainer."""
    return SimpleNamespace(
        evaluator=SimpleNamespace(_y_true=list(y_true), _y_pred=list(y_pred)),
        lab2cname={2: "cow", 0: "ant", 1: "bee", 3: "dog"},
        device=torch.device("cpu"),
        dm=SimpleNamespace(dataset=SimpleNamespace(split_hash="abc")),
        _models={"prompt_learner": torch.nn.Linear(3, 2)},
        **attributes,
    )


@pytest.fixture
def result() -> dict[str, Any]:
    """The result of a small run."""
    cfg = get_cfg_default()
    cfg.TRAINER.NAME, cfg.DATASET.NAME, cfg.SEED = "CoOp", "Toy", 3
    cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = 16, "base"
    return results.collect(trainer_of(), cfg, seconds={"train": 1 / 3, "test": 0.25})


def test_a_result_says_what_was_run(result: dict[str, Any]) -> None:
    assert (result["method"], result["dataset"], result["seed"]) == ("CoOp", "Toy", 3)
    assert (result["shots"], result["subsample"], result["split_hash"]) == (16, "base", "abc")
    assert result["trainable_parameters"] == 3 * 2 + 2
    assert result["config"]["OPTIM"]["NAME"] == "adam"
    assert result["versions"]["torch"]
    assert result["versions"]["dassl"]
    assert result["hardware"]["cores"] >= 1
    assert result["peak_memory"]["resident"] > 10 * 2**20
    assert result["git"] is None or len(result["git"]["commit"]) == 40


def test_the_trainers_own_count_of_parameters_comes_first() -> None:
    cfg = get_cfg_default()
    cfg.TRAINER.NAME, cfg.DATASET.SUBSAMPLE_CLASSES = "CoOp", "all"
    result = results.collect(trainer_of(num_trainable=5), cfg, seconds={})
    assert result["trainable_parameters"] == 5


def test_metrics_by_hand() -> None:
    found = metrics(TRUE, PREDICTED)
    assert found is not None
    assert found["accuracy"] == 50
    assert found["error_rate"] == 50
    # ant: 1 of 3 found, 1 of 2 right; bee: 2 of 2, 2 of 3; dog: none; cow has no pictures
    assert found["macro_f1"] == pytest.approx(100 * (2 / 5 + 4 / 5 + 0) / 3)
    assert found["num_test"] == 6
    assert [
        row["accuracy"] for row in per_class(TRUE, PREDICTED, ["ant", "bee", "cow", "dog"])
    ] == [
        pytest.approx(100 / 3),
        100,
        None,
        0,
    ]
    assert metrics([], []) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_metrics_by_definition(pairs: list[tuple[int, int]]) -> None:
    found = metrics([t for t, _ in pairs], [p for _, p in pairs])
    assert found is not None
    f1 = []
    for label in {t for t, _ in pairs}:
        hit = sum(t == p == label for t, p in pairs)
        wrong = sum((t == label) != (p == label) for t, p in pairs)
        f1.append(hit / (hit + wrong / 2))
    assert found["macro_f1"] == pytest.approx(100 * sum(f1) / len(f1))
    assert found["accuracy"] == 100 * sum(t == p for t, p in pairs) / len(pairs)


def test_what_is_written_is_read(tmp_path: Path, result: dict[str, Any]) -> None:
    assert results.read(tmp_path) is None
    results.write(result, tmp_path / "new" / "folder")
    again = results.read(tmp_path / "new" / "folder")
    assert again == result
    assert again["seconds"]["train"] == 1 / 3
    results.write(again, tmp_path)
    assert results.read(tmp_path) == result


def test_a_torn_result_is_none(tmp_path: Path, result: dict[str, Any]) -> None:
    results.write(result, tmp_path)
    path = tmp_path / "result.json"
    whole = path.read_bytes()
    for length in [0, 1, *random.Random(0).sample(range(len(whole) - 2), 40)]:
        path.write_bytes(whole[:length])
        assert results.read(tmp_path) is None


@pytest.mark.parametrize(
    "change", [("50.0", "51.0"), ("50.0", "NaN"), ('"seed": 3', '"seed": 4'), ("1,", "0,")]
)
def test_an_edited_result_is_none(
    tmp_path: Path, result: dict[str, Any], change: tuple[str, str]
) -> None:
    results.write(result, tmp_path)
    path = tmp_path / "result.json"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    assert results.read(tmp_path) is None


def test_a_result_of_a_newer_version_is_left_alone(tmp_path: Path, result: dict[str, Any]) -> None:
    results.write(result | {"schema": 2}, tmp_path)
    with pytest.raises(UserError, match="schema 2, of a newer promptclip, and this one reads 1"):
        results.read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "7", "null", "{}", '{"schema": 1}', "\udcff"])
def test_another_file_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content, errors="surrogateescape")
    assert results.read(tmp_path) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_written(
    tmp_path: Path, result: dict[str, Any], value: float
) -> None:
    result["metrics"]["accuracy"] = value
    with pytest.raises(ValueError, match="JSON"):
        results.write(result, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_result(
    tmp_path: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results.write(result, tmp_path)

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        results.write(result | {"seed": 4}, tmp_path)
    assert results.read(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_failure_is_recorded_until_a_success(tmp_path: Path, result: dict[str, Any]) -> None:
    assert results.read_failure(tmp_path) is None
    results.failed(tmp_path, RuntimeError("out of memory"))
    record = results.read_failure(tmp_path)
    assert record is not None
    assert (record["error"], record["message"]) == ("RuntimeError", "out of memory")
    results.write(result, tmp_path)
    assert results.read_failure(tmp_path) is None


def test_reading_results_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from promptclip import results, table; results.read('.'); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_json_is_readable(tmp_path: Path, result: dict[str, Any]) -> None:
    results.write(result | {"dataset": "Blüte"}, tmp_path)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert "Blüte" in text
    assert json.loads(text)["checksum"]
