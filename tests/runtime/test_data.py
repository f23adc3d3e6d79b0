"""Data sets, few-shot samples, samplers, transforms, loaders."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.utils import listdir_nohidden, read_image, read_json, write_json
from PIL import Image


@pytest.fixture
def picture(pictures):
    return str(pictures / "train" / "red" / "0.png")


def source(path, counts, domains=1):
    """Data with `counts[label]` pictures of each label, domains taking turns."""
    return [
        Datum(path, label, index % domains, f"class {label}")
        for label, count in counts.items()
        for index in range(count)
    ]


def test_datum(picture):
    datum = Datum(impath=picture, label=2, domain=1, classname="red")
    assert (datum.impath, datum.label, datum.domain, datum.classname) == (picture, 2, 1, "red")
    assert vars(datum) == {"_impath": picture, "_label": 2, "_domain": 1, "_classname": "red"}
    with pytest.raises(AttributeError):
        datum.label = 3


def test_datum_names_the_missing_file(tmp_path):
    missing = str(tmp_path / "missing.png")
    with (
        pytest.warns(UserWarning, match="missing.png"),
        pytest.raises(AssertionError, match="missing.png"),
    ):
        Datum(missing)
    with pytest.raises(AssertionError, match="string"):
        Datum(tmp_path)


def test_classes_come_from_the_training_data(picture):
    train = [Datum(picture, 3, 0, "d"), Datum(picture, 1, 0, "b"), Datum(picture, 0, 0, "a")]
    dataset = DatasetBase(train_x=train, test=[Datum(picture, 7, 0, "h")])
    assert dataset.num_classes == 4
    assert dataset.lab2cname == {0: "a", 1: "b", 3: "d"}
    assert dataset.classnames == ["a", "b", "d"]
    assert dataset.val is dataset.train_u is None
    with pytest.raises(ValueError, match="DatasetBase"):
        DatasetBase(train_x=[])


def test_domains():
    class Art(DatasetBase):
        domains = ("photo", "sketch")

        def __init__(self):
            pass

    Art().check_input_domains(["photo"], ["sketch"])
    with pytest.raises(ValueError, match="painting"):
        Art().check_input_domains(["photo"], ["painting"])
    with pytest.raises(ValueError, match="target"):
        Art().check_input_domains(["photo"], [])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_shots_are_those_of_the_field(picture, seed):
    """Per label, in order of appearance: `random.sample` of k, or all; train first, then val."""
    train, val = source(picture, {2: 6, 0: 3, 1: 2}), source(picture, {1: 5, 2: 2})
    expected, generator = [], random.Random(seed)
    for data in train, val:
        chosen = []
        for label in dict.fromkeys(datum.label for datum in data):
            items = [datum for datum in data if datum.label == label]
            chosen += generator.sample(items, 3) if len(items) >= 3 else items
        expected.append(chosen)
    dataset = DatasetBase(train_x=train)
    random.seed(seed)
    assert dataset.generate_fewshot_dataset(train, num_shots=3) == expected[0]
    assert dataset.generate_fewshot_dataset(val, num_shots=3) == expected[1]
    random.seed(seed)
    assert dataset.generate_fewshot_dataset(train, val, num_shots=3) == expected


def test_few_shots_with_repetition_and_without_limit(picture):
    train = source(picture, {0: 2, 1: 5})
    dataset = DatasetBase(train_x=train)
    repeated = dataset.generate_fewshot_dataset(train, num_shots=4, repeat=True)
    assert Counter(datum.label for datum in repeated) == {0: 4, 1: 4}
    assert dataset.generate_fewshot_dataset(train) is train
    assert dataset.generate_fewshot_dataset(train, train, num_shots=0) == (train, train)


@pytest.mark.parametrize("sampler", ["RandomDomainSampler", "SeqDomainSampler"])
def test_domain_samplers_balance_batches(picture, sampler):
    data = source(picture, {0: 13, 1: 12}, domains=3)
    random.seed(0)
    built = build_sampler(sampler, data_source=data, batch_size=6)
    order = list(built)
    assert len(order) == len(built) == 24
    assert len(set(order)) == len(order)
    for start in range(0, len(order), 6):
        domains = [data[index].domain for index in order[start : start + 6]]
        assert Counter(domains) == {0: 2, 1: 2, 2: 2}
        if sampler == "SeqDomainSampler":
            assert domains == sorted(domains)
    with pytest.raises(ValueError, match="multiple of 3"):
        build_sampler(sampler, data_source=data, batch_size=7)


def test_class_sampler_balances_batches(picture):
    data = source(picture, {0: 9, 1: 8, 2: 3, 3: 8})
    random.seed(0)
    np.random.seed(0)
    built = build_sampler("RandomClassSampler", data_source=data, batch_size=8, n_ins=4)
    for start in range(0, len(order := list(built)), 8):
        labels = Counter(data[index].label for index in order[start : start + 8])
        assert sorted(labels.values()) == [4, 4]
    with pytest.raises(ValueError, match="n_ins"):
        build_sampler("RandomClassSampler", data_source=data, batch_size=3, n_ins=4)
    with pytest.raises(ValueError, match="5 classes"):
        build_sampler("RandomClassSampler", data_source=data, batch_size=20, n_ins=4)


def test_unknown_sampler():
    with pytest.raises(ValueError, match="Nobody"):
        build_sampler("Nobody", data_source=[1])


@pytest.mark.parametrize("choice", AVAI_CHOICES)
def test_every_transform_gives_a_tensor(make_cfg, picture, choice):
    cfg = make_cfg(INPUT__TRANSFORMS=(choice,), INPUT__SIZE=(6, 5), INPUT__GB_K=3)
    for is_train in (True, False):
        for seed in range(3):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            image = build_transform(cfg, is_train=is_train)(read_image(picture))
            assert image.shape == (3, 6, 5)
            assert torch.isfinite(image).all()


def test_order_of_transforms_is_fixed(make_cfg, capsys):
    chosen = ["normalize", "random_flip", "random_resized_crop", "colorjitter", "cutout"]
    transform = build_transform(make_cfg(), choices=chosen)
    assert [type(step).__name__ for step in transform.transforms] == [
        *("RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "ToTensor"),
        *("Cutout", "Normalize"),
    ]
    assert capsys.readouterr().out.splitlines()[:3] == [
        "Building transform_train",
        "+ random resized crop (size=(8, 8), scale=(0.08, 1.0))",
        "+ random flip",
    ]


def test_transforms_for_testing(make_cfg):
    cfg = make_cfg(INPUT__SIZE=(6, 4))
    resize, crop, tensor, normalize = build_transform(cfg, is_train=False).transforms
    assert (resize.size, crop.size) == (6, (6, 4))
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    assert tensor(crop(resize(image))).shape == (3, 6, 4)
    assert normalize.mean == [0.485, 0.456, 0.406]


def test_no_transform_and_unknown_transform(make_cfg):
    assert build_transform(make_cfg(INPUT__NO_TRANSFORM=True)) is None
    with pytest.raises(ValueError, match="mirror"):
        build_transform(make_cfg(), choices=["mirror"])


def test_wrapper(make_cfg, picture):
    data = [Datum(picture, 2, 1, "blue")]
    cfg = make_cfg(DATALOADER__RETURN_IMG0=True, DATALOADER__K_TRANSFORMS=2)
    test_transform = build_transform(cfg, is_train=False)
    plain = DatasetWrapper(cfg, data, test_transform)
    assert len(plain) == 1
    item = plain[0]
    assert {key: item[key] for key in ("label", "domain", "impath", "index")} == {
        "label": 2,
        "domain": 1,
        "impath": picture,
        "index": 0,
    }
    assert torch.equal(item["img"], item["img0"])
    copies = DatasetWrapper(cfg, data, test_transform, is_train=True)[0]["img"]
    assert len(copies) == 2
    views = DatasetWrapper(cfg, data, [test_transform, test_transform])[0]
    assert torch.equal(views["img"], views["img2"])
    assert DatasetWrapper(cfg, data)[0]["img"].size == (8, 8)
    with pytest.raises(ValueError, match="without a transform"):
        DatasetWrapper(cfg, data, is_train=True)


@pytest.mark.parametrize(
    ("pictures_per_class", "batch_size", "is_train", "batches"),
    [(5, 4, True, 2), (5, 4, False, 3), (3, 32, True, 1), (4, 4, True, 2)],
)
def test_incomplete_batches(make_cfg, picture, pictures_per_class, batch_size, is_train, batches):
    cfg = make_cfg()
    data = source(picture, {0: pictures_per_class, 1: pictures_per_class})
    loader = build_data_loader(
        cfg, data_source=data, batch_size=batch_size, is_train=is_train, tfm=build_transform(cfg)
    )
    assert len(loader) == len(list(loader)) == batches


def test_no_pictures(make_cfg):
    with pytest.raises(ValueError, match="none"):
        build_data_loader(make_cfg(), data_source=[])


def test_manager(make_cfg, capsys):
    manager = DataManager(make_cfg())
    assert (manager.num_classes, manager.num_source_domains) == (3, 0)
    assert manager.lab2cname[2] == "blue"
    assert manager.train_loader_u is None
    assert [len(x) for x in (manager.train_loader_x, manager.val_loader, manager.test_loader)] == [
        *(4, 1, 1)
    ]
    batch = next(iter(manager.train_loader_x))
    assert batch["img"].shape == (6, 3, 8, 8)
    out = capsys.readouterr().out
    assert "Loading dataset: TinyColours" in out
    assert "# train_x  24" in out


def test_custom_transforms_and_wrapper(make_cfg):
    class Labels(DatasetWrapper):
        def __getitem__(self, index):
            return self.data_source[index].label

    manager = DataManager(make_cfg(), custom_tfm_test=len, dataset_wrapper=Labels)
    assert manager.test_loader.dataset.transform is len
    assert next(iter(manager.test_loader)).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_broken_picture_is_named(tmp_path, picture):
    data = Path(picture).read_bytes()
    broken = tmp_path / "broken.png"
    broken.write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match="broken.png"):
        read_image(str(broken))
    broken.write_text("no picture")
    with pytest.raises(OSError, match="broken.png"):
        read_image(str(broken))


def test_listing_is_sorted(tmp_path):
    for name in ("b", ".hidden", "a", "c"):
        (tmp_path / name).touch()
    assert listdir_nohidden(str(tmp_path)) == ["a", "b", "c"]


def test_json(tmp_path, capsys):
    file = str(tmp_path / "new" / "file.json")
    write_json({"a": [1, "é"]}, file)
    assert read_json(file) == {"a": [1, "é"]}
    assert capsys.readouterr().out == ""
    split = str(tmp_path / "split_zhou_Caltech101.json")
    write_json({}, split)
    assert "split_zhou_Caltech101.json was missing" in capsys.readouterr().out
    with pytest.raises(TypeError):
        write_json({"a": object()}, file)
    assert read_json(file) == {"a": [1, "é"]}
