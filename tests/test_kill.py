"""A run killed with SIGKILL and started again ends with exactly the result it would have had."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from mini_benchmark import cfg_of

from promptclip import results, table
from promptclip.cli import main
from promptclip.commands.table import FORMATS
from promptclip.run import run

EPOCHS = 5
# Run in a process of its own: dies the N-th time that a function is called.
SCRIPT = """
import os, signal, sys
import mini_benchmark
from pathlib import Path
from promptclip import plugins, run, results
from dassl.engine import TrainerX

plugins.load_plugins()
where, number = {where!r}, {number}
calls = 0

def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

owner, name = {{
    "test": (TrainerX, "parse_batch_test"),
    "train": (plugins.methods()["CoOp"], "forward_backward"),
    "result": (results, "write"),
}}[where]
setattr(owner, name, dying(getattr(owner, name)))
overrides = ("OPTIM.MAX_EPOCH", {epochs})
cfg = mini_benchmark.cfg_of("CoOp", Path({yaml!r}), Path({output!r}), *overrides, seed={seed})
run.run(cfg)
"""


def killed(where: str, number: int, mini: Path, output: Path, seed: int = 1) -> None:
    """Run, and die."""
    script = SCRIPT.format(
        where=where, number=number, yaml=str(mini), output=str(output), epochs=EPOCHS, seed=seed
    )
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    died = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert results.read(output) is None


@pytest.fixture(scope="module")
def whole(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(cfg_of("CoOp", mini, folder, "OPTIM.MAX_EPOCH", EPOCHS))
    return folder


def learned(folder: Path) -> bytes:
    import torch

    file = folder / "prompt_learner" / f"model.pth.tar-{EPOCHS}"
    return torch.load(file, weights_only=True)["state_dict"]["ctx"].numpy().tobytes()


@pytest.mark.slow
# 20 training pictures in batches of 8: two steps in an epoch
@pytest.mark.parametrize(
    ("where", "number"), [("train", 1), ("train", 4), ("test", 1), ("result", 1)]
)
def test_killed_run_goes_on(where, number, mini, whole, tmp_path):
    killed(where, number, mini, tmp_path)
    result = run(cfg_of("CoOp", mini, tmp_path, "OPTIM.MAX_EPOCH", EPOCHS))
    expected = results.read(whole)
    assert expected is not None
    assert json.dumps(result["metrics"]) == json.dumps(expected["metrics"])
    assert learned(tmp_path) == learned(whole)


@pytest.mark.slow
def test_a_killed_seed_is_missing_in_its_table(mini, tmp_path, capsys):
    output = tmp_path / "output"
    folder = output / "fewshot/mini/shots_4/CoOp/tiny"
    killed("test", 1, mini, folder / "seed2", seed=2)  # it has learned; only the test is missing

    def fewshot(*seeds):
        words = ["fewshot", "coop", mini, *seeds, "--root", mini.parent, "--output", output]
        words += ["--shots", 4, "--set", "OPTIM.MAX_EPOCH", EPOCHS, "--quiet"]
        assert main([*map(str, words)]) == 0
        found = {seed: results.read(folder / f"seed{seed}") for seed in seeds}
        return {seed: result["metrics"]["accuracy"] for seed, result in found.items()}

    accuracies = fewshot(1, 3)
    cell = table.build(output).rows[0].cells["shots_4"]
    assert (cell.values, cell.problems) == (accuracies, {2: "no result.json of"})
    mean, problem = statistics.mean(accuracies.values()), "no result.json of seed 2"
    for form in FORMATS:
        capsys.readouterr()
        assert main(["table", str(output), "--format", form]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ('"problems": {"2": "no' if form == "json" else problem) in said.replace("{ ", "{")
        assert (f"{mean}" if form in ("csv", "json") else f"{mean:.2f}") in said
    assert (whole := fewshot(1, 2, 3)).items() > accuracies.items()
    found = table.build(output)
    assert (found.rows[0].cells["shots_4"].values, found.complete) == (whole, True)
