"""DATASET.BAD_IMAGES: what is left out of a run, where it is told, and what never changes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from mini_benchmark import CLASSES, cfg_of
from PIL import Image

from promptclip import bad_pictures, pictures, plugins, results, table
from promptclip.cli import main
from promptclip.config import config_hash
from promptclip.errors import UserError
from promptclip.run import run

SKIP = ("DATASET.BAD_IMAGES", "skip")


class StoppedError(Exception):
    """The machine goes away."""


@pytest.fixture
def yaml(mini: Path, tmp_path: Path) -> Path:
    """A copy of the miniature benchmark that may be spoiled; its yaml."""
    shutil.copytree(mini.parent, tmp_path / "data", ignore=shutil.ignore_patterns("split_fewshot"))
    return tmp_path / "data" / "mini.yaml"


def picture(yaml: Path, name: str) -> Path:
    return yaml.parent / "mini" / "images" / name


def spoil(yaml: Path, *names: str) -> None:
    for name in names:
        picture(yaml, name).write_bytes(b"<html>404")


def drawn(yaml: Path, *overrides: object) -> list[tuple[str, int]]:
    """The training pictures of a run."""
    dataset = build_dataset(cfg_of("CoOp", yaml, yaml.parent / "none", *overrides))
    return [(Path(d.impath).name, d.label) for d in dataset.train_x]


def test_what_is_left_out_is_not_replaced(yaml: Path) -> None:
    whole = drawn(yaml)
    first = whole[0]
    spoil(yaml, f"{first[1]}/{first[0]}")
    shutil.rmtree(yaml.parent / "mini" / "split_fewshot")  # it is drawn anew on the damaged disk
    assert drawn(yaml, *SKIP) == whole[1:]
    halves = [drawn(yaml, *SKIP, "DATASET.SUBSAMPLE_CLASSES", half) for half in ("base", "new")]
    assert len(halves[0]) + len(halves[1]) == len(whole) - 1


def test_a_result_tells_what_was_left_out(yaml: Path, tmp_path: Path) -> None:
    (name, label), *_ = drawn(yaml)
    spoil(yaml, f"{label}/{name}", "1/test_0.png", "1/test_1.png")
    picture(yaml, "2/test_0.png").unlink()
    result = run(cfg_of("CoOp", yaml, tmp_path / "run", *SKIP))
    left = {part: (told["number"], told["first"]) for part, told in result["skipped"].items()}
    assert left == {
        "train": (1, [f"{label}/{name}"]),
        "val": (0, []),
        "test": (3, ["1/test_0.png", "1/test_1.png", "2/test_0.png"]),
    }
    assert result["metrics"]["num_test"] == 17
    assert result["num_train"] == [3 if one == label else 4 for one in range(5)]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "left out of the test pictures: 1/test_1.png (it is no whole BMP" in log
    assert "left out of the test pictures: 2/test_0.png (No such file or directory)" in log


def test_without_the_key_everything_is_as_before(yaml: Path, tmp_path: Path) -> None:
    plain = cfg_of("CoOp", yaml, tmp_path / "run")
    assert config_hash(plain) == config_hash(
        cfg_of("CoOp", yaml, tmp_path / "run", "DATASET.BAD_IMAGES", "error")
    )
    assert config_hash(plain) != config_hash(cfg_of("CoOp", yaml, tmp_path / "run", *SKIP))
    assert "skipped" not in run(plain)
    assert not (tmp_path / "run" / bad_pictures.RECORD).exists()
    spoil(yaml, "1/test_0.png")
    with pytest.raises(UserError, match="1/test_0.png: the picture cannot be read .*BAD_IMAGES"):
        run(cfg_of("CoOp", yaml, tmp_path / "other"))


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_are_those_of_a_split_without_the_pictures(
    yaml: Path, tmp_path: Path, workers: int
) -> None:
    spoil(yaml, "1/test_0.png", "3/test_2.png")
    words = ("DATALOADER.NUM_WORKERS", workers)
    skipped = run(cfg_of("CoOp", yaml, tmp_path / "skipped", *words, *SKIP))
    file = yaml.parent / "mini" / "split_zhou_Mini.json"
    split = json.loads(file.read_text())
    split["test"] = [r for r in split["test"] if r[0] not in ("1/test_0.png", "3/test_2.png")]
    file.write_text(json.dumps(split))
    without = run(cfg_of("CoOp", yaml, tmp_path / "without", *words))
    assert skipped["metrics"] == without["metrics"]
    assert skipped["per_class"] == without["per_class"]


@pytest.mark.parametrize(("part", "shots"), [("train", -1), ("test", 4)])
def test_a_class_cannot_be_left_out(yaml: Path, tmp_path: Path, part: str, shots: int) -> None:
    files = sorted(picture(yaml, "2").glob(f"{part}_*.png"))
    spoil(yaml, *(f"2/{file.name}" for file in files))
    cfg = cfg_of("CoOp", yaml, tmp_path / "run", *SKIP, "DATASET.NUM_SHOTS", shots)
    message = f"none of the {len(files)} {part} pictures of class {CLASSES[2]!r} can be read"
    with pytest.raises(UserError, match=message):
        run(cfg)
    assert not (tmp_path / "run").exists()
    if part == "test":  # of classes that are not tested, none is looked at
        base = ("DATASET.SUBSAMPLE_CLASSES", "new")
        assert run(cfg_of("CoOp", yaml, tmp_path / "new", *SKIP, *base))["metrics"]


def test_a_disk_that_fails_is_no_bad_picture(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Image.open

    def fails(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("1/test_0.png"):
            raise OSError(116, "Stale file handle")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(UserError, match="not known .Stale file handle.; see to the disk"):
        run(cfg_of("CoOp", yaml, tmp_path / "run", *SKIP))


def test_a_resumed_run_goes_by_its_first_start(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, label), *_ = drawn(yaml)
    spoiled = f"{label}/{name}"
    whole = picture(yaml, spoiled).read_bytes()
    spoil(yaml, spoiled)
    method = plugins.methods()["CoOp"]
    uninterrupted = run(cfg_of("CoOp", yaml, tmp_path / "one", *SKIP))

    def stops(self: Any) -> None:
        after(self)
        if self.epoch == 1:
            raise StoppedError

    after = method.after_epoch
    with monkeypatch.context() as patch:
        patch.setattr(method, "after_epoch", stops)
        with pytest.raises(StoppedError):
            run(cfg_of("CoOp", yaml, tmp_path / "two", *SKIP))
    picture(yaml, spoiled).write_bytes(whole)
    resumed = run(cfg_of("CoOp", yaml, tmp_path / "two", *SKIP))
    assert resumed["skipped"] == uninterrupted["skipped"]
    assert resumed["num_train"] == uninterrupted["num_train"]
    assert resumed["metrics"] == uninterrupted["metrics"]
    fresh = run(cfg_of("CoOp", yaml, tmp_path / "three", *SKIP))
    assert fresh["skipped"]["train"]["number"] == 0


def test_shared_features_are_of_the_pictures_that_are_left(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTCLIP_FEATURE_CACHE", str(tmp_path / "features"))
    words = ("DATASET.NUM_SHOTS", -1, *SKIP)
    whole = run(cfg_of("ZeroshotCLIP", yaml, tmp_path / "whole", *words))
    spoil(yaml, "1/test_0.png")
    fewer = run(cfg_of("ZeroshotCLIP", yaml, tmp_path / "fewer", *words))
    again = run(cfg_of("ZeroshotCLIP", yaml, tmp_path / "again", *words))
    assert [r["shared_features"] for r in (whole, fewer, again)] == [
        "computed",
        "computed",
        "found",
    ]
    assert fewer["metrics"] == again["metrics"]
    assert (whole["metrics"]["num_test"], fewer["metrics"]["num_test"]) == (20, 19)


def test_the_table_says_so_and_nothing_is_paired(
    yaml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="promptclip")

    def fewshot(method: str) -> int:
        words = ["fewshot", "--root", str(yaml.parent), "--output", str(tmp_path / "output")]
        words += ["--shots", "4", "--quiet", "--set", *SKIP, "--set", "OPTIM.MAX_EPOCH", "1"]
        return main([*words, method, str(yaml), "1", "2"])

    assert fewshot("coop") == 0
    spoil(yaml, "1/test_0.png", "2/test_3.png")
    assert fewshot("zsclip") == 0
    found = table.build(tmp_path / "output")
    (note,) = (note for note in found.notes if "left out" in note)
    assert note == (
        "mini: 2 test pictures, such as 1/test_0.png, could not be read and were left out "
        "(DATASET.BAD_IMAGES skip) of ZeroshotCLIP (tiny) shots_4 seed 1, ZeroshotCLIP (tiny) "
        "shots_4 seed 2"
    )
    assert not any("saw different pictures" in note for note in found.notes)  # the sample is one
    assert main(["compare", "coop", "zsclip", str(tmp_path / "output")]) == 0
    assert "different pictures" in capsys.readouterr().out


def test_own_pictures(tmp_path: Path, mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colour in (("cat", "red"), ("dog", "blue")):
        for number in range(8):
            file = tmp_path / "pets" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (36, 36), colour).save(file)
    (tmp_path / "pets" / "cat" / "0.png").write_bytes(b"<html>")
    words = ["fewshot", "--data-folder", str(tmp_path / "pets"), "--output", str(tmp_path / "out")]
    words += ["--shots", "2", "--cfg", "tiny", "--set", "OPTIM.MAX_EPOCH", "1", "zsclip", "1"]
    assert main(words) == 2
    assert "or leave them out with DATASET.BAD_IMAGES skip" in capsys.readouterr().err
    assert main([*words[:-2], "--set", *SKIP, *words[-2:]]) == 0
    (folder,) = (tmp_path / "out").glob("**/seed1")
    skipped = (results.read(folder) or {})["skipped"]
    assert sum(part["number"] for part in skipped.values()) <= 1


@DATASET_REGISTRY.register()
class ForeignMini(DatasetBase):
    """A data set that is not built on ours."""

    def __init__(self, cfg: Any) -> None:
        files = sorted(Path(cfg.DATASET.ROOT, "mini/images").glob("*/test_*.png"))
        data = [Datum(str(file), int(file.parent.name), 0, file.parent.name) for file in files]
        super().__init__(train_x=data, test=data)


def test_a_data_set_of_others_is_refused(yaml: Path, tmp_path: Path) -> None:
    foreign = ("DATASET.NAME", "ForeignMini")
    run(cfg_of("CoOp", yaml, tmp_path / "run", *foreign), no_train=True)
    with pytest.raises(UserError, match="ForeignMini is no benchmark of promptclip"):
        run(cfg_of("CoOp", yaml, tmp_path / "run", *foreign, *SKIP), no_train=True)


def test_an_edited_list_is_refused(yaml: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for content in ("{", "[]", '{"train": {}}', '{"train": [], "val": {}, "test": {}}'):
        (tmp_path / "run" / bad_pictures.RECORD).write_text(content)
        with pytest.raises(UserError, match="skipped.json.*delete the folder"):
            run(cfg_of("CoOp", yaml, tmp_path / "run", *SKIP))


def test_pictures_are_decoded_and_not_only_looked_at(yaml: Path, tmp_path: Path) -> None:
    file = picture(yaml, "1/test_0.png")
    file.write_bytes(file.read_bytes()[:-400])
    assert not pictures.read([str(file)], decode=False)
    result = run(cfg_of("CoOp", yaml, tmp_path / "run", *SKIP))
    assert result["skipped"]["test"]["first"] == ["1/test_0.png"]
