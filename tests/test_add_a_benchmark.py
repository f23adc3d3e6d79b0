"""docs/add-a-benchmark.md, done word for word in a copy of the checkout."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from docs_pages import ROOT, blocks
from PIL import Image
from test_add_a_method import copy_of_the_checkout, do

from promptclip import results

PAGE = (ROOT / "docs/add-a-benchmark.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"(?m)^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL))
COMMANDS = [line for _, block in blocks(PAGE, "bash") for line in block.splitlines()]
FOLDERS = {"dnm": "denim", "slk": "silk", "twd": "tweed", "vlv": "velvet"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout with the page's files, and the pictures that it tells of."""
    folder = copy_of_the_checkout(tmp_path_factory.mktemp("checkout"), FILES)
    random = np.random.default_rng(0)
    tested = []
    for number, name in enumerate(FOLDERS):
        for picture in range(9):
            file = folder / f"DATA/fabrics/images/{name}/{picture:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 60, (48, 48, 3)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(file)
        tested += [f"{name}/{number:02}.png", f"{name}/08.png"]
    (folder / "DATA/fabrics/test.txt").write_text("\n".join(tested) + "\n")
    return folder


def test_the_page_holds_a_whole_benchmark():
    assert sorted(FILES) == ["configs/datasets/fabrics.yaml", "datasets/fabrics.py"]
    assert [command.split()[1] for command in COMMANDS] == ["data", "data", "base2new", "data"]


@pytest.mark.slow
def test_the_recipe(checkout, tmp_path):
    split, check, protocol, export = (
        re.sub("^promptclip", "python -m promptclip", command) for command in COMMANDS
    )
    do("ruff check", checkout, "datasets/fabrics.py")
    do("ruff format --check", checkout, "datasets/fabrics.py")
    do(split, checkout)
    written = json.loads((checkout / "DATA/fabrics/split_promptclip_Fabrics.json").read_text())
    assert {part: len(written[part]) for part in ("train", "val", "test")} == {
        "train": 24, "val": 4, "test": 8,
    }  # fmt: skip
    assert {name for _, _, name in written["test"]} == set(FOLDERS.values())
    assert ["slk/01.png", 1, "silk"] in written["test"]
    assert "fabrics         present  4 classes; 24 training, 4 validation, 8 test" in do(
        check, checkout
    )
    out = do(protocol, checkout, *shlex.split(f"--output {tmp_path} --set OPTIM.MAX_EPOCH 1"))
    assert re.search(r"CoOp +\d", out)
    for half in ("train_base", "test_new"):
        result = results.read(tmp_path / f"base2new/{half}/fabrics/shots_2/CoOp/tiny/seed1")
        assert result is not None
        assert result["split_origin"] == "promptclip split, seed 1"
        assert result["metrics"]["num_test"] == 4
    do(export, checkout)
    assert (checkout / "fabrics.csv").read_text().count("\n") == 37
