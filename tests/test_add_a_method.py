"""docs/add-a-method.md, done word for word in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import promptclip
from promptclip import results

ROOT = Path(promptclip.__file__).parent.parent
PAGE = (ROOT / "docs/add-a-method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"(?m)^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL))
COMMANDS = [
    line for block in re.findall(r"(?s)```bash\n(.*?)```", PAGE) for line in block.splitlines()
]


def copy_of_the_checkout(folder, files):
    """What git would hold of this checkout, with a page's files written and nothing else done."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    for name, text in files.items():
        assert not (folder / name).exists()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_of_the_checkout(tmp_path_factory.mktemp("checkout"), FILES)


def do(command, checkout, *more):
    path = ":".join(str(checkout / part) for part in ("", "runtime", "tests"))
    done = subprocess.run(
        [*shlex.split(command), *map(str, more)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path, "PROMPTCLIP_NO_VENV": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_holds_a_whole_method():
    assert sorted(FILES) == [
        "configs/trainers/Anchor/tiny.yaml",
        "configs/trainers/Anchor/vit_b16.yaml",
        "docs/methods/anchor.md",
        "trainers/anchor.py",
    ]
    assert [command.split()[0] for command in COMMANDS] == ["cp", "ruff", "ruff", "python", "bash"]


@pytest.mark.slow
def test_the_recipe(checkout, mini, tmp_path):
    copy, lint, style, contract, protocol = COMMANDS
    for command in (copy, lint, style):
        do(command, checkout)
    passed = re.search(r"(\d+) passed", do(contract, checkout))
    assert passed
    assert int(passed[1]) > 20
    # From the command line, one epoch on the miniature benchmark in the place of emoji.
    (checkout / "datasets" / "mini.py").write_text("import mini_benchmark\n")
    out = do(
        protocol.replace("emoji", shlex.quote(str(mini))),
        checkout,
        *("--root", mini.parent, "--output", tmp_path, "--set", "OPTIM.MAX_EPOCH", 1),
        *("--set", "TRAINER.ANCHOR.WEIGHT", 0.5),
    )
    assert "loss_anchor" in out
    for folder in ("train_base", "test_new"):
        result = results.read(tmp_path / f"base2new/{folder}/mini/shots_16/Anchor/tiny/seed1")
        assert result is not None
        assert result["config"]["TRAINER"]["ANCHOR"]["WEIGHT"] == 0.5
    assert re.search(r"Anchor +\d", out)
