"""Importing the package changes nothing outside it."""

import os
import subprocess
import sys

import pytest

PROBE = """
import atexit, logging, socket, sys, threading
stdout, handlers = sys.stdout, list(logging.root.handlers)
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = socket.getaddrinfo = refuse
import torch, torchvision
modules, random_state = set(sys.modules), torch.get_rng_state()
import dassl.config, dassl.data, dassl.engine, dassl.evaluation, dassl.metrics, dassl.modeling
import dassl.optim, dassl.utils
new = set(sys.modules) - modules
heavy = {"tensorboard", "torch.utils.tensorboard", "sklearn", "scipy", "gdown", "wilds", "pandas"}
assert not new & heavy, new & heavy
assert logging.root.manager.disable == 0
assert sys.stdout is stdout and logging.root.handlers == handlers
assert threading.active_count() == 1
assert torch.equal(torch.get_rng_state(), random_state)
logging.getLogger("dassl.probe").info("visible")
import io
sys.stdout = elsewhere = io.StringIO()
logging.getLogger("dassl.probe").info("redirected")
sys.stdout = stdout
assert elsewhere.getvalue() == "redirected\\n"
"""


@pytest.mark.slow
def test_import_has_no_side_effects():
    command = [sys.executable, "-W", "error", "-c", PROBE]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "visible\n"), result.stderr


def test_works_without_tensorboard(make_trainer, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer = make_trainer(OPTIM__MAX_EPOCH=1)
    trainer.train()
    out = capsys.readouterr().out
    assert out.count("tensorboard is not installed: no event files are written") == 1
    assert not os.path.exists(os.path.join(trainer.output_dir, "tensorboard"))


def test_tensorboard_files(make_trainer, tmp_path):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(OPTIM__MAX_EPOCH=1)
    trainer.train()
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    assert events.name.startswith("events")
    content = events.read_bytes()
    for tag in (b"train/loss", b"train/acc", b"train/lr", b"test/accuracy"):
        assert tag in content


def scalars(folder):
    """What TensorBoard reads, by tag: steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("owner", ["the class", "the object"])
def test_steps_are_written_as_if_by_write_scalar(make_trainer, tmp_path, owner):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(OPTIM__MAX_EPOCH=2)
    trainer.train()
    written, calls = scalars(tmp_path / "out" / "tensorboard"), {}

    def write_scalar(tag, value, step=None):
        calls.setdefault(tag, []).append((step, value))

    trainer = make_trainer(OPTIM__MAX_EPOCH=2, OUTPUT_DIR=str(tmp_path / "own"))
    if owner == "the class":
        method = {"write_scalar": staticmethod(write_scalar)}
        trainer.__class__ = type("WithItsOwn", (type(trainer),), method)
    else:
        trainer.write_scalar = write_scalar
    trainer.train()
    assert written.keys() == calls.keys() >= {"train/loss", "train/acc", "train/lr"}
    for tag, expected in calls.items():
        assert len(written[tag]) > 1 or not tag.startswith("train/")
        assert [step for step, _ in written[tag]] == [step for step, _ in expected]
        assert [value for _, value in written[tag]] == pytest.approx(
            [value for _, value in expected], rel=1e-6
        )
