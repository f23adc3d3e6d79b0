"""Splits made here: the rule, the lists that data sets come with, and that results say so."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dassl.data.datasets import DATASET_REGISTRY
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from promptclip import benchmark, plugins, results, split_files, splits, table
from promptclip.cli import main
from promptclip.config import build_cfg, configs_dir
from promptclip.errors import UserError
from promptclip.few_shot import PARTS, Picture
from promptclip.protocols import fewshot

plugins.load_plugins()


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((4, 3), 50).convert("RGB").save(path)


# The rule


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.integers(0, 99), st.randoms())
def test_every_picture_is_in_one_part(sizes, seed, random):
    pictures = [
        Picture(f"{label}/{number}.png", label, str(label))
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    split = splits.three_parts(pictures, seed)
    assert sorted(p for part in split.values() for p in part) == sorted(pictures)
    for label, size in enumerate(sizes):
        counts = [sum(p.label == label for p in split[part]) for part in PARTS]
        assert min(counts[0], counts[2]) >= 1
        if size >= 4:  # CoOp's shares; below, the test would be empty
            assert counts == [round(size / 2), round(size / 5), size - sum(counts[:2])]
    shuffled = random.sample(pictures, len(pictures))
    assert splits.three_parts(shuffled, seed) == split
    half = splits.with_validation(pictures, [], seed)
    assert Counter(p.label for p in half["val"]) == Counter(
        {label: round(size / 5) for label, size in enumerate(sizes) if round(size / 5)}
    )


def test_the_rule_is_the_documented_one():
    paths = [f"a/{number}.png" for number in range(10)]
    ordered = sorted(paths, key=lambda path: hashlib.sha256(f"3 {path}".encode()).hexdigest())
    split = splits.three_parts([Picture(path, 0, "a") for path in paths], 3)
    assert [[p.path for p in split[part]] for part in PARTS] == [
        sorted(ordered[:5]),
        sorted(ordered[5:7]),
        sorted(ordered[7:]),
    ]
    # The same on every machine and in every version
    assert splits.parts_hash(split)[:12] == "205843183097"


def test_a_file_that_was_changed_by_hand(tmp_path):
    file = tmp_path / "split.json"
    split = splits.three_parts([Picture(f"a/{n}.png", 0, "a") for n in range(5)])
    splits.write(split, file, splits.made_here())
    content = splits.read(file)
    assert {part: content[part] for part in PARTS} == split
    content["train"] = content["train"][1:]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not match the file's split_hash"):
        splits.read(file)
    del content["split_hash"]
    file.write_text(json.dumps(content))
    assert "split_hash" not in splits.read(file)


# What data sets come with


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def mat(path, **variables):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def class_folders(folder, *names):
    for name in names:
        for number in range(4):
            picture(folder / name / f"{number}.jpg")


def caltech101(root):
    folder = root / "caltech-101/101_ObjectCategories"
    class_folders(folder, "BACKGROUND_Google", "Faces", "Faces_easy", "accordion", "airplanes")
    return ["face", "accordion", "airplane"], None


def dtd(root):
    class_folders(root / "dtd/images", "banded", "zigzagged")
    return ["banded", "zigzagged"], None


def eurosat(root):
    class_folders(root / "eurosat/2750", "Forest", "Highway")
    return ["Forest", "Highway or Road"], None


def food101(root):
    class_folders(root / "food-101/images", "apple_pie", "waffles")
    return ["apple_pie", "waffles"], None


def oxford_pets(root):
    folder = root / "oxford_pets"
    rows = {}
    for part, numbers in (("trainval", range(5)), ("test", range(5, 7))):
        rows[part] = []
        for label, breed in enumerate(["Abyssinian", "great_pyrenees"], 1):
            for number in numbers:
                picture(folder / "images" / f"{breed}_{number}.jpg")
                rows[part].append(f"{breed}_{number} {label} 1 1")
        lines(folder / "annotations" / f"{part}.txt", *rows[part])
    return ["abyssinian", "great_pyrenees"], rows["test"]


def sun397(root):
    folder = root / "sun397"
    classes = ["/a/abbey", "/a/athletic_field/outdoor"]
    lines(folder / "ClassName.txt", *classes)
    rows = {}
    for part, numbers in (("Training", range(5)), ("Testing", range(5, 7))):
        rows[part] = [f"{name}/sun_{number}.jpg" for name in classes for number in numbers]
        for row in rows[part]:
            picture(folder / "SUN397" / row[1:])
        lines(folder / f"{part}_01.txt", *rows[part])
    return ["abbey", "outdoor athletic_field"], rows["Testing"]


def ucf101(root):
    folder = root / "ucf101"
    classes = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "YoYo": "Yo_Yo"}
    lines(folder / "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup", "2 YoYo")
    rows = {}
    for part, numbers in (("train", range(5)), ("test", range(5, 7))):
        rows[part] = [f"{name}/v_{number}.avi" for name in classes for number in numbers]
        for below in classes.values():
            for number in numbers:
                picture(folder / "UCF-101-midframes" / below / f"v_{number}.jpg")
        lines(folder / f"ucfTrainTestlist/{part}list01.txt", *rows[part])
    return list(classes.values()), rows["test"]


def oxford_flowers(root):
    folder = root / "oxford_flowers"
    labels = [2, 1, 2, 1, 1, 2, 2, 1]
    for number in range(1, 9):
        picture(folder / "jpg" / f"image_{number:05}.jpg")
    mat(folder / "imagelabels.mat", labels=np.array([labels], dtype=np.uint8))
    (folder / "cat_to_name.json").write_text('{"1": "pink primrose", "2": "globe thistle"}')
    return ["pink primrose", "globe thistle"], None


def stanford_cars(root):
    folder = root / "stanford_cars"
    names = np.array(
        [["AM General Hummer SUV 2000", "smart fortwo Convertible 2012"]], dtype=object
    )
    mat(folder / "devkit/cars_meta.mat", class_names=names)
    kind = np.dtype([("bbox_x1", object), ("class", object), ("fname", object)])
    for part, file, numbers in (
        ("cars_train", "devkit/cars_train_annos.mat", range(10)),
        ("cars_test", "cars_test_annos_withlabels.mat", range(4)),
    ):
        cars = np.empty((1, len(numbers)), dtype=kind)
        for number in numbers:
            picture(folder / part / f"{number:05}.jpg")
            cars[0, number] = (7, 1 + number % 2, f"{number:05}.jpg")
        mat(folder / file, annotations=cars)
    return ["2000 AM General Hummer SUV", "2012 smart fortwo Convertible"], list(range(4))


LAYOUTS = [caltech101, dtd, eurosat, food101, oxford_pets, sun397, ucf101, oxford_flowers,
           stanford_cars]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_split_of_a_data_set_as_it_comes(tmp_path, capsys, layout):
    names, test = layout(tmp_path)
    name, root = layout.__name__, str(tmp_path)
    place = split_files.place_of(name, root)
    cfg = build_cfg("zsclip", configs_dir() / "datasets" / f"{name}.yaml", "", root=root,
                    seed=1, overrides=["DATASET.NUM_SHOTS", 1])  # fmt: skip
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    with pytest.raises(UserError) as caught:
        kind(cfg)
    published = Path(place.dataset_dir, kind.split_file)
    assert str(caught.value).startswith(f"{kind.__name__}: {published} is missing; ")
    assert f"promptclip data get {name}" in str(caught.value)
    assert f"`promptclip data split {name} --root {root}` makes another split" in str(caught.value)
    assert main(["data", "split", name, "--root", root, "--seed", "2"]) == 0
    data = kind(cfg)
    assert data.split_origin == "promptclip split, seed 2"
    assert data.classnames == names
    ours = Path(place.dataset_dir, f"split_promptclip_{kind.__name__}.json")
    split = splits.read(ours)
    assert data.split_file_hash == splits.parts_hash(split)
    if test is not None:  # the data set's own test part is kept, the rest is 80 and 20 %
        assert len(split["test"]) == len(test)
        assert len(split["val"]) == len(names)
        assert len(split["train"]) == 4 * len(names)
    before = ours.read_bytes()
    assert main(["data", "split", name, "--root", root, "--seed", "2"]) == 0
    assert main(["data", "split", name, "--root", root]) == 2
    assert "holds another split; delete it first" in capsys.readouterr().err
    assert ours.read_bytes() == before
    # CoOp's file, where it comes later, is the one that counts.
    del split["origin"], split["split_hash"]
    published.write_text(json.dumps(split))
    assert kind(cfg).split_origin == "coop"
    assert main(["data", "split", name, "--root", root]) == 2
    assert f"{published} is there and counts" in capsys.readouterr().err


def test_lists_that_are_damaged(tmp_path, capsys):
    sun397(tmp_path)
    place = split_files.place_of("sun397", str(tmp_path))
    lines(tmp_path / "sun397/Testing_01.txt", "/b/bar/sun_1.jpg")
    with pytest.raises(UserError, match="Testing_01.txt: 'b/bar' is no class of this data set"):
        place.make_split(1)
    oxford_pets(tmp_path)
    place = split_files.place_of("oxford_pets", str(tmp_path))
    lines(tmp_path / "oxford_pets/annotations/test.txt", "Abyssinian_1")
    with pytest.raises(UserError, match=r"test.txt: expected 2 words in a line, got .'Abyss"):
        place.make_split(1)
    (tmp_path / "oxford_pets/annotations/test.txt").unlink()
    with pytest.raises(UserError, match=r"test.txt: cannot be read"):
        place.make_split(1)
    oxford_flowers(tmp_path)
    place = split_files.place_of("oxford_flowers", str(tmp_path))
    (tmp_path / "oxford_flowers/imagelabels.mat").write_bytes(b"MATLAB 5.0 but not really")
    with pytest.raises(UserError, match=r"imagelabels.mat: no variable 'labels' can be read"):
        place.make_split(1)
    oxford_pets(tmp_path)
    command = ["data", "split", "oxford_pets", "--root", str(tmp_path)]
    (tmp_path / "oxford_pets/images/Abyssinian_5.jpg").unlink()
    assert main(command) == 2
    assert "1 of 14 pictures are missing" in capsys.readouterr().err
    lines(tmp_path / "oxford_pets/annotations/test.txt", "Abyssinian_1 one 1 1")
    assert main(command) == 2
    assert "the lists of the data set are damaged or of another" in capsys.readouterr().err
    assert not list(tmp_path.glob("oxford_pets/split*"))


def test_what_needs_no_split(tmp_path, capsys):
    (tmp_path / "imagenet/images").mkdir(parents=True)
    assert main(["data", "split", "imagenet", "--root", str(tmp_path)]) == 2
    assert main(["data", "split", "dtd", "--root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "has parts of its own and needs no split file" in err
    assert "expected pictures in" in err


# Results and tables


def test_tables_name_a_split_made_here_and_a_mixture(mini, tmp_path):
    def start(seed):
        settings = {"cfg_name": "tiny", "output": str(tmp_path / "out"), "root": str(data)}
        return fewshot(["zsclip"], str(mini), shots=[1], seeds=[seed], quiet=True, **settings)

    data = tmp_path / "data"
    (data / "mini").mkdir(parents=True)
    (data / "mini/images").symlink_to(mini.parent / "mini/images")
    published = data / "mini/split_zhou_Mini.json"
    published.write_bytes((mini.parent / "mini/split_zhou_Mini.json").read_bytes())
    assert start(1) == 0
    first = results.read(tmp_path / "out/fewshot/mini/shots_1/ZeroshotCLIP/tiny/seed1")
    assert first["split_origin"] == "coop"
    assert table.build(tmp_path / "out").notes == ()
    split = splits.read(published)
    moved = {**split, "test": split["train"], "train": split["test"]}
    published.unlink()
    splits.write(moved, data / "mini/split_promptclip_Mini.json", splits.made_here(4))
    assert start(2) == 0
    ours, mixture = table.build(tmp_path / "out").notes
    hashes = [splits.parts_hash(content)[:12] for content in (split, moved)]
    assert ours == (
        f'mini: the split is "promptclip split, seed 4" (hash {hashes[1]}), not from a publication'
    )
    assert mixture == (
        "mini: runs had different splits, do not compare them: ZeroshotCLIP (tiny) seed 1 had coop "
        f"(hash {hashes[0]}); ZeroshotCLIP (tiny) seed 2 had promptclip split, seed 4 "
        f"(hash {hashes[1]})"
    )


def test_benchmarks_say_where_their_split_is_from():
    found = {
        name: DATASET_REGISTRY.get(name).split_origin
        for name in ("ImageNet", "ImageNetV2", "FGVCAircraft", "Emoji", "OxfordPets")
    }
    assert found == {
        **dict.fromkeys(("ImageNet", "ImageNetV2", "FGVCAircraft"), "data set"),
        "Emoji": "built-in",
        "OxfordPets": "coop",
    }
    assert benchmark.Benchmark.split_file_hash is None
