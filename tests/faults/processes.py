"""Processes that start at the same moment, and say what they did."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grid_case

HEAD = """
import logging, os, signal, sys, time
from pathlib import Path
logging.basicConfig(stream=sys.stderr, level=logging.INFO)

def wait():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def started(code: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs some code, in which `wait()` waits for a line; killed at the end."""
    command = [sys.executable, "-c", HEAD + code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    here = str(Path(__file__).parent.parent)
    more = {**environment, "PYTHONPATH": f"{here}:{grid_case.environment()['PYTHONPATH']}"}
    environment = grid_case.environment(**more)
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> None:
    """Returns when the process waits."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", line + process.communicate()[1]


def go(process: subprocess.Popen[str]) -> None:
    """Lets it go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it has printed to both streams, if it has come to a good end."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out, errors
