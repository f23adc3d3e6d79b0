"""A grid on a real Slurm: jobs told to stop, jobs killed, and the results of an undisturbed run.

Needs slurmctld, slurmd and munged (on Debian and Ubuntu the packages slurm-wlm and munge), root to
start them, and submitit. The cluster is this test's own; none that runs here is touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import grid_case
import pytest
import slurm_cluster
from slurm_cluster import said

from promptclip import results
from promptclip.grid import journal
from promptclip.protocols import fewshot

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
EPOCHS = 200
SEEDS = (1, 2)
OPTIONS = {"shots": (2,), "seeds": SEEDS, "overrides": ["OPTIM.MAX_EPOCH", EPOCHS]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_cluster.reason_to_skip():
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="no submitit: pip install 'promptclip[slurm]'")
    with slurm_cluster.started(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def until(condition, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)


def test_jobs_stopped_and_killed_end_as_if_nothing_had_happened(cluster, tmp_path):
    yaml, _ = grid_case.make(tmp_path / "data")
    output, whole = tmp_path / "output", tmp_path / "whole"
    command = grid_case.command(
        *("coop", "--datasets", yaml, "--root", tmp_path / "data", "--shots", 2, "--seeds", "1-2"),
        *("--set", "OPTIM.MAX_EPOCH", EPOCHS, "--output", output),
        *("--launcher", "slurm", "--workers", 2, "--slurm", "partition=short,time=30,cpus=1"),
    )
    environment = grid_case.environment(**cluster)

    def start():
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, second = re.search(r"2 jobs sent to Slurm: (\d+_0) (\d+_1)\n", start()).groups()
    (grid,) = (output / "grid").iterdir()
    folders = [output / f"fewshot/one/shots_2/CoOp/tiny/seed{seed}" for seed in SEEDS]

    def everything():
        files = [*(grid / "slurm").glob("*.out"), *(grid / "logs").glob("*.log")]
        logs = "\n".join(f"{file.name}:\n{file.read_text()[-3000:]}" for file in files)
        return f"{said(cluster, 'squeue', '--array')}\n{logs}"

    def epoch(folder):
        log = folder / "log.txt"
        found = re.findall(r"epoch \[(\d+)/", log.read_text()) if log.exists() else []
        return int(found[-1]) if found else 0

    # Jobs that Slurm still has are not sent a second time.
    assert "2 jobs are in Slurm's queue already" in start()
    until(lambda: min(map(epoch, folders)) > 3, everything)
    assert not any(results.read(folder) for folder in folders), (
        "too fast to be killed in the middle"
    )

    # One is told to stop, as before its time is up; one dies as a whole and is put back by hand.
    said(cluster, "scancel", "--signal=USR2", first)
    kill_job(1)
    until(lambda: "RUNNING" not in state(cluster, second), everything)
    until(lambda: not said(cluster, "scontrol", "requeue", second), everything)

    until(lambda: all(map(results.read, folders)), everything)
    until(lambda: not said(cluster, "squeue", "--noheader"), everything)
    for job in (first, second):
        assert "Restarts=1 " in said(cluster, "scontrol", "show", "job", job)
    assert "Requeued job" in (grid / "slurm" / f"{first}_0_log.out").read_text()

    # The numbers are those of runs that nobody has disturbed, learned in one go.
    fewshot(["coop"], yaml, root=str(tmp_path / "data"), output=str(whole), quiet=True, **OPTIONS)
    assert grid_case.measured(output) == grid_case.measured(whole)
    assert len(grid_case.measured(whole)) == len(SEEDS)
    for folder in folders:
        log = (folder / "log.txt").read_text()
        assert log.count(f"epoch [1/{EPOCHS}] batch [1/") == 1, "begun anew"
    events = [event for file in journal.files(grid) for event in journal.events(file)]
    assert sorted(e["run"] for e in events if e["event"] == journal.DONE) == [0, 1]
    assert len([e for e in events if e["event"] == journal.STOPPED]) == 1
    assert len([e for e in events if e["event"] == journal.START]) == 4
    # All is done, so the same command has nothing to send.
    assert "2 of 2 runs are done, 0 failed" in start()


def kill_job(number):
    """End the pool and the worker of a job of the array, neither of which sees the other die."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--worker" in words and b"SLURM_ARRAY_TASK_ID=%d" % number in variables:
                worker = int(folder.name)
                os.kill(worker, signal.SIGSTOP)
                os.kill(int((folder / "stat").read_text().split()[3]), signal.SIGKILL)
                os.kill(worker, signal.SIGKILL)
                return
    pytest.fail("no worker of that job")


def state(cluster, job):
    return re.findall(r"JobState=(\S+)", said(cluster, "scontrol", "show", "job", job))


def test_a_refusal_of_sbatch_is_told(cluster, tmp_path):
    yaml, _ = grid_case.make(tmp_path / "data")
    done = subprocess.run(
        grid_case.command(
            *("zsclip", "--datasets", yaml, "--shots", 1, "--output", tmp_path / "output"),
            *("--launcher", "slurm", "--slurm", "partition=nowhere"),
        ),
        env=grid_case.environment(**cluster, PROMPTCLIP_SLURM=""),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "invalid partition" in done.stderr.lower(), done.stderr
    assert os.listdir(tmp_path / "output") == ["grid"]
