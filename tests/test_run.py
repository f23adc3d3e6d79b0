"""What one run leaves on disk, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from mini_benchmark import cfg_of

import promptclip
from promptclip import results, table
from promptclip.cli import Console
from promptclip.config import configs_dir
from promptclip.errors import UserError
from promptclip.lock import locked
from promptclip.run import run, traceless


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def trained(mini, tmp_path):
    cfg = cfg_of("CoOp", mini, tmp_path / "run")
    return cfg, run(cfg)


def test_a_finished_run_is_not_repeated(trained, monkeypatch):
    cfg, result = trained
    assert set(result["seconds"]) == {"build", "train", "test"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert results.read(cfg.OUTPUT_DIR)["metrics"] == result["metrics"]
    monkeypatch.setattr("promptclip.run._build", None)
    assert run(cfg)["metrics"] == result["metrics"]


def test_nothing_of_a_run_stays_in_memory(mini, tmp_path, monkeypatch):
    from promptclip.clip.model import FrozenCLIP

    alive = weakref.WeakSet()
    init = FrozenCLIP.__init__

    def counted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        alive.add(self)

    monkeypatch.setattr(FrozenCLIP, "__init__", counted)
    run(cfg_of("DAPT", mini, tmp_path))
    assert not alive


def test_a_torn_result_is_made_again(trained):
    cfg, result = trained
    file = Path(cfg.OUTPUT_DIR, "result.json")
    file.write_text(file.read_text()[:-20])
    assert run(cfg)["metrics"] == result["metrics"]


def test_another_configuration_is_refused_with_the_difference(trained, mini):
    cfg, _ = trained
    before = tree(Path(cfg.OUTPUT_DIR))
    other = cfg_of("CoOp", mini, Path(cfg.OUTPUT_DIR), "OPTIM.LR", 0.5)
    with pytest.raises(UserError, match=r"written by another run \(OPTIM.LR: 0.5, not [\d.]+\)"):
        run(other)
    with pytest.raises(UserError, match=r"load_epoch: 3, not None"):
        run(cfg, eval_only=True, model_dir=cfg.OUTPUT_DIR, load_epoch=3)
    assert tree(Path(cfg.OUTPUT_DIR)) == before


def test_checkpoints_of_unknown_origin_are_refused(trained, mini):
    cfg, _ = trained
    Path(cfg.OUTPUT_DIR, "run.json").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints without a run.json"):
        run(cfg)


def test_a_checkpoint_is_tested_on_other_classes_and_the_training_may_move(mini, tmp_path):
    run(cfg_of("CoOp", mini, tmp_path / "base", "DATASET.SUBSAMPLE_CLASSES", "base"))
    new = cfg_of("CoOp", mini, tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new")
    result = run(new, eval_only=True, model_dir=str(tmp_path / "base"), load_epoch=3)
    assert set(result["seconds"]) == {"build", "test"}
    assert len(result["per_class"]) == 2
    (tmp_path / "base").rename(tmp_path / "moved")
    again = run(new, eval_only=True, model_dir=str(tmp_path / "moved"), load_epoch=3)
    assert again["metrics"] == result["metrics"]


def test_what_fails_before_training_leaves_no_trace(mini, tmp_path):
    for overrides, message in (
        (["DATASET.ROOT", tmp_path / "nowhere"], "nowhere"),
        (["MODEL.BACKBONE.NAME", "ViT-B/61"], "ViT-B/61"),
    ):
        with pytest.raises(UserError, match=message):
            run(cfg_of("CoOp", mini, tmp_path / "output" / "deep" / "run", *map(str, overrides)))
        assert not (tmp_path / "output").exists()
    with pytest.raises(UserError, match="no checkpoint"):
        run(cfg_of("CoOp", mini, tmp_path / "output"), eval_only=True, model_dir="x", load_epoch=1)
    assert run(cfg_of("CoOp", mini, tmp_path / "output"), no_train=True) == {}
    assert tree(tmp_path) == set()


def test_a_failure_is_on_record_until_the_run_succeeds(mini, tmp_path, monkeypatch):
    folder = tmp_path / "train_base/mini/shots_4/CoOp/tiny/seed1"
    cfg = cfg_of("CoOp", mini, folder)
    trainer_class = promptclip.plugins.methods()["CoOp"]
    with monkeypatch.context() as patch:
        patch.setattr(trainer_class, "losses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(cfg)
    assert results.read_failure(folder)["error"] == "ZeroDivisionError"
    assert "failed" in table.render(table.build(tmp_path))
    run(cfg)
    assert results.read_failure(folder) is None


def test_a_stop_in_the_middle_of_a_checkpoint_is_no_failure(mini, tmp_path, monkeypatch):
    resume = pytest.importorskip("dassl.engine.resume", reason="of our runtime")
    cfg = cfg_of("CoOp", mini, tmp_path / "run")

    class Stopping(io.BytesIO):
        """Has torch's writer stopped between the head of the archive and its first entry."""

        def write(self, data):
            if self.tell():
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(data)

    with monkeypatch.context() as patch:
        opened = contextlib.nullcontext(Stopping())
        patch.setattr(resume, "atomic_write", lambda path: opened)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run(cfg)
    assert isinstance(stopped.value.__cause__, RuntimeError)
    assert results.read_failure(tmp_path / "run") is None
    assert run(cfg)["metrics"]


def test_logs_go_to_the_run_alone_and_old_parsers_read_them(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("promptclip"), "handlers", [Console()])
    handlers, stdout = list(logging.root.handlers), sys.stdout
    first = run(cfg_of("CoOp", mini, tmp_path / "first"))
    run(cfg_of("ZeroshotCLIP", mini, tmp_path / "second"))
    assert logging.root.handlers == handlers
    assert sys.stdout is stdout
    lines = (tmp_path / "first" / "log.txt").read_text().splitlines()
    assert lines.index("Finish training") < lines.index("=> result")
    assert f"* accuracy: {first['metrics']['accuracy']:.1f}%" in lines
    assert "    N_CTX: 16" in lines
    assert lines.count("    N_CTX: 16") == 1
    assert not any("VIS_BETA" in line for line in lines)


def test_what_is_logged_is_in_a_log_that_replaces_the_standard_output(mini, tmp_path, monkeypatch):
    """As the original Dassl does it, for users of Python who have no handler of ours."""
    ours = logging.getLogger("promptclip")
    monkeypatch.setattr(ours, "handlers", [])
    log = io.StringIO()
    monkeypatch.setattr("dassl.utils.setup_logger", lambda folder: setattr(sys, "stdout", log))
    stdout = sys.stdout
    run(cfg_of("ZeroshotCLIP", mini, tmp_path / "run"))
    assert log.getvalue().count("NAME: ZeroshotCLIP") == 1
    assert sys.stdout is stdout
    assert not ours.handlers


HOLD = """
import sys, time
from pathlib import Path
from promptclip.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(mini, tmp_path):
    folder = tmp_path / "run"
    root = Path(promptclip.__file__).parent.parent
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout.readline() == b"held\n"
        message = rf"run is in use by process {other.pid} on .* since 20"
        with pytest.raises(UserError, match=message):
            run(cfg_of("ZeroshotCLIP", mini, folder))
        assert tree(tmp_path) == {"run", "run/.lock"}
        other.kill()
    with locked(folder):
        assert json.loads((folder / ".lock").read_text())["host"]
    assert run(cfg_of("ZeroshotCLIP", mini, folder))["metrics"]


def test_who_is_refused_takes_nothing_from_one_that_was_quicker(tmp_path):
    """Both found no folder, one made it."""
    folder, root = tmp_path / "run", Path(promptclip.__file__).parent.parent
    command = [sys.executable, "-c", HOLD, str(folder)]
    with contextlib.ExitStack() as stack:
        with traceless(folder):
            other = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root))
            stack.callback(other.kill)
            assert other.stdout.readline() == b"held\n"
            (folder / "log.txt").write_text("of the other")
        assert tree(tmp_path) == {"run", "run/.lock", "run/log.txt"}
        with pytest.raises(UserError, match="in use"), locked(folder):  # the same lock as before
            pass


def test_who_fails_takes_nothing_from_one_that_came_before(tmp_path):
    folder = tmp_path / "run"
    with traceless(folder), locked(folder):
        (folder / "log.txt").write_text("of the other")
        (folder / "result.json").write_text("{}")
    assert tree(tmp_path) == {"run", "run/.lock", "run/log.txt", "run/result.json"}


WITHOUT_COMPILER = """
import sys
from promptclip.cli import main
status = main(sys.argv[1:])
unneeded = {"torch._dynamo", "torchvision", "sympy", "scipy", "matplotlib", "sklearn", "timm"}
sys.exit(f"status {status}, imported {unneeded & set(sys.modules)}" if status or
         unneeded & set(sys.modules) else 0)
"""


@pytest.mark.slow
def test_a_run_imports_neither_torchvision_nor_pytorchs_compiler(tmp_path):
    """They took half of the time from the start to the first step."""
    recipe = configs_dir() / "trainers" / "DAPT" / "tiny.yaml"
    data = configs_dir() / "datasets" / "emoji.yaml"
    done = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_COMPILER, "train", "--trainer", "DAPT"),
            *("--config-file", str(recipe), "--dataset-config-file", str(data)),
            *("--output-dir", str(tmp_path), "--seed", "1"),
            *("DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "2"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
