"""docs/tutorial.md, run as it stands there in what git would hold of this checkout.

But for its first block: `scripts/quickstart.sh` has tests of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from docs_pages import ROOT, blocks
from test_add_a_method import copy_of_the_checkout

from promptclip import results

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
INSTALL, *BLOCKS = [block for _, block in blocks(PAGE, "bash")]
(THREE_LINES,) = [block for _, block in blocks(PAGE, "python")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh clone, and `promptclip` on the path as an environment has it."""
    folder = copy_of_the_checkout(tmp_path_factory.mktemp("clone"), {})
    program = folder.parent / "bin" / "promptclip"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m promptclip "$@"\n')
    program.chmod(0o755)
    return folder


def test_it_begins_with_the_quickstart():
    assert INSTALL.splitlines() == ["bash scripts/quickstart.sh", ". .venv/bin/activate"]
    assert len(BLOCKS) >= 7


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_packages")
def test_the_tutorial(checkout):
    path = os.pathsep.join([str(checkout.parent / "bin"), os.environ["PATH"]])
    modules = os.pathsep.join(str(checkout / part) for part in ("", "runtime"))
    said = []
    shell, python = ["bash", "-euo", "pipefail", "-c"], [sys.executable, "-c"]
    for program, block in (*((shell, block) for block in BLOCKS), (python, THREE_LINES)):
        done = subprocess.run(
            [*program, block],
            cwd=checkout,
            env={**os.environ, "PATH": path, "PYTHONPATH": modules, "COLUMNS": "100"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    first, files, _, own, tables, changed, planned, drawn, used, top = said
    assert "[4/4] CoOp, seed 1, emoji, 4 shots: " in first
    assert {"result.json", "prompts.safetensors", "log.txt"} <= set(files.split())
    assert "[12/12] TipAdapter, seed 2, own_pictures, 2 shots: " in own
    assert "own_pictures" in tables
    assert "CoOp" in changed
    assert "runs, " in planned
    assert "report.html is written" in drawn
    assert "fewshot" in (checkout / "report.html").read_text(encoding="utf-8")
    assert list((checkout / "figures").glob("shots-*.pdf"))
    assert ",1,food fruit," in used
    assert (checkout / "classifier/classifier.json").is_file()
    assert top.startswith("[Prediction(")
    assert "food fruit" in top
    assert "<table>" in (checkout / "table.html").read_text(encoding="utf-8")
    folder = checkout / "longer/fewshot/own_pictures/shots_2/CoOp/tiny/seed1"
    result = results.read(folder)
    assert result is not None
    assert result["config"]["TRAINER"]["COOP"]["N_CTX"] == 8
    size = (checkout / "output/fewshot/emoji/shots_4/CoOp/tiny/seed1/prompts.safetensors").stat()
    assert 8_000 < size.st_size < 12_000
    split = checkout / "pictures/split_promptclip.json"
    assert split.is_file()
