"""Pools of workers as a job array on a Slurm cluster, through submitit.

Every job of the array takes runs from the same queue as a local pool would. Before its time is up,
or where the cluster announces preemption by the same signal, submitit has a job stop its workers
and be queued again; it then goes on with whatever is left.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip.errors import UserError
from promptclip.files import DamagedError, read_record, write_record
from promptclip.grid.pool import Pool, seats

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

JOBS_FILE = "slurm.json"
JOBS = "slurm"  # the folder of submitit's files and of what the jobs print
ENVIRONMENT = "PROMPTCLIP_SLURM"
# As sbatch spells them, and submitit's names.
_SPELLINGS = {"cpus": "cpus_per_task", "gpus": "gpus_per_node", "gpus_per_job": "gpus_per_node"}
_OURS = {
    "array": "--workers says how many jobs there are",
    "nodes": "a job is one pool of workers on one machine",
    "ntasks": "a job is one pool of workers on one machine",
    "ntasks_per_node": "a job is one pool of workers on one machine",
    "signal": "set signal_delay_s, the seconds that a job has before its end to be queued again",
}
# Submitit's own parameters, which are no options of sbatch.
_NOT_SBATCH = {"setup", "teardown", "srun_args", "use_srun", "additional_parameters",
               "stderr_to_stdout", "num_gpus"}  # fmt: skip
_LOOKS = 30  # seconds; so often Slurm compares the time with what jobs have left
_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})$")


class Job:
    """What one job of the array does; submitit stores it and calls it on the node.

    Args:
        folder: of the grid.
        per_gpu: workers on each GPU that the job is given.
    """

    def __init__(self, folder: str, per_gpu: int = 1) -> None:
        self.folder, self.per_gpu = folder, per_gpu
        self._pool: Pool | None = None

    def __call__(self) -> None:
        """Work until there is nothing left to take."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpus = [gpu for gpu in given if gpu not in ("", "NoDevFiles")]  # Slurm's word for none
        self._pool = Pool(Path(self.folder), seats(None, gpus, self.per_gpu), patient=False)
        self._pool.run()

    def checkpoint(self) -> DelayedSubmission:
        """Stop the workers in good order; gives what the job shall do when it is started again."""
        from submitit.helpers import DelayedSubmission

        if self._pool:
            self._pool.stop()
        return DelayedSubmission(Job(self.folder, self.per_gpu))


def submit(folder: Path, count: int, per_gpu: int, options: Mapping[str, str]) -> list[str]:
    """Send pools to the cluster.

    Args:
        folder: of the grid, on a file system that all nodes see.
        count: of jobs in the array.
        per_gpu: workers on each GPU of a job.
        options: sbatch's, see `options_of`.

    Returns:
        The jobs' names.

    Raises:
        UserError: if there is no Slurm or no submitit here, or an option is refused.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("submitit is needed for Slurm: pip install 'promptclip[slurm]'") from None
    parameters = _parameters(options)
    try:
        executor = submitit.SlurmExecutor(folder / JOBS, max_num_timeout=10**6)
    except RuntimeError:
        raise UserError(
            "no Slurm on this machine: there is no srun; is this a login node?"
        ) from None
    executor.update_parameters(**parameters)
    try:
        with executor.batch():
            sent = [executor.submit(Job(str(folder), per_gpu)) for _ in range(count)]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch refused the jobs: {error}") from None
    ids = [job.job_id for job in sent]
    write_record({"jobs": ids}, folder / JOBS_FILE)
    return ids


def options_of(text: str) -> dict[str, str]:
    """Options from "KEY=VALUE KEY=VALUE ...", the keys being sbatch's long options.

    Raises:
        UserError: for a word without "=", or an option that is not the user's to set.
    """
    options = {}
    # A comma may also stand within a value, such as nodelist=a,b.
    for word in re.split(r"[\s,]+(?=[\w-]+=)|\s+", text.strip()) if text.strip() else ():
        key, equals, value = word.lstrip("-").partition("=")
        key = key.replace("-", "_")
        key = _SPELLINGS.get(key, key)
        if not equals or not value:
            raise UserError(f"Slurm's options are KEY=VALUE, such as partition=gpu; got {word!r}")
        if key in _OURS:
            raise UserError(f"{key} cannot be set here: {_OURS[key]}")
        options[key] = value
    return options


def _parameters(options: Mapping[str, str]) -> dict[str, Any]:
    """The same for submitit, with what it has no name for under `additional_parameters`."""
    import submitit

    known = submitit.SlurmExecutor._valid_parameters() - _NOT_SBATCH
    # A short time is found a place for sooner, and jobs are queued again when it is up.
    ours: dict[str, Any] = {"job_name": "promptclip", "stderr_to_stdout": True, "time": 240}
    ours["signal_delay_s"] = 90
    # A cluster may have jobs not queued again unless they ask for it.
    other: dict[str, Any] = {"requeue": True}
    for key, value in options.items():
        if key == "time":
            ours[key] = _minutes(value)
        elif key in ("array_parallelism", "signal_delay_s"):
            if not value.isdigit() or not int(value):
                raise UserError(f"{key} must be a whole number of at least 1, got {value!r}")
            ours[key] = int(value)
        else:
            (ours if key in known else other)[key] = value
    if 60 * ours["time"] <= ours["signal_delay_s"] + _LOOKS:
        raise UserError(
            f"a job of {ours['time']} min that is told to stop {ours['signal_delay_s']} s before "
            f"its end, or {_LOOKS} s sooner, would never get on; set a longer time or a shorter "
            "signal_delay_s"
        )
    return {**ours, "additional_parameters": other}


def _minutes(text: str) -> int:
    """Minutes of a time in one of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = _DURATION.match(text)
    if not match:
        raise UserError(f"time must be minutes, H:M:S or D-H:M:S, got {text!r}")
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"]:
        parts = [int(match["days"]) * 24 + parts[0], *parts[1:], 0, 0][:3]
    hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    total = hours * 60 + minutes + (seconds > 0)  # Slurm rounds up as well
    if not total:
        raise UserError(f"time must be at least a minute, got {text!r}")
    return total


def _is_job(name: Any) -> bool:
    """Whether something may be a job's name, such as 12_0: part of it is told to `squeue`."""
    return isinstance(name, str) and re.fullmatch(r"[0-9]+(_[0-9]+)?", name) is not None


def jobs(folder: Path) -> list[str]:
    """Jobs of this grid that Slurm has not done with.

    Raises:
        UserError: if Slurm does not answer.
    """
    file = folder / JOBS_FILE
    try:
        known = read_record(file)["jobs"]
        if not isinstance(known, list) or not all(_is_job(job) for job in known):
            raise DamagedError(f"{file} is damaged (its jobs are no names of jobs)")
    except FileNotFoundError:
        return []
    except (DamagedError, KeyError) as error:
        raise UserError(
            f"{file} does not tell which jobs were sent ({error}): look with squeue whether any of "
            "this grid are in the queue, and delete the file"
        ) from None
    arrays = ",".join(sorted({str(job).partition("_")[0] for job in known}))
    if not arrays:
        return []
    command = ["squeue", "--noheader", "--array", "--format", "%i", "--jobs", arrays]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"cannot ask Slurm for the jobs of {folder}: {error}") from None
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UserError(f"cannot ask Slurm for the jobs of {folder}: {done.stderr.strip()}")
    return done.stdout.split()
