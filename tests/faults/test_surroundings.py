"""What lies around the program: terminals without letters, closed outputs, odd names of files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.conftest import Count
from PIL import Image

from promptclip import results

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "runtime")))


def run(
    words: list[object], *, redirected: str = "", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """`promptclip` in a process of its own, whose outputs a shell may have changed."""
    command = [sys.executable, "-W", "ignore", "-m", "promptclip", *map(str, words)]
    given = {**os.environ, "PYTHONPATH": PATHS, "CUDA_VISIBLE_DEVICES": ""} | env
    if redirected:
        command = ["sh", "-c", f'"$@" {redirected}', "sh", *command]
    return subprocess.run(command, env=given, capture_output=True, timeout=300)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Own pictures of classes with other letters than ASCII's."""
    for name, colour in (("Kätzchen", "red"), ("犬", "blue")):
        for number in range(6):
            file = tmp_path / "pets" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), colour).save(file)
    return tmp_path / "pets"


def few_shot(pets: Path, output: Path) -> list[object]:
    return ["fewshot", "--data-folder", pets, "--cfg", "tiny", "--shots", 2, "--output", output,
            "zsclip", 1]  # fmt: skip


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda env: next(iter(env.values())),
)
def test_a_terminal_that_lacks_letters(
    env: dict[str, str], pets: Path, tmp_path: Path, count: Count
) -> None:
    done = run(few_shot(pets, tmp_path / "out"), **env)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Error" not in done.stderr
    (folder,) = (tmp_path / "out").glob("**/seed1")
    names = [row["classname"] for row in (results.read(folder) or {})["per_class"]]
    assert names == ["Kätzchen", "犬"]
    (pets / "犬" / "0.png").write_bytes(b"")
    done = run(few_shot(pets, tmp_path / "again"), **env)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr
    count("bad inputs tried", 2)


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs(redirected: str, pets: Path, tmp_path: Path, count: Count) -> None:
    done = run(few_shot(pets, tmp_path / "out"), redirected=redirected)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    (folder,) = (tmp_path / "out").glob("**/seed1")
    assert results.read(folder)
    assert run(["table", tmp_path / "nowhere"], redirected=redirected).returncode == 2
    count("bad inputs tried", 2)


def test_a_reader_that_has_had_enough(count: Count) -> None:
    done = run(["data", "check", "--root", ROOT], redirected="| head -1")
    assert b"Traceback" not in done.stderr
    count("bad inputs tried")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"\x1b[31m.png"])
def test_names_of_pictures_that_are_no_text(
    name: bytes, pets: Path, tmp_path: Path, count: Count
) -> None:
    strange = Path(os.fsdecode(os.fsencode(pets / "犬") + b"/" + name))
    shutil.copy(pets / "犬" / "0.png", strange)
    done = run(few_shot(pets, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    split = json.loads((pets / "split_promptclip.json").read_text())
    assert strange.name in {Path(row[0]).name for part in ("train", "val", "test")
                            for row in split[part]}  # fmt: skip
    strange.write_bytes(b"nothing")
    done = run(few_shot(pets, tmp_path / "again"))
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.decode().strip().isprintable()
    done = run([*few_shot(pets, tmp_path / "skip")[:-2], "--set", "DATASET.BAD_IMAGES", "skip",
                "zsclip", 1])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\x1b[31m.png" not in done.stdout
    (folder,) = (tmp_path / "skip").glob("**/seed1")
    assert (results.read(folder) or {})["skipped"]
    count("bad inputs tried", 3)


def test_a_class_whose_name_is_no_text(pets: Path, tmp_path: Path, count: Count) -> None:
    (pets / "犬").rename(os.fsdecode(os.fsencode(pets) + b"/caf\xe9"))
    done = run(few_shot(pets, tmp_path / "out"))
    assert done.returncode == 2
    assert rb"is no text in UTF-8; rename" in done.stderr
    assert b"Traceback" not in done.stderr
    count("bad inputs tried")


def test_no_folder_for_temporary_files(pets: Path, tmp_path: Path, count: Count) -> None:
    done = run(few_shot(pets, tmp_path / "out"), TMPDIR=str(tmp_path / "nowhere"))
    assert done.returncode == 0, done.stderr
    count("bad inputs tried")
