"""A process with everything imported, whose copies train and are injured: a start takes no time.

Jobs come as lines of JSON on standard input; each is answered with the exit status of a copy that
has carried it out, negative where a signal ended it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent.parent


class Zygote:
    """The other end: `zygote(job)` gives the exit status. See `_do` for what a job may say."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1"}
        self._said = folder / "said.txt"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._said)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, **job: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job, default=str) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @property
    def said(self) -> str:
        """What the last copy has printed."""
        return self._said.read_text()

    def close(self) -> None:
        self._process.communicate()


def _do(job: dict[str, Any]) -> int:
    """What `promptclip` does with some arguments, with an injury.

    Args:
        job: `args`. Injuries: `signal` to this process `after` seconds or before the `number`-th
            call of the function `call`; `failing`, [errno, path, times]: so often, files below the
            path cannot be opened; `memory`, bytes that may be taken beyond what is.
    """
    from promptclip.cli import main

    _injure(job)
    return main(job["args"])


def training(method: str, yaml: Path, output: Path, *overrides: object, seed: int = 1) -> list[str]:
    """Arguments for a short run on the miniature benchmark."""
    from promptclip.config import configs_dir

    return [
        *("train", "--trainer", method, "--dataset-config-file", str(yaml)),
        *("--config-file", str(configs_dir() / "trainers" / method / "tiny.yaml")),
        *("--root", str(yaml.parent), "--output-dir", str(output), "--seed", str(seed)),
        *("DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3", "TRAIN.PRINT_FREQ", "1"),
        *map(str, overrides),
    ]


class Whole(NamedTuple):
    outcome: dict[str, Any]
    seconds: float


def outcome(output: Path) -> dict[str, Any]:
    """Metrics, and every learned tensor of every checkpoint, bit for bit."""
    import torch

    from promptclip import results

    result = results.read(output)
    assert result is not None
    found = {"metrics": result["metrics"], "collapse": result.get("collapse")}
    for file in sorted(output.glob("*/model*.pth.tar*")):
        state = torch.load(file, weights_only=True)["state_dict"]
        found[str(file.relative_to(output))] = {
            name: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value
            for name, value in state.items()
        }
    return found


def _injure(job: dict[str, Any]) -> None:
    number = job.get("signal")
    if after := job.get("after"):
        threading.Timer(after, os.kill, (os.getpid(), number)).start()
    elif call := job.get("call"):
        _count_calls(call, lambda count: count == job["number"] and os.kill(os.getpid(), number))
    if failing := job.get("failing"):
        _fail_to_open(*failing)
    if memory := job.get("memory"):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))


def _count_calls(name: str, before: Any) -> None:
    """Call `before` with the number of the call, before each call of a function."""
    import importlib

    module, _, attribute = name.rpartition(".")
    owner: Any
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        module, _, kind = module.rpartition(".")
        owner = getattr(importlib.import_module(module), kind)
    function = getattr(owner, attribute)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        before(calls)
        return function(*args, **kwargs)

    setattr(owner, attribute, counted)


def _fail_to_open(number: int, folder: str, times: int) -> None:
    import builtins

    function, left = builtins.open, times

    def failing(file: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if str(file).startswith(folder) and left:
            left -= 1
            raise OSError(number, os.strerror(number), str(file))
        return function(file, *args, **kwargs)

    builtins.open = failing


def _serve(said: str) -> None:
    import mini_benchmark  # noqa: F401
    import numpy.random  # noqa: F401  # which numpy imports when it is first asked

    from promptclip import plugins, run, trainer  # noqa: F401
    from promptclip.stopping import SIGNALS

    plugins.load_plugins()
    for number in SIGNALS:  # some of which a shell may have started the tests to ignore
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                with open(said, "w") as file:
                    for descriptor in (1, 2):
                        os.dup2(file.fileno(), descriptor)
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)
                status = _do(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(ended)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
