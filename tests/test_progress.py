"""What a terminal shows while a run goes on, and that nothing of it is anywhere else."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import grid_case
import pytest
from mini_benchmark import cfg_of
from terminal import Terminal, output_to

import promptclip
from promptclip import plugins, protocols, results
from promptclip.cli import Console, main
from promptclip.config import configs_dir
from promptclip.progress import screen, stretches
from promptclip.progress.amount import is_terminal
from promptclip.progress.stretches import Pace, Stretch, Training
from promptclip.progress.watch import watched
from promptclip.run import run

ROOT = Path(promptclip.__file__).parent.parent
EPOCHS, STEPS = 3, 6  # 20 training pictures in batches of 8: two whole ones in an epoch
TITLE = "CoOp on Mini, all classes, 4 shots, seed 1"
BATCH = re.compile(r"epoch \[\d+/\d+\] batch \[\d+/\d+\] ")
BAR = re.compile("[━╸╺]")
SPEED = r"[\d,.]+ images/s"


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch):
    """What is shown is drawn as often as it changes."""
    monkeypatch.setattr(screen, "_PERIOD", 0.0)
    monkeypatch.setattr(screen, "_SHARE", float("inf"))


@pytest.fixture
def mini_run(mini, tmp_path):
    """Runs a method on the miniature benchmark, with the output of this process on a terminal."""

    def mini_run(*overrides, terminal=None, method="CoOp", **environment):
        folder = tmp_path / "run"
        cfg = cfg_of(method, mini, folder, "TEST.FEATURE_CACHE", "off", *overrides)
        with output_to(terminal or Terminal(), **environment) as shown:
            result = run(cfg)
        log = (folder / "log.txt").read_text(encoding="utf-8")
        return SimpleNamespace(shown=shown, result=result, log=log, folder=folder)

    return mini_run


@pytest.fixture
def train(mini, tmp_path):
    """Command line of `promptclip train` on the same."""

    def train(*flags, epochs=EPOCHS):
        words = ["train", "--root", mini.parent, "--dataset-config-file", mini, "--seed", 1]
        words += ["--config-file", configs_dir() / "trainers/CoOp/tiny.yaml", "--trainer", "CoOp"]
        words += ["--output-dir", tmp_path / "run", *flags, "DATASET.NUM_SHOTS", 4]
        words += ["OPTIM.MAX_EPOCH", epochs, "TRAIN.PRINT_FREQ", 1, "TEST.FEATURE_CACHE", "off"]
        return [*map(str, words)]

    return train


def drawn(written: str) -> list[str]:
    """All lines that were written, drawn over or not, without commands to the terminal."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written))


def squeezed(lines: list[str]) -> str:
    """Text without what a terminal makes of it where it has no room."""
    return "".join("".join(lines).split())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_shown(mini_run, workers):
    found = mini_run(
        *("TRAINER.REGULARIZERS", ["npt"], "TEST.FINAL_MODEL", "best_val"),
        *("DATALOADER.NUM_WORKERS", workers, "DATALOADER.TEST.BATCH_SIZE", 5),
    )
    lines = drawn(found.shown.written)
    assert TITLE in lines
    assert any(re.fullmatch(rf"epoch 2/3  batch 1/2  {SPEED}  0:00:\d\d left", x) for x in lines)
    shares = {int(line.split()[-1][:-1]) for line in lines if BAR.match(line)}
    assert shares >= {round(100 * step / STEPS) for step in range(STEPS + 1)}
    # The terms are those of the log: of the last batch, and the mean of the epoch.
    said = "  ".join(lines)
    names = ["loss", "acc", "loss_ce", "loss_npt_mi", "loss_npt_lc"]
    *_, last = filter(BATCH.match, found.log.splitlines())
    for name in names:
        value, mean = map(float, re.search(rf" {name} (\S+) \((\S+)\)", last).groups())
        shown = re.findall(rf"(?<=  ){name} (\S+) \((\S+)\)", said)
        assert [*map(float, shown[-1])] == pytest.approx([value, mean], rel=1e-3, abs=1e-4), name
    assert re.search(r"  lr \d\S+  ", said)
    # One validation after each epoch, and the test, with the accuracy of the result.
    assert sum(line.startswith("validation  5/10") for line in lines) >= EPOCHS
    assert any(re.fullmatch(rf"test  15/20  {SPEED}.*", line) for line in lines)
    *_, accuracy = [line for line in lines if re.fullmatch(r"acc \S+", line)]
    assert float(accuracy[4:]) == pytest.approx(found.result["metrics"]["accuracy"], abs=0.05)


def test_the_lines_remain_and_nothing_else(train, tmp_path):
    with output_to(Terminal()) as terminal:
        assert main(train()) == 0
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    lines = [line for line in log.splitlines() if not BATCH.match(line)]
    assert squeezed(terminal.lines) == squeezed(lines)
    assert len(BATCH.findall(log)) == STEPS
    assert "\x1b[?25l" not in terminal.written  # the cursor is not hidden for a moment
    assert terminal.cursor_is_shown
    assert "images/s" not in log
    assert "\x1b" not in log
    assert not BAR.search(log)


def test_what_is_computed_without_epochs_is_shown(mini_run):
    found = mini_run("TRAINER.LINEARPROBE.SEARCH", "none", method="LinearProbe")
    assert any(line.startswith("image features  20/20") for line in drawn(found.shown.written))


@pytest.mark.parametrize(
    ("environment", "file"),
    [({"TERM": "dumb"}, None), ({"FORCE_COLOR": "1"}, io.StringIO), ({}, io.StringIO)],
)
def test_elsewhere_lines_are_plain(mini_run, environment, file, monkeypatch):
    """On a terminal that can draw nothing, and in files and pipes."""
    terminal = Terminal()
    if file:
        terminal.file.close()
        terminal.file = file()
        monkeypatch.setattr(terminal, "close", lambda: None)
    found = mini_run(terminal=terminal, **environment)
    out = terminal.file.getvalue() if file else found.shown.written.replace("\r\n", "\n")
    assert len(BATCH.findall(out)) == STEPS
    assert "\x1b" not in out
    assert "images/s" not in out
    # A line of the log is a line of the output: but for what only the log has, and the bar that a
    # test has on a terminal.
    said = [line for line in out.splitlines() if line and "it/s" not in line]
    assert [line for line in found.log.splitlines() if line in said] == said


def test_no_colours_where_none_are_wanted(mini_run):
    colours = re.compile(r"\x1b\[[\d;]*(3[0-7]|38;[\d;]+|9[0-7])m")
    assert not colours.search(mini_run(NO_COLOR="1").shown.written)


def test_a_narrow_terminal_cuts_no_number(mini_run):
    found = mini_run("TRAINER.REGULARIZERS", ["npt"], terminal=Terminal(columns=40), COLUMNS="40")
    lines = drawn(found.shown.written)
    assert f"{TITLE[:39]}…" in lines
    bars = [line for line in lines if BAR.match(line)]
    assert bars
    assert max(map(len, bars)) <= 40
    assert any(re.fullmatch(r"loss \S+ \(\S+\)  acc \S+ \(\S+\)", line) for line in lines)
    assert any(re.match(r"loss_npt_mi \S+ \(\S+\)", line) for line in lines)


def at_step(monkeypatch, number, act):
    """Do something in a step of the training."""
    method = plugins.methods()["CoOp"]
    step, count = method.forward_backward, iter(range(1, 1000))

    def forward_backward(self, batch):
        found = step(self, batch)
        if next(count) == number:
            act()
        return found

    monkeypatch.setattr(method, "forward_backward", forward_backward)


def test_what_is_said_meanwhile_stands_above_whole_and_harmless(mini_run, monkeypatch):
    def say():
        logging.getLogger("promptclip").warning("of a class\x1b[2J named \x07 so")
        sys.stderr.writelines(["a warning\n", "\tof two lines\n"])
        sys.stdout.write("of third parties, in ")
        sys.stdout.write("two parts\n")
        sys.stderr.write("\r10%\r100% of a bar\n")
        sys.stdout.write("unended")
        assert not is_terminal(sys.stdout)
        assert not is_terminal(sys.stderr)

    monkeypatch.setattr(logging.getLogger("promptclip"), "handlers", [Console()])
    at_step(monkeypatch, 3, say)
    lines = mini_run().shown.lines
    for line in (
        *("of third parties, in two parts", "100% of a bar", "a warning", "        of two lines"),
        "of a class\\x1b[2J named \\x07 so",
    ):
        assert line in lines
    assert any(line.startswith("unended") for line in lines)
    assert not any(map(BAR.match, lines))


def test_an_error_leaves_whole_lines(mini_run, monkeypatch):
    def fail():
        raise RuntimeError("in a step")

    at_step(monkeypatch, 4, fail)
    terminal = Terminal()
    with pytest.raises(RuntimeError, match="in a step"):
        mini_run(terminal=terminal)
    terminal.close()
    assert TITLE in drawn(terminal.written)
    assert TITLE not in terminal.lines
    assert not any(map(BAR.match, terminal.lines))
    assert terminal.cursor_is_shown
    assert not screen._live


def test_a_stopped_run_goes_on_with_times_of_its_own(train, monkeypatch, tmp_path):
    """Ctrl-C in the fifth step of eight, in the third epoch of four."""
    command = [*train(epochs=4), "TRAIN.CHECKPOINT_FREQ", "1"]
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with output_to(Terminal()) as first:
        assert main(command) == 130
    *_, last = filter(None, first.lines)
    assert last == "stopped by SIGINT; start again to go on"
    assert not any(map(BAR.match, first.lines))
    assert first.cursor_is_shown
    monkeypatch.undo()
    monkeypatch.setattr(screen, "_PERIOD", 0.0)
    monkeypatch.setattr(screen, "_SHARE", float("inf"))
    with output_to(Terminal()) as second:
        assert main(command) == 0
    assert results.read(tmp_path / "run")
    lines = [line for line in drawn(second.written) if line.startswith("epoch")]
    # After the first step of this process nothing is known, whatever was done before.
    first_step, *others = [line for line in dict.fromkeys(lines) if "batch" in line]
    assert re.fullmatch("epoch 3/4  batch [12]/2", first_step)
    assert re.fullmatch(rf"epoch [34]/4  batch [12]/2  {SPEED}  0:00:\d\d left", others[0])


def test_a_terminal_that_is_gone_stops_no_run(mini_run, monkeypatch):
    terminal = Terminal()
    at_step(monkeypatch, 2, terminal.hang_up)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    found = mini_run(terminal=terminal)
    assert found.result["metrics"]
    assert len(BATCH.findall(found.log)) == STEPS


def test_what_cannot_be_shown_stops_no_run(mini_run, monkeypatch):
    """And says so once, in whole lines."""
    monkeypatch.setattr(logging.getLogger("promptclip"), "handlers", [Console()])
    at_step(monkeypatch, 3, lambda: monkeypatch.setattr(Training, "share", None))
    found = mini_run()
    assert found.result["metrics"]
    (line,) = [line for line in found.shown.lines if "cannot be shown" in line]
    assert line.startswith("How far the run is cannot be shown (TypeError: ")
    assert not any(map(BAR.match, found.shown.lines))
    assert len(BATCH.findall("\n".join(found.shown.lines))) >= STEPS - 3  # the lines are back
    assert len(BATCH.findall(found.log)) == STEPS


def test_trainers_of_others_are_shown(tmp_path, monkeypatch):
    import tiny_engine
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer

    tiny_engine.draw_pictures(tmp_path / "data")
    cfg = get_cfg_default()
    cfg.merge_from_list(
        [
            *("DATASET.ROOT", str(tmp_path / "data"), "DATASET.NAME", "TinyColours"),
            *("OUTPUT_DIR", str(tmp_path / "out"), "TRAINER.NAME", "Linear", "USE_CUDA", False),
            *("INPUT.SIZE", (8, 8), "INPUT.TRANSFORMS", (), "DATALOADER.NUM_WORKERS", 0),
            *("DATALOADER.TRAIN_X.BATCH_SIZE", 6, "OPTIM.MAX_EPOCH", 2, "OPTIM.LR", 0.1),
        ]
    )
    trainer = build_trainer(cfg)
    before = dict(vars(trainer))
    with (
        output_to(Terminal()) as terminal,
        screen.prepared("of others\x1b[2J") as shown,
        watched(trainer, shown),
    ):
        trainer.train()
        trainer.test("val")
    lines = drawn(terminal.written)
    assert "of others\\x1b[2J" in lines
    assert any(re.fullmatch(rf"epoch 2/2  batch 4/4  {SPEED}", line) for line in lines)
    assert any(re.match(r"loss \S+ \(\S+\)  acc \S+ \(\S+\)  lr ", line) for line in lines)
    assert any(line.startswith("test  12/12") for line in lines)
    assert any(line.startswith("validation  9/9") for line in lines)
    # The trainer is as it was.
    assert {"test", "run_epoch", "forward_backward"}.isdisjoint(vars(trainer))
    assert before.keys() <= vars(trainer).keys()


@pytest.mark.parametrize("columns", [1, 2, 7, 20])
def test_no_terminal_is_too_narrow(mini_run, columns):
    terminal = Terminal(columns=columns)
    assert mini_run(terminal=terminal, COLUMNS=str(columns)).result["metrics"]
    assert "cannot be shown" not in terminal.written


@pytest.mark.parametrize(("flag", "shows"), [("--quiet", False), ("--brief", True)])
def test_one_line_for_a_run(train, flag, shows, tmp_path, capsys):
    with output_to(Terminal(columns=200)) as terminal:
        assert main(train(flag)) == 0
    accuracy = results.read(tmp_path / "run")["metrics"]["accuracy"]
    (line,) = filter(None, terminal.lines)
    said = rf"{re.escape(str(tmp_path / 'run'))}: {accuracy:.1f} % \(\d+ s\)"
    assert re.fullmatch(said, line)
    assert any(map(BAR.match, drawn(terminal.written))) == shows
    assert "=> result" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    # A finished run is not repeated, and its line is the same where there is no terminal.
    assert main(train(flag)) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(f"{said}\n", out)
    assert err == ""


def test_quiet_shows_errors(train, capsys):
    assert main(train("--quiet", "--backbone", "nowhere/clip.pt")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    with pytest.raises(SystemExit):
        main(train("--quiet", "--brief"))


def test_a_protocols_runs_are_shown_under_their_names(mini, tmp_path):
    flags = {"root": str(mini.parent), "output": str(tmp_path), "brief": True, "seeds": (1,)}
    overrides = ["OPTIM.MAX_EPOCH", 2]
    with output_to(Terminal()) as terminal:
        assert protocols.fewshot(["coop"], str(mini), shots=[2], overrides=overrides, **flags) == 0
    assert "[1/1] CoOp, seed 1, mini, 2 shots" in drawn(terminal.written)
    assert "=> result" not in terminal.written
    assert not any(map(BAR.match, terminal.lines))


def test_seldom_enough_to_cost_nothing(monkeypatch):
    """At most ten drawings in a second, and a hundredth of the time, whatever a drawing takes."""
    monkeypatch.undo()
    times = iter([0.0, 0.0, 0.002, 0.1, 0.201, 0.21, 0.21, 10.21, 1000.0, 1010.3, 1010.3, 1010.4])
    monkeypatch.setattr(screen.time, "perf_counter", lambda: next(times))
    with output_to(Terminal()) as terminal:
        shown = screen.Screen(terminal.file, "")
        draws = []
        monkeypatch.setattr(shown._drawing, "refresh", lambda: draws.append(1))
        screen._live.append(shown)
        for expected in (1, 1, 1, 2, 2, 3):
            shown.step()  # at 0 (takes 2 ms), 0.1, 0.201, 0.21 (takes 10 s), 1000, 1010.3
            assert len(draws) == expected
        screen._live.clear()


def test_speed_and_time_left_are_of_what_was_seen(monkeypatch):
    now = 0.0
    monkeypatch.setattr(stretches.time, "perf_counter", lambda: now)
    pace = Pace()
    assert (pace.speed, pace.left(10)) == (None, None)
    now = 60.0  # the first step makes everything ready
    pace.step(8)
    assert (pace.speed, pace.left(10)) == (None, None)
    now = 62.0
    pace.step(8)
    assert (pace.speed, pace.left(10)) == (4.0, 20.0)
    now = 66.0  # a validation, which costs time and is no step
    pace.go()
    now = 68.0
    pace.step(8)
    assert (pace.speed, pace.left(10)) == (4.0, 40.0)

    now = 0.0
    stretch = Stretch("test", 12)
    now = 1.0
    stretch.step(4)
    now = 2.0
    stretch.step(4)
    assert (stretch.share, stretch.left) == (2 / 3, 1.0)
    now = 3.0
    stretch.step(4)
    assert [*stretch.facts()] == ["test", "12/12", "4.0 images/s"]


def test_epochs_before_this_process_are_progress_and_no_speed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(stretches.time, "perf_counter", lambda: now)
    trainer = SimpleNamespace(epoch=8, max_epoch=10, num_batches=5, batch_idx=-1)
    trainer.get_current_lr = lambda: 0.002
    training = Training(trainer)
    assert (training.share, training.left) == (0.8, None)
    for trainer.batch_idx, now in enumerate((1.0, 3.0)):
        training.add({"loss": 1.0 + now}, 8)
    assert [*training.facts()] == ["epoch 9/10", "batch 2/5", "4.0 images/s", "0:00:16 left"]
    assert training.share == 42 / 50
    assert [*training.numbers()] == ["loss 4 (3)", "lr 0.002"]


@pytest.mark.slow
def test_ctrl_c_at_a_keyboard(train):
    """The real command, with a terminal of its own, whose width it finds."""
    terminal = Terminal(columns=40)
    command = [sys.executable, "-c", KEYBOARD, *train(epochs=10_000)]
    environment = grid_case.environment(TERM="xterm")
    for name in ("COLUMNS", "LINES"):  # of the terminal of those who test, or of their runner
        environment.pop(name, None)
    with subprocess.Popen(
        command, stdin=terminal.file, stdout=terminal.file, stderr=terminal.file, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        while "images/s" not in terminal.so_far() and process.poll() is None:
            time.sleep(0.05)
        terminal.type("\x03")
        assert process.wait(60) == 130, terminal.so_far()
    terminal.close()
    *_, last = filter(None, terminal.lines)
    assert last == "stopped by SIGINT; start again to go on"
    assert not any(map(BAR.match, terminal.lines))
    assert "\x1b[?25l" not in terminal.written
    assert f"{TITLE[:39]}…" in drawn(terminal.written)
    assert max(len(line) for line in drawn(terminal.written) if BAR.match(line)) <= 40


# The terminal becomes that of the process, so that keys reach it as signals.
KEYBOARD = """
import fcntl, sys, termios
import mini_benchmark
from promptclip.cli import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_one_of_several_processes_shows(train, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, mini_benchmark\nfrom promptclip.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    terminal = Terminal(columns=200)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, script, *train("--brief")],
        env=grid_case.environment(TERM="xterm"),
        stdout=terminal.file,
        stderr=terminal.file,
        timeout=600,
    )
    terminal.close()
    assert done.returncode == 0, terminal.written
    assert TITLE in drawn(terminal.written)
    assert "it/s" not in terminal.written  # of tqdm, in the other process
    assert sum(line.startswith(f"{tmp_path / 'run'}: ") for line in terminal.lines) == 1
