"""The few-shot sample: CoOp's lists, a file that can be trusted, pickles that can do no harm."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import random
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import Datum
from hypothesis import given, settings
from hypothesis import strategies as st

from promptclip import few_shot
from promptclip.errors import UserError
from promptclip.few_shot import Picture, sample, split_hash

TRAIN = [Picture(f"c{i % 3}/{i}.jpg", i % 3, f"class {i % 3}") for i in range(30)]
VAL = [Picture(f"v/{i}.jpg", i % 3, f"class {i % 3}") for i in range(9)]


def drawn(folder: Path, shots: int = 2, seed: int = 1, train: Any = TRAIN, val: Any = VAL) -> Any:
    return sample(folder, train, val, benchmark="Toy", shots=shots, seed=seed)


def reference(parts: list[list[Picture]], shots: list[int], seed: int) -> list[list[Picture]]:
    """What Dassl's DatasetBase gives after `random.seed(seed)`, from its definition."""
    random.seed(seed)
    output = []
    for part, k in zip(parts, shots, strict=True):
        by_label = defaultdict(list)
        for picture in part:
            by_label[picture.label].append(picture)
        chosen = []
        for items in by_label.values():
            chosen.extend(random.sample(items, k) if len(items) >= k else items)
        output.append(chosen)
    return output


pictures = st.lists(st.integers(0, 6), max_size=60).map(
    lambda labels: [Picture(f"{i}.jpg", label, f"c{label}") for i, label in enumerate(labels)]
)


@settings(max_examples=60, deadline=None)
@given(train=pictures, val=pictures, shots=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_the_sample_is_that_of_dassl(
    train: list[Picture], val: list[Picture], shots: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours = drawn(Path(folder), shots, seed, train, val)
        again = drawn(Path(folder), shots, seed, train, val)
    assert list(ours) == reference([train, val], [shots, min(shots, 4)], seed)
    assert again == ours


@pytest.mark.parametrize("shots", [-1, 0])
def test_less_than_one_shot_means_everything(tmp_path: Path, shots: int) -> None:
    assert drawn(tmp_path, shots) == (TRAIN, VAL)
    assert not list(tmp_path.iterdir())


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    random.seed(5)
    before = random.getstate()
    drawn(tmp_path)
    assert random.getstate() == before


def test_without_a_seed_samples_differ_and_are_not_kept(tmp_path: Path) -> None:
    assert len({split_hash(*drawn(tmp_path, seed=-1)) for _ in range(5)}) > 1
    assert not list(tmp_path.iterdir())


def test_the_file_is_relative_and_hashed(tmp_path: Path) -> None:
    ours = drawn(tmp_path / "split_fewshot")
    path = tmp_path / "split_fewshot" / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    assert content["split_hash"] == split_hash(*ours)
    assert content["train"] == [list(picture) for picture in ours[0]]
    assert str(tmp_path) not in path.read_text()
    shutil.move(tmp_path / "split_fewshot", tmp_path / "elsewhere")
    assert drawn(tmp_path / "elsewhere") == ours


def test_the_hash_is_of_the_content_in_its_order() -> None:
    assert split_hash(TRAIN, VAL) == split_hash([*TRAIN], tuple(VAL))
    assert len({split_hash(TRAIN, VAL), split_hash(TRAIN[::-1], VAL), split_hash(VAL, TRAIN)}) == 3
    # Written out: a hash in an old result must stay comparable.
    content = b'{"train":[["c0/0.jpg",0,"class 0"]],"val":[]}'
    assert split_hash(TRAIN[:1], []) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["train"].pop(), "split_hash"),
        (lambda c: c["train"][0].__setitem__(1, 2), "split_hash"),
        (lambda c: c.update(seed=2), "expected seed 1, got 2"),
        (lambda c: c.update(benchmark="Other"), "expected benchmark Toy, got Other"),
        (lambda c: c.pop("val"), "lists train, val"),
        (lambda c: c["train"].append("x"), "expected \\[path, label, class name\\]"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    drawn(tmp_path)
    path = tmp_path / "shot_2-seed_1.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        drawn(tmp_path)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    drawn(tmp_path)
    path = tmp_path / "shot_2-seed_1.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="shot_2-seed_1.json: cannot be read"):
        drawn(tmp_path)


def test_a_sample_of_another_split_is_refused(tmp_path: Path) -> None:
    chosen = drawn(tmp_path)[0][0]
    with pytest.raises(UserError, match=f"{chosen.path}.*must have changed"):
        drawn(tmp_path, train=[picture for picture in TRAIN if picture != chosen])


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO):
        ours = drawn(tmp_path / "file" / "split_fewshot")
    assert list(ours) == reference([TRAIN, VAL], [2, 2], 1)
    assert "in memory only" in caplog.text


def test_more_shots_than_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [*TRAIN, Picture("rare.jpg", 3, "rare one")]
    with caplog.at_level(logging.WARNING):
        ours, _ = drawn(tmp_path, shots=8, train=train)
    assert train[-1] in ours
    assert len(ours) == 8 * 3 + 1
    assert "1 of 4 classes have fewer than 8 training pictures ('rare one' has 1)" in caplog.text


@pytest.mark.parametrize(
    "path",
    ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "C:\\x.jpg", "C:x.jpg", "\\\\host\\x.jpg",
     "a\\..\\..\\x.jpg", "", ".", "x\0.jpg"],
)  # fmt: skip
def test_paths_stay_in_the_picture_folder(tmp_path: Path, path: str) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": [[path, 0, "a"]], "val": [], "test": []}))
    with pytest.raises(UserError, match="leads out of the picture folder"):
        few_shot.read_split_file(split)


def test_unusual_paths_stay(tmp_path: Path) -> None:
    rows = [[path, 0, "a"] for path in ("a..b/...jpg", "ü (1)/ .jpg", "..a/b..", "10:30.jpg")]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": rows, "val": [], "test": []}))
    assert [list(row) for row in few_shot.read_split_file(split)["train"]] == rows


@pytest.mark.parametrize(
    "row",
    [["a.jpg", 0], ["a.jpg", "0", "a"], ["a.jpg", True, "a"], ["a.jpg", 0.0, "a"],
     ["a.jpg", -1, "a"], {"a.jpg": 0}, 7],
)  # fmt: skip
def test_rows_of_another_form_are_refused(tmp_path: Path, row: Any) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": [row], "val": [], "test": []}))
    with pytest.raises(UserError, match="split.json: expected"):
        few_shot.read_split_file(split)


# Old pickles


def old_datum(impath: str, label: int, classname: str) -> Datum:
    datum = Datum.__new__(Datum)  # the constructor wants the picture to be there
    datum.__dict__.update(_impath=impath, _label=label, _domain=0, _classname=classname)
    return datum


def write_pickle(folder: Path, content: Any, name: str = "shot_2-seed_1.pkl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    return folder / name


@pytest.mark.parametrize("root", ["/old/machine/data/toy/images/", "D:\\data\\toy\\images\\"])
def test_an_old_pickle_is_used_and_converted(
    tmp_path: Path, root: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [TRAIN[7], TRAIN[2], TRAIN[3]], [VAL[4]]
    parts = [[old_datum(root + p.path, p.label, p.classname) for p in part] for part in chosen]
    write_pickle(tmp_path, dict(zip(("train", "val"), parts, strict=True)))
    with caplog.at_level(logging.INFO):
        assert drawn(tmp_path) == chosen
    assert "shot_2-seed_1.pkl" in caplog.text
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(b"never read again: the JSON file comes first")
    assert drawn(tmp_path) == chosen


def test_an_old_pickle_without_validation_part(tmp_path: Path) -> None:
    write_pickle(tmp_path, {"train": [old_datum("/x/" + TRAIN[0].path, *TRAIN[0][1:])]})
    assert drawn(tmp_path, val=[]) == ([TRAIN[0]], [])


def test_a_pickle_of_another_split_is_refused(tmp_path: Path) -> None:
    write_pickle(tmp_path, {"train": [old_datum("/x/" + TRAIN[0].path, 0, "other")]})
    with pytest.raises(UserError, match="'other'\\) is not in the split"):
        drawn(tmp_path)
    assert not (tmp_path / "shot_2-seed_1.json").exists()


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__])
def test_a_pickle_runs_nothing(tmp_path: Path, function: Any, protocol: int) -> None:
    witness = tmp_path / "witness"
    argument = f"touch {witness}" if function is os.system else f"open({str(witness)!r}, 'w')"
    for content in (
        Exploit(function, argument),
        {"train": [Exploit(function, argument)]},
        {"train": [old_datum(str(Exploit), 0, "a"), Exploit(function, argument)]},
    ):
        path = tmp_path / "shot_2-seed_1.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(UserError, match="not a few-shot sample of CoOp"):
            drawn(tmp_path)
    assert not witness.exists()


def test_a_dotted_name_does_not_reach_through_the_module(tmp_path: Path) -> None:
    # Protocol 4 resolves "Datum.__init__.__globals__" attribute by attribute in plain pickle.
    path = tmp_path / "shot_2-seed_1.pkl"
    for module, name in (
        (b"dassl.data.datasets.base_dataset", b"Datum.__init__"),
        (b"dassl.data.datasets.base_dataset", b"random"),
        (b"dassl.data.datasets", b"Datum"),
    ):
        strings = b"".join(b"\x8c" + bytes([len(s)]) + s for s in (module, name))
        path.write_bytes(b"\x80\x04" + strings + b"\x93.")
        with pytest.raises(UserError, match="not allowed"):
            drawn(tmp_path)


def test_a_pickle_cannot_change_what_the_next_one_is_read_with(tmp_path: Path) -> None:
    # BUILD with a slot state sets attributes of the class object itself.
    evil = pickle.dumps(Datum, 2)[:-1] + pickle.dumps((None, {"_impath": "x"}), 2)[2:-1] + b"b."
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(evil)
    with pytest.raises(UserError):
        drawn(tmp_path)
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(pickle.dumps({"train": [Datum.__new__(Datum)]}))
    with pytest.raises(UserError, match="_impath"):
        drawn(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_pickle_is_refused(garbage: bytes, cut: int) -> None:
    parts = {"train": [old_datum("/x/" + p.path, p.label, p.classname) for p in TRAIN[:3]]}
    whole = pickle.dumps(parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shot_2-seed_1.pkl")
        for content in (garbage, whole[: min(cut, len(whole) - 1)]):
            path.write_bytes(content)
            with pytest.raises(UserError):
                few_shot.read_pickle(path, TRAIN, VAL)
