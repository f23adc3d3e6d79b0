"""Files that are either complete or not there, and hashes of what they say."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_json(content: Any, path: Path, *, indent: int | None = 1) -> None:
    """Write a JSON file in one step: a reader finds the old file or the whole new one.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if `content` holds a number that JSON does not have (NaN, infinity).
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_bytes((text + "\n").encode(), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file in one step: a reader finds the old file or the whole new one.

    Raises:
        OSError: if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two runs that write the same file from sharing a temporary one.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def user_cache() -> Path:
    """The folder for what can be made again, which need not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "promptclip"


def content_hash(content: Any) -> str:
    """SHA-256 of JSON content, the same on every machine and whatever the order of keys."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()
