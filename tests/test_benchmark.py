"""Benchmarks on miniature copies of their layouts, and the pictures that loaders read."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dassl.config import get_cfg_default
from dassl.data.data_manager import DatasetWrapper
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.data.transforms import build_transform
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from promptclip import benchmark, plugins
from promptclip.benchmark import Benchmark, PictureSet, subsample_classes
from promptclip.config import configs_dir
from promptclip.errors import UserError
from promptclip.few_shot import Picture

plugins.load_plugins()
ImageNet = DATASET_REGISTRY.get("ImageNet")


class Toy(Benchmark):
    """Five classes, eight training, two validation and three test pictures each."""

    dataset_dir = "toy"
    image_dir = "images"
    split_file = "split_zhou_Toy.json"


def picture(path: Path, size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with `toy`."""
    root = tmp_path / "data"
    split: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for part, count in (("train", 8), ("val", 2), ("test", 3)):
        for label in (3, 1, 4, 0, 2):
            for number in range(count):
                path = f"class {label}/{part}{number}.png"
                picture(root / "toy" / "images" / path)
                split[part].append([path, label, f"class {label}"])
    (root / "toy" / "split_zhou_Toy.json").write_text(json.dumps(split))
    return root


def cfg_of(root: Path | str, shots: int = 2, subsample: str = "all", seed: int = 1) -> CfgNode:
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS = str(root), shots
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    cfg.SEED = seed
    return cfg


def change_split(root: Path, change: Any) -> None:
    file = root / "toy" / "split_zhou_Toy.json"
    split = json.loads(file.read_text())
    change(split)
    file.write_text(json.dumps(split))


def rows(part: Sequence[Datum]) -> list[tuple[str, int, str]]:
    return [(datum.impath, datum.label, datum.classname) for datum in part]


def test_all_classes(root: Path) -> None:
    toy = Toy(cfg_of(root))
    assert toy.classnames == [f"class {label}" for label in range(5)]
    assert toy.num_classes == 5
    assert (len(toy.train_x), len(toy.val), len(toy.test)) == (10, 10, 15)
    first = toy.train_x[0]
    assert Path(first.impath).parent == root / "toy" / "images" / "class 3"
    assert (first.label, first.classname) == (3, "class 3")
    assert (root / "toy" / "split_fewshot" / "shot_2-seed_1.json").is_file()


def test_base_and_new_share_one_sample(root: Path) -> None:
    whole, base, new = (Toy(cfg_of(root, subsample=which)) for which in ("all", "base", "new"))
    assert base.split_hash == new.split_hash == whole.split_hash
    assert base.classnames == ["class 0", "class 1", "class 2"]
    assert new.classnames == ["class 3", "class 4"]
    assert {datum.label for datum in new.test} == {0, 1}
    shifted = [(path, label + 3, name) for path, label, name in rows(new.train_x)]
    assert sorted(rows(base.train_x) + shifted) == sorted(rows(whole.train_x))
    assert Toy(cfg_of(root, seed=2)).split_hash != whole.split_hash


def test_all_shots(root: Path) -> None:
    assert len(Toy(cfg_of(root, shots=-1)).train_x) == 40
    assert not (root / "toy" / "split_fewshot").exists()


@given(st.lists(st.integers(0, 30), min_size=2, unique=True), st.data())
def test_halves_by_coops_rule(labels: list[int], data: st.DataObject) -> None:
    train = [Picture(f"{label}.png", label, str(label)) for label in labels]
    test = [data.draw(st.sampled_from(train)) for _ in range(5)]
    ordered = sorted(labels)
    middle = -(-len(labels) // 2)
    for which, half in (("base", ordered[:middle]), ("new", ordered[middle:])):
        train_half, test_half = subsample_classes(train, test, subsample=which)
        assert train_half == [
            p._replace(label=half.index(p.label)) for p in train if p.label in half
        ]
        assert [p.path for p in test_half] == [p.path for p in test if p.label in half]


def test_a_wrong_half() -> None:
    with pytest.raises(UserError, match='"all", "base" or "new", got \'novel\''):
        subsample_classes([Picture("a", 0, "a")], subsample="novel")
    with pytest.raises(UserError, match="cannot be halved"):
        subsample_classes([Picture("a", 0, "a")], subsample="new")


@pytest.mark.parametrize(
    "missing", ["", "toy", "toy/split_zhou_Toy.json", "toy/images", "toy/images/class 1/test2.png"]
)
def test_what_is_missing_is_named(root: Path, missing: str) -> None:
    Path(root, missing).rename(root.with_name(f"{root.name} moved"))
    with pytest.raises(UserError) as caught:
        Toy(cfg_of(root))
    message = str(caught.value)
    assert str(root / missing) in message
    assert "\n" not in message
    if "class" in missing:
        assert "1 of 35 pictures" in message
    else:
        assert "toy/ must hold split_zhou_Toy.json and images" in message
        assert "--root" in message
    assert not list(root.glob("**/split_fewshot")) or "class" in missing


def test_no_root_at_all() -> None:
    with pytest.raises(UserError, match="no data root is set; toy/ must hold"):
        Toy(cfg_of(""))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_pictures_is_named(root: Path, part: str) -> None:
    change_split(
        root, lambda split: split.update({part: [row for row in split[part] if row[1] != 2]})
    )
    with pytest.raises(UserError, match=r"class 'class 2' \(label 2\) has no " + part):
        Toy(cfg_of(root))


def test_a_label_with_two_names(root: Path) -> None:
    change_split(root, lambda split: split["test"][0].__setitem__(2, "lynx"))
    with pytest.raises(UserError, match="label 3 has two class names, 'class 3' and 'lynx'"):
        Toy(cfg_of(root))


# ImageNet


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A data root with three classes of ImageNet; two share a name, as "crane" does."""
    for folder in ("n03", "n01", "n02"):
        for number in range(4):
            picture(tmp_path / f"imagenet/images/train/{folder}/{folder}_{number}.JPEG")
            picture(tmp_path / f"imagenet/images/val/{folder}/val_{number}.JPEG")
    (tmp_path / "imagenet/classnames.txt").write_text(
        "n01 great crane\nn02 tench\nn03 great crane\n"
    )
    return tmp_path


def test_imagenet(imagenet: Path) -> None:
    data = ImageNet(cfg_of(imagenet))
    assert data.classnames == ["great crane", "tench", "great crane"]
    assert len(data.train_x) == 6
    assert rows(data.val) == rows(data.test)  # CoOp: no validation set of its own
    assert len(data.test) == 12
    assert {Path(datum.impath).parent.name for datum in data.test if datum.label == 2} == {"n03"}
    base, new = (ImageNet(cfg_of(imagenet, subsample=which)) for which in ("base", "new"))
    assert (base.num_classes, new.num_classes) == (2, 1)
    assert base.split_hash == new.split_hash == data.split_hash


def test_imagenets_listing_is_kept_and_follows_the_folders(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ImageNet(cfg_of(imagenet, shots=-1))
    listed: list[str] = []
    real = benchmark.os.listdir
    monkeypatch.setattr(benchmark.os, "listdir", lambda path: listed.append(path) or real(path))
    assert rows(ImageNet(cfg_of(imagenet, shots=-1)).train_x) == rows(before.train_x)
    assert not listed
    picture(imagenet / "imagenet/images/train/n02/new.JPEG")
    assert len(ImageNet(cfg_of(imagenet, shots=-1)).train_x) == len(before.train_x) + 1
    assert [Path(path).name for path in listed] == ["n02"]
    (imagenet / "imagenet/listing_train.json").write_text('{"n01": []}')
    assert len(ImageNet(cfg_of(imagenet, shots=-1)).train_x) == len(before.train_x) + 1


def test_imagenets_old_pickle_is_not_read(imagenet: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Exploit:
        def __reduce__(self) -> Any:
            return open, (str(imagenet / "witness"), "w")

    (imagenet / "imagenet/preprocessed.pkl").write_bytes(pickle.dumps(Exploit()))
    with caplog.at_level(logging.INFO):
        ImageNet(cfg_of(imagenet))
    assert "preprocessed.pkl is not read" in caplog.text
    assert not (imagenet / "witness").exists()


def test_imagenet_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ImageNet(cfg_of(tmp_path))
    assert str(caught.value) == (
        f"ImageNet: {tmp_path}/imagenet is missing; imagenet/ must hold classnames.txt, "
        "images/train and images/val (`promptclip data get imagenet` says where to get them); give "
        "the folder that holds imagenet/ with --root (in scripts: DATA=...)"
    )


def test_imagenets_folders_and_names_must_agree(imagenet: Path) -> None:
    picture(imagenet / "imagenet/images/val/n09/a.JPEG")
    with pytest.raises(UserError, match="'n09' must be in images/train"):
        ImageNet(cfg_of(imagenet))
    (imagenet / "imagenet/classnames.txt").write_text("n01 crane\nn02\n")
    with pytest.raises(UserError, match="per line, got 'n02'"):
        ImageNet(cfg_of(imagenet))


def test_an_empty_class_folder_is_named(imagenet: Path) -> None:
    (imagenet / "imagenet/images/train/n00").mkdir()
    with pytest.raises(UserError, match="images/train/n00: expected the pictures of a class"):
        ImageNet(cfg_of(imagenet))


# Pictures


@pytest.fixture
def data_source(tmp_path: Path) -> list[Datum]:
    """Six pictures of different sizes."""
    for number in range(6):
        picture(tmp_path / f"{number}.png", (20 + number, 30))
    return [Datum(str(tmp_path / f"{n}.png"), n, domain=n % 2) for n in range(6)]


def loader_cfg(**changes: Any) -> CfgNode:
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = (16, 16)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    for key, value in changes.items():
        cfg.DATALOADER[key] = value
    return cfg


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("views", ["none", "one", "two"])
@pytest.mark.parametrize("changes", [{}, {"K_TRANSFORMS": 3}, {"RETURN_IMG0": True}])
@pytest.mark.parametrize("is_train", [True, False])
def test_items_are_those_of_dassls_wrapper(
    data_source: list[Datum], views: str, changes: dict[str, Any], is_train: bool
) -> None:
    cfg = loader_cfg(**changes)
    if views == "none" and "K_TRANSFORMS" in changes:
        cfg.DATALOADER.K_TRANSFORMS = 1
    tfm = build_transform(cfg, is_train=True)
    transform = {"none": None, "one": tfm, "two": [tfm, tfm]}[views]
    sets = [cls(cfg, data_source, transform, is_train) for cls in (DatasetWrapper, PictureSet)]
    epochs: list[list[dict[str, Any]]] = []
    for pictures in sets:
        torch.manual_seed(3)
        epochs.append([pictures[i] for _ in range(2) for i in range(len(pictures))])
    for theirs, ours in zip(*epochs, strict=True):
        assert theirs.keys() == ours.keys()
        assert all(equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_pictures_are_decoded_once(data_source: list[Datum], workers: int) -> None:
    cfg = loader_cfg()
    pictures = PictureSet(cfg, data_source, build_transform(cfg), is_train=True)
    pictures.decode()
    for datum in data_source:
        Path(datum.impath).unlink()
    epochs = [list(DataLoader(pictures, 6, num_workers=workers)) for _ in range(2)]
    assert [epoch[0]["img"].shape for epoch in epochs] == [(6, 3, 16, 16)] * 2


def test_a_transform_in_place_leaves_the_kept_picture_alone(data_source: list[Datum]) -> None:
    def paint(image: Image.Image) -> int:
        before = image.getpixel((0, 0))
        image.paste((0, 0, 0), (0, 0, *image.size))
        return sum(before)

    pictures = PictureSet(loader_cfg(), data_source[:1], paint, is_train=True)
    first = [pictures[0]["img"] for _ in range(3)]
    assert first[0] > 0
    assert len(set(first)) == 1


def test_memory_for_pictures_is_bounded(
    data_source: list[Datum], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = benchmark.read_picture
    monkeypatch.setattr(benchmark, "read_picture", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(benchmark, "CACHE_BYTES", 3 * 30 * (20 + 21))  # the first two pictures
    pictures = PictureSet(loader_cfg(), data_source, is_train=True)
    pictures.decode()
    assert len(read) == 2
    for _ in range(2):
        for i in range(len(pictures)):
            pictures[i]
    assert len(read) == 2 + 2 * 4
    test_pictures = PictureSet(loader_cfg(), data_source)
    test_pictures.decode()
    assert len(read) == 2 + 2 * 4


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named_in_one_line(
    data_source: list[Datum], damage: str, workers: int
) -> None:
    path = Path(data_source[4].impath)
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": whole[:300], "text": b"hello", "empty": b""}[damage])
    cfg = loader_cfg()
    pictures = PictureSet(cfg, data_source, build_transform(cfg, is_train=False))
    with pytest.raises(UserError) as caught:
        list(DataLoader(pictures, 2, num_workers=workers))
    assert str(caught.value).startswith(f"{path}: the picture cannot be read")
    assert "\n" not in str(caught.value)


# What the yaml files name


def test_every_yaml_names_a_benchmark() -> None:
    files = list((configs_dir() / "datasets").glob("*.yaml"))
    names = [yaml.safe_load(file.read_text())["DATASET"]["NAME"] for file in files]
    assert len(set(names)) == len(names)
    assert set(names) <= set(DATASET_REGISTRY.registered_names())
    for name in names:
        assert DATASET_REGISTRY.get(name).template.count("{}") == 1
