"""What a wheel holds, and that installing it takes no name away from others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

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


def pip(*args, python=sys.executable):
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *args]
    done = subprocess.run(map(str, command), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy, so that no build folder is left in the checkout."""
    source = tmp_path_factory.mktemp("checkout") / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.splitlines()):
        if (ROOT / name).is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    return source


def built(source, folder):
    """The wheel of a checkout, or of a source distribution."""
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source)
    (file,) = folder.glob("promptclip-*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return built(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """One in which the wheel was installed, and nothing else but what it requires.

    These packages are this environment's. What is installed here as a link to a checkout, as
    promptclip and the engine are for developers, is not seen there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    required = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (purelib / "required.pth").write_text("".join(f"{place}\n" for place in sorted(required)))
    python = folder / "bin" / "python"
    pip("install", "--no-deps", "--no-index", "--force-reinstall", wheel, python=python)
    return folder


def run_in(environment, *command, cwd, **env):
    done = subprocess.run(
        [environment / "bin" / command[0], *command[1:]],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    wanted |= files("promptclip/published", "*.csv") | {"promptclip/py.typed"}
    wanted |= {f"promptclip/{name}" for name in files("runtime/dassl", "**/*.py")}
    wanted |= {"promptclip/runtime/dassl/py.typed"}
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


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_packages")
def test_a_wheel_alone_runs_anywhere(environment, tmp_path):
    command = ["promptclip", "fewshot", "zsclip", "emoji", "1", "--cfg", "tiny", "--shots", "1"]
    run_in(environment, *command, cwd=tmp_path, PROMPTCLIP_OFFLINE="1")
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["metrics"]["num_test"] > 150
    probe = """
import sys, pathlib
import promptclip, dassl, promptclip.trainers.coop
home = pathlib.Path(sys.prefix).resolve()
for module in (promptclip, dassl, promptclip.trainers.coop):
    assert home in pathlib.Path(module.__file__).resolve().parents, module
print(promptclip.load(sys.argv[1]).method)
"""
    said = run_in(environment, "python", "-c", probe, result.parent, cwd=tmp_path)
    assert said == "ZeroshotCLIP\n"


@pytest.mark.slow
def test_an_installed_engine_comes_before_the_wheels_own(environment, tmp_path):
    (tmp_path / "dassl").mkdir()
    (tmp_path / "dassl" / "__init__.py").write_text("")
    probe = "import promptclip, dassl; print(dassl.__file__)"
    said = run_in(environment, "python", "-c", probe, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert said == f"{tmp_path}/dassl/__init__.py\n"


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("promptclip-*.tar.gz")
    again = built(archive, tmp_path / "wheel")
    names = [sorted(zipfile.ZipFile(file).namelist()) for file in (wheel, again)]
    assert names[0] == names[1]
    with tarfile.open(archive) as file:
        plain = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "CITATION.cff", "constraints.txt"} <= plain


def test_the_citation_is_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (said["version"], said["license"]) == (promptclip.__version__, "MIT")
    assert {"cff-version", "message", "title", "type", "authors"} <= said.keys()
    for reference in said["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys()


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
