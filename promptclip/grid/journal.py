"""What each worker does, as lines that are only ever added.

A worker has a file of its own, so that no two machines write to the same one, and holds it locked,
so that anybody who can read it sees whether it is alive.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from promptclip.errors import UserError
from promptclip.lock import is_locked, try_lock

JOURNAL = "journal"  # the folder
Event: TypeAlias = dict[str, Any]

# Events of a run. "start" is followed by one of the others, or by nothing if the process died.
START, DONE, FAILED, STOPPED, BUSY = "start", "done", "failed", "stopped", "busy"


class Journal:
    """The journal of this process, which counts as alive until it leaves the `with` block.

    Args:
        folder: of the grid.
        worker: a name that no other worker has had.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        file = path(folder, worker)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", encoding="utf-8")
        try:
            for _ in range(100):
                if try_lock(self._file):
                    return
                time.sleep(0.01)  # somebody is looking whether we are alive
            raise UserError(f"{file} is another worker's")
        except UserError:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __call__(self, event: str, run: int, hash: str, **more: Any) -> None:
        """Add a line about a run, told by its number in the plan and its configuration's hash."""
        content = {"time": time.time(), "event": event, "run": run, "hash": hash, **more}
        line = json.dumps(content)
        self._file.write(line + "\n")
        self._file.flush()


def path(folder: Path, worker: str) -> Path:
    """The file of a worker's journal."""
    return folder / JOURNAL / f"{worker}.jsonl"


def events(file: Path) -> list[Event]:
    """What a worker has written; a line that was cut off by its death, or damaged, is left out."""
    found: list[Event] = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                if _whole(event):
                    found.append(event)
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_seconds(value: Any) -> bool:
    """Also a day of this age; anybody may have written the line, and infinity is JSON to Python."""
    return type(value) in (int, float) and 0 <= value < 1e12


_EVENT: dict[str, Callable[[Any], bool]] = {
    "time": _is_seconds,
    "event": _is_text,
    "run": lambda value: type(value) is int,
    "hash": _is_text,
}


def _whole(event: Any) -> bool:
    """Whether something has all that an event has."""
    if not isinstance(event, dict):
        return False
    wanted = _EVENT | ({"seconds": _is_seconds} if event.get("event") == DONE else {})
    return all(key in event and fits(event[key]) for key, fits in wanted.items())


def unfinished(found: Sequence[Event]) -> Event | None:
    """The start of the run that a worker is at, or was at when it died."""
    return found[-1] if found and found[-1]["event"] == START else None


def files(folder: Path) -> list[Path]:
    """The journals of all workers that a grid has had."""
    return sorted(file for file in (folder / JOURNAL).glob("*.jsonl") if file.is_file())


def alive(file: Path) -> bool:
    """Whether the worker of a journal still runs, in another process here or elsewhere."""
    with file.open("rb") as opened:
        return is_locked(opened)
