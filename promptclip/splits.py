"""Splits made here, where a benchmark or a folder of pictures comes without one.

The rule has no state and no generator: the pictures of a class are put in the order of the
SHA-256 of "<seed> <path>" and cut. So a split depends on nothing but the paths and the seed, and a
picture that is added moves few others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from promptclip.errors import UserError
from promptclip.few_shot import PARTS, Picture, read_split_file
from promptclip.files import content_hash, write_json

Split: TypeAlias = dict[str, list[Picture]]  # the three PARTS

# CoOp ff61507: datasets/dtd.py cuts classes into 50, 20 and 30 %, datasets/oxford_pets.py takes
# 20 % of what a data set has for training as validation pictures.
TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
RULE = "the pictures of a class in the order of SHA-256 of '<seed> <path>'"
SEED = 1


def three_parts(pictures: Iterable[Picture], seed: int = SEED) -> Split:
    """Cut each class: half for training, a fifth for validation, the rest for the test.

    The last is never empty: of three pictures two are for training and one for the test.

    Raises:
        UserError: if a class has only one picture.
    """
    split: Split = {part: [] for part in PARTS}
    for members in _by_class(pictures, seed):
        total = len(members)
        if total < 2:
            raise UserError(
                f"class {members[0].classname!r} has one picture, {members[0].path}; at least two "
                "are needed, for training and for the test"
            )
        train = round(total * TRAIN_SHARE)
        val = min(round(total * VAL_SHARE), total - train - 1)
        split["train"] += members[:train]
        split["val"] += members[train : train + val]
        split["test"] += members[train + val :]
    return _ordered(split)


def with_validation(
    trainval: Iterable[Picture], test: Iterable[Picture], seed: int = SEED
) -> Split:
    """Keep a data set's own test part, and take a fifth of each class's others for validation."""
    split: Split = {"train": [], "val": [], "test": list(test)}
    for members in _by_class(trainval, seed):
        val = min(round(len(members) * VAL_SHARE), len(members) - 1)
        split["val"] += members[:val]
        split["train"] += members[val:]
    return _ordered(split)


def parts_hash(split: Mapping[str, Sequence[Picture]]) -> str:
    """Hash of what a split says, whatever the form of its file."""
    return content_hash({part: list(split[part]) for part in PARTS})


def made_here(seed: int = SEED) -> dict[str, Any]:
    """What a split file of ours says of where it is from."""
    return {"origin": f"promptclip split, seed {seed}", "rule": RULE}


def write(split: Split, path: Path, marks: Mapping[str, Any]) -> None:
    """Write a split file, with its hash and the marks that tell it from CoOp's.

    Raises:
        OSError: if the folder cannot be written.
    """
    content = {**marks, "split_hash": parts_hash(split)}
    write_json(content | {part: split[part] for part in PARTS}, path, indent=None)


def read(path: Path) -> dict[str, Any]:
    """Read a split file, CoOp's or one that `write` has written.

    Returns:
        The parts, and whatever else it holds.

    Raises:
        UserError: if it is damaged, or has been changed by hand without taking away its hash.
    """
    try:
        content = read_split_file(path)
    except UserError as error:
        raise UserError(
            f"{error}; get the file again, or delete one that promptclip has made"
        ) from error
    if content.get("split_hash", parts_hash(content)) != parts_hash(content):
        raise UserError(
            f"{path}: the pictures do not match the file's split_hash; delete the file and make "
            "it anew with `promptclip data split`"
        )
    return content


def read_json_mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def read_mat(path: Path, name: str) -> Any:
    """A variable of a Matlab file, as a numpy array.

    Raises:
        UserError: if the file cannot be read, or has no such variable.
    """
    from scipy.io import loadmat

    try:
        return loadmat(path)[name]
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: no variable {name!r} can be read ({error})") from error


def _by_class(pictures: Iterable[Picture], seed: int) -> list[list[Picture]]:
    classes: dict[int, list[Picture]] = {}
    for picture in pictures:
        classes.setdefault(picture.label, []).append(picture)
    return [
        sorted(classes[label], key=lambda p: hashlib.sha256(f"{seed} {p.path}".encode()).digest())
        for label in sorted(classes)
    ]


def _ordered(split: Split) -> Split:
    return {
        part: sorted(members, key=lambda p: (p.label, p.path)) for part, members in split.items()
    }
