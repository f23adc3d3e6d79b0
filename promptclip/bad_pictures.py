"""Pictures that cannot be read, and are left out of a run where DATASET.BAD_IMAGES is "skip".

The few-shot sample is drawn first and a picture that is left out is not replaced, so that the
samples of all users agree but for what is damaged on a disk. Which pictures those are is decided
once for a run, by decoding all that it has: a resumed run goes by the list of its first start.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from promptclip import pictures as picture_files
from promptclip.errors import UserError, printable
from promptclip.few_shot import PARTS, Picture
from promptclip.files import DamagedError, content_hash, read_record, write_record
from promptclip.pictures import UnreadableError

if TYPE_CHECKING:
    from yacs.config import CfgNode

log = logging.getLogger(__name__)

RECORD = "skipped.json"  # in the folder of a run that can be resumed
NAMED = 5  # pictures of a part that a result names
_CHUNK = 64  # pictures that a thread takes at once

Skipped: TypeAlias = dict[str, dict[str, str]]  # part -> path -> why


def wanted(cfg: CfgNode) -> bool:
    """Whether a configuration asks for it; Dassl's own defaults do not know the key."""
    return bool(cfg.DATASET.get("BAD_IMAGES", "error") == "skip")


def check_support(cfg: CfgNode, dataset: Any) -> None:
    """Refuse to skip pictures of a data set that would not do so.

    Raises:
        UserError: if it is none of promptclip's benchmarks.
    """
    if wanted(cfg) and getattr(dataset, "skipped", None) is None:
        raise UserError(
            f"{type(dataset).__name__} is no benchmark of promptclip and does not skip pictures; "
            "set DATASET.BAD_IMAGES error"
        )


def leave_out(
    parts: Sequence[Sequence[Picture]], place: Callable[[Picture], str], output: str
) -> tuple[list[list[Picture]], Skipped]:
    """The parts of a run without the pictures that cannot be read.

    Args:
        parts: training, validation and test pictures.
        place: gives the path of a picture on the disk.
        output: folder of the run, which may hold the list of an earlier start.

    Returns:
        The parts, and what was left out of them.

    Raises:
        UserError: if a class loses all its training or test pictures, or a disk fails.
    """
    record = Path(output, RECORD)
    if record.is_file():
        skipped = _recalled(record)
    else:
        everything = {place(picture): None for part in parts for picture in part}
        bad = _unreadable(list(everything))
        skipped = {
            name: {p.path: bad[place(p)] for p in part if place(p) in bad}
            for name, part in zip(PARTS, parts, strict=True)
        }
    kept = []
    for name, part in zip(PARTS, parts, strict=True):
        kept.append([picture for picture in part if picture.path not in skipped[name]])
        for path, why in skipped[name].items():
            log.warning("left out of the %s pictures: %s (%s)", name, printable(path), why)
        if name != "val":
            _refuse_lost_classes(name, part, kept[-1], skipped[name])
    return kept, skipped


def remember(dataset: Any, output: str) -> None:
    """Leave a list of what was left out for the time when the run is resumed."""
    if getattr(dataset, "skipped", None) is not None:
        write_record(dataset.skipped, Path(output, RECORD))


def summary(skipped: Skipped) -> dict[str, dict[str, Any]]:
    """What a result says of it: for each part the number, the first paths, a hash of all."""
    return {
        part: {
            "number": len(paths),
            "first": list(paths)[:NAMED],
            "hash": content_hash(sorted(paths)),
        }
        for part, paths in skipped.items()
    }


def _recalled(record: Path) -> Skipped:
    remedy = f"delete the folder {record.parent} to run it anew"
    try:
        content = read_record(record)
    except DamagedError as error:
        raise DamagedError(f"{error}; {remedy}") from None
    if content.keys() != set(PARTS) or not all(isinstance(p, dict) for p in content.values()):
        raise UserError(f"{record}: expected the parts {', '.join(PARTS)}; {remedy}")
    return content


def _unreadable(paths: Sequence[str]) -> dict[str, str]:
    """Why a picture cannot be read, by its path."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    bad: dict[str, str] = {}
    with picture_files.quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(_decoded, chunks):
            bad |= found
    return bad


def _decoded(paths: Iterable[str]) -> dict[str, str]:
    bad = {}
    for path in paths:
        try:
            picture_files.rgb(path)
        except UnreadableError as error:
            if not error.lasting:  # it may be whole, and another start would find it so
                raise UserError(
                    f"{path}: whether the picture can be read is not known ({error}); see to the "
                    "disk or the permissions, and start again"
                ) from error
            bad[path] = str(error)
    return bad


def _refuse_lost_classes(
    part: str, before: Sequence[Picture], after: Sequence[Picture], skipped: Mapping[str, str]
) -> None:
    count = Counter((picture.label, picture.classname) for picture in before)
    lost = count.keys() - {(picture.label, picture.classname) for picture in after}
    if lost:
        label, name = min(lost)
        first = next(picture.path for picture in before if picture.label == label)
        raise UserError(
            f"none of the {count[label, name]} {part} pictures of class {name!r} can be read, such "
            f"as {first} ({skipped[first]}); replace them: a class cannot be left out"
        )
