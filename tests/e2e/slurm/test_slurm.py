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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_cluster.reason_to_skip():
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="no submitit: pip install 'promptclip[slurm]'")
    with slurm_cluster.started(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


class Sent:
    """A grid of trainings that differ in their seed, each in a job of its own."""

    def __init__(self, cluster, folder, epochs, seeds, options, **environment):
        self.cluster, self.epochs, self.seeds = cluster, epochs, seeds
        self.data, self.output = folder / "data", folder / "output"
        self.yaml, _ = grid_case.make(self.data)
        self._command = grid_case.command(
            *("coop", "--datasets", self.yaml, "--root", self.data, "--shots", 2),
            *("--seeds", ",".join(map(str, seeds)), "--set", "OPTIM.MAX_EPOCH", epochs),
            *("--output", self.output, "--launcher", "slurm", "--workers", len(seeds)),
            *("--slurm", f"partition=short,cpus=1,{options}"),
        )
        self._environment = grid_case.environment(**cluster, **environment)
        said = self.start()
        self.jobs = re.search("jobs sent to Slurm: (.*)", said)[1].split()
        assert len(self.jobs) == len(seeds)
        (self.grid,) = (self.output / "grid").iterdir()
        self.folders = [self.output / f"fewshot/one/shots_2/CoOp/tiny/seed{s}" for s in seeds]

    def start(self):
        """What the command says."""
        done = subprocess.run(self._command, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until(self, condition, seconds=180):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._everything()
            time.sleep(0.3)

    def _everything(self):
        files = [*(self.grid / "slurm").glob("*.out"), *(self.grid / "logs").glob("*.log")]
        logs = "\n".join(f"{file.name}:\n{file.read_text()[-3000:]}" for file in files)
        return f"{said(self.cluster, 'squeue', '--array')}\n{logs}"

    def epochs_begun(self, folder):
        log = folder / "log.txt"
        return (
            re.findall(r"epoch \[(\d+)/\d+\] batch \[1/", log.read_text()) if log.exists() else []
        )

    def wait_for_the_end(self):
        self.until(lambda: all(map(results.read, self.folders)))
        self.until(lambda: not said(self.cluster, "squeue", "--noheader"))

    def restarts(self, job):
        return int(
            re.search(r"Restarts=(\d+)", said(self.cluster, "scontrol", "show", "job", job))[1]
        )

    def printed(self, job):
        return (self.grid / "slurm" / f"{job}_0_log.out").read_text()

    def events(self, kind):
        found = [event for file in journal.files(self.grid) for event in journal.events(file)]
        return [event["run"] for event in found if event["event"] == kind]

    def check_results(self):
        """The numbers are those of runs that nobody has disturbed, learned in one go."""
        whole = self.output.with_name("whole")
        fewshot(
            *(["coop"], self.yaml),
            **{"root": str(self.data), "output": str(whole), "quiet": True},
            **{"shots": (2,), "seeds": self.seeds},
            overrides=["OPTIM.MAX_EPOCH", self.epochs],
        )
        assert grid_case.measured(self.output) == grid_case.measured(whole)
        assert len(grid_case.measured(whole)) == len(self.seeds)
        # No epoch was done twice but those that were cut short.
        begun = [epoch for folder in self.folders for epoch in self.epochs_begun(folder)]
        cut_short = len(self.events(journal.START)) - len(self.seeds)
        assert len(begun) <= self.epochs * len(self.seeds) + cut_short, begun
        assert sorted(self.events(journal.DONE)) == list(range(len(self.seeds)))
        # All is done, so the same command has nothing to send.
        count = len(self.seeds)
        assert f"{count} of {count} runs are done, 0 failed" in self.start()


def test_jobs_stopped_and_killed_end_as_if_nothing_had_happened(cluster, tmp_path):
    sent = Sent(cluster, tmp_path, 200, (1, 2), "time=30")
    first, second = sent.jobs
    # Jobs that Slurm still has are not sent a second time.
    assert "2 jobs are in Slurm's queue already" in sent.start()
    sent.until(lambda: all("4" in sent.epochs_begun(folder) for folder in sent.folders))
    assert not any(results.read(folder) for folder in sent.folders), (
        "too fast to be killed in the middle"
    )
    # One is told to stop, as before its time is up; one dies as a whole and is put back by hand.
    said(cluster, "scancel", "--signal=USR2", first)
    kill_job(1)
    sent.until(lambda: "RUNNING" not in state(cluster, second))
    sent.until(lambda: not said(cluster, "scontrol", "requeue", second))
    sent.wait_for_the_end()
    assert [sent.restarts(job) for job in (first, second)] == [1, 1]
    assert "Requeued job" in sent.printed(first)
    assert len(sent.events(journal.STOPPED)) == 1
    assert len(sent.events(journal.START)) == 4
    sent.check_results()


# Put before everything else in a worker: each epoch takes two seconds more, in which it computes
# nothing, so that a machine that has much else to do needs no longer than an idle one.
SLOW = """
import sys

if "--worker" in sys.orig_argv:
    import time
    from promptclip.trainer import PromptTrainer

    before_epoch = PromptTrainer.before_epoch

    def slow(self):
        time.sleep(2)
        before_epoch(self)

    PromptTrainer.before_epoch = slow
"""


def test_a_job_whose_time_is_up_goes_on_in_the_next(cluster, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), grid_case.environment()["PYTHONPATH"]])
    # More than a minute of work, and jobs of a minute. Slurm looks at the clock twice a minute and
    # sends the signal when it would be late the next time: here after 29 to 59 seconds.
    sent = Sent(cluster, tmp_path, 30, (1,), "time=1,signal_delay_s=1", PYTHONPATH=path)
    sent.wait_for_the_end()
    (job,) = sent.jobs
    restarts = sent.restarts(job)
    assert restarts >= 1
    printed = sent.printed(job)
    assert printed.count("Job has timed out") == printed.count("Requeued job") == restarts
    assert len(sent.events(journal.STOPPED)) == restarts
    assert not sent.events(journal.FAILED)
    sent.check_results()


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
