"""`promptclip doctor`: it tells what is wrong on a machine that is made so, and works on any."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from miniatures import make

from promptclip.cli import main
from promptclip.clip import download
from promptclip.doctor import NOTE, OK, PROBLEM, examine, machine, software


@pytest.fixture(autouse=True)
def a_machine(tmp_path, monkeypatch):
    """Without weights and data, with a home of its own, and where no socket may be opened."""
    for name in ("DATA", "CLIP_CACHE", "CUDA_VISIBLE_DEVICES", "PROMPTCLIP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("the doctor asks the network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)


def said(title: str, **how: Any) -> list[tuple[str, str]]:
    """State and words of a part's findings."""
    found = dict(examine(**how))[title]
    return [(one.state, f"{one.text} {one.remedy}") for one in found]


def of_state(found: list[tuple[str, str]], state: str) -> str:
    return "\n".join(words for one, words in found if one == state)


def test_the_report_and_its_json(tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    titles = ["Python and packages", "Dassl", "What computes", "CLIP weights", "Data sets",
              "Disk and caches", "Environment"]  # fmt: skip
    assert [line for line in out.splitlines() if not line.startswith(" ")][:-1] == titles
    assert out.splitlines()[-1].startswith("0 problems, ")
    assert f"torch {torch.__version__.partition('+')[0]}" in out
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [part["title"] for part in report["parts"]] == titles
    assert (report["schema"], report["ok"]) == (1, True)
    assert {one["state"] for part in report["parts"] for one in part["found"]} <= {OK, NOTE}
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_are_verified(tmp_path, monkeypatch):
    content = b"weights"
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(download, "OPENAI", {"A": f"{sha256}/A.pt", "B": f"{sha256}/B.pt"})
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path))
    assert "OpenAI's A, B each is downloaded" in of_state(said("CLIP weights"), NOTE)
    monkeypatch.setenv("PROMPTCLIP_OFFLINE", "1")
    assert "nothing is downloaded, as PROMPTCLIP_OFFLINE" in of_state(said("CLIP weights"), NOTE)
    (tmp_path / "A.pt").write_bytes(content)
    (tmp_path / "B.pt").write_bytes(b"other")
    found = said("CLIP weights")
    assert "A.pt, 0.0 MiB, verified" in of_state(found, OK)
    assert f"its SHA-256 is not {sha256} delete {tmp_path}/B.pt" in of_state(found, PROBLEM)
    monkeypatch.setattr("promptclip.doctor.files._HASHED", 0)
    assert "A.pt, 0.0 MiB, not verified (--verify)" in of_state(said("CLIP weights"), OK)
    assert "A.pt, 0.0 MiB, verified" in of_state(said("CLIP weights", verify=True), OK)


def test_weights_in_the_hubs_cache(tmp_path):
    content = bytes(2**21)
    sha256 = hashlib.sha256(content).hexdigest()
    repository = tmp_path / "hub" / "models--me--clip"
    for folder in ("blobs", "snapshots/" + "0" * 40, "refs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    blob = repository / "blobs" / sha256
    blob.write_bytes(content)
    link = repository / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
    link.symlink_to(blob)
    assert "me/clip/open_clip_model.safetensors: " in of_state(said("CLIP weights"), OK)
    blob.write_bytes(content[:-1] + b"x")
    assert "me/clip/open_clip_model" in of_state(said("CLIP weights"), PROBLEM)


def test_a_small_clip_that_is_damaged(tmp_path, monkeypatch):
    (tmp_path / "tiny.safetensors").write_bytes(b"")
    monkeypatch.setattr("promptclip.clip.load.TINY_EMOJI", tmp_path / "tiny.safetensors")
    assert "tiny-emoji: " in of_state(said("CLIP weights"), PROBLEM)


def test_data_sets(tmp_path, capsys):
    root = tmp_path / "data"
    folder = make(root, "DescribableTextures")
    make(root, "Caltech101")
    shutil.rmtree(root / "caltech-101" / "101_ObjectCategories")
    found = said("Data sets", root=str(root))
    assert f"dtd: {folder}, all parts are there" in of_state(found, OK)
    assert "101_ObjectCategories is missing" in of_state(found, PROBLEM)
    assert f"not in {root}: " in of_state(found, NOTE)
    assert main(["doctor", "--root", str(root)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 problem, ")
    assert "--root" in of_state(said("Data sets"), NOTE)
    gone = said("Data sets", root=str(tmp_path / "gone"))
    assert "expected the folder that holds the data sets" in of_state(gone, PROBLEM)


def test_packages_that_are_missing_or_old(monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("yacs", "submitit"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(software, "_asked", lambda: {"torch": "<3,>=2.6", "yacs": ">=0.1.8"})
    found = said("Python and packages")
    problems = of_state(found, PROBLEM)
    assert "torch 1.0, promptclip asks for <3,>=2.6" in problems
    assert 'yacs is not installed pip install "yacs>=0.1.8"' in problems
    assert "not installed: submitit, for `promptclip grid --launcher slurm`" in of_state(
        found, NOTE
    )


def test_a_python_that_is_not_supported(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    found = list(software.examine())
    assert [one.remedy for one in found if one.state == PROBLEM] == [
        "take a Python from 3.10 to 3.13"
    ]


def test_versions_asked_for_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    from packaging.requirements import Requirement

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    asked = {Requirement(line).name.replace("_", "-") for line in project["dependencies"]}
    assert {name.replace("_", "-") for name in software._NEEDED} == asked
    for extra, (names, _) in software._EXTRAS.items():
        brought = {Requirement(line).name for line in project["optional-dependencies"][extra]}
        assert set(names) <= brought
    first, last = (".".join(map(str, one)) for one in (software._FIRST, software._LAST))
    minor = int(last.partition(".")[2])
    assert project["requires-python"] == f">={first},<3.{minor + 1}"


@pytest.mark.parametrize(
    ("typed", "words"), [(True, "promptclip's own runtime ("), (False, "the original Dassl")]
)
def test_which_dassl(typed, words, tmp_path, monkeypatch):
    origin = tmp_path / "dassl" / "__init__.py"
    origin.parent.mkdir()
    if typed:
        (origin.parent / "py.typed").write_text("")
    spec = SimpleNamespace(origin=str(origin))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    ((state, text, _),) = software.engine()
    assert (state, text.startswith(words)) == (OK, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [one.state for one in software.engine()] == [PROBLEM]


def test_what_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "no GPU is found" in of_state(said("What computes"), NOTE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES is '7'" in of_state(said("What computes"), PROBLEM)
    monkeypatch.setattr("promptclip.memory.available", lambda device: 2**30)
    assert "1.0 GiB of memory are free docs/performance.md" in of_state(said("What computes"), NOTE)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "_cores", lambda: torch.get_num_threads() + 3)
    assert "leaves 3 cores idle set OMP_NUM_THREADS" in of_state(said("What computes"), NOTE)


def test_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An Old Card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr("promptclip.memory.available", lambda device: 8 * 2**30)
    found = said("What computes")
    assert "8.0 GiB of the memory of cuda:0, An Old Card, are free" in of_state(found, OK)
    assert "cuda:0 has no bf16" in of_state(found, NOTE)


def test_disks(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "make room" in of_state(said("Disk and caches"), PROBLEM)
    monkeypatch.setenv("PROMPTCLIP_FEATURE_CACHE", "off")
    assert "PROMPTCLIP_FEATURE_CACHE is off" in of_state(said("Disk and caches"), NOTE)
    assert ("ok", "PROMPTCLIP_FEATURE_CACHE=off ") in said("Environment")


def test_a_part_that_cannot_be_looked_at_does_not_end_the_report(monkeypatch, capsys):
    def broken() -> Any:
        raise OSError("the disk\nis gone")

    monkeypatch.setattr(machine, "examine", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "  problem  it could not be looked at (OSError: the disk is gone)\n" in out
    assert "Environment\n" in out
