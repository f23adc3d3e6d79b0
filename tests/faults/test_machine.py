"""Memory that runs out, loader workers that are killed, numbers that are none, long grids."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import grid_case
import pytest
import torch
from faults.zygote import outcome, training
from mini_benchmark import cfg_of

from promptclip import plugins, results
from promptclip.errors import UserError
from promptclip.run import run

WORKERS = ("DATALOADER.NUM_WORKERS", 2)


def test_a_loader_worker_that_is_killed(mini, tmp_path, monkeypatch, zygote, whole, count):
    expected = whole("CoOp", *WORKERS).outcome
    cfg = cfg_of("CoOp", mini, tmp_path / "run", *WORKERS)
    method = plugins.methods()["CoOp"]
    parse = method.parse_batch_train

    def killing(self, batch):
        for child in open_children():
            os.kill(child, signal.SIGKILL)
        return parse(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(method, "parse_batch_train", killing)
        with pytest.raises(UserError, match="a loader worker was killed .*NUM_WORKERS 2 lower"):
            run(cfg)
    assert results.read_failure(tmp_path / "run")["error"] == "UserError"
    assert zygote(args=training("CoOp", mini, tmp_path / "run", *WORKERS)) == 0, zygote.said
    assert outcome(tmp_path / "run") == expected
    count("faults injected")


def open_children() -> list[int]:
    """Processes that this one has started and that load pictures."""
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_memory_that_runs_out(mini, tmp_path, zygote, count):
    """The system refuses more; the run says what needs less, and goes on where there is more."""
    big = ("DATASET.NUM_SHOTS", -1, "DATALOADER.TRAIN_X.BATCH_SIZE", 30)
    args = training("MaPLe", mini, tmp_path / "run", *big)
    assert zygote(args=args, memory=3_000_000) == 2, zygote.said
    assert "out of memory" in zygote.said
    assert "MODEL.MEMORY_BUDGET" in zygote.said
    assert "Traceback" not in zygote.said
    assert zygote(args=args) == 0, zygote.said
    count("faults injected")


def test_the_memory_of_a_gpu_that_runs_out(mini, tmp_path, monkeypatch, count):
    """Made up: PyTorch's own error, raised where there is no GPU."""

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(plugins.methods()["CoOp"], "forward_backward", full)
    with pytest.raises(UserError) as told:
        run(cfg_of("CoOp", mini, tmp_path / "run"))
    assert str(told.value).startswith("out of memory (CUDA out of memory. Tried to allocate 2.00")
    assert "DATALOADER.TRAIN_X.BATCH_SIZE 8" in str(told.value)
    count("faults injected")


@pytest.mark.parametrize(
    "method", sorted(m for m, t in plugins.methods().items() if t.Model.learns)
)
def test_a_loss_that_is_no_number(method, mini, tmp_path, monkeypatch, count):
    """In the second epoch; the first one's checkpoint stays, and the next start goes on from it."""
    output, trainer_class = tmp_path / "run", plugins.methods()[method]
    cfg = cfg_of(method, mini, output, "TRAIN.CHECKPOINT_FREQ", 1)
    losses = trainer_class.losses

    def broken(self, output, label):
        terms = losses(self, output, label)
        first = next(iter(terms))
        return {**terms, first: terms[first] * float("nan")} if self.epoch == 1 else terms

    with monkeypatch.context() as patch:
        patch.setattr(trainer_class, "losses", broken)
        with pytest.raises(UserError) as told:
            run(cfg)
    said = str(told.value)
    assert re.match(r"the loss is infinite or NaN in epoch 2, batch 1 \(\w+ nan", said)
    assert "all it is made of is finite" in said
    assert f"lower OPTIM.LR ({cfg.OPTIM.LR:g})" in said
    assert list(output.glob("*/model.pth.tar-1"))
    resumed = torch.load(output / "resume.pth.tar", weights_only=True)
    assert (resumed["epoch"], resumed["within"]) == (1, None)
    assert results.read_failure(output)["error"] == "DivergedError"
    assert run(cfg)["metrics"]
    count("faults injected")


def test_what_is_no_number_first_is_named(mini, tmp_path, monkeypatch, count):
    method = plugins.methods()["CoOp"]
    parse = method.parse_batch_train

    def white_noise(self, batch):
        image, label = parse(self, batch)
        return image * float("inf"), label

    def overflow(self, batch):
        self.model.prompt_learner.ctx.data[0, 0] = float("inf")
        return parse(self, batch)

    for broken, first in (
        (white_noise, "pictures. A picture or INPUT.PIXEL_STD is at fault"),
        (overflow, "the learned ctx. Likely the steps may be too large"),
    ):
        monkeypatch.setattr(method, "parse_batch_train", broken)
        with pytest.raises(UserError, match=f"the first that is no number: {first}"):
            run(cfg_of("CoOp", mini, tmp_path / broken.__name__))
        count("faults injected")


# A whole grid in the process of its command, which notes what it holds after each run: open files,
# and bytes of memory.
SOAK = """
import json, os, sys
from pathlib import Path
from promptclip.cli import main
from promptclip.grid import pool, worker
from promptclip.grid.journal import DONE, Journal

write, held = Journal.__call__, []

def measured(self, event, *args, **more):
    write(self, event, *args, **more)
    if event == DONE:
        held.append([len(os.listdir("/proc/self/fd")), worker._resident()])

Journal.__call__ = measured
worker._grown = lambda: lambda: False  # it shall not be replaced, whatever it has come to hold
worker._end_with_parent = lambda: None
pool.Pool.run = lambda self, tick: worker.work(self._queue.folder, "soak")
status = main(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps(held))
sys.exit(status)
"""


def test_a_long_grid_holds_no_more_in_the_end(tmp_path, count):
    """300 runs in one process."""
    yaml, _ = grid_case.make(tmp_path / "data")
    args = [
        *("grid", "zsclip,coop,clip_adapter", "--datasets", yaml, "--root", tmp_path / "data"),
        *("--shots", 2, "--seeds", "1-100", "--set", "OPTIM.MAX_EPOCH", 1),
        *("--output", tmp_path / "output"),
    ]
    process = subprocess.run(
        [sys.executable, "-c", SOAK, tmp_path / "held.json", *map(str, args)],
        env=grid_case.environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "300 of 300 runs are done, 0 failed" in process.stdout
    files, memory = zip(*json.loads((tmp_path / "held.json").read_text()), strict=True)
    assert len(files) == 300
    assert max(files[50:]) <= files[50] + 2
    # Methods come one after the other, and one that trains needs more than one that does not. The
    # allocator keeps some of what it was given; 100 kB that every run leaves would be more.
    for first in (0, 100, 200):
        early, late = memory[first + 10 : first + 50], memory[first + 50 : first + 100]
        assert max(late) <= max(early) + 4 * 2**20
    count("short runs in one process", len(files))
