"""`promptclip data check`: whole benchmarks, and every fault named with what to do."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniatures
import pytest

from promptclip import data_check
from promptclip.benchmark import Sizes
from promptclip.cli import main
from promptclip.data_sources import SOURCES

PUBLISHED = {name: miniatures.kind_of(name).sizes or () for name in miniatures.NAMES}


@pytest.fixture(autouse=True)
def small_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures' sizes stand in for the published ones."""
    for name in miniatures.NAMES:
        monkeypatch.setattr(miniatures.kind_of(name), "sizes", miniatures.sizes(name))
    monkeypatch.delenv("DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["data", "check", *map(str, arguments)])
    return status, capsys.readouterr().out


def faults(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("  fault: ")]


@pytest.mark.parametrize("name", miniatures.NAMES)
def test_the_table_in_the_docs_has_the_published_sizes(name: str) -> None:
    docs = Path(miniatures.__file__).parents[1] / "docs" / "data.md"
    lines = docs.read_text(encoding="utf-8").splitlines()
    short = miniatures.short(name)
    row = next(line for line in lines if line.startswith(f"| {short} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    counts = ["" if count is None else f"{count:,}" for count in PUBLISHED[name]]
    assert cells[:6] == [short, f"`{miniatures.kind_of(name).dataset_dir}/`", *counts]


def test_all_of_them_whole(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in miniatures.NAMES:
        miniatures.make(root, name)
    status, output = check(capsys, "--root", root)
    assert not faults(output)
    assert f"15 complete in {root}" in output
    assert "4 classes; 12 training, 4 validation, 8 test pictures" in output
    assert "note: two classes each are called 'missile' and 'sunglasses'" in output
    assert status == 0


def test_deep_reads_every_picture(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = miniatures.make(root, "DescribableTextures")
    damaged = folder / "images/banded/banded_0006.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-20])  # its head is whole
    monkeypatch.setenv("DATA", str(root))  # the scripts' variable
    assert check(capsys, "dtd")[0] == 0
    status, output = check(capsys, "dtd", "--deep", "--workers", "2")
    assert status == 1
    (fault,) = faults(output)
    assert "1 of 18 pictures are unreadable" in fault
    assert str(damaged) in fault


def test_what_is_absent_counts_where_it_was_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(capsys, "--root", root)[0] == 1  # nothing at all
    miniatures.make(root, "EuroSAT")
    status, output = check(capsys, "--root", root)
    assert (status, "14 absent, 1 complete" in output) == (0, True)
    status, output = check(capsys, "--root", root, "eurosat", "dtd")
    assert status == 1
    assert "dtd             absent" in output
    assert "`promptclip data get dtd` says more" in output


def test_unusable_input(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, message in (
        (["--root", str(root / "none")], "expected the folder that holds the data sets"),
        (["--root", str(root), "dttd"], "unknown dataset 'dttd'; did you mean"),
        ([], "--root, or set DATA"),
    ):
        assert main(["data", "check", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "check", "--root", str(root), "--workers", "0"])


def change_split(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / miniatures.kind_of(name).split_file
        split = json.loads(file.read_text())
        change(split)
        file.write_text(json.dumps(split))

    return damage


def rename(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)

    return damage


def remove(*paths: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in paths:
            found = folder / path
            shutil.rmtree(found) if found.is_dir() else found.unlink()

    return damage


def write(path: str, content: bytes = b"") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    return damage


def without_tails(path: str) -> Callable[[Path], None]:
    """Pictures cut off in the middle of their heads."""

    def damage(folder: Path) -> None:
        for picture in (folder / path).glob("*"):
            picture.write_bytes(picture.read_bytes()[:20])

    return damage


def no_folders(folder: Path) -> None:
    """ImageNet's validation pictures as they come out of their archive."""
    for picture in list((folder / "images/val").glob("*/*")):
        picture.rename(folder / "images/val" / picture.name)
        if not any(picture.parent.iterdir()):
            picture.parent.rmdir()


def flat_scenes(folder: Path) -> None:
    """SUN397 as others pass it on: train/ and test/ with a folder per class."""
    for picture in list((folder / "SUN397").glob("**/sun_*.jpg")):
        copy = folder / "train" / picture.parent.name / picture.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        picture.rename(copy)


def nested_cars(folder: Path) -> None:
    rename("cars_test", "moved/cars_test")(folder)
    rename("moved", "cars_test")(folder)


def dangling(folder: Path) -> None:
    shutil.rmtree(folder / "2750")
    (folder / "2750").symlink_to(folder / "gone")


# Benchmark, what is done to its miniature, and what its fault must say: what is wrong, what to do.
FAULTS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "no split file": (
        "Food101",
        remove("split_zhou_Food101.json"),
        ["split_zhou_Food101.json is missing", SOURCES["Food101"].split, "promptclip data split"],
    ),
    "damaged split file": (
        "UCF101",
        write("split_zhou_UCF101.json", b'{"train": ['),
        ["split_zhou_UCF101.json: cannot be read as a split file"],
    ),
    "another split": (
        "EuroSAT",
        change_split("EuroSAT", lambda split: split["train"].pop()),
        ["11 training pictures instead of 12", "fewest: 2 of 'Sea or Lake'", "another version"],
    ),
    "a class too few": (
        "DescribableTextures",
        change_split(
            "DescribableTextures",
            lambda split: split.update({k: [r for r in v if r[1] < 2] for k, v in split.items()}),
        ),
        ["2 classes instead of 3", "6 training pictures instead of 9", "another version"],
    ),
    "a label with two names": (
        "OxfordPets",
        change_split("OxfordPets", lambda split: split["test"][0].__setitem__(2, "lynx")),
        ["label 0 has two class names, 'abyssinian' and 'lynx'", "damaged or of another version"],
    ),
    "a name with two labels": (
        "OxfordFlowers",
        change_split(
            "OxfordFlowers",
            lambda split: [
                row.__setitem__(2, "rose") for part in split.values() for row in part if row[1] > 1
            ],
        ),
        ["2 classes (labels 2, 3) are called 'rose'", "give them their names"],
    ),
    "a class without test pictures": (
        "UCF101",
        change_split(
            "UCF101", lambda split: split.update(test=[r for r in split["test"] if r[1] != 1])
        ),
        ["class 'Handstand_Pushups' (label 1) has no test pictures"],
    ),
    "a picture for training and test": (
        "Caltech101",
        change_split("Caltech101", lambda split: split["test"].append(split["train"][0])),
        ["1 pictures stand in the training and test part", "Faces/image_0001.jpg", "get it anew"],
    ),
    "missing pictures": (
        "Caltech101",
        remove("101_ObjectCategories/airplanes"),
        ["6 of 30 pictures are missing", "airplanes/image_0001.jpg", "copy them there"],
    ),
    "empty pictures": (
        "Food101",
        write("images/pho/1005650.jpg"),
        ["1 of 24 pictures are empty", "pho/1005650.jpg", "replace them"],
    ),
    "unreadable pictures": (
        "EuroSAT",
        without_tails("2750/Forest"),
        ["6 of 24 pictures are unreadable", "Forest/Forest_1.jpg", "of a sample: see --deep"],
    ),
    "no pictures": (
        "FGVCAircraft",
        remove("images"),
        ["images is missing", "the folder holds families.txt", "promptclip data get fgvc_aircraft"],
    ),
    "an empty folder": (
        "OxfordFlowers",
        lambda folder: [picture.unlink() for picture in (folder / "jpg").iterdir()],
        ["jpg is empty", "promptclip data get oxford_flowers"],
    ),
    "an archive not unpacked": (
        "DescribableTextures",
        lambda folder: (remove("images")(folder), write("dtd-r1.0.1.tar.gz", b"x")(folder)),
        ["images is missing; dtd-r1.0.1.tar.gz is there: unpack it"],
    ),
    "a folder too deep": (
        "DescribableTextures",
        rename("images", "dtd/images"),
        ["images is missing", "dtd/dtd/images looks like it: move it there"],
    ),
    "another case": (
        "Food101",
        rename("images", "Images"),
        ["food-101/images is missing", "food-101/Images looks like it: move it there"],
    ),
    "a dangling link": ("EuroSAT", dangling, ["2750 is a link to", "mend the link"]),
    "a damaged list": (
        "FGVCAircraft",
        write("images_variant_val.txt", b"0034958 Concorde\n"),
        ["images_variant_val.txt: expected a picture number and a name", "'Concorde'"],
    ),
    "an unreadable list": (
        "FGVCAircraft",
        write("variants.txt", b"\xff\xfe"),
        ["variants.txt: cannot be read", "get it anew"],
    ),
    "SUN397's other layout": (
        "SUN397",
        flat_scenes,
        [
            "24 of 24 pictures are missing",
            "should be",
            "SUN397/a/abbey",
            "bring all into that form",
        ],
    ),
    "Cars nested": (
        "StanfordCars",
        nested_cars,
        ["6 of 18 pictures are missing", "cars_test/cars_test/00001.jpg should be"],
    ),
    "Cars without test labels": (
        "StanfordCars",
        remove("split_zhou_StanfordCars.json", "cars_test_annos_withlabels.mat"),
        ["cars_test_annos_withlabels.mat is missing", "nothing says which picture is what"],
    ),
    "ImageNet without classnames.txt": (
        "ImageNet",
        remove("classnames.txt"),
        ["classnames.txt is missing", "promptclip data get imagenet"],
    ),
    "ImageNet without some classes": (
        "ImageNet",
        remove("images/train/n01443764", "images/val/n01443764"),
        ["1 of the 12 classes of classnames.txt have no folder", "'n01443764'"],
    ),
    "ImageNet with some lines too few": (
        "ImageNet",
        lambda folder: miniatures.text(folder / "classnames.txt", "n01440764 tench"),
        ["must be in images/train and have a line in classnames.txt"],
    ),
    "ImageNet half copied": (
        "ImageNet",
        remove("images/train/n01440764/n01440764_10026.JPEG"),
        ["35 training pictures instead of 36 (fewest: 2 of 'tench')"],
    ),
    "ImageNet not sorted": (
        "ImageNet",
        no_folders,
        ["images/val: expected one sub-folder", "ILSVRC2012_val_01440764.JPEG", "sort them"],
    ),
    "an empty class folder": (
        "ImageNetR",
        lambda folder: (folder / "imagenet-r/n01441764").mkdir(),
        ["n01441764: expected the pictures of a class, the folder is empty"],
    ),
    "no picture by its name": (
        "ImageNetSketch",
        write("images/n01440764/Thumbs.db", b"x"),
        ["1 files in the place of pictures are none by their name", "Thumbs.db", "take them out"],
    ),
    "ImageNetV2 of another version": (
        "ImageNetV2",
        rename(
            "imagenetv2-matched-frequency-format-val/0",
            "imagenetv2-matched-frequency-format-val/n01440764",
        ),
        ["class folders do not match", "classnames.txt"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(root: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    name, damage, said = FAULTS[fault]
    damage(miniatures.make(root, name))
    status, output = check(capsys, "--root", root, name)
    assert status == 1
    assert f"{miniatures.short(name):<15} broken" in output
    assert any(all(text in line for text in said) for line in faults(output)), output


# Those that one folder of data can have at once; the others are of the same benchmarks.
TOGETHER = (
    *("ImageNet without some classes", "SUN397's other layout", "Cars without test labels"),
    *("no split file", "another case", "damaged split file", "an archive not unpacked"),
    *("a class too few", "unreadable pictures", "a picture for training and test"),
    *("missing pictures", "a label with two names", "a name with two labels", "an empty folder"),
    *("a damaged list", "an empty class folder", "no picture by its name"),
)


def test_a_folder_with_all_kinds_of_faults(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in miniatures.NAMES:
        miniatures.make(root, name)
    shutil.rmtree(root / "imagenet-adversarial")
    damaged = set()
    for name, damage, _ in map(FAULTS.__getitem__, TOGETHER):
        damage(root / miniatures.kind_of(name).dataset_dir)
        damaged.add(name)
    status, output = check(capsys, "--root", root)
    assert status == 1
    for name in miniatures.NAMES:
        whole = {"ImageNetA": "absent", "ImageNetV2": "complete"}
        state = "broken" if name in damaged else whole[name]
        assert f"\n{miniatures.short(name):<15} {state}" in f"\n{output}"
    assert f"1 absent, 13 broken, 1 complete in {root}" in output
    for fault in TOGETHER:
        said = FAULTS[fault][-1]
        assert any(all(text in line for text in said) for line in faults(output)), fault


def test_leftovers_are_told_and_not_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = miniatures.make(root, "ImageNet")

    class Exploit:
        def __reduce__(self) -> Any:
            return open, (str(root / "witness"), "w")

    (folder / "preprocessed.pkl").write_bytes(pickle.dumps(Exploit()))
    (folder / "split_fewshot").mkdir()
    (folder / "split_fewshot/shot_1-seed_1.pkl").write_bytes(pickle.dumps(Exploit()))
    (root / ".imagenet-abc").mkdir()
    status, output = check(capsys, "--root", root)
    assert status == 0
    assert "preprocessed.pkl is not read (a pickle can run code) and can be deleted" in output
    assert "split_fewshot/ has 1 few-shot samples of CoOp" in output
    assert f"{root}/.imagenet-abc is left of something that was interrupted" in output
    assert not (root / "witness").exists()


@pytest.mark.parametrize("called", ["caltech101", "Caltech-101"])
def test_a_benchmark_under_another_name(
    root: Path, capsys: pytest.CaptureFixture[str], called: str
) -> None:
    miniatures.make(root, "Caltech101").rename(root / called)
    output = check(capsys, "--root", root, "caltech101")[1]
    assert f"note: {called}/ looks like it; here it must be called caltech-101/" in output


def test_a_link_in_place_of_a_benchmark(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = miniatures.make(root / "disk", "EuroSAT")
    (root / "eurosat").symlink_to(elsewhere)
    assert check(capsys, "--root", root)[0] == 0
    shutil.rmtree(elsewhere)
    status, output = check(capsys, "--root", root)
    assert status == 1
    assert f"eurosat is a link to {elsewhere}, which is not there" in output


def test_what_has_no_published_sizes_is_present(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniatures.kind_of("EuroSAT"), "sizes", None)
    miniatures.make(root, "EuroSAT")
    status, output = check(capsys, "--root", root, "EuroSAT")
    assert (status, "eurosat         present" in output) == (0, True)
    assert len(data_check._usual(str(root))) == 15  # it is there, so it is among them


def test_a_split_that_was_made_here_is_told(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = miniatures.make(root, "DescribableTextures")
    monkeypatch.setattr(miniatures.kind_of("DescribableTextures"), "sizes", Sizes(47, 9, 9, 9))
    (folder / "split_zhou_DescribableTextures.json").unlink()
    assert main(["data", "split", "dtd", "--root", str(root)]) == 0
    status, output = check(capsys, "--root", str(root), "dtd")
    assert status == 0
    assert "dtd             present" in output
    assert "note: the split is 'promptclip split, seed 1', not CoOp's" in output


def test_a_wrong_number_of_workers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(SystemExit):
            main(["data", "check", "--root", str(root), "--workers", wrong])
        assert f"expected a number from 1, got '{wrong}'" in capsys.readouterr().err
