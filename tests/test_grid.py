"""Grids: what is planned, who takes what, what is left after a crash, and how it is shown."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import io
import itertools
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import grid_case
import miniatures
import pytest
import random_clip
from PIL import Image
from rich.console import Console

from promptclip import cli, data_sets, emoji, own_pictures, plugins, results, table
from promptclip.commands import grid
from promptclip.config import Builder, config_hash, default_cfg
from promptclip.errors import UserError
from promptclip.files import write_record
from promptclip.grid import journal, plan, pool, slurm, sources, status, worker
from promptclip.grid.estimate import Estimate, told
from promptclip.grid.plan import Spec
from promptclip.grid.queue import MAX_FAILURES, Failure, Queue
from promptclip.lock import locked
from promptclip.protocols import PLANS, Settings, fewshot
from promptclip.tree import Place


@pytest.fixture(scope="module")
def yamls(tmp_path_factory):
    return grid_case.make(tmp_path_factory.mktemp("grid_data"))


@pytest.fixture
def spec(yamls):
    return Spec(
        methods=("zsclip", "coop"),
        datasets=(yamls[0],),
        shots=(2,),
        seeds=(1, 2),
        root=str(Path(yamls[0]).parent),
        overrides=("OPTIM.MAX_EPOCH", 2),
    )


@pytest.fixture
def stored(spec, tmp_path):
    """The folder of a stored plan of four runs."""
    folder = plan.folder_of(tmp_path / "output", spec.name)
    plan.store(spec, folder)
    return folder


@pytest.fixture
def work(monkeypatch):
    """Works as one process of a pool would, and then another in its place, until none is needed."""
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)

    def work(folder, name="w"):
        for number in range(1, 20):
            end = worker.work(folder, f"{name}{number}")
            if end != worker.WORN_OUT:
                return end
        raise AssertionError("does not come to an end")

    return work


def events(folder, *kinds):
    found = [event for file in journal.files(folder) for event in journal.events(file)]
    return [event for event in found if not kinds or event["event"] in kinds]


# What is planned


def test_a_plan_is_what_the_protocols_would_run_each_run_once(spec, yamls, tmp_path):
    spec = replace(spec, protocols=("fewshot", "base2new", "xd"), targets=tuple(yamls))
    planned = plan.make(spec, tmp_path)
    settings = Settings(spec.root, spec.seeds, "", str(tmp_path), spec.overrides)
    one, two = map(data_sets.find, yamls)
    alone = [
        run
        for protocol, more in {"fewshot": {}, "base2new": {}, "xd": {"targets": [two]}}.items()
        for run in PLANS[protocol](spec.methods, one, settings, shots=[2], **more).runs
    ]
    assert planned.runs == list(dict.fromkeys(alone))
    assert len(planned.runs) == 16
    assert len(alone) == 20  # the trainings of xd are those of fewshot
    for number, run in enumerate(planned.runs):
        assert run.model is None or run.model in planned.runs[:number]


def test_what_runs_have_in_common_is_worked_out_once_with_the_same_result(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("promptclip.config.default_cfg", lambda: built.append(1) or default_cfg())
    spec = Spec(
        methods=("dapt", "coop", "tip_adapter"),
        datasets=("caltech101", "emoji"),
        protocols=tuple(PLANS),
        shots=(1, 16),
        seeds=(0, 3),
        targets=("dtd",),
        overrides=("OPTIM.LR_SCHEDULER", "single_step"),
    )
    build = Builder()
    planned = plan.make(spec, tmp_path, build)
    assert len(planned.runs) == 40 + 24 + 16 + 24 + 48
    assert len(built) == 1
    for run in planned.runs:
        cell = run.cell
        model = cell.model and replace(cell.model, build=Builder())
        afresh = replace(run, cell=replace(cell, model=model, build=Builder()))
        assert run.config_hash == config_hash(afresh.cfg)
    assert len(build.files) == len(set(build.files)) == 1 + 3 + 2 * 3


def test_own_pictures_are_read_once(spec, tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / f"{number}.png")
    read = []
    real = own_pictures.read
    monkeypatch.setattr(own_pictures, "read", lambda path: read.append(path) or real(path))
    own = str(tmp_path / "pets")
    both = {"datasets": (own, spec.datasets[0]), "targets": (own, "dtd")}
    spec = replace(spec, protocols=("fewshot", "base2new", "xd"), **both)
    folder = plan.folder_of(tmp_path, "pets")
    before = plan.store(spec, folder)
    assert read == [own]
    assert plan.store(spec, folder) == before
    # What they are decides about the configuration, so the plan follows them.
    (tmp_path / "pets" / "cat" / "0.png").unlink()
    after = plan.store(spec, folder)
    changed = [old != new for old, new in zip(before.hashes, after.hashes, strict=True)]
    assert changed == [run.place.benchmark == "own_pets" for run in after.runs]


def test_a_stored_plan_is_read_back_and_made_once(spec, tmp_path, monkeypatch):
    overrides = ("TRAINER.REGULARIZERS", ("npt",))
    spec = replace(spec, protocols=("base2new",), methods=("coop",), overrides=overrides)
    folder = plan.folder_of(tmp_path, spec.name)
    made = plan.make(spec, tmp_path)
    first = plan.store(spec, folder)
    assert first.runs == made.runs
    assert first.hashes == [run.config_hash for run in made.runs]
    assert first.hashes == [config_hash(run.cfg) for run in first.runs]
    monkeypatch.setattr(plan, "make", lambda *_: pytest.fail("planned twice"))
    assert plan.store(spec, folder) == first


def test_a_plan_follows_its_configuration_files(spec, yamls, tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(Path(yamls[0]).read_text())
    spec = replace(spec, datasets=(str(yaml),))
    folder = plan.folder_of(tmp_path, "named")
    before = plan.store(spec, folder).hashes
    yaml.write_text(yaml.read_text().replace("[32, 32]", "[16, 16]"))
    after = plan.store(spec, folder).hashes
    assert len({*before, *after}) == 8
    with pytest.raises(UserError, match="named holds a grid with other seeds; give another --name"):
        plan.store(replace(spec, seeds=(1,)), folder)


def test_a_plan_of_another_promptclip_is_made_anew(spec, stored, monkeypatch):
    before = plan.store(spec, stored)
    file = stored / plan.PLAN_FILE
    write_record(json.loads(file.read_text()) | {"schema": 1, "runs": []}, file)
    with pytest.raises(UserError, match="of another version of promptclip; the command that made"):
        plan.load(stored)
    assert plan.store(spec, stored) == before
    monkeypatch.setattr(sources, "_code", lambda: [file])
    assert plan.store(spec, stored).sources.program != before.sources.program
    for content in ("[]", "{}", '{"schema'):
        file.write_text(content)
        with pytest.raises(UserError, match="plan.json is damaged .*; delete it"):
            plan.store(spec, stored)


def test_all_methods_and_all_data_sets_to_train_on():
    assert list(plan._methods(["all"])) == sorted(plugins.methods())
    names = list(plan._datasets(["all"]))
    assert {"imagenet", "emoji", "emoji_people", "dtd"} <= set(names)
    others = {"imagenet_a", "imagenetv2", "emoji_line", "emoji_openmoji", "own_pictures"}
    assert not others & set(names)


def test_what_cannot_be_planned_is_told(spec, yamls, tmp_path):
    with pytest.raises(UserError, match="no protocol fewshots; there are base2new, fewshot"):
        replace(spec, protocols=("fewshots",))
    with pytest.raises(UserError, match="a grid needs datasets"):
        replace(spec, datasets=())
    with pytest.raises(UserError, match="unknown key OPTIM.LT"):
        plan.make(replace(spec, overrides=("OPTIM.LT", 1)), tmp_path)
    both = replace(spec, protocols=("fewshot", "dg"))
    assert plan.make(both, tmp_path).notes == ["dg: one has no usual targets and is left out"]
    itself = replace(both, datasets=("emoji",), targets=("emoji",))
    assert plan.make(itself, tmp_path).notes == ["dg: emoji has no other targets and is left out"]
    (tmp_path / "one.yaml").write_text(Path(yamls[0]).read_text())
    twice = replace(spec, datasets=(yamls[0], str(tmp_path / "one.yaml")))
    with pytest.raises(UserError, match="two data sets are called one; their results would lie"):
        plan.make(twice, tmp_path)
    with pytest.raises(UserError, match="one has no usual targets"):
        plan.make(replace(spec, protocols=("dg",)), tmp_path)
    with pytest.raises(UserError, match="holds no grid"):
        plan.load(tmp_path)


def test_what_a_method_cannot_do_is_counted_as_failed(spec, yamls, tmp_path, monkeypatch, work):
    monkeypatch.setattr(plugins.methods()["CoOp"].Model, "transfers", False)
    spec = replace(spec, protocols=("xd",), targets=(yamls[1],), seeds=(1,))
    folder = plan.folder_of(tmp_path, spec.name)
    assert plan.store(spec, folder).skipped == [
        "xd, one: CoOp: not run, what it learns cannot be used for other classes"
    ]
    assert work(folder) == worker.NOTHING_LEFT
    now = status.Reader(folder).read()
    assert len(now.done) == len(now.places) == 2
    assert not now.complete
    assert list(status.failures(now)) == [f"failed: {line}" for line in now.skipped]


# Who takes what

HOLDER = """
import sys
from pathlib import Path
from promptclip.grid.queue import Queue
queue = Queue(Path(sys.argv[1]))
print(queue.take(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(folder):
    """Holds the first run that it can take; yields the process and the run's number."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        env=grid_case.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_a_run_is_taken_by_one_process_and_freed_by_its_death(stored):
    with another_process(stored) as (process, number), Queue(stored) as queue:
        assert number == 0
        assert queue.take() == 1
        queue.release(1)
        assert queue.take() == 1
        process.kill()
        process.wait()
        assert queue.take() == 0


def test_a_test_waits_for_its_training_but_not_for_a_hopeless_one(spec, tmp_path):
    spec = replace(spec, protocols=("base2new",), methods=("coop",), seeds=(1,))
    folder = plan.folder_of(tmp_path, spec.name)
    plan.store(spec, folder)
    with Queue(folder) as queue:
        with another_process(folder) as (_, number):
            assert number == 0
            assert queue.take() is None
            assert queue.waiting()
        for _ in range(MAX_FAILURES):
            queue.fail(0, "w", "of no use", folder / "no.log", ())
        assert not queue.waiting()
        assert queue.take() == 1


def test_only_a_result_of_the_planned_configuration_is_one(spec, stored, work, caplog):
    changed = replace(spec, methods=("coop",), overrides=("OPTIM.MAX_EPOCH", 1))
    old, *_ = plan.make(changed, stored.parents[1]).runs
    old()
    queue = Queue(stored)
    assert queue.left() == 4
    assert work(stored) == worker.NOTHING_LEFT
    now = status.Reader(stored).read()
    assert [now.places[number].path for number in now.failed] == [old.place.path]
    (line, *_) = status.failures(now)
    assert "was written by another run (OPTIM.MAX_EPOCH: 2, not 1)" in line
    assert len(now.done) == 3


def test_what_another_command_is_at_is_left_alone_and_looked_at_again(stored, work, monkeypatch):
    monkeypatch.setattr("promptclip.grid.queue._LOOK_AGAIN", 0.1)
    busy = Queue(stored).runs[0].folder
    with subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; from promptclip.lock import locked\n"
         "with locked(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read(1)", str(busy)],
        env=grid_case.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        write = journal.Journal.__call__

        def after_the_first_refusal(self, event, *which, **more):
            write(self, event, *which, **more)
            if event == journal.BUSY:
                process.stdin.write(b"x")
                process.stdin.flush()
                process.wait()

        monkeypatch.setattr(journal.Journal, "__call__", after_the_first_refusal)
        assert work(stored) == worker.NOTHING_LEFT
    assert [event["run"] for event in events(stored, journal.BUSY)] == [0]
    assert Queue(stored).left() == 0
    assert not Queue(stored).failures()


LOCKED = """
import fcntl, sys
with open(sys.argv[1], sys.argv[2]) as file:
    fcntl.lockf(file, int(sys.argv[3]))
    print(1, flush=True)
    sys.stdin.read()
"""


def test_those_who_look_do_not_take_each_other_for_workers(stored):
    with journal.Journal(stored, "w"):
        pass
    file = journal.path(stored, "w")
    for kind, mode, alive in ((fcntl.LOCK_SH, "r", False), (fcntl.LOCK_EX, "a", True)):
        with subprocess.Popen(
            [sys.executable, "-c", LOCKED, str(file), mode, str(int(kind))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            other.stdout.readline()
            assert journal.alive(file) == alive
            other.stdin.close()
    assert not journal.alive(file)


def test_a_file_system_without_locks_is_refused(stored, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with Queue(stored) as queue:
        for attempt in (queue.take, lambda: journal.Journal(stored, "w")):
            with pytest.raises(UserError, match="cannot lock .*No locks.*only on a file system"):
                attempt()
    with locked(stored):  # one run alone has a file in its place
        assert ".lease takes the place of the lock" in caplog.text


def test_what_was_written_of_another_plan_counts_for_no_run(spec, stored, capsys):
    """A plan that is made anew may have other runs under the old numbers, or fewer."""
    queue = Queue(stored)
    folder = queue.runs[0].folder
    folder.mkdir(parents=True)
    (folder / results.RESULT_FILE).write_text("{}")
    for number in (0, 99):
        with journal.Journal(stored, f"w-{number}") as write:
            write(journal.DONE, number, "0123456789abcdef", seconds=1.0)
            write(journal.START, number, "0123456789abcdef")
        (stored / "failures").mkdir(exist_ok=True)
        for attempt in range(MAX_FAILURES):
            name = f"{number:05d}-0123456789abcdef-{attempt}-w.json"
            (stored / "failures" / name).write_text("{}")
        queue.died(f"w-{number}", "was killed", stored / "no.log")
    queue = Queue(stored)
    assert queue.left() == 4
    assert queue.failures() == []
    with queue:
        assert queue.take() == 0
    assert results.read_failure(folder) is None
    assert cli.main(["grid", "status", str(stored)]) == 0
    assert "0        0       0        4   4" in capsys.readouterr().out


# What happens to runs that fail


def test_failures_of_a_run_are_in_order_of_time(stored):
    queue = Queue(stored)
    for worker_ in ("z", "a", "m"):
        queue.fail(1, worker_, f"of {worker_}", stored / "no.log", ("the end",))
    assert [failure.error for failure in queue.failures()] == ["of z", "of a", "of m"]
    assert queue.failures()[0] == Failure(1, queue.hashes[1], "z", "of z", "", ["the end"])


@pytest.fixture
def failing(monkeypatch):
    """Makes CoOp fail: `failing(seed, times)`."""
    losses = plugins.methods()["CoOp"].losses
    left = {}

    def sometimes(self, output, label):
        if left.get(self.cfg.SEED, 0):
            left[self.cfg.SEED] -= 1
            raise FloatingPointError("Loss is infinite or NaN!")
        return losses(self, output, label)

    monkeypatch.setattr(plugins.methods()["CoOp"], "losses", sometimes)
    return left.__setitem__


def test_a_failure_is_tried_once_more_and_stops_no_other(spec, failing, work, tmp_path):
    spec = replace(spec, protocols=("base2new",))
    folder = plan.folder_of(tmp_path, spec.name)
    plan.store(spec, folder)
    failing(1, 1)
    failing(2, 100)
    assert work(folder) == worker.NOTHING_LEFT
    now = status.Reader(folder).read()
    failed = {str(now.places[n].path): tried for n, tried in now.failed.items()}
    train, test = failed  # of seed 2; seed 1 was well the second time
    assert train == "base2new/train_base/one/shots_2/CoOp/tiny/seed2"
    assert test == "base2new/test_new/one/shots_2/CoOp/tiny/seed2"
    assert len(now.done) == 6
    assert [len(tried) for tried in failed.values()] == [2, 2]
    assert failed[train][-1].error == "FloatingPointError: Loss is infinite or NaN!"
    assert "sometimes" in "".join(failed[train][-1].tail)
    assert "no finished training in" in failed[test][-1].error
    assert not now.complete
    # The table says so too.
    (coop, _) = table.build(tmp_path).rows
    assert (coop.base.problems, coop.new.problems) == ({2: "failed"}, {2: "failed"})
    # The other runs came before the second attempt.
    starts = [event["run"] for event in events(folder, journal.START)]
    assert starts.count(starts[-1]) == 2
    # Started again, what has failed is tried again.
    failing(2, 0)
    Queue(folder).forgive()
    assert work(folder, "again") == worker.NOTHING_LEFT
    assert status.Reader(folder).read().complete
    assert table.build(tmp_path).complete


def test_a_process_is_replaced_after_an_unexpected_error(stored, failing, monkeypatch):
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    failing(1, 1)
    assert worker.work(stored, "w1") == worker.WORN_OUT
    assert worker.work(stored, "w2") == worker.NOTHING_LEFT
    assert len(events(stored, journal.DONE)) == 4


def ended(pool_, name, status):
    """What a pool does when one of its workers has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    process.wait()
    pool_._ended(0, pool._Worker(name, process, Path("no.log")), status)


def test_workers_that_die_before_their_first_run_are_counted_in_a_row(stored):
    pool_ = pool.Pool(stored, [{}])
    with journal.Journal(stored, "began") as write:
        write(journal.START, 0, "hash")
    for name in ("dead", "dead", "began", "dead", "dead"):
        ended(pool_, name, worker.WORN_OUT if name == "began" else 1)
    with pytest.raises(UserError, match="workers cannot start"):
        ended(pool_, "dead", 1)


def test_how_a_process_has_died_is_told_for_every_signal():
    told = [pool._told(status) for status in (1, -9, -11, -40)]
    assert told == [
        "ended with status 1",
        "was killed by SIGKILL, perhaps for want of memory",
        "was killed by SIGSEGV",
        "was killed by signal 40",
    ]


def test_a_worker_has_a_name_that_no_other_has_had(stored):
    numbers = iter(range(1, 9))
    with pool._new_log(stored / "logs", numbers) as log:
        first = Path(log.name)
    assert first.stem == f"{socket.gethostname()}-{os.getpid()}-1"
    with pool._new_log(stored / "logs", iter((1, 2))) as log:  # another process with this id
        assert Path(log.name).stem == first.stem[:-1] + "2"


def test_a_process_that_has_grown_is_replaced(stored, monkeypatch):
    monkeypatch.setattr(worker, "_end_with_parent", lambda: None)
    sizes = iter([2**30, 2**30, 3 * 2**30])
    monkeypatch.setattr(worker, "_resident", lambda: next(sizes))
    assert worker.work(stored, "w") == worker.WORN_OUT
    assert len(events(stored, journal.DONE)) == 3


def test_a_configuration_that_is_not_the_planned_one_is_refused(spec, yamls, tmp_path, work):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(Path(yamls[0]).read_text())
    spec = replace(spec, datasets=(str(yaml),), methods=("zsclip",), seeds=(1,))
    folder = plan.folder_of(tmp_path, spec.name)
    plan.store(spec, folder)
    yaml.write_text(yaml.read_text().replace("[32, 32]", "[16, 16]"))
    assert work(folder) == worker.NOTHING_LEFT
    ((_, tried),) = status.Reader(folder).read().failed.items()
    assert "its configuration is not the planned one" in tried[-1].error


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGUSR1],
        [signal.SIGINT],
        [signal.SIGUSR2, signal.SIGTERM],  # of Slurm and of the pool, both at a time
    ],
)
def test_a_signal_leaves_a_checkpoint_and_no_claim(numbers, spec, tmp_path, work, monkeypatch):
    spec = replace(spec, methods=("coop",), seeds=(1,), overrides=("OPTIM.MAX_EPOCH", 6))
    folder = plan.folder_of(tmp_path / "stopped", spec.name)
    plan.store(spec, folder)
    trainer = plugins.methods()["CoOp"]
    losses = trainer.losses

    def signalled(self, output, label):
        if self.epoch == 3:
            # All that is sent to this thread comes to it when the mask is what it was again.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
            try:
                for number in numbers:
                    signal.raise_signal(number)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return losses(self, output, label)

    before = [signal.getsignal(number) for number in numbers]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "losses", signalled)
        assert work(folder) == worker.WAS_STOPPED
    assert [signal.getsignal(number) for number in numbers] == before
    run = Queue(folder).runs[0].folder
    assert (run / "resume.pth.tar").is_file()
    assert results.read_failure(run) is None
    assert [event["event"] for event in events(folder)] == [journal.START, journal.STOPPED]
    assert work(folder, "again") == worker.NOTHING_LEFT
    assert (run / "log.txt").read_text().count("epoch [1/6]") == 1
    whole = {"shots": (2,), "seeds": (1,), "overrides": list(spec.overrides)}
    fewshot(["coop"], spec.datasets[0], root=spec.root, output=str(tmp_path / "whole"), **whole)
    assert grid_case.measured(tmp_path / "stopped") == grid_case.measured(tmp_path / "whole")


# How it is shown


def test_status_and_time_left(stored, spec, capsys, work):
    assert cli.main(["grid", "status", str(stored)]) == 0
    before = capsys.readouterr().out
    assert "so how long it takes cannot be said" in before
    queue = Queue(stored)
    with another_process(stored) as (_, number), journal.Journal(stored, "other-1") as alive:
        alive(journal.START, number, queue.hashes[number])
        assert work(stored) == worker.NOTHING_LEFT
        now = status.Reader(stored).read()
        # This process holds the journal itself, so it does not see that another one is alive.
        assert len(now.done) == 3
        assert now.missing == [number]
        assert "of work left; nobody is at it" in now.left()
    running = replace(now, running={number: ("other-1", time.time())}, workers=2)
    assert running.missing == []
    assert "left with 2 workers" in running.left()
    assert work(stored, "last") == worker.NOTHING_LEFT
    assert queue.left() == 0
    # From the output folder alone, the newest grid is meant.
    assert cli.main(["grid", "status", "--output", str(stored.parents[1])]) == 0
    assert "4        0       0        0   4" in capsys.readouterr().out


def test_a_terminal_gets_bars(stored, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(grid, "_console", lambda: Console(file=out, force_terminal=True))
    with grid._live(status.Reader(stored)) as tick:
        tick()
    assert "━" in out.getvalue()
    assert "so how long it takes cannot be said" in out.getvalue()


def test_without_a_terminal_every_run_has_a_line(stored, work, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="promptclip.commands.grid")
    with grid._live(status.Reader(stored)) as tick:
        tick()
        work(stored)
    mine = [record for record in caplog.records if record.name == "promptclip.commands.grid"]
    lines = [record.getMessage() for record in mine]
    assert [line.partition("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]


def test_who_is_alive_is_seen_from_another_process(stored):
    hashes = Queue(stored).hashes
    with journal.Journal(stored, "dead") as dead:
        dead(journal.START, 2, hashes[2])
    with journal.Journal(stored, "alive") as alive:
        alive(journal.START, 1, hashes[1])
        out = subprocess.run(
            grid_case.command("status", stored),
            env=grid_case.environment(),
            capture_output=True,
            text=True,
        )
    assert "fewshot/one/shots_2/ZeroshotCLIP/tiny/seed2, for" in out.stdout, out.stderr
    assert "CoOp" not in out.stdout


def test_to_see_how_it_stands_needs_neither_torch_nor_an_engine(stored):
    code = (
        "import sys; from promptclip.cli import main; "
        "status = main(['grid', 'status', sys.argv[1]]); "
        "sys.exit(status or 'torch' in sys.modules or 'dassl' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(stored)]
    environment = grid_case.environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4   4" in done.stdout


def test_a_line_that_death_cut_off_is_left_out(stored):
    with journal.Journal(stored, "w") as write:
        write(journal.START, 0, "hash")
    file = journal.path(stored, "w")
    file.write_text(file.read_text() + '{"time": 1, "ev')
    assert [event["event"] for event in journal.events(file)] == [journal.START]
    assert journal.unfinished(journal.events(file))["run"] == 0


def test_a_dry_run_tells_all_and_does_nothing(spec, yamls, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    command = ["grid", "zsclip", "--datasets", yamls[0], "--root", spec.root, "--seeds", "1-2",
               "--shots", "1,2", "--workers", "2"]  # fmt: skip
    assert cli.main([*command, "--dry-run"]) == 0
    assert not any(tmp_path.iterdir())
    assert "[4/4] ZeroshotCLIP, one, 2 shots, seed 2: test only, all classes, not done" in (
        caplog.text
    )
    assert "no finished run in output to estimate the time from" in caplog.text
    fewshot(["zsclip"], yamls[0], root=spec.root, shots=(1,), seeds=(1,), quiet=True)
    caplog.clear()
    assert cli.main([*command, "--dry-run"]) == 0
    assert "4 runs, 3 of them to do" in caplog.text
    assert "for one worker, " in caplog.text


def test_estimates_take_what_is_most_alike():
    def place(method, shots=1, seed=1, protocol="fewshot", target=""):
        return Place(protocol, "one", shots, method, "tiny", seed, target)

    estimate = Estimate([(place("A"), 10), (place("A", 2), 30), (place("B"), 100)])
    assert estimate.of(place("A", seed=9)) == 10
    assert estimate.of(place("A", 4)) == 20
    assert estimate.of(place("C")) == pytest.approx(140 / 3)
    assert estimate.of(place("A", protocol="xd", target="two")) is None
    assert estimate.total([place("A"), place("A", protocol="xd", target="two")]) == (10, 1)
    assert [told(s) for s in (12, 180, 7500)] == ["12 s", "3 min", "2 h 05 min"]


# The command


def test_numbers_with_spans():
    assert grid.spans("1-3,8 16") == [1, 2, 3, 8, 16]
    for text in ("1-x", "3-1", "-1", "1,,2-", "1-99999999999"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 1,2 or 1-3, got '"):
            grid.spans(text)


def test_a_yaml_file_holds_the_flags_and_flags_go_before_it(spec, yamls, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("promptclip.commands.grid._start", lambda *args: asked.append(args) or 0)
    file = tmp_path / "grid.yaml"
    file.write_text(
        f"methods: zsclip,coop\ndatasets: [{yamls[0]}]\nshots: 2\nseeds: 1-2\n"
        f"root: {spec.root}\nset: {{OPTIM.MAX_EPOCH: 2}}\ngpus: 0,1\nper_gpu: 2\n"
    )
    assert cli.main(["grid", str(file), "--output", "there"]) == 0
    ((found, given, seats),) = asked
    assert found == spec
    assert given["output"] == "there"
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats] == ["0", "1", "0", "1"]
    flags = ["grid", "zsclip,coop", "--datasets", yamls[0], "--shots", "2", "--seeds", "1,2",
             "--root", spec.root, "--set", "OPTIM.MAX_EPOCH", "2"]  # fmt: skip
    assert cli.main(flags) == 0
    # Text or number: the same configuration, so the same hashes.
    hashes = [[run.config_hash for run in plan.make(one[0], tmp_path).runs] for one in asked]
    assert hashes[0] == hashes[1]


def test_what_is_wrong_with_a_command_is_told(tmp_path, yamls, capsys):
    file = tmp_path / "grid.yaml"
    for content, message in {
        "method: coop": "unknown key method, did you mean methods?",
        "{methods: coop, datasets: emoji, seeds: [1.5]}": "seeds must be whole",
        "{methods: coop, datasets: emoji, per_gpu: 0}": "at least 1 worker is needed",
        "{methods: coop, datasets: emoji, set: [OPTIM.LR]}": "set must hold KEY: VALUE lines",
        "{methods: coop, datasets: emoji, launcher: slrum}": "launcher must be one of local, slurm",
    }.items():
        file.write_text(content)
        assert cli.main(["grid", str(file)]) == 2
        assert message in capsys.readouterr().err
    for arguments, message in {
        ("coop", "dapt"): "methods are one word with commas",
        ("coop",): "a grid needs datasets",
        ("coop", "--datasets", "emojy"): "did you mean 'emoji'",
        ("coop", "--datasets", "emoji", "--gpus", "0", "--workers", "3"): "set --per-gpu",
        ("status",): "no grid in",
        ("work", str(tmp_path)): "holds no grid",
    }.items():
        assert cli.main(["grid", *arguments, "--output", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_grid_is_started_by_one_command_at_a_time(spec, stored, yamls, capsys):
    with another_folder_holder(stored):
        command = ["grid", "zsclip,coop", "--datasets", yamls[0], "--shots", "2", "--seeds", "1-2",
                   "--root", spec.root, "--set", "OPTIM.MAX_EPOCH", "2",
                   "--output", str(stored.parents[1]), "--name", stored.name]  # fmt: skip
        assert cli.main(command) == 2
    assert f"{stored} is in use by process" in capsys.readouterr().err


@contextlib.contextmanager
def another_folder_holder(folder):
    code = (
        "import sys; from pathlib import Path; from promptclip.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=grid_case.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_workers_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 16)
    for name in pool._THREADS:
        monkeypatch.delenv(name, raising=False)
    assert pool.seats(4) == [{"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}] * 4
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in pool.seats(None, ["2", "5"], 2)] == [
        *("2", "5", "2", "5")
    ]
    assert pool.seats() == [{"OMP_NUM_THREADS": "16", "MKL_NUM_THREADS": "16"}]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's own
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert pool.seats(2) == [{}, {}]
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    assert pool.cores() == 6


def test_options_of_slurm():
    assert slurm.options_of("partition=gpu,gpus=1 --cpus-per-task=8 mem=32G") == {
        "partition": "gpu",
        "gpus_per_node": "1",
        "cpus_per_task": "8",
        "mem": "32G",
    }
    assert slurm.options_of("nodelist=a,b, mem=1G") == {"nodelist": "a,b", "mem": "1G"}
    assert slurm.options_of(" ") == {}
    for text, message in {
        "gpu": "are KEY=VALUE",
        "nodes=2": "one pool of workers",
        "array=0-3": "--workers says",
    }.items():
        with pytest.raises(UserError, match=message):
            slurm.options_of(text)
    minutes = {"90": 90, "4:00:00": 240, "1-12": 2160, "2-0:30": 2910, "90:30": 91, "0:0:30": 1}
    assert {text: slurm._minutes(text) for text in minutes} == minutes
    for text in ("4h", "0", "0-0:00:00"):
        with pytest.raises(UserError, match="time must be"):
            slurm._minutes(text)


def test_options_that_submitit_does_not_know_go_to_sbatch():
    pytest.importorskip("submitit")
    parameters = slurm._parameters({"partition": "gpu", "time": "60", "licenses": "x:1"})
    assert parameters["partition"] == "gpu"
    assert parameters["time"] == 60
    assert parameters["additional_parameters"] == {"requeue": True, "licenses": "x:1"}


def test_jobs_that_would_be_told_to_stop_at_once_are_refused():
    pytest.importorskip("submitit")
    assert slurm._parameters({"time": "1", "signal_delay_s": "29"})["signal_delay_s"] == 29
    for options in ({"time": "1"}, {"time": "2"}, {"time": "1", "signal_delay_s": "30"}):
        with pytest.raises(UserError, match="a job of . min that is told to stop .* never get on"):
            slurm._parameters(options)
    with pytest.raises(UserError, match="signal_delay_s must be a whole number of at least 1"):
        slurm._parameters({"signal_delay_s": "0"})


def test_without_slurm_nothing_is_sent(stored, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no Slurm on this machine: there is no srun"):
        slurm.submit(stored, 2, 1, {})
    assert slurm.jobs(stored) == []
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install 'promptclip.slurm.'"):
        slurm.submit(stored, 2, 1, {})


# Processes that are killed


def halves(folder):
    """A grid of 32 runs, of which half need the training of another."""
    yamls = tuple(grid_case.make(folder))
    return Spec(
        methods=("zsclip", "coop"),
        datasets=yamls,
        protocols=("base2new",),
        shots=(1, 2),
        seeds=(1, 2),
        root=str(folder),
        overrides=("OPTIM.MAX_EPOCH", "10"),
    )


def three_of_each(folder):
    """A grid of 81 runs: three methods, benchmarks, numbers of shots and seeds."""
    emoji.prepare(folder / "emoji", "Emoji")
    for name in ("DescribableTextures", "EuroSAT"):
        miniatures.make(folder, name)
    random_clip.save(folder / "clip.safetensors")
    size = random_clip.TINY.image_size
    return Spec(
        methods=("zsclip", "coop", "maple"),
        datasets=("emoji", "dtd", "eurosat"),
        shots=(1, 2, 3),
        seeds=(1, 2, 3),
        cfg="tiny",
        root=str(folder),
        overrides=(
            *("MODEL.BACKBONE.NAME", str(folder / "clip.safetensors")),
            *("INPUT.SIZE", f"({size}, {size})", "OPTIM.MAX_EPOCH", "3"),
        ),
    )


def start(spec, output):
    """The command of a grid, whose plan is made here: that process starts sooner."""
    plan.store(spec, plan.folder_of(output, spec.name))
    lists = {"--datasets": spec.datasets, "--protocol": spec.protocols, "--shots": spec.shots}
    lists |= {"--seeds": spec.seeds}
    pairs = zip(spec.overrides[::2], spec.overrides[1::2], strict=True)
    command = grid_case.command(
        ",".join(spec.methods),
        *itertools.chain(*((flag, ",".join(map(str, values))) for flag, values in lists.items())),
        *itertools.chain(*(("--set", *pair) for pair in pairs)),
        *("--cfg", spec.cfg, "--root", spec.root, "--output", output, "--workers", 2),
    )
    return subprocess.Popen(
        command,
        env=grid_case.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(output):
    return list(output.glob("**/seed*/result.json"))


@pytest.fixture
def chance(request):
    """Chances that are told when the test fails."""
    seed = int(os.environ.get("PROMPTCLIP_TEST_SEED", random.SystemRandom().getrandbits(32)))
    request.node.add_report_section("call", "chance", f"again with PROMPTCLIP_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_packages")
@pytest.mark.parametrize(("make", "total"), [(halves, 32), (three_of_each, 81)])
def test_a_grid_killed_three_times_ends_as_if_nothing_had_happened(
    make, total, tmp_path, chance, work, monkeypatch
):
    spec = make(tmp_path / "data")
    output, whole, kept = tmp_path / "output", tmp_path / "whole", {}
    for _ in range(3):
        process = start(spec, output)
        # Into the midst of things: some runs after this process has got going.
        wanted = len(finished(output)) + chance.randint(1, total // 6)
        while process.poll() is None and len(finished(output)) < wanted:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        kept |= {file: file.read_bytes() for file in finished(output)}
    assert len(kept) < total, "too fast to be killed in the middle"
    process = start(spec, output)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert f"{total} of {total} runs are done, 0 failed" in said

    # The same in this process, without a feature of the other's cache.
    monkeypatch.setenv("PROMPTCLIP_FEATURE_CACHE", str(tmp_path / "features"))
    folder = plan.folder_of(whole, spec.name)
    plan.store(spec, folder)
    assert work(folder) == worker.NOTHING_LEFT
    assert len(finished(output)) == total
    assert grid_case.measured(output) == grid_case.measured(whole)
    assert rows(output) == rows(whole)
    assert table.build(output).complete

    # Nothing that was finished was done again, and nothing was finished twice.
    assert all(file.read_bytes() == content for file, content in kept.items())
    (folder,) = (output / "grid").iterdir()
    done = [event["run"] for event in events(folder, journal.DONE)]
    assert len(done) == len(set(done))
    for file in journal.files(folder):
        last = None
        for event in journal.events(file):
            assert (event["event"] == journal.START) != (last == journal.START)
            last = event["event"]
    ended = {e["run"]: e["time"] for e in events(folder, journal.DONE)}
    assert all(
        event["time"] < ended.get(event["run"], event["time"] + 1)
        for event in events(folder, journal.START)
    )


def rows(output):
    found = json.loads(table.render(table.build(output), "json"))["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


# Put before everything else in a worker: one run kills its process, always or only once.
DEADLY = """
import os, signal
from pathlib import Path
import promptclip.cell as cell

real = cell.run

def run(cfg, **how):
    flag = Path(os.environ["DEADLY"])
    if cfg.TRAINER.NAME == "ZeroshotCLIP" and cfg.DATASET.NAME == "Caltech101":
        if cfg.SEED == 1 or not flag.exists():
            if cfg.SEED != 1:
                flag.touch()
            os.kill(os.getpid(), signal.SIGSEGV if cfg.SEED == 1 else signal.SIGKILL)
    return real(cfg, **how)

cell.run = run
"""


@pytest.mark.slow
def test_a_worker_that_dies_fails_one_run_and_is_replaced(spec, tmp_path, caplog):
    spec = replace(spec, methods=("zsclip",), seeds=(1, 2, 3))
    folder = plan.folder_of(tmp_path, spec.name)
    plan.store(spec, folder)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    environment = grid_case.environment(DEADLY=str(tmp_path / "flag"))
    environment["PYTHONPATH"] = f"{tmp_path / 'site'}{os.pathsep}{environment['PYTHONPATH']}"
    pool.Pool(folder, [environment, environment]).run()
    now = status.Reader(folder).read()
    assert len(now.done) == 2
    (line, *log) = status.failures(now)
    name = "fewshot/one/shots_2/ZeroshotCLIP/tiny/seed1"
    assert line == f"failed: {name}: was killed by SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in log[1]
    assert "was killed by SIGKILL, perhaps for want of memory, and is replaced" in caplog.text
    (row,) = table.build(tmp_path).rows
    assert row.cells["shots_2"].problems == {1: "failed"}


@pytest.mark.slow
def test_workers_stop_with_their_pool(tmp_path):
    spec = halves(tmp_path / "data")
    spec = replace(spec, overrides=("OPTIM.MAX_EPOCH", "5000"))
    # Not SIGINT, which a shell has processes in the background ignore; it is handled alike.
    for how in (signal.SIGTERM, signal.SIGKILL):
        process = start(spec, tmp_path)
        (folder,) = (tmp_path / "grid").iterdir()
        before = len(journal.files(folder))
        while process.poll() is None and len(journal.files(folder)) < before + 2:
            time.sleep(0.1)
        process.send_signal(how)
        process.communicate(timeout=60)
        assert process.returncode == (143 if how is signal.SIGTERM else -signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(map(journal.alive, journal.files(folder))):
            assert time.monotonic() < deadline, "workers live on"
            time.sleep(0.1)
        assert not Queue(folder).failures()


@pytest.mark.slow
def test_a_pool_waits_for_others_without_starting_processes(stored, monkeypatch):
    """Until one of them dies; then it takes over what that was at."""
    look, looked = pool.Pool._something_to_take, []
    with another_process(stored) as (process, number):

        def look_and_kill(self):
            looked.append(len(events(stored, journal.DONE)))
            if len(looked) == 3:
                process.kill()
                process.wait()
            return look(self)

        monkeypatch.setattr(pool.Pool, "_something_to_take", look_and_kill)
        pool.Pool(stored, [{}, {}]).run()
    assert looked[:3] == [3, 3, 3]
    assert status.Reader(stored).read().complete
    assert [event["run"] for event in events(stored, journal.START)].count(number) == 1
    # Two for three runs, and two more when there was something to take again.
    assert len(list((stored / "logs").glob("*.log"))) == 4


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_grid(stored, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    Path(sys.executable).write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    Path(sys.executable).chmod(0o755)
    with pytest.raises(UserError, match="workers cannot start; .*log ends with\nno such module"):
        pool.Pool(stored, [{}]).run()
