"""Miniature copies of the 15 public benchmarks, each in its own layout and formats.

What CoOp's DATASETS.md lists lies where it says, and beside it what comes with the original
download: `.mat` annotations, lists, documents, classes that are not used. A class has few pictures
of few pixels; names, paths and labels are made the way the real ones are.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from PIL import Image
from scipy.io import savemat
from yacs.config import CfgNode

from promptclip import plugins
from promptclip.benchmark import Benchmark, Sizes

PARTS = {"train": 3, "val": 1, "test": 2}  # pictures per class
PER_CLASS = sum(PARTS.values())

Split = dict[str, list[tuple[str, int, str]]]


def kind_of(name: str) -> type[Benchmark]:
    """The class of a benchmark."""
    plugins.load_plugins()
    kind: type[Benchmark] = DATASET_REGISTRY.get(name)
    return kind


def short(name: str) -> str:
    """What a benchmark is called on command lines."""
    return plugins.short_name(name)


def make(root: Path, name: str) -> Path:
    """Write a benchmark's miniature below a data root and return its folder."""
    folder = root / kind_of(name).dataset_dir
    folder.mkdir(parents=True)
    MAKERS[name](folder)
    return folder


def load(root: Path, name: str, shots: int = -1, subsample: str = "all") -> DatasetBase:
    """The benchmark below a data root, as a run with seed 1 has it."""
    cfg: CfgNode = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS = str(root), shots
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    cfg.SEED = 1
    return kind_of(name)(cfg)


def sizes(name: str) -> Sizes:
    """What the miniature holds, in the place of the published sizes."""
    classes = len(CLASSES[name])
    if kind_of(name).test_only:
        return Sizes(classes, None, None, classes * PER_CLASS)
    train, val, test = (classes * count for count in PARTS.values())
    if name == "ImageNet":
        return Sizes(classes, train, None, test)
    return Sizes(classes, train, val, test)


def classnames(name: str) -> list[str]:
    """The class names in the order of labels."""
    return list(CLASSES[name].values())


# Folder, or what stands for it in the original download -> class name. Real ones, in CoOp's order.
_IMAGENET = {
    f"n{1440764 + 1000 * i:08}": name
    for i, name in enumerate(
        ("tench", "goldfish", "great white shark", "tiger shark", "hammerhead shark",
         "electric ray", "stingray", "rooster", "missile", "missile", "sunglasses", "sunglasses")
    )
}  # fmt: skip
_FEW = dict(list(_IMAGENET.items())[::3])
CLASSES: dict[str, dict[str, str]] = {
    "ImageNet": _IMAGENET,
    "Caltech101": {
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
        "accordion": "accordion",
        "airplanes": "airplane",
    },
    "OxfordPets": {
        "Abyssinian": "abyssinian",
        "american_bulldog": "american_bulldog",
        "Bengal": "bengal",
        "yorkshire_terrier": "yorkshire_terrier",
    },
    "StanfordCars": {
        "AM General Hummer SUV 2000": "2000 AM General Hummer SUV",
        "Acura RL Sedan 2012": "2012 Acura RL Sedan",
        "Ram C/V Cargo Van Minivan 2012": "2012 Ram C/V Cargo Van Minivan",
    },
    "OxfordFlowers": {
        "1": "pink primrose",
        "2": "hard-leaved pocket orchid",
        "3": "colt's foot",
        "4": "pink-yellow dahlia?",
    },
    "Food101": {name: name for name in ("apple_pie", "beef_tartare", "creme_brulee", "pho")},
    "FGVCAircraft": {name: name for name in ("707-320", "A340-500", "Boeing 717", "F-16A/B")},
    "SUN397": {
        "/a/abbey": "abbey",
        "/a/apse/indoor": "indoor apse",
        "/b/bakery/shop": "shop bakery",
        "/y/youth_hostel": "youth_hostel",
    },
    "DescribableTextures": {name: name for name in ("banded", "blotchy", "zigzagged")},
    "EuroSAT": {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "SeaLake": "Sea or Lake",
    },
    "UCF101": {
        "ApplyEyeMakeup": "Apply_Eye_Makeup",
        "HandstandPushups": "Handstand_Pushups",
        "YoYo": "Yo_Yo",
    },
    "ImageNetV2": _IMAGENET,
    "ImageNetSketch": _IMAGENET,
    "ImageNetA": _FEW,
    "ImageNetR": _FEW,
}
NAMES = list(CLASSES)


@cache
def _jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def picture(path: Path) -> None:
    """Write a small JPEG picture, whatever the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_jpeg(hashlib.sha256(path.name.encode()).digest()[0]))


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_split(folder: Path, name: str, path_of: Callable[[str, int], str]) -> Split:
    """Write the pictures of all classes and the split file; `path_of(class, number)`."""
    kind = kind_of(name)
    split: Split = {part: [] for part in PARTS}
    for label, (raw, classname) in enumerate(CLASSES[name].items()):
        numbers = iter(range(1, PER_CLASS + 1))
        for part, count in PARTS.items():
            for number in [next(numbers) for _ in range(count)]:
                path = path_of(raw, number)
                picture(folder / kind.image_dir / path)
                split[part].append((path, label, classname))
    (folder / kind.split_file).write_text(json.dumps(split, indent=4))
    return split


def _imagenet(folder: Path) -> None:
    for wnid in CLASSES["ImageNet"]:
        for number in range(PARTS["train"]):
            picture(folder / f"images/train/{wnid}/{wnid}_{10026 + number}.JPEG")
        for number in range(PARTS["test"]):
            picture(folder / f"images/val/{wnid}/ILSVRC2012_val_{int(wnid[1:]) + number:08}.JPEG")
    _classnames(folder)


def _classnames(folder: Path) -> None:
    text(folder / "classnames.txt", *(f"{wnid} {name}" for wnid, name in _IMAGENET.items()))


def _caltech(folder: Path) -> None:
    _write_split(folder, "Caltech101", lambda name, number: f"{name}/image_{number:04}.jpg")
    for unused in ("BACKGROUND_Google", "Faces_easy"):
        picture(folder / f"101_ObjectCategories/{unused}/image_0001.jpg")


def _pets(folder: Path) -> None:
    split = _write_split(folder, "OxfordPets", lambda name, number: f"{name}_{number}.jpg")
    rows = {
        part: [f"{Path(path).stem} {label + 1} {2 - name[0].isupper()} {label + 1}"
               for path, label, name in split[part]]
        for part in split
    }  # fmt: skip
    text(folder / "annotations/trainval.txt", *rows["train"], *rows["val"])
    text(folder / "annotations/test.txt", *rows["test"])
    every = [row for part in rows.values() for row in part]
    text(folder / "annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID", *every)
    picture(folder / "annotations/trimaps/Abyssinian_1.png")
    text(folder / "annotations/xmls/Abyssinian_1.xml", "<annotation/>")
    savemat(
        folder / "images/Abyssinian_100.mat", {"A": np.zeros(1)}
    )  # it lies there in the original


def _cars(folder: Path) -> None:
    raw_names = list(CLASSES["StanfordCars"])
    half = PARTS["train"] + PARTS["val"]  # cars_train; the rest of a class is in cars_test

    def path_of(name: str, number: int) -> str:
        label = raw_names.index(name)
        if number <= half:
            return f"cars_train/{label * half + number:05}.jpg"
        return f"cars_test/{label * PARTS['test'] + number - half:05}.jpg"

    split = _write_split(folder, "StanfordCars", path_of)
    box = {f"bbox_{side}": 1 for side in ("x1", "y1", "x2", "y2")}

    def annotate(file: str, rows: list[tuple[str, int, str]], labels: bool) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        fields = [*box, *(["class"] if labels else []), "fname"]
        table = np.zeros((1, len(rows)), [(field, object) for field in fields])
        for i, (path, label, _) in enumerate(rows):
            values: dict[str, Any] = box | {"class": label + 1, "fname": Path(path).name}
            table[0, i] = tuple(values[field] for field in fields)
        savemat(folder / file, {"annotations": table})

    train = split["train"] + split["val"]
    annotate("devkit/cars_train_annos.mat", train, labels=True)
    annotate("devkit/cars_test_annos.mat", split["test"], labels=False)
    annotate("cars_test_annos_withlabels.mat", split["test"], labels=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([raw_names], dtype=object)})
    text(folder / "devkit/README.txt", "This is the devkit")


def _flowers(folder: Path) -> None:
    split = _write_split(
        folder,
        "OxfordFlowers",
        lambda name, number: f"image_{(int(name) - 1) * PER_CLASS + number:05}.jpg",
    )
    everything = sorted(row for part in split.values() for row in part)
    labels = np.array([[label + 1 for _, label, _ in everything]], dtype=np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    numbers = {
        part: np.array([[int(path[6:11]) for path, _, _ in rows]], dtype=np.uint16)
        for part, rows in split.items()
    }
    names = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(folder / "setid.mat", {names[part]: ids for part, ids in numbers.items()})
    (folder / "cat_to_name.json").write_text(json.dumps(CLASSES["OxfordFlowers"]))


def _food(folder: Path) -> None:
    split = _write_split(folder, "Food101", lambda name, number: f"{name}/{1005649 + number}.jpg")
    meta = folder / "meta"
    text(meta / "classes.txt", *CLASSES["Food101"])
    text(meta / "labels.txt", *(name.replace("_", " ").capitalize() for name in CLASSES["Food101"]))
    for part, rows in (("train", split["train"] + split["val"]), ("test", split["test"])):
        stems = [path.removesuffix(".jpg") for path, _, _ in rows]
        text(meta / f"{part}.txt", *stems)
        by_class = {n: [s for s in stems if s.startswith(f"{n}/")] for n in CLASSES["Food101"]}
        (meta / f"{part}.json").write_text(json.dumps(by_class))
    text(folder / "license_agreement.txt", "For non-commercial research")
    text(folder / "README.txt", "Food-101")


def _aircraft(folder: Path) -> None:
    variants = list(CLASSES["FGVCAircraft"])
    text(folder / "variants.txt", *variants)
    text(folder / "families.txt", "Boeing 707", "A340", "Boeing 717", "F-16")
    text(folder / "manufacturers.txt", "Boeing", "Airbus", "Lockheed Corporation")
    lines: dict[str, list[str]] = {part: [] for part in PARTS}
    for label, variant in enumerate(variants):
        numbers = iter(range(34958 + label * PER_CLASS, 99999))
        for part, count in PARTS.items():
            for _ in range(count):
                number = f"{next(numbers):07}"
                picture(folder / f"images/{number}.jpg")
                lines[part].append(f"{number} {variant}")
    lines["trainval"] = lines["train"] + lines["val"]
    for part, rows in lines.items():
        text(folder / f"images_variant_{part}.txt", *sorted(rows))
        text(folder / f"images_family_{part}.txt", *sorted(row.split("-")[0] for row in rows))
        text(folder / f"images_{part}.txt", *sorted(row.split()[0] for row in rows))
    text(folder / "images_box.txt", *(f"{row.split()[0]} 1 1 8 6" for row in lines["test"]))


def _sun(folder: Path) -> None:
    def path_of(name: str, number: int) -> str:
        return f"{name[1:]}/sun_a{hashlib.sha256(f'{name}{number}'.encode()).hexdigest()[:15]}.jpg"

    split = _write_split(folder, "SUN397", path_of)
    for at in (folder, folder / "SUN397"):
        text(at / "ClassName.txt", *CLASSES["SUN397"])
    text(folder / "SUN397/README.txt", "SUN397")
    for number in range(1, 11):
        train = split["train"] + split["val"]
        text(folder / f"Training_{number:02}.txt", *(f"/{path}" for path, _, _ in train))
        text(folder / f"Testing_{number:02}.txt", *(f"/{path}" for path, _, _ in split["test"]))


def _textures(folder: Path) -> None:
    split = _write_split(
        folder, "DescribableTextures", lambda name, number: f"{name}/{name}_{number:04}.jpg"
    )
    for part, rows in split.items():
        for number in range(1, 11):
            text(folder / f"labels/{part}{number}.txt", *(path for path, _, _ in rows))
    text(folder / "labels/labels_joint_anno.txt", "banded/banded_0001.jpg banded")
    (folder / "imdb").mkdir()
    savemat(folder / "imdb/imdb.mat", {"images": np.zeros(1)})
    text(folder / "images/banded/.directory", "[Dolphin]")


def _eurosat(folder: Path) -> None:
    _write_split(folder, "EuroSAT", lambda name, number: f"{name}/{name}_{number}.jpg")


def _ucf(folder: Path) -> None:
    names = CLASSES["UCF101"]
    split = _write_split(
        folder, "UCF101", lambda raw, number: f"{names[raw]}/v_{raw}_g{number:02}_c01.jpg"
    )
    raw_of = {classname: raw for raw, classname in names.items()}

    def video(path: str, classname: str) -> str:
        return f"{raw_of[classname]}/{Path(path).stem}.avi"

    lists = folder / "ucfTrainTestlist"
    text(lists / "classInd.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    train = split["train"] + split["val"]
    for number in (1, 2, 3):
        rows = [f"{video(path, name)} {label + 1}" for path, label, name in train]
        text(lists / f"trainlist{number:02}.txt", *rows)
        rows = [video(path, name) for path, _, name in split["test"]]
        text(lists / f"testlist{number:02}.txt", *rows)


def _imagenetv2(folder: Path) -> None:
    _classnames(folder)
    images = folder / "imagenetv2-matched-frequency-format-val"
    for label in range(len(_IMAGENET)):
        for number in range(PER_CLASS):
            name = hashlib.sha1(f"{label} {number}".encode()).hexdigest()
            picture(images / f"{label}/{name}.jpeg")


def _imagenet_sketch(folder: Path) -> None:
    _classnames(folder)
    for wnid in _IMAGENET:
        for number in range(PER_CLASS):
            picture(folder / f"images/{wnid}/sketch_{number}.JPEG")


def _imagenet_a(folder: Path) -> None:
    _classnames(folder)
    text(folder / "imagenet-a/README.txt", "ImageNet-A")
    for wnid, name in CLASSES["ImageNetA"].items():
        for number in range(PER_CLASS):
            picture(folder / f"imagenet-a/{wnid}/0.00{number}116_{name} _ {name}_0.86.jpg")


def _imagenet_r(folder: Path) -> None:
    _classnames(folder)
    text(folder / "imagenet-r/README.txt", "ImageNet-R")
    for wnid in CLASSES["ImageNetR"]:
        for number in range(PER_CLASS):
            picture(folder / f"imagenet-r/{wnid}/art_{number}.jpg")


MAKERS: dict[str, Callable[[Path], None]] = {
    "ImageNet": _imagenet,
    "Caltech101": _caltech,
    "OxfordPets": _pets,
    "StanfordCars": _cars,
    "OxfordFlowers": _flowers,
    "Food101": _food,
    "FGVCAircraft": _aircraft,
    "SUN397": _sun,
    "DescribableTextures": _textures,
    "EuroSAT": _eurosat,
    "UCF101": _ucf,
    "ImageNetV2": _imagenetv2,
    "ImageNetSketch": _imagenet_sketch,
    "ImageNetA": _imagenet_a,
    "ImageNetR": _imagenet_r,
}
