"""How much memory is free, and how much a backward pass needs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptclip import memory

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GiB free, and a process in the group /job/step of it."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable:  8388608 kB\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    (tmp_path / "groups/job/step").mkdir(parents=True)
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    return tmp_path


def limit(group: Path, most: object, used: int, unneeded: int = 0) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {unneeded}\n")


def test_this_machine():
    assert 0 < memory.available(CPU) < 2**50


def test_what_the_machine_has_free(system):
    assert memory.available(CPU) == 8 * memory.GIB


@pytest.mark.parametrize("group", ["", "job", "job/step"])
def test_a_limit_of_any_group_around_the_process_counts(group, system):
    limit(system / "groups" / group, 3 * memory.GIB, memory.GIB)
    assert memory.available(CPU) == 2 * memory.GIB


def test_files_in_memory_are_room(system):
    limit(system / "groups/job", 3 * memory.GIB, 3 * memory.GIB, unneeded=memory.GIB)
    assert memory.available(CPU) == memory.GIB


def test_no_limit(system):
    limit(system / "groups/job", "max", memory.GIB)
    assert memory.available(CPU) == 8 * memory.GIB


def test_a_group_beyond_its_limit_leaves_nothing(system):
    limit(system / "groups/job", memory.GIB, 2 * memory.GIB)
    assert memory.available(CPU) == 0


def test_a_system_that_does_not_tell(system):
    (system / "meminfo").unlink()
    (system / "own").unlink()
    assert 0 < memory.available(CPU) < 2**50


def test_what_is_saved_is_counted_once():
    weight = torch.randn(100, 100)
    x = torch.randn(100, 100, requires_grad=True)
    with memory.saved_for_backward(without=[weight]) as saved:
        y = (x @ weight).exp()  # keeps its result, of which `y * y` keeps nothing new
        z = y * y
    assert saved.bytes == y.nbytes
    z.sum().backward()
    assert x.grad is not None


FAULTS = """
import resource, sys
import torch
from promptclip import memory

if sys.argv[1] == "keep":
    memory.keep_freed()
for _ in range(14):  # some versions of the library need a while until the pieces fit
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(millions * 1_000_000) for millions in (5, 10, 5, 20)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.parametrize(
    ("how", "environment", "kept"),
    [("leave", {}, False), ("keep", {}, True), ("keep", {"MALLOC_TRIM_THRESHOLD_": "0"}, False)],
)
def test_what_is_freed_is_used_again(how, environment, kept):
    """Memory that the system has to fill anew comes with a fault for each of its pages."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env={**os.environ, "THP_MEM_ALLOC_ENABLE": "0", **environment},
        cwd=Path(memory.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) < 1000) == kept  # of 39,000 pages
