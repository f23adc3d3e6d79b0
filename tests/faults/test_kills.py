"""Runs that are killed or stopped, and started again, end as if nothing had happened."""

from __future__ import annotations

import random
import signal

import pytest
from faults.zygote import outcome, training

from promptclip import plugins, results

METHODS = sorted(plugins.methods())
KILLS = 4  # of each method
STEPS = ("TRAIN.CHECKPOINT_STEPS", 1)


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments(method, mini, tmp_path, zygote, whole, count):
    options = random.Random(method).choice([(), STEPS])
    expected = whole(method, *options)
    moments, output = random.Random(method), tmp_path / "run"
    killed = 0
    for number in range(20 * KILLS):
        after = moments.uniform(0.01, expected.seconds)
        args = training(method, mini, output, *options)
        status = zygote(args=args, signal=signal.SIGKILL, after=after)
        assert status in (0, -signal.SIGKILL), zygote.said
        killed += status != 0
        if killed == KILLS:
            break
        if status == 0:  # the kill came too late: once more from the start
            assert outcome(output) == expected.outcome
            output = tmp_path / f"run{number}"
    assert killed == KILLS
    assert zygote(args=args) == 0, zygote.said
    assert outcome(output) == expected.outcome
    count("kills survived", killed)


# Every moment at which something changes on the disk, and between them every batch.
CALLS = {
    "os.fsync": "before a file is on the disk",
    "os.replace": "before a file of the runtime takes its place",
    "pathlib.Path.replace": "before a file of ours takes its place",
    "promptclip.trainer.PromptTrainer.parse_batch_train": "before a step",
    "promptclip.trainer.PromptTrainer.parse_batch_test": "in a test",
}


@pytest.mark.parametrize("options", [(), (*STEPS, "TEST.FINAL_MODEL", "best_val")], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_every_call(call, options, mini, tmp_path, zygote, whole, count):
    expected = whole("MaPLe", *options).outcome
    for number in range(1, 100):
        args = training("MaPLe", mini, tmp_path / str(number), *options)
        status = zygote(args=args, signal=signal.SIGKILL, call=call, number=number)
        if status == 0:  # there were not so many calls
            break
        assert status == -signal.SIGKILL, zygote.said
        assert results.read(tmp_path / str(number)) is None
        assert zygote(args=args) == 0, zygote.said
        assert outcome(tmp_path / str(number)) == expected
    assert number > 1
    count("kills survived", number - 1)


@pytest.mark.parametrize("number", [1, 4, 6])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_stopped_within_an_epoch(name, number, mini, tmp_path, zygote, whole, count):
    """After the step there is a file to go on from, and no step is done twice."""
    expected, stop = whole("CoOp").outcome, getattr(signal, name)
    args = training("CoOp", mini, tmp_path / "run")
    call = "promptclip.trainer.PromptTrainer.parse_batch_train"
    assert zygote(args=args, signal=stop, call=call, number=number) == 128 + stop
    assert f"stopped by {name}; start again to go on" in zygote.said
    assert results.read_failure(tmp_path / "run") is None
    assert zygote(args=args) == 0, zygote.said
    assert outcome(tmp_path / "run") == expected
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert sum(line.startswith("epoch [") for line in lines) == 6
    count("stops obeyed")


def test_stopped_at_random_moments(mini, tmp_path, zygote, whole, count):
    expected, moments = whole("DAPT"), random.Random(0)
    args, stopped = training("DAPT", mini, tmp_path / "run"), 0
    for number in range(12):
        stop = (signal.SIGINT, signal.SIGTERM)[number % 2]
        status = zygote(args=args, signal=stop, after=moments.uniform(0.05, expected.seconds / 3))
        assert status in (0, 128 + stop), zygote.said
        stopped += status != 0
    assert stopped > 3
    assert zygote(args=args) == 0, zygote.said
    assert outcome(tmp_path / "run") == expected.outcome
    count("stops obeyed", stopped)
