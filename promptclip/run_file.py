"""`run.json`: what a folder is for, written before its first number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptclip.files import DamagedError, read_record, write_record

RUN_FILE = "run.json"


def write(purpose: Mapping[str, Any], cfg: Mapping[str, Any], folder: Path) -> None:
    """Write down what a run is, and its whole configuration.

    Raises:
        OSError: if the folder cannot be written.
    """
    write_record({**purpose, "config": json.loads(json.dumps(cfg))}, folder / RUN_FILE)


def read(folder: Path) -> dict[str, Any] | None:
    """What `write` wrote; None if it has not yet.

    Raises:
        DamagedError: if that cannot be told any more.
    """
    try:
        content = read_record(folder / RUN_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not {"config_hash", "config"} <= content.keys():
        raise DamagedError(f"{folder / RUN_FILE} is damaged (it does not say what the run is)")
    return content
