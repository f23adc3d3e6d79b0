"""Two processes of torchrun do what one does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mini_benchmark import make

import promptclip
from promptclip.config import configs_dir

pytestmark = pytest.mark.slow

ROOT = Path(promptclip.__file__).parent.parent
# Text alone, per-image text, a projection of gradients, lazy terms with a loss that is no mean over
# images, batch means, the images themselves. Not UPT: its dropout would be drawn for other rows.
METHODS = ("CoOp", "CoCoOp", "ProGrad", "DPT", "NPT", "PromptSRC")
# One command line after another, each behind "--"
SCRIPT = """
import itertools, sys
sys.path.insert(0, sys.argv[1])
import mini_benchmark
from promptclip.cli import main
for is_line, words in itertools.groupby(sys.argv[2:], lambda word: word != "--"):
    if is_line and main(["train", *words]):
        sys.exit(f"failed: {words}")
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("mini"))


def launch(folder: Path, processes: int, *lines: list[str]) -> str:
    """Run command lines of `train.py` in a process, or several; gives what they print."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    arguments = [word for line in lines for word in ("--", *line)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), script, ROOT / "tests", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def line(method: str, mini: Path, output: Path) -> list[str]:
    """Nine steps, of batches that two processes share unevenly."""
    tiny = configs_dir() / "trainers" / method / "tiny.yaml"
    words = (
        *("--root", mini.parent, "--seed", 1, "--trainer", method, "--output-dir", output),
        *("--dataset-config-file", mini, "--config-file", tiny, "OPTIM.MAX_EPOCH", 3),
        *("DATASET.NUM_SHOTS", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 3),
        *("DATALOADER.TEST.BATCH_SIZE", 7, "OPTIM.NAME", "sgd", "OPTIM.LR", 0.01),
    )
    return list(map(str, words))


@pytest.fixture(scope="module")
def outputs(mini, tmp_path_factory) -> Path:
    """`<number of processes>/<method>`."""
    folder = tmp_path_factory.mktemp("outputs")
    for processes in (1, 2):
        of_all = [line(method, mini, folder / str(processes) / method) for method in METHODS]
        launch(folder, processes, *of_all)
    return folder


def losses(output: Path) -> list[float]:
    """Of every step, as logged."""
    log = (output / "log.txt").read_text()
    return [float(number) for number in re.findall(r"\bloss ([\d.]+) \(", log)]


def learned(output: Path) -> dict[str, torch.Tensor]:
    (file,) = output.glob("prompt_learner/model.pth.tar-*")
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_what_one_learns(method, outputs):
    one, two = outputs / "1" / method, outputs / "2" / method
    assert len(losses(one)) == 9
    assert losses(two) == pytest.approx(losses(one), abs=2e-4)  # as many digits as are logged
    for name, value in learned(one).items():
        torch.testing.assert_close(learned(two)[name], value, rtol=1e-4, atol=1e-6)
    metrics = [json.loads((output / "result.json").read_text())["metrics"] for output in (one, two)]
    assert metrics[0] == metrics[1]


def test_several_processes_go_on_and_leave_a_finished_run_alone(mini, outputs, tmp_path):
    output = outputs / "2" / "CoOp"
    before = learned(output)
    (output / "result.json").unlink()  # as if it had been killed in its test
    said = launch(tmp_path, 2, line("CoOp", mini, output))
    assert said.count("Evaluate on the *test* set") == 1  # the first process alone speaks
    assert "epoch [1/3]" not in said
    assert learned(output).keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(learned(output)[name], value)
    assert "holds a finished run" in launch(tmp_path, 2, line("CoOp", mini, output))


def test_several_processes_need_a_seed(mini, tmp_path):
    with pytest.raises(AssertionError, match="set a seed of 0 or more"):
        launch(tmp_path, 2, [*line("CoOp", mini, tmp_path / "output"), "SEED", "-1"])
