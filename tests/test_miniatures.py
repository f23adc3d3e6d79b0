"""Every public benchmark, loaded from a miniature copy in its own layout."""

from __future__ import annotations

import json
from pathlib import Path

import miniatures
import pytest

from promptclip.cli import main
from promptclip.errors import UserError

WITH_TRAINING = [name for name in miniatures.NAMES if not miniatures.kind_of(name).test_only]
VARIANTS = [name for name in miniatures.NAMES if miniatures.kind_of(name).test_only]
WITH_SPLIT_FILE = [name for name in WITH_TRAINING if miniatures.kind_of(name).split_file]


def test_there_are_fifteen() -> None:
    assert len(miniatures.NAMES) == 15
    assert set(miniatures.NAMES) == set(miniatures.MAKERS)
    assert (len(WITH_TRAINING), len(VARIANTS)) == (11, 4)


@pytest.mark.parametrize("name", WITH_TRAINING)
def test_all_its_pictures(tmp_path: Path, name: str) -> None:
    miniatures.make(tmp_path, name)
    data = miniatures.load(tmp_path, name)
    sizes = miniatures.sizes(name)
    assert data.classnames == miniatures.classnames(name)
    assert (len(data.train_x), len(data.test)) == (sizes.train, sizes.test)
    assert len(data.val) == (sizes.test if sizes.val is None else sizes.val)
    assert all(Path(datum.impath).is_file() for datum in data.train_x + data.val + data.test)


@pytest.mark.parametrize("name", WITH_TRAINING)
def test_base_and_new_classes_with_few_shots(tmp_path: Path, name: str) -> None:
    miniatures.make(tmp_path, name)
    whole = miniatures.load(tmp_path, name, shots=2)
    names = miniatures.classnames(name)
    assert len(whole.train_x) == 2 * len(names)
    middle = (len(names) + 1) // 2
    halves = {"base": names[:middle], "new": names[middle:]}
    drawn = []
    for half, expected in halves.items():
        data = miniatures.load(tmp_path, name, shots=2, subsample=half)
        assert data.classnames == expected
        assert len(data.train_x) == 2 * len(expected)
        assert {datum.label for datum in data.test} == set(range(len(expected)))
        assert data.split_hash == whole.split_hash
        drawn += [datum.impath for datum in data.train_x]
    assert sorted(drawn) == sorted(datum.impath for datum in whole.train_x)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_imagenet_are_for_tests_alone(tmp_path: Path, name: str) -> None:
    folder = miniatures.make(tmp_path, name)
    for subsample in ("all", "base", "new"):
        data = miniatures.load(tmp_path, name, shots=1, subsample=subsample)
        assert data.classnames == miniatures.classnames(name)
        assert len(data.test) == miniatures.sizes(name).test
        assert [datum.impath for datum in data.train_x] == [datum.impath for datum in data.test]
        assert not data.val
    assert not (folder / "split_fewshot").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_imagenets_classes_only(tmp_path: Path, name: str) -> None:
    folder = miniatures.make(tmp_path, name)
    unknown = "99" if name == "ImageNetV2" else "n09999999"
    miniatures.picture(folder / miniatures.kind_of(name).image_dir / unknown / "a.jpg")
    with pytest.raises(UserError, match=f"for example '{unknown}'"):
        miniatures.load(tmp_path, name)


def test_imagenetv2_numbers_its_folders(tmp_path: Path) -> None:
    folder = miniatures.make(tmp_path, "ImageNetV2")
    data = miniatures.load(tmp_path, "ImageNetV2")
    assert {Path(datum.impath).parent.name for datum in data.test if datum.label == 10} == {"10"}
    for file in (images := folder / miniatures.kind_of("ImageNetV2").image_dir / "10").iterdir():
        file.unlink()
    images.rmdir()
    with pytest.raises(UserError, match="for example '10'"):
        miniatures.load(tmp_path, "ImageNetV2")


def test_an_imagenet_without_some_classes_is_refused(tmp_path: Path) -> None:
    folder = miniatures.make(tmp_path, "ImageNet")
    (folder / "images/train/n01443764").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="must be in images/train"):
        miniatures.load(tmp_path, "ImageNet")
    (folder / "images/val/n01443764").rename(tmp_path / "elsewhere too")
    with pytest.raises(UserError, match="1 of the 12 classes .* the first is 'n01443764'"):
        miniatures.load(tmp_path, "ImageNet")


def test_aircrafts_lists(tmp_path: Path) -> None:
    folder = miniatures.make(tmp_path, "FGVCAircraft")
    data = miniatures.load(tmp_path, "FGVCAircraft")
    assert {datum.label for datum in data.test if datum.classname == "F-16A/B"} == {3}
    with (folder / "images_variant_test.txt").open("a") as file:
        file.write("../x 707-320\n")
    with pytest.raises(UserError, match="got '../x' '707-320'"):
        miniatures.load(tmp_path, "FGVCAircraft")


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_without_its_split_file_the_place_to_get_it_is_named(tmp_path: Path, name: str) -> None:
    folder = miniatures.make(tmp_path, name)
    split_file = folder / miniatures.kind_of(name).split_file
    content = json.loads(split_file.read_text())
    assert list(content) == ["train", "val", "test"]
    split_file.unlink()
    with pytest.raises(UserError) as caught:
        miniatures.load(tmp_path, name)
    assert f"{split_file} is missing" in str(caught.value)
    assert f"promptclip data get {miniatures.short(name)}" in str(caught.value)


@pytest.mark.parametrize("name", WITH_SPLIT_FILE)
def test_a_split_can_be_made_from_what_the_download_says(tmp_path: Path, name: str) -> None:
    folder = miniatures.make(tmp_path, name)
    (folder / miniatures.kind_of(name).split_file).unlink()
    assert main(["data", "split", miniatures.short(name), "--root", str(tmp_path)]) == 0
    data = miniatures.load(tmp_path, name)
    assert data.classnames == miniatures.classnames(name)
    total = sum(count or 0 for count in miniatures.sizes(name)[1:])
    assert len(data.train_x) + len(data.val) + len(data.test) == total
