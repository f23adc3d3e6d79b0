"""`promptclip predict`: rows for pictures, and a name for each that is none."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from mini_benchmark import CLASSES, cfg_of

import promptclip
from promptclip.cli import main
from promptclip.run import run


@pytest.fixture(scope="module")
def trained(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coop") / "run"
    run(cfg_of("CoOp", mini, folder, "OPTIM.MAX_EPOCH", 2))
    return folder


@pytest.fixture
def folder(mini, tmp_path):
    """Two pictures in a folder, one deeper, and what is not predicted."""
    images = mini.parent / "mini" / "images"
    place = tmp_path / "pictures"
    (place / "deeper" / ".thumbnails").mkdir(parents=True)
    shutil.copy(images / "0" / "test_0.png", place / "b.PNG")
    shutil.copy(images / "1" / "test_0.png", place / "deeper" / "a, b.png")
    shutil.copy(images / "1" / "test_0.png", place / "deeper" / ".thumbnails" / "c.png")
    (place / "notes.txt").write_text("no picture")
    return place


def predict(capsys: Any, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["predict", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_folder_as_csv(trained, folder, capsys):
    status, out, err = predict(capsys, trained, folder, "--top", 2)
    assert status == 0
    assert err == (
        f"{folder}: 1 files that are no pictures by their names are left out, "
        f"the first is {folder}/notes.txt\n"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    model = promptclip.load(trained)
    pictures = [str(folder / "b.PNG"), str(folder / "deeper" / "a, b.png")]
    expected = [
        (path, str(rank), one.classname, pytest.approx(one.probability, abs=1e-5))
        for path, found in zip(pictures, model.predict_all(pictures, top=2), strict=True)
        for rank, one in enumerate(found, 1)
    ]
    found = [(r["image"], r["rank"], r["class"], float(r["probability"])) for r in rows]
    assert found == expected


def test_paths_of_standard_input_as_json(trained, folder, capsys, monkeypatch, tmp_path):
    lines = f"{folder}/b.PNG\r\n\n{folder}/deeper/a, b.png\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    out = tmp_path / "new" / "found.json"
    assert predict(capsys, trained, "-", "--format", "json", "--out", out) == (0, "", "")
    found = json.loads(out.read_text())
    assert [one["image"] for one in found] == [f"{folder}/b.PNG", f"{folder}/deeper/a, b.png"]
    for one in found:
        assert {row["class"] for row in one["predictions"]} == set(CLASSES)
        assert sum(row["probability"] for row in one["predictions"]) == pytest.approx(1)
    assert os.listdir(out.parent) == ["found.json"]


def test_what_is_no_picture_is_named_and_the_others_are_predicted(trained, folder, capsys):
    (folder / "broken.png").write_bytes((folder / "b.PNG").read_bytes()[:300])
    (empty := folder.parent / "empty").mkdir()
    words = [folder, "gone.png", folder / "notes.txt", empty, "line\nbreak.png"]
    status, out, err = predict(capsys, trained, *words, "--top", 1, "--batch-size", 2)
    assert status == 1
    assert [row["image"] for row in csv.DictReader(io.StringIO(out))] == [
        str(folder / "b.PNG"),
        str(folder / "deeper" / "a, b.png"),
    ]
    faults = [line for line in err.splitlines() if "left out" not in line]
    assert [line.split(" ")[0] for line in faults] == [
        f"{folder}/broken.png", "gone.png", f"{folder}/notes.txt", f"{empty}:", r"line\nbreak.png",
        "5",
    ]  # fmt: skip
    assert faults[-1] == "5 could not be read, 2 predicted"


def test_a_spreadsheet_computes_nothing(trained, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "b.PNG").rename("=2+2.png")
    (names := tmp_path / "names.txt").write_text("=1+1\nred dog\n")
    _, out, _ = predict(capsys, trained, "=2+2.png", "--classes", names)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["image"] for row in rows} == {"'=2+2.png"}
    assert {row["class"] for row in rows} == {"'=1+1", "red dog"}


def test_other_class_names(trained, folder, capsys, tmp_path):
    (names := tmp_path / "names.txt").write_text("red dog\n\n  a blue thing \n")
    status, out, _ = predict(capsys, trained, folder / "b.PNG", "--classes", names)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, {row["class"] for row in rows}) == (0, {"red dog", "a blue thing"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", 0, "x.png"], "--top must be 1 or more, got 0"),
        (["--batch-size", 0, "x.png"], "--batch-size must be 1 or more, got 0"),
        (["--classes", "gone.txt", "x.png"], "gone.txt: cannot be read"),
        (["--classes", os.devnull, "x.png"], "holds no class name"),
        (["--out", "/dev/null/x", "PICTURE"], "/dev/null/x: cannot be written"),
        (["-"], "there is no picture to predict"),
    ],
)
def test_unusable_words(words, message, trained, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    words = [folder / "b.PNG" if word == "PICTURE" else word for word in words]
    status, _, err = predict(capsys, trained, *words)
    assert (status, err.startswith("error: ")) == (2, True)
    assert message in err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert predict(capsys, tmp_path, "x.png")[0] == 2
    assert not list(Path(tmp_path).iterdir())
