"""What a wheel holds, and that installing it takes no name away from others."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import promptclip
from promptclip.config import configs_dir

ROOT = Path(promptclip.__file__).parent.parent

PROBE = """
import importlib.util
import pathlib
import sys

import promptclip
from promptclip.config import configs_dir

home = pathlib.Path(sys.argv[1]).resolve()
assert pathlib.Path(promptclip.__file__).resolve().parent == home / "promptclip"
for name in ("datasets", "trainers", "configs", "scripts", "tests", "dassl"):
    spec = importlib.util.find_spec(name)
    assert spec is None or home not in pathlib.Path(spec.origin).resolve().parents, name
for name in ("promptclip.trainers.coop", "promptclip.datasets.imagenet", "promptclip.clip.model"):
    assert home in pathlib.Path(importlib.util.find_spec(name).origin).resolve().parents, name
assert configs_dir().resolve() == home / "promptclip" / "configs"
print(*sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()))
"""


def pip(*args):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *args]
    done = subprocess.run(map(str, command), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source)
    (file,) = folder.glob("promptclip-*.whl")
    return file


def files(folder, pattern):
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern)}


@pytest.mark.slow
def test_a_wheel_holds_the_library_its_configurations_and_the_small_clip(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"promptclip/{name}" for name in files("configs", "**/*.yaml")}
    wanted |= {
        f"promptclip/{name}" for name in files("trainers", "*.py") | files("datasets", "*.py")
    }
    wanted |= files("promptclip", "**/*.py") | files("promptclip/assets", "*.safetensors")
    wanted |= files("promptclip/published", "*.csv")
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {
        "promptclip",
        f"promptclip-{promptclip.__version__}.dist-info",
    }


@pytest.mark.slow
def test_an_installed_wheel_shadows_nothing_and_finds_its_parts(wheel, tmp_path):
    pip("install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, tmp_path / "site"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_wheel_requires_no_name_that_is_not_ours_to_trust(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert required
    assert not any(line.startswith("Requires-Dist: dassl") for line in required)
    assert "Requires-Python: <3.14,>=3.10" in metadata


def test_configurations_are_found_in_a_checkout():
    assert (configs_dir() / "trainers" / "base.yaml").is_file()
