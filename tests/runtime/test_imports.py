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


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_import_has_no_side_effects():
    result = run(PROBE)
    assert (result.returncode, result.stdout) == (0, "visible\n"), result.stderr


WITHOUT_TENSORBOARD = """
import sys
sys.modules["tensorboard"] = None
from dassl.engine import TrainerBase
trainer = TrainerBase()
trainer.init_writer("nowhere")
trainer.write_scalar("tag", 1.0, 0)
trainer.close_writer()
"""


def test_works_without_tensorboard(tmp_path):
    result = run(WITHOUT_TENSORBOARD)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "tensorboard is not installed: no event files are written"
    ]


def test_tensorboard_files(make_trainer, tmp_path):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(OPTIM__MAX_EPOCH=1)
    trainer.train()
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    assert events.name.startswith("events")
    content = events.read_bytes()
    for tag in (b"train/loss", b"train/acc", b"train/lr", b"test/accuracy"):
        assert tag in content
