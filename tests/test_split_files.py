"""Splits and few-shot samples of others: read, recognised, refused; and ours written for them."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
from dassl.data.datasets import Datum

from promptclip import few_shot, split_files, splits
from promptclip.cli import main
from promptclip.few_shot import PARTS, Picture


@pytest.fixture
def root(mini, tmp_path):
    """A data root with the miniature benchmark and `mini.yaml`."""
    root = tmp_path / "data"
    shutil.copytree(mini.parent / "mini", root / "mini", ignore=shutil.ignore_patterns("*fewshot"))
    (root / "mini.yaml").write_text("DATASET: {NAME: Mini}")
    return root


@pytest.fixture
def run(root, capsys):
    """`promptclip data COMMAND ...` on it; gives status, output and error."""

    def run(command, *words, to=None):
        last = [str(to or root / "mini.yaml")]
        words = [str(word) for word in words]
        if command == "import-split":
            words += ["--dataset", *last]
        else:
            words = [*last, *words]
        status = main(["data", command, *words, "--root", str(root)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def parts(root):
    """The whole split."""
    content = splits.read(root / "mini" / "split_zhou_Mini.json")
    return {part: content[part] for part in PARTS}


def drawn(parts, shots=2):
    """A sample that is not the one that would be drawn: the last pictures of each class."""
    return {
        part: [p for label in range(5) for p in [q for q in parts[part] if q.label == label][-k:]]
        for part, k in (("train", shots), ("val", min(shots, 2)))
    }


def kept(root, shots=2, seed=1):
    file = root / "mini" / "split_fewshot" / f"shot_{shots}-seed_{seed}.json"
    content = few_shot.read_split_file(file, ("train", "val"))
    return {part: content[part] for part in ("train", "val")}, content


# Other people's forms: the same sample, with paths of another machine


def as_pickle(sample, folder):
    def datum(row):
        datum = Datum.__new__(Datum)  # the constructor wants the picture to be there
        vars(datum).update(
            _impath=f"/x/mini/images/{row.path}", _label=row.label, _classname=row.classname
        )
        return datum

    file = folder / "shot_2-seed_1.pkl"
    data = {part: [datum(row) for row in rows] for part, rows in sample.items()}
    file.write_bytes(pickle.dumps(data))
    return file


def as_cross_modal(sample, folder):
    file = folder / "shot_2-seed_1.json"
    data = {
        part: {
            "data": [
                {
                    "impath": f"./data/mini/images/{p.path}",
                    "label": p.label,
                    "classname": p.classname,
                }
                for p in rows
            ],
            "indices": list(range(len(rows))),
        }
        for part, rows in sample.items()
    }
    file.write_text(json.dumps(data, indent=4))
    return file


def as_2sfs(sample, folder):
    for part, rows in sample.items():
        (folder / f"shot_2-seed_1_{part}.jsonl").write_text(
            "".join(
                json.dumps(
                    {
                        "_impath": f"C:\\data\\mini\\images\\{p.path}",
                        "_label": p.label,
                        "_domain": 0,
                        "_classname": p.classname,
                    }
                )
                + "\n"
                for p in rows
            )
        )
    return folder / "shot_2-seed_1_train.jsonl"


def as_ours(sample, folder):
    file = folder / "shot_2-seed_1.json"
    few_shot.write_sample(file, {"benchmark": "Mini"}, sample["train"], sample["val"])
    return file


def as_csv(sample, folder):
    file = folder / "my_shot_2-seed_1.csv"
    file.write_text(split_files._lines(sample, ".csv"))
    return file


FORMS = [as_pickle, as_cross_modal, as_2sfs, as_ours, as_csv]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_sample_of_others(run, root, parts, tmp_path, form):
    sample = drawn(parts)
    file = form(sample, tmp_path)
    status, out, _ = run("import-split", file)
    assert status == 0
    assert "10 train, 10 val pictures, hash " in out
    found, content = kept(root)
    assert found == sample
    assert content["origin"] == f"import of {file.name}"
    # Runs take it, and it is the one that they would not have drawn.
    folder = root / "mini" / "split_fewshot"
    used = few_shot.sample(folder, parts["train"], parts["val"], benchmark="Mini", shots=2, seed=1)
    assert dict(zip(("train", "val"), used, strict=True)) == sample
    other = tmp_path / "drawn"
    anew = few_shot.sample(other, parts["train"], parts["val"], benchmark="Mini", shots=2, seed=1)
    assert anew != used
    assert run("import-split", file)[0] == 0  # once more, the same
    (folder / "shot_2-seed_1.json").write_bytes((other / "shot_2-seed_1.json").read_bytes())
    status, _, err = run("import-split", file)
    assert status == 2
    assert "holds another sample; delete it first, and results with it" in err


def test_several_files_and_the_second_half_of_a_pair(run, root, parts, tmp_path):
    train = as_2sfs(drawn(parts), tmp_path)
    csv = as_csv(drawn(parts, 1), tmp_path).rename(tmp_path / "shot_1-seed_1.csv")
    val = tmp_path / "shot_2-seed_1_val.jsonl"
    status, out, _ = run("import-split", train, val, csv)
    assert status == 0
    assert f"{val} belongs to {train} and is read with it" in out
    assert kept(root)[0] == drawn(parts)
    assert kept(root, 1)[0]["train"] == drawn(parts, 1)["train"]
    train.unlink()
    assert "expected split train, val or test in each row" in run("import-split", val)[2]


def test_a_name_that_does_not_say_the_shots(run, root, parts, tmp_path):
    file = as_csv(drawn(parts), tmp_path).rename(tmp_path / "mine.csv")
    assert "does not say shot_K-seed_S; give --shots" in run("import-split", file)[2]
    assert run("import-split", file, "--shots", 3, "--seed", 7)[0] == 0
    assert kept(root, 3, 7)[0] == drawn(parts)
    for flags in (("--shots", 3, "--seed", 7), ("--shots", 3), ("--seed", 7)):
        assert "are of one file" in run("import-split", file, file, *flags)[2]


@pytest.mark.parametrize(("shots", "seed"), [(0, 1), (-1, 1), (2, -1)])
def test_samples_that_are_never_kept(run, root, parts, tmp_path, shots, seed):
    """No shots mean all pictures, and without a seed each sample is another one."""
    flags = ("--shots", shots, "--seed", seed)
    for status, _, err in (
        run("export-split", tmp_path / "sample.json", *flags),
        run("import-split", as_csv(drawn(parts), tmp_path), *flags),
    ):
        assert status == 2
        assert f"at least 0, got {shots} and {seed}" in err
    assert not (tmp_path / "sample.json").exists()
    assert not (root / "mini" / "split_fewshot").exists()


def test_the_folder_of_the_data_sets_is_that_of_the_other_commands(
    root, monkeypatch, tmp_path, capsys
):
    monkeypatch.delenv("DATA", raising=False)
    file = tmp_path / "whole.json"
    words = ["data", "export-split", str(root / "mini.yaml"), str(file)]
    assert main(words) == 2
    assert "no data root is set" in capsys.readouterr().err
    monkeypatch.setenv("DATA", str(root))
    assert main(words) == 0
    assert file.is_file()


# Refused


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_would_run_code(run, root, tmp_path):
    marker = tmp_path / "marker"
    Evil.marker = marker
    file = tmp_path / "shot_2-seed_1.pkl"
    file.write_bytes(pickle.dumps({"train": [Evil()], "val": []}))
    status, _, err = run("import-split", file)
    assert status == 2
    assert "not a few-shot sample of CoOp" in err
    assert "which is not allowed" in err
    assert not marker.exists()
    assert not (root / "mini" / "split_fewshot").exists()
    pickle.loads(file.read_bytes())  # it would have
    assert marker.exists()


def picture_of(**changes):
    row = {"path": "0/train_0.png", "label": 0, "classname": "red dog", "split": "train"}
    return json.dumps(row | changes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "expected .pkl, .json, .jsonl, .csv, got .txt"),
        ("a.json", "{", "cannot be read as .json"),
        ("a.json", "[" * 100_000, "cannot be read as .json"),
        ("a.json", "[]", "expected an object with train, val or test"),
        ("a.json", '{"train": {"indices": [1]}}', "expected a list of pictures in train"),
        ("a.json", '{"train": [1]}', "expected path, label and class name, got 1"),
        ("a.json", '{"val": []}', "expected pictures for training, there are none"),
        ("a.jsonl", "", "expected pictures for training, there are none"),
        ("a.jsonl", picture_of(split="dev"), "expected split train, val or test in each row"),
        ("a.jsonl", picture_of(label=True), "expected path, label and class name"),
        ("a.jsonl", picture_of(label=-1), "expected labels from 0, got"),
        ("a.jsonl", picture_of(classname="red cat"), "'0/train_0.png' (0, 'red cat') is not in"),
        ("a.jsonl", picture_of(label=1), "the file was made from another split"),
        ("a.jsonl", picture_of(path="0/test_0.png"), "is not in the split of this benchmark"),
        ("a.jsonl", picture_of(path="../0/nothing.png"), "is not in the split of this benchmark"),
        ("a.jsonl", picture_of(), "1 to 2 training pictures of class 'green_cat', got 0"),
        ("a.csv", "path,label\nx,1\n", "expected split train, val or test in each row"),
        ("a.csv", b"\xff\xfe", "cannot be read as .csv"),
    ],
)
def test_unusable_files(run, root, tmp_path, name, text, message):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, err = run("import-split", file, "--shots", 2, "--seed", 1)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (root / "mini" / "split_fewshot").exists()
    assert "expected a file with a split" in run("import-split", tmp_path / "none.json")[2]


def test_a_sample_with_too_many_pictures_or_one_twice(run, parts, tmp_path):
    sample = drawn(parts, 3)
    file = as_csv(sample, tmp_path)
    assert (
        "expected 1 to 2 training pictures of class 'red dog', got 3"
        in (run("import-split", file)[2])
    )
    sample = drawn(parts)
    sample["train"][1] = sample["train"][0]
    assert "is there twice" in run("import-split", as_csv(sample, tmp_path))[2]


# Whole splits


def test_a_whole_split_of_others(run, root, parts, tmp_path):
    published = root / "mini" / "split_zhou_Mini.json"
    rows = {part: [[f"/x/mini/images/{p.path}", p.label, p.classname] for p in parts[part]]
            for part in PARTS}  # fmt: skip
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(rows))
    assert "is there and counts" in run("import-split", file)[2]
    published.unlink()
    assert run("import-split", file)[0] == 0
    ours = splits.read(root / "mini" / "split_promptclip_Mini.json")
    assert {part: ours[part] for part in PARTS} == parts
    assert ours["origin"] == "import of theirs.json"
    (root / "mini" / "split_promptclip_Mini.json").unlink()
    for path in ("../split_zhou_Mini.json", "0/../0/..", str(root / "mini.yaml"), "/x/none.png"):
        rows["test"][0][0] = path
        file.write_text(json.dumps(rows))
        assert f"no end of {path!r} is a picture in" in run("import-split", file)[2]
    assert not list((root / "mini").glob("*.json"))


def test_a_whole_split_of_own_pictures(run, root, tmp_path):
    folder = root / "mini" / "images"
    names = [str(label) for label in range(5)]
    rows = {
        part: [[f"{label}/{part}_{k}.png", label, names[label]] for label in range(5)
               for k in range(2)]
        for part in PARTS
    }  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(rows))
    assert run("import-split", file, to=folder)[0] == 0
    place = split_files.place_of(str(folder))
    assert place.read_split()[2] == [Picture(*row) for row in rows["test"]]
    assert place.split_origin == "import of mine.json"
    (folder / "split_promptclip.json").unlink()
    rows["test"][0][2] = "another"
    file.write_text(json.dumps(rows))
    assert f"{file}: label 0 has two class names" in run("import-split", file, to=folder)[2]
    rows = {part: [[path, label, f"x{name}"] for path, label, name in members]
            for part, members in rows.items()}  # fmt: skip
    rows["test"][0][2] = "x0"
    file.write_text(json.dumps(rows))
    error = run("import-split", file, to=folder)[2]
    assert error.startswith(f"error: {file}: 0/train_0.png (0, x0) is no longer there")
    assert "; the file was made from other pictures" in error
    assert not (folder / "split_promptclip.json").exists()


# Round trips


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_what_is_exported_can_be_imported(run, root, parts, tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    sample = tmp_path / f"shot_2-seed_1{suffix}"
    status, out, _ = run("export-split", whole)
    assert status == 0
    assert f"hash {splits.parts_hash(parts)[:12]}" in out
    assert run("export-split", sample, "--shots", 2, "--seed", 1)[0] == 0
    assert str(root) not in whole.read_text() + sample.read_text()
    before, content = kept(root)
    assert run("export-split", whole)[0] == 2  # nothing is written over
    shutil.rmtree(root / "mini" / "split_fewshot")
    assert run("import-split", sample)[0] == 0
    assert kept(root)[0] == before
    assert kept(root)[1]["split_hash"] == content["split_hash"]
    (root / "mini" / "split_zhou_Mini.json").unlink()
    assert run("import-split", whole)[0] == 0
    ours = splits.read(root / "mini" / "split_promptclip_Mini.json")
    assert {part: ours[part] for part in PARTS} == parts


def test_an_exported_split_has_coops_form(run, root, parts, tmp_path):
    file = tmp_path / "split_zhou_Mini.json"
    run("export-split", file)
    content = json.loads(file.read_text())
    published = json.loads((root / "mini" / "split_zhou_Mini.json").read_text())
    assert {part: content[part] for part in PARTS} == published
    assert content["origin"] == "coop"


def test_unusable_exports(run, tmp_path):
    assert "ends with .json, .jsonl or .csv" in run("export-split", tmp_path / "a.txt")[2]
    assert "both --shots and --seed" in run("export-split", tmp_path / "a.csv", "--shots", 1)[2]
    (tmp_path / "file").touch()
    assert "cannot be written" in run("export-split", tmp_path / "file" / "a.csv")[2]
