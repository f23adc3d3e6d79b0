"""Disks that are full, read-only, gone or failing: what was done stays, and the run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from faults.zygote import outcome, training

from promptclip import results

STEPS = ("TRAIN.CHECKPOINT_STEPS", 1)


@pytest.fixture
def disk(tmp_path):
    """A file system of four megabytes."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take all room but some bytes."""
    free = os.statvfs(disk)
    file = disk / "filling"
    file.write_bytes(b"\0" * max(0, free.f_bavail * free.f_bsize - left))
    return file


@pytest.mark.parametrize("left", [0, 8, 24, 64, 120, 200], ids=lambda kib: f"{kib} KiB")
def test_a_full_disk(left, disk, mini, zygote, whole, count):
    expected = whole("MaPLe", *STEPS).outcome
    args = training("MaPLe", mini, disk / "run", *STEPS)
    filling = fill(disk, left * 1024)
    status = zygote(args=args)
    if status == 0:
        pytest.fail(f"{left} KiB were enough; the test needs less")
    assert status == 2, zygote.said
    assert "the disk is full; make room, then start again to go on" in zygote.said
    assert "Traceback" not in zygote.said
    assert results.read(disk / "run") is None
    filling.unlink()
    assert zygote(args=args) == 0, zygote.said
    assert outcome(disk / "run") == expected
    assert not [path for path in disk.rglob(".*") if path.name != ".lock"]
    count("faults injected")


def test_a_full_disk_leaves_finished_results_alone(disk, mini, zygote, count):
    args = training("ZeroshotCLIP", mini, disk / "done")
    assert zygote(args=args) == 0, zygote.said
    before = outcome(disk / "done")
    fill(disk, 0)
    assert zygote(args=args) == 0, zygote.said
    assert zygote(args=training("CoOp", mini, disk / "other")) == 2
    assert outcome(disk / "done") == before
    count("faults injected", 2)


def test_a_disk_that_becomes_read_only(disk, mini, zygote, whole, count):
    expected = whole("CoOp").outcome
    args = training("CoOp", mini, disk / "run")
    call = "promptclip.trainer.PromptTrainer.parse_batch_train"
    assert zygote(args=args, signal=signal.SIGTERM, call=call, number=4) == 143, zygote.said
    before = {path: path.read_bytes() for path in disk.rglob("*.pth.tar")}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, said = zygote(args=args), zygote.said
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert status == 2, said
    assert "read-only file system" in said.lower()
    assert {path: path.read_bytes() for path in disk.rglob("*.pth.tar")} == before
    assert zygote(args=args) == 0, zygote.said
    assert outcome(disk / "run") == expected
    count("faults injected")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_folder_that_vanishes(workers, mini, tmp_path, zygote, whole, count):
    """Training pictures are in memory by then; those of the test are not to be found."""
    options = ("DATALOADER.NUM_WORKERS", workers, "TEST.FEATURE_CACHE", "off")
    expected = whole("CoOp", *options).outcome
    data = tmp_path / "data"
    shutil.copytree(mini.parent, data)
    args = training("CoOp", data / mini.name, tmp_path / "run", *options)
    call = "promptclip.trainer.PromptTrainer.parse_batch_train"
    assert zygote(args=args, signal=signal.SIGTERM, call=call, number=6) == 143, zygote.said
    (data / "mini").rename(data / "gone")
    assert zygote(args=args) == 2, zygote.said
    assert str(data / "mini") in zygote.said
    assert "Traceback" not in zygote.said
    (data / "gone").rename(data / "mini")
    (data / "mini" / "images").rename(data / "mini" / "gone")
    assert zygote(args=args) == 2, zygote.said
    assert "Traceback" not in zygote.said
    (data / "mini" / "gone").rename(data / "mini" / "images")
    assert zygote(args=args) == 0, zygote.said
    assert outcome(tmp_path / "run") == expected
    count("faults injected", 2)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_network_folder_that_fails_for_a_while(number, mini, tmp_path, zygote, whole, count):
    """Opening a picture fails, as a network file system lets it fail; here it is Python's open."""
    options = ("TEST.FEATURE_CACHE", "off")
    expected = whole("CoOp", *options).outcome
    args = training("CoOp", mini, tmp_path / "run", *options)
    pictures = str(mini.parent / "mini" / "images")
    assert zygote(args=args, failing=[number, pictures, 3]) == 2, zygote.said
    assert os.strerror(number) in zygote.said
    assert pictures in zygote.said
    assert "Traceback" not in zygote.said
    assert zygote(args=args) == 0, zygote.said
    assert outcome(tmp_path / "run") == expected
    count("faults injected")
