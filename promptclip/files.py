"""Files that are either complete or not there, and hashes of what they say."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptclip.errors import UserError

_CHECKSUM = "checksum"


class DamagedError(UserError):
    """A file is not as promptclip wrote it."""


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON in UTF-8, or no file: a pipe would be waited for, and a device
            has no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_mapping(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        remedy: what to do if it is not whole.

    Raises:
        UserError: if it cannot be read or holds something else.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}){end}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got {type(content).__name__}{end}")
    return content


def write_record(content: Mapping[str, Any], path: Path, *, indent: int | None = 1) -> None:
    """Write a JSON object in one step, with a checksum by which `read_record` notices damage.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if `content` holds a number that JSON does not have (NaN, infinity).
    """
    content = {key: value for key, value in content.items() if key != _CHECKSUM}
    write_json(content | {_CHECKSUM: content_hash(content)}, path, indent=indent)


def read_record(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """The content of a file of `write_record`, without the checksum.

    Args:
        path: of the file.
        sealed: refuse a file without a checksum, as earlier versions wrote some.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedError: if it holds something else than was written.
    """
    try:
        return checked(read_json(path), path, sealed=sealed)
    except DamagedError:
        raise
    except ValueError as error:
        raise DamagedError(f"{path} is damaged ({error})") from None


def checked(content: Any, path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """The same for what a file holds, where it has been read already; the checksum is taken out.

    Raises:
        DamagedError: if it is something else than was written.
        ValueError: if it holds a number that JSON does not have.
    """
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged (it holds no object of JSON)")
    checksum = content.pop(_CHECKSUM, None)
    if checksum != content_hash(content) and (sealed or checksum is not None):
        raise DamagedError(f"{path} is damaged (its checksum does not fit)")
    return content


def write_json(content: Any, path: Path, *, indent: int | None = 1) -> None:
    """Write a JSON file in one step: a reader finds the old file or the whole new one.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if `content` holds a number that JSON does not have (NaN, infinity).
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair, as in the name of a file that is no UTF-8, is an escape in JSON.
    write_bytes((text + "\n").encode(errors="backslashreplace"), path)


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
    return (Path(home) if home else expanded("~/.cache")) / "promptclip"


def expanded(path: str) -> Path:
    """A path with the home folder in the place of ~.

    Raises:
        UserError: if there is no such folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: nobody knows the home folder that ~ stands for; set HOME, or give the path"
        ) from error


def content_hash(content: Any) -> str:
    """SHA-256 of JSON content, the same on every machine and whatever the order of keys."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()
