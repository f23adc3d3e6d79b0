"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd from its packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = "/usr/sbin:/sbin"


def reason_to_skip() -> str:
    """Why there can be no cluster here; "" if there can."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=path)]
    if missing:
        return (
            f"no {', '.join(missing)} on this machine; on Debian and Ubuntu, as root: "
            "apt-get install slurm-wlm munge"
        )
    if os.geteuid() != 0:
        return "slurmd must be started as root"
    return ""


@contextlib.contextmanager
def started(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster whose files lie in a folder, while in here.

    Yields:
        What the environment of Slurm's commands has to have, to talk to this cluster.
    """
    environment = {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:{SBIN}",
    }
    configure(folder)
    daemons = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as out:
            daemons.append(
                subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)
            )

    try:
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
              f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid",
              f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed")  # fmt: skip
        wait(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        wait(lambda: "idle" in said(environment, "sinfo", "--noheader", "--format=%T"), folder)
        yield environment
    finally:
        said(environment, "scancel", "--user=root")
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def configure(folder: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
KillWait=25
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP
"""
    )


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def said(environment: dict[str, str], *command: str) -> str:
    """What one of Slurm's commands prints; its errors too."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def wait(condition: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    """Until something holds; else fail with the ends of the daemons' logs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = [f"{file.name}: {file.read_text()[-1500:]}" for file in folder.glob("*.log")]
            outs = [f"{file.name}: {file.read_text()[-1500:]}" for file in folder.glob("*.out")]
            pytest.fail("\n".join(["the cluster is not there in time", *logs, *outs]))
        time.sleep(0.3)
