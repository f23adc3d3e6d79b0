"""A run killed with SIGKILL and started again ends with exactly the result it would have had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mini_benchmark import cfg_of

from promptclip import results
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
run.run(mini_benchmark.cfg_of("CoOp", Path({yaml!r}), Path({output!r}), *overrides))
"""


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
    script = SCRIPT.format(
        where=where, number=number, yaml=str(mini), output=str(tmp_path), epochs=EPOCHS
    )
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    died = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert results.read(tmp_path) is None
    result = run(cfg_of("CoOp", mini, tmp_path, "OPTIM.MAX_EPOCH", EPOCHS))
    expected = results.read(whole)
    assert expected is not None
    assert json.dumps(result["metrics"]) == json.dumps(expected["metrics"])
    assert learned(tmp_path) == learned(whole)
