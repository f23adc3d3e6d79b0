"""Several processes at one thing: nothing is done twice, and nothing is spoilt."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import grid_case
import pytest
import torch
from faults.processes import ended, go, ready, started
from mini_benchmark import cfg_of

from promptclip import prompt_file, results
from promptclip.grid import journal, plan
from promptclip.run import run

# Tests on image features that all share, and computes them slowly.
TEST = """
import mini_benchmark
from promptclip import trainer
from promptclip.run import run

encode = trainer.PromptTrainer._encode

def slow(self, loader):
    print("computes", flush=True)
    found = encode(self, loader)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    return found

trainer.PromptTrainer._encode = slow
yaml, output, dies = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "dies"
cfg = mini_benchmark.cfg_of("ZeroshotCLIP", yaml, output)
wait()
run(cfg)
"""


def test_ten_runs_compute_image_features_once(mini, tmp_path, count):
    alone = run(cfg_of("ZeroshotCLIP", mini, tmp_path / "alone", "TEST.FEATURE_CACHE", "off"))
    cache = {"PROMPTCLIP_FEATURE_CACHE": str(tmp_path / "features")}
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(started(TEST, mini, tmp_path / str(number), "lives", **cache))
            for number in range(10)
        ]
        for writer in writers:
            ready(writer)
        for writer in writers:
            go(writer)
        said = [ended(writer) for writer in writers]
    assert sum(out.count("computes") for out, _ in said) == 1
    assert not any("damaged" in errors for _, errors in said)
    found = [results.read(tmp_path / str(number)) for number in range(10)]
    assert Counter(one["shared_features"] for one in found) == {"computed": 1, "found": 9}
    for one in found:
        assert (one["metrics"], one["per_class"]) == (alone["metrics"], alone["per_class"])
    assert [file.suffix for file in (tmp_path / "features").iterdir()] == [".safetensors"]
    count("faults injected")


def test_one_that_is_killed_while_others_wait_is_followed_by_the_next(mini, tmp_path, count):
    cache = {"PROMPTCLIP_FEATURE_CACHE": str(tmp_path / "features")}
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(TEST, mini, tmp_path / "first", "dies", **cache))
        others = [
            stack.enter_context(started(TEST, mini, tmp_path / str(number), "lives", **cache))
            for number in range(3)
        ]
        for process in (first, *others):
            ready(process)
        for process in (first, *others):
            go(process)
        out, _ = first.communicate()
        said = [ended(process) for process in others]
    assert sum(text.count("computes") for text, _ in said) == 1 or "computes" not in out
    measured = [results.read(tmp_path / str(number))["metrics"] for number in range(3)]
    assert measured[0] == measured[1] == measured[2]
    assert [file.suffix for file in (tmp_path / "features").iterdir()] == [".safetensors"]
    count("kills survived")


TRAIN = """
import mini_benchmark
from promptclip.cli import main
from promptclip.run import run
from promptclip.errors import UserError

cfg = mini_benchmark.cfg_of("CoOp", Path(sys.argv[1]), Path(sys.argv[2]))
wait()
try:
    run(cfg)
    print("done")
except UserError as error:
    print(error)
"""


def test_five_runs_in_one_folder(mini, tmp_path, count):
    """One trains; the others are refused, or come after it and find it done."""
    alone = run(cfg_of("CoOp", mini, tmp_path / "alone"))
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(started(TRAIN, mini, tmp_path / "run")) for _ in range(5)]
        for one in runs:
            ready(one)
        for one in runs:
            go(one)
        said = [ended(one)[0] for one in runs]
    assert sum("done" in out for out in said) >= 1
    assert all("done" in out or "run is in use by process" in out for out in said), said
    log = (tmp_path / "run" / "log.txt").read_text()
    assert (log.count("Finish training"), log.count("epoch [1/3] batch [1/")) == (1, 1)
    found = results.read(tmp_path / "run")
    assert found["metrics"] == alone["metrics"]
    one, other = (prompt_file.read(tmp_path / n / prompt_file.NAME) for n in ("run", "alone"))
    assert one[1] == other[1]
    assert all(torch.equal(other[0][name], tensor) for name, tensor in one[0].items())
    count("faults injected", 4)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")], ids=["two grids", "one grid twice"])
def test_two_grids_over_one_output_tree(names, tmp_path, count):
    """Each run is trained once, whoever does it, with the numbers that it has alone."""
    yamls = grid_case.make(tmp_path / "data")
    command = grid_case.command(
        *("zsclip,coop", "--datasets", yamls[0], "--root", tmp_path / "data", "--shots", 2),
        *("--seeds", "1-2", "--set", "OPTIM.MAX_EPOCH", 2, "--workers", 2),
    )
    more = {"PROMPTCLIP_FEATURE_CACHE": str(tmp_path / "features")}
    environment = grid_case.environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", **more)

    def start(output: Path, name: str) -> subprocess.Popen[str]:
        words = [*command, "--output", str(output), "--name", name]
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    output = tmp_path / "output"
    grids = [start(output, name) for name in names]
    said = [(grid.communicate()[0], grid.returncode) for grid in grids]
    refused = [out for out, status in said if status == 2]
    assert all(status in (0, 2) for _, status in said), said
    assert len(refused) == len(names) - len(set(names)), said
    assert all("is in use by process" in out for out in refused)
    alone = start(tmp_path / "alone", "a")
    assert (alone.communicate()[0], alone.returncode)[1] == 0
    assert grid_case.measured(output) == grid_case.measured(tmp_path / "alone")
    logs = {file.parent: file.read_text() for file in output.glob("fewshot/**/seed*/log.txt")}
    assert len(logs) == 4
    for folder, log in logs.items():
        trained = "CoOp" in folder.parts
        assert log.count("Evaluate on the *test* set") == 1, folder
        assert log.count("Finish training") == trained, folder
        assert log.count("epoch [1/2] batch [1/") == trained, folder
    events: list[Any] = [
        event
        for name in set(names)
        for file in journal.files(plan.folder_of(output, name))
        for event in journal.events(file)
    ]
    assert not [event for event in events if event["event"] == journal.FAILED]
    done = {event["hash"] for event in events if event["event"] == journal.DONE}
    assert len(done) == 4, json.dumps(events)
    count("faults injected")
