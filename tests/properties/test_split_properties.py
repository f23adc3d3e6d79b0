"""Split files and few-shot samples of any content, and damaged in any way."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from faults.damage import says
from hypothesis import given, settings
from hypothesis import strategies as st

from promptclip import few_shot, files, split_files, splits
from promptclip.benchmark import list_class_folders
from promptclip.errors import UserError
from promptclip.few_shot import PARTS, Picture, draw

LETTERS = st.text(st.characters(categories=["L", "N", "P", "S"]))
NAMES = LETTERS.map("a{}".format).filter(lambda text: not few_shot.is_outside(text))
PICTURES = st.lists(st.builds(Picture, NAMES, st.integers(0, 2**40), LETTERS))
SPLITS = st.fixed_dictionaries(dict.fromkeys(PARTS, PICTURES))
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*PARTS, "path", "x"]), inner),
    max_leaves=12,
)
ROWS = st.lists(
    st.tuples(st.text() | st.just("a/b.png"), st.integers(-2, 5) | st.text(), st.text()).map(list)
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits") / "split.json"


@settings(max_examples=60, deadline=None)
@given(SPLITS)
def test_what_is_written_is_read(file: Path, split: dict[str, list[Picture]]) -> None:
    splits.write(split, file, {"origin": "a test"})
    found = splits.read(file)
    assert {part: found[part] for part in PARTS} == split
    assert found["origin"] == "a test"


@settings(max_examples=150, deadline=None)
@given(SPLITS, st.data())
def test_any_damage_is_noticed_or_harmless(
    file: Path, split: dict[str, list[Picture]], data: st.DataObject
) -> None:
    splits.write(split, file, {})
    content = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    content[start:end] = data.draw(st.binary(max_size=40))
    file.write_bytes(content)
    try:
        found = splits.read(file)
    except UserError as error:
        says(error, str(file))
    else:
        unsealed = b'"split_hash"' not in content  # its name was hit: nothing tells any more
        assert unsealed or {part: found[part] for part in PARTS} == split


@settings(max_examples=150, deadline=None)
@given(JSON | st.fixed_dictionaries(dict.fromkeys(PARTS, ROWS | JSON)), st.sampled_from(
    [".json", ".jsonl", ".csv"]
))  # fmt: skip
def test_any_json_is_a_split_or_refused_by_name(file: Path, content: Any, suffix: str) -> None:
    text = json.dumps(content)  # half characters and all
    for path, read in ((file, splits.read), (file.with_suffix(suffix), split_files.read_rows)):
        path.write_text(text)
        try:
            found = read(path)
        except UserError as error:
            says(error, path.name)
        else:
            for part in PARTS:
                for impath, label, classname in found[part]:
                    assert isinstance(impath, str)
                    assert isinstance(label, int)
                    assert label >= 0
                    assert isinstance(classname, str)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.sampled_from(
    [".json", ".jsonl", ".csv"]
))  # fmt: skip
def test_any_bytes_are_refused_by_name(file: Path, content: bytes, suffix: str) -> None:
    path = file.with_suffix(suffix)
    path.write_bytes(content)
    for read in (splits.read, split_files.read_rows, files.read_json_mapping):
        try:
            read(path)
        except UserError as error:
            says(error, path.name)


LABELS = st.lists(st.integers(0, 8), max_size=80)


def pictures_of(labels: list[int]) -> list[Picture]:
    return [Picture(f"{label}/{i}.jpg", label, f"c{label}") for i, label in enumerate(labels)]


@settings(max_examples=100, deadline=None)
@given(LABELS, st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_k_of_each_class_none_twice(labels: list[int], shots: int, seed: int) -> None:
    pictures = pictures_of(labels)
    drawn = draw(pictures, shots, random.Random(seed))
    assert drawn == draw(pictures, shots, random.Random(seed))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(pictures)
    for label in set(labels):
        assert sum(p.label == label for p in drawn) == min(shots, labels.count(label))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=80).map(sorted), st.integers(1, 5), st.integers(0, 99))
def test_more_classes_behind_change_nothing(labels: list[int], shots: int, seed: int) -> None:
    pictures = pictures_of(labels)
    whole = draw(pictures, shots, random.Random(seed))
    for last in set(labels):
        fewer = [p for p in pictures if p.label <= last]
        assert draw(fewer, shots, random.Random(seed)) == [p for p in whole if p.label <= last]


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS, st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_sample_is_disjoint_kept_and_drawn_alone(
    train: list[int], val: list[int], shots: int, seed: int
) -> None:
    parts = pictures_of(train), [p._replace(path=f"val/{p.path}") for p in pictures_of(val)]
    random.seed(5)
    before = random.getstate()
    with tempfile.TemporaryDirectory() as folder:
        drawn, again = (
            few_shot.sample(Path(folder), *parts, benchmark="Toy", shots=shots, seed=seed)
            for _ in range(2)
        )
    assert random.getstate() == before
    assert drawn == again
    assert not set(drawn[0]) & set(drawn[1])
    for part, whole, most in zip(drawn, parts, (shots, min(shots, 4)), strict=True):
        counts = {p.label: sum(q.label == p.label for q in whole) for p in whole}
        assert len(part) == sum(min(count, most) for count in counts.values())


@settings(max_examples=25, deadline=None)
@given(st.permutations([f"{c}/{n}.png" for c in "abc" for n in range(4)]))
def test_the_order_on_disk_does_not_matter(order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in order:
            file = Path(folder, path)
            file.parent.mkdir(exist_ok=True)
            file.touch()
        listed = list_class_folders(Path(folder))
    assert listed == {c: [f"{n}.png" for n in range(4)] for c in "abc"}
    assert list(listed) == ["a", "b", "c"]
