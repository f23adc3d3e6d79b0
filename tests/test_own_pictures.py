"""Own pictures: the forms that are read, what is refused, and every protocol on them."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shlex
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image

from promptclip import data_sets, own_pictures, results, splits, table
from promptclip.cli import build_parser, main
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.few_shot import PARTS, Picture
from promptclip.protocols import base2new, dg, fewshot, xd

NAMES = ("Red_dog", "blue owl", "green cat", "white ox")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((36, 36), 50).convert("RGB").save(path)
    return path


@pytest.fixture
def unsplit(tmp_path):
    """A folder of four class folders with ten pictures each."""
    folder = tmp_path / "pictures" / "pets"
    for name in NAMES:
        for number in range(10):
            picture(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def parted(tmp_path):
    """A folder with train/, val/ and test/."""
    folder = tmp_path / "pictures" / "birds"
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for name in NAMES:
            for number in range(count):
                picture(folder / part / name / f"{number}.jpg")
    return folder


@pytest.fixture
def index(unsplit):
    """Writes a CSV file beside the class folders of `unsplit`."""

    def index(header="path,classname", rows=None, name="index.csv"):
        if rows is None:
            rows = [f"{n}/{k}.png,{n}" for n in NAMES for k in range(10)]
        file = unsplit / name
        file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
        return file

    return index


def message_of(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def hash_of(path):
    return own_pictures.read(path).hash


# Forms


def test_a_folder_is_split_by_the_rule(unsplit):
    (unsplit / "blue owl" / "Thumbs.db").touch()
    (unsplit / "blue owl" / ".hidden.png").touch()
    (unsplit / ".git").mkdir()
    data = own_pictures.read(unsplit)
    assert data.parts is None
    assert data.remarks == ()
    (train, val, test), origin = data.split
    assert origin == "promptclip split, seed 1"
    assert [len(part) for part in (train, val, test)] == [20, 8, 12]
    assert {(p.label, p.classname) for p in train} == set(
        enumerate(["Red dog", "blue owl", "green cat", "white ox"])
    )
    assert sorted(p.path for part in (train, val, test) for p in part) == sorted(
        f"{name}/{number}.png" for name in NAMES for number in range(10)
    )
    assert not data.split_path.exists()  # reading writes nothing
    assert own_pictures.read(unsplit).hash == data.hash


def test_a_folder_with_parts_keeps_them(parted):
    parts, origin = own_pictures.read(parted).split
    assert origin == "own"
    assert [len(part) for part in parts] == [12, 4, 8]
    assert parts[2][0] == Picture("test/Red_dog/0.jpg", 0, "Red dog")
    shutil.rmtree(parted / "val")
    assert own_pictures.read(parted).split[0][1] is None
    (parted / "test").rename(parted / "tests")
    assert "expected train/ and test/ with a sub-folder for each class, got only train/" in (
        message_of(own_pictures.read, parted)
    )


def test_a_class_may_be_called_train(unsplit):
    (unsplit / "white ox").rename(unsplit / "train")
    data = own_pictures.read(unsplit)
    assert data.parts is None
    assert {p.classname for p in data.pictures} == {"Red dog", "blue owl", "green cat", "train"}


def test_names_and_template_of_ones_own(unsplit):
    before = own_pictures.read(unsplit).hash
    (unsplit / "classnames.txt").write_text("Red_dog Irish setter\n")
    data = own_pictures.read(unsplit)
    assert {p.classname for p in data.pictures if p.label == 0} == {"Irish setter"}
    hashes = {before, data.hash}
    (unsplit / "template.txt").write_text("a drawing of a {}.\n")
    assert own_pictures.read(unsplit).template == "a drawing of a {}."
    assert own_pictures.read(unsplit).hash not in hashes
    for text in ("a drawing.", "{} and {}", "a {}\nb {}", "a {0} {}", "a } {}", ""):
        (unsplit / "template.txt").write_text(text)
        assert "expected one line with one {}" in message_of(own_pictures.read, unsplit)


def test_an_index(index, unsplit):
    data = own_pictures.read(index())
    assert data.parts is None
    assert data.folder == unsplit
    assert data.hash == own_pictures.read(unsplit).hash  # it says the same as the folders
    assert data.split_path != own_pictures.read(unsplit).split_path
    rows = [f"{n}\\{k}.png,{9 - i},{n},{part}" for i, n in enumerate(NAMES) for k, part in
            enumerate(["train", "Validation", "test"])]  # fmt: skip
    parts, origin = own_pictures.read(index("path,label,classname,split", rows)).split
    assert origin == "own"
    assert [len(part) for part in parts] == [4, 4, 4]
    assert parts[0][0] == Picture("Red_dog/0.png", 3, "Red dog")  # labels in the order of numbers
    rows = [row.rpartition(",")[0] for row in rows if row.endswith("train")]
    rows = [f"{row},train" for row in rows] + [f"{n}/9.png,{n},test" for n in NAMES]
    numbers = [f"{n}/{k}.png,{i}" for i, n in enumerate(NAMES) for k in range(3)]
    assert "CLIP needs the names" in message_of(own_pictures.read, index("path,label", numbers))
    (unsplit / "classnames.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(NAMES)))
    assert own_pictures.read(index("path,label", numbers)).pictures[-1] == Picture(
        "white ox/2.png", 3, "white ox"
    )


# What is refused


def test_unusable_folders(unsplit, tmp_path):
    read = own_pictures.read
    assert "no folder or CSV file /nowhere; relative paths count from" in message_of(
        read, "/nowhere"
    )
    (tmp_path / "empty").mkdir()
    assert "expected one sub-folder per class, there is none" in message_of(
        read, tmp_path / "empty"
    )
    (tmp_path / "empty" / "a").mkdir()
    assert "/a: expected the pictures of a class, the folder is empty" in message_of(
        read, tmp_path / "empty"
    )
    (tmp_path / "empty" / "a" / "notes.txt").touch()
    assert "/a: expected the pictures of a class, there is none; known are .bmp" in message_of(
        read, tmp_path / "empty"
    )
    picture(tmp_path / "empty" / "a" / "b.png")
    assert "expected at least two classes, got a" in message_of(read, tmp_path / "empty")
    picture(unsplit / "red dog" / "0.png")
    assert "the classes 'Red_dog' and 'red dog' are both called 'red dog'" in message_of(
        read, unsplit
    )
    shutil.rmtree(unsplit / "red dog")
    (unsplit / "classnames.txt").write_text("red_dog Irish setter\n")
    assert "there is no class folder 'red_dog'" in message_of(read, unsplit)
    (unsplit / "classnames.txt").unlink()
    for number in range(1, 10):
        (unsplit / "white ox" / f"{number}.png").unlink()
    assert "class 'white ox' has one picture, white ox/0.png" in message_of(hash_of, unsplit)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("path,classname", [], "there is none"),
        ("path,classname,size", ["a,b,1"], "got 'size'"),
        ("path;classname", ["a;b"], "with commas between them; got 'path;classname'"),
        ("path", ["a"], "the columns are path, classname or label or both"),
        ("path,classname", ["/etc/a.png,b"], "leads out of the picture folder"),
        ("path,classname", ["C:\\a.png,b"], "leads out of the picture folder"),
        ("path,classname", ["a/../../b.png,b"], "'a/../../b.png' leads out of the picture folder"),
        ("path,classname", ["a.png,b", "c.png"], "row 3: expected 2 values"),
        ("path,classname", ["a.png,"], "row 2: expected 2 values"),
        ("path,classname", ["a.png,b,c"], "row 2: expected 2 values"),
        ("path,classname", ["a.png,b", "a.png,c"], "a.png stands in 2 rows"),
        ("path,classname", ["a.png,b", "c.png,b"], "expected at least two classes, got b"),
        ("path,classname,split", ["a.png,b,dev"], "split must be train, val or test, got 'dev'"),
        ("path,label,classname", ["a.png,1,b", "c.png,1,d"], "label 1 is called 'b' and 'd'"),
        ("path,classname", ["a.png,b_c", "c.png,B c"], "are both called"),
    ],
)
def test_unusable_indices(index, header, rows, message):
    assert message in message_of(own_pictures.read, index(header, rows))


def test_an_index_that_is_no_text(index):
    file = index()
    file.write_bytes(b"path,classname\n\xff\xfe,a\n")
    assert "cannot be read as a CSV file" in message_of(own_pictures.read, file)


def test_what_is_no_picture_is_counted_and_named(unsplit, caplog):
    (unsplit / "Red_dog" / "notes.txt").touch()
    (unsplit / "Red_dog" / "more").mkdir()
    picture(unsplit / "loose.png")
    data_sets.find(str(unsplit))
    assert "3 files or folders are no pictures of a class and are left out" in caplog.text
    assert "the first is loose.png" in caplog.text


def test_unreadable_pictures_are_named_before_anything_runs(unsplit, index):
    (unsplit / "blue owl" / "3.png").write_bytes(b"no picture")
    (unsplit / "blue owl" / "4.png").write_bytes(b"")
    text = message_of(data_sets.find, str(unsplit))
    assert "2 of 40 pictures cannot be read, the first is blue owl/3.png (it is no whole" in text
    rows = ["Red_dog/1.png,a", "Red_dog/2.png,a", "Red_dog/99.png,b", "Red_dog/3.png,b"]
    file = index(rows=rows)
    assert "1 of 4 pictures cannot be read, the first is Red_dog/99.png" in message_of(
        data_sets.find, str(file)
    )


def test_a_picture_that_pillow_warns_of_is_none_the_worse(unsplit, monkeypatch):
    """A warning is an error in these tests, as it would be in a thread that looks at pictures."""
    with Image.open(next(unsplit.rglob("*.png"))) as one:
        pixels = one.width * one.height
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(next(unsplit.rglob("*.png"))):
        pass
    before = list(warnings.filters)
    data_sets.find(str(unsplit))
    assert warnings.filters == before


def test_a_class_without_test_pictures(parted, tmp_path, clip):
    shutil.rmtree(parted / "test" / "white ox")
    text = message_of(lambda: start(base2new, ["zsclip"], parted, tmp_path / "output", clip))
    assert "class 'white ox' (label 3) has no test pictures" in text
    assert not (tmp_path / "output").exists()


# The split file


def test_the_split_is_kept_and_says_what_has_changed(unsplit, caplog):
    assert main(["data", "split", str(unsplit), "--seed", "7"]) == 0
    file = unsplit / "split_promptclip.json"
    assert json.loads(file.read_text())["origin"] == "promptclip split, seed 7"
    data = own_pictures.read(unsplit)
    before = data.hash
    assert data.split[1] == "promptclip split, seed 7"
    assert main(["data", "split", str(unsplit), "--seed", "7"]) == 0
    assert main(["data", "split", str(unsplit)]) == 2  # another one
    picture(unsplit / "Red_dog" / "new.png")
    caplog.clear()
    assert data_sets.find(str(unsplit)).overrides[-1] == before
    assert "1 pictures came after the split was made and are left out" in caplog.text
    assert "such as Red_dog/new.png" in caplog.text
    picture(unsplit / "zebra" / "new.png")
    assert "class 'zebra' is not in it; put it right, or delete" in message_of(hash_of, unsplit)
    shutil.rmtree(unsplit / "zebra")
    (unsplit / "blue owl").rename(unsplit / "blue parrot")
    assert "is no longer there or has another class" in message_of(hash_of, unsplit)
    (unsplit / "blue parrot").rename(unsplit / "blue owl")
    content = json.loads(file.read_text())
    content["test"].append(content["train"].pop())
    file.write_text(json.dumps(content))
    assert "do not match the file's split_hash" in message_of(hash_of, unsplit)


def test_parts_are_not_split_again(parted, capsys):
    assert main(["data", "split", str(parted)]) == 2
    assert "has parts of its own and needs no split file" in capsys.readouterr().err
    assert not (parted / "split_promptclip.json").exists()


def test_the_split_of_a_closed_folder_lies_in_the_cache(unsplit, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = own_pictures.read(unsplit).split_path
    assert path.parent == tmp_path / "cache" / "promptclip" / "splits"
    assert path.name.startswith("pets-")
    assert main(["data", "split", str(unsplit)]) == 0
    assert path.is_file()
    assert sorted(entry.name for entry in unsplit.iterdir()) == sorted(NAMES)


# On the command line and in the protocols


@pytest.fixture
def clip(mini):
    """Overrides that put the random CLIP in the place of ViT-B/16."""
    return [
        *("MODEL.BACKBONE.NAME", str(mini.parent / "clip.safetensors"), "INPUT.SIZE", "[32, 32]"),
        *("DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 8, "OPTIM.MAX_EPOCH", 2),
    ]


def start(protocol, methods, data, output, clip, **more):
    usual = {"seeds": (1,), "shots": [2] if protocol is fewshot else 2, "cfg_name": "tiny"}
    usual |= {"output": str(output), "overrides": clip, "quiet": True}
    return protocol(methods, str(data), **usual | more)


def test_names_of_data_sets(unsplit, index, tmp_path, monkeypatch):
    assert data_sets.find("emoji").name == "emoji"
    assert data_sets.find(str(unsplit)).name == "own_pets"
    assert data_sets.find(str(index(name="my list.csv"))).name == "own_my_list"
    monkeypatch.chdir(unsplit.parent)
    assert data_sets.find("./pets").overrides == data_sets.find(f"{unsplit}/").overrides
    assert "The folder of that name is ./pets" in message_of(data_sets.find, "pets")
    yaml = tmp_path / "my.yaml"
    yaml.write_text(f"DATASET: {{NAME: OwnPictures, FOLDER: '{unsplit}'}}")
    found = data_sets.find(str(yaml))
    assert (found.name, found.file) == ("my", yaml)
    assert found.overrides == data_sets.find(str(unsplit)).overrides


def test_cfg_tiny_brings_the_small_clip(unsplit):
    data = data_sets.find(str(unsplit))

    def cfg(name):
        file = configs_dir() / "trainers" / "CoOp" / f"{name}.yaml"
        return build_cfg("coop", data.file, file, overrides=data.overrides)

    assert cfg("tiny").MODEL.BACKBONE.NAME == "tiny-emoji"
    assert cfg("tiny").INPUT.SIZE == (48, 48)
    assert cfg("vit_b16").MODEL.BACKBONE.NAME == "ViT-B/16"
    assert cfg("vit_b16").DATASET.CFG == "vit_b16"


def test_base_to_new(unsplit, tmp_path, clip):
    assert start(base2new, ["coop", "zsclip"], unsplit, tmp_path / "out", clip) == 0
    folder = tmp_path / "out/base2new/train_base/own_pets/shots_2/CoOp/tiny/seed1"
    result = results.read(folder)
    assert (result["dataset"], result["split_origin"]) == (
        "OwnPictures",
        "promptclip split, seed 1",
    )
    split = splits.read(unsplit / "split_promptclip.json")
    assert result["split_file_hash"] == splits.parts_hash(split)
    assert result["metrics"]["num_test"] == 6
    assert [row["classname"] for row in result["per_class"]] == ["Red dog", "blue owl"]
    assert (unsplit / "split_fewshot" / "shot_2-seed_1.json").is_file()
    found = table.build(tmp_path / "out")
    assert found.complete
    (note,) = found.notes
    assert note.startswith('own_pets: the split is "promptclip split, seed 1" (hash ')
    assert "not from a publication" in table.render(found, "md")


def test_few_shot_on_parts_and_on_an_index(parted, index, tmp_path, clip):
    out = tmp_path / "out"
    assert start(fewshot, ["coop"], parted, out, clip, shots=[1, 2]) == 0
    assert start(fewshot, ["coop"], index(), out, clip) == 0
    found = table.build(out)
    assert [row.dataset for row in found.rows] == ["own_birds", "own_index"]
    assert found.complete
    result = results.read(out / "fewshot/own_birds/shots_1/CoOp/tiny/seed1")
    assert result["split_origin"] == "own"
    assert not any("own_birds" in note for note in found.notes)


def test_another_folder_of_the_same_name_is_refused(unsplit, tmp_path, clip, caplog):
    assert start(fewshot, ["zsclip"], unsplit, tmp_path / "out", clip) == 0
    moved = tmp_path / "elsewhere" / "pets"
    shutil.copytree(unsplit, moved)
    caplog.clear()
    assert start(fewshot, ["zsclip"], moved, tmp_path / "out", clip) == 0  # the same pictures
    picture(moved / "white ox" / "new.png")
    (moved / "split_promptclip.json").unlink()
    text = message_of(lambda: start(fewshot, ["zsclip"], moved, tmp_path / "out", clip))
    assert "was written by another run (DATASET.FOLDER_HASH: " in text


def test_transfer_between_benchmarks_and_folders(unsplit, parted, mini, tmp_path, clip):
    out = tmp_path / "out"
    more = {"root": str(mini.parent)}
    assert start(xd, ["coop"], mini, out, clip, targets=[str(unsplit), str(parted)], **more) == 0
    (row,) = table.build(out / "xd").rows
    assert list(row.cells) == ["mini", "own_birds", "own_pets"]
    assert start(dg, ["coop"], unsplit, out, clip, targets=[str(parted)]) == 0
    (row,) = table.build(out / "dg").rows
    assert list(row.cells) == ["own_pets", "own_birds"]
    assert table.build(out).complete
    assert "own_pets is the source" in message_of(
        lambda: start(dg, ["coop"], unsplit, out, clip, targets=[str(unsplit)])
    )
    twin = tmp_path / "twin" / "birds"
    shutil.copytree(parted, twin)
    assert "two targets are called own_birds" in message_of(
        lambda: start(dg, ["coop"], unsplit, out, clip, targets=[str(parted), str(twin)])
    )


def test_a_dry_run_leaves_the_folder_alone(unsplit, tmp_path, clip):
    assert start(base2new, ["coop"], unsplit, tmp_path / "out", clip, dry_run=True) == 0
    assert sorted(entry.name for entry in unsplit.iterdir()) == sorted(NAMES)


def test_the_flag_takes_the_place_of_the_data_set(unsplit, tmp_path, capsys, caplog, clip):
    caplog.set_level(logging.INFO, "promptclip")
    common = ["--dry-run", "--shots", "1", "--output", str(tmp_path)]
    for words in (
        [*common, "--data-folder", str(unsplit), "coop", "4", "5"],
        [*common, "coop", str(unsplit), "4", "5"],
    ):
        caplog.clear()
        assert main(["fewshot", *words]) == 0
        assert [r.getMessage().split(": ")[0] for r in caplog.records] == [
            f"[{n}/2] CoOp, own_pets, 1 shot, seed {seed}" for n, seed in ((1, 4), (2, 5))
        ]
    assert main(["fewshot", "--data-folder", str(unsplit), "coop", "emoji"]) == 2
    assert main(["fewshot", "coop"]) == 2
    err = capsys.readouterr().err
    assert "emoji and --data-folder" in err
    assert "no data set is given" in err
    words = [str(word) for word in clip]
    file = configs_dir() / "trainers/CoOp/tiny.yaml"
    train = ["train", "--trainer", "coop", "--config-file", str(file), "--seed", "1"]
    train += ["--data-folder", str(unsplit), "--output-dir", str(tmp_path / "one")]
    assert main([*train, *words, "DATASET.NUM_SHOTS", "1"]) == 0
    assert results.read(tmp_path / "one")["dataset"] == "OwnPictures"
    assert main([*train, "--dataset-config-file", "x.yaml"]) == 2
    assert "two data sets" in capsys.readouterr().err


def test_a_folder_without_a_note_of_what_it_holds(unsplit, tmp_path, capsys, clip):
    file = configs_dir() / "datasets/own_pictures.yaml"
    train = ["train", "--trainer", "zsclip", "--dataset-config-file", str(file)]
    train += ["--output-dir", str(tmp_path / "one"), *map(str, clip)]
    assert main(train) == 2
    assert "give their path as --data-folder" in capsys.readouterr().err
    assert main([*train, "DATASET.FOLDER", str(unsplit)]) == 2
    assert "expected hash (none) of what it holds" in capsys.readouterr().err


def test_an_exported_index_is_an_index(parted, capsys):
    file = parted / "all.csv"
    assert main(["data", "export-split", str(parted), str(file)]) == 0
    assert own_pictures.read(file).split == own_pictures.read(parted).split
    with file.open() as stream:
        assert {row["split"] for row in csv.DictReader(stream)} == set(PARTS)


PAGE = Path(__file__).parent.parent / "docs" / "own-pictures.md"
COMMANDS = [
    line.split("#")[0]
    for block in re.findall(r"(?s)```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"))
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_are_commands(line):
    variables, words = {}, shlex.split(line)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if words[0] == "bash":
        *_, method, script = words.pop(1).split("/")
        words[0] = script.removesuffix(".sh")
        flags = {"DATA_FOLDER": "--data-folder", "SHOTS": "--shots", "CFG": "--cfg",
                 "TARGETS": "--targets"}  # fmt: skip
        words[1:1] = [word for name in variables for word in (flags[name], variables[name])]
        words.insert(1 + 2 * len(variables), method)
    else:
        assert words.pop(0) == "promptclip"
    args = build_parser().parse_args(words)
    assert callable(args.command)
