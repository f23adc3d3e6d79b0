"""The few-shot sample: CoOp's for the same seed, kept in a file that can travel and be checked."""

from __future__ import annotations

import logging
import os
import pickle
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from promptclip.errors import UserError
from promptclip.files import content_hash, read_json, write_json

log = logging.getLogger(__name__)

MAX_VAL_SHOTS = 4  # CoOp ff61507, every file in datasets/: min(num_shots, 4)

# Absolute, on a drive, with `..`, or nothing, in the notation of any system
_OUTSIDE = re.compile(r"^[\\/]|^[A-Za-z]:|(^|[\\/])\.\.([\\/]|\Z)|^\.?\Z|\0")
PARTS = ("train", "val", "test")


class Picture(NamedTuple):
    """One row of a split file: path relative to the benchmark's picture folder, with slashes."""

    path: str
    label: int
    classname: str


def read_pictures(rows: Any, source: Path) -> list[Picture]:
    """Check rows `[relative path, label, class name]` of a JSON file.

    Raises:
        UserError: if a row has another form, or its path leads out of the picture folder.
    """
    if not isinstance(rows, list):
        raise UserError(f"{source}: expected a list of pictures, got {type(rows).__name__}")
    for row in rows:
        if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
            raise UserError(f"{source}: expected [path, label, class name], got {row!r:.200}")
        if row[1] < 0:
            raise UserError(f"{source}: expected labels from 0, got {row!r:.200}")
        try:
            os.fsencode(row[0]), row[2].encode()
        except UnicodeEncodeError:  # half a character, which no file name and no prompt can have
            raise UserError(f"{source}: expected Unicode text, got {row!r:.200}") from None
        refuse_outside(row[0], source)
    return [Picture(*row) for row in rows]


def is_outside(path: str) -> bool:
    """Whether a picture's path may lead out of its folder, on any system."""
    return _OUTSIDE.search(path) is not None


def refuse_outside(path: str, source: Path) -> None:
    """Raise `UserError` if a picture's path, which `source` names, may lead out of its folder."""
    if is_outside(path):
        raise UserError(f"{source}: {path!r} leads out of the picture folder")


def read_split_file(
    path: Path, parts: Sequence[str] = PARTS, remedy: str = "put it right, or get it anew"
) -> dict[str, Any]:
    """Read a split file of CoOp's form, `{"train": [[path, label, class name], ...], ...}`.

    Args:
        path: of the file.
        parts: lists that it must have.
        remedy: what to do about an error.

    Returns:
        The file's content, with lists of `Picture` under the names of `parts`.

    Raises:
        UserError: if the file is not of that form.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise UserError(f"{path}: cannot be read as a split file ({error}); {remedy}") from error
    if not isinstance(content, dict) or not all(part in content for part in parts):
        raise UserError(f"{path}: expected an object with the lists {', '.join(parts)}; {remedy}")
    try:
        return content | {part: read_pictures(content[part], path) for part in parts}
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error


def draw(pictures: Iterable[Picture], shots: int, generator: random.Random) -> list[Picture]:
    """Draw pictures of each class, classes in order of first appearance.

    A class with fewer than `shots` pictures gives all it has and takes nothing from the
    generator, as in Dassl's `generate_fewshot_dataset`. `shots` below 1 means all.
    """
    pictures = list(pictures)
    if shots < 1:
        return pictures
    by_label: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_label.setdefault(picture.label, []).append(picture)
    return [
        picture
        for members in by_label.values()
        for picture in (generator.sample(members, shots) if len(members) >= shots else members)
    ]


def split_hash(train: Sequence[Picture], val: Sequence[Picture]) -> str:
    """Hash of what a sample says: the same pictures in the same order, wherever they lie."""
    return content_hash({"train": list(train), "val": list(val)})


def sample(
    folder: Path,
    train: Sequence[Picture],
    val: Sequence[Picture],
    *,
    benchmark: str,
    shots: int,
    seed: int,
) -> tuple[list[Picture], list[Picture]]:
    """The few-shot sample of a benchmark: read from its file, or drawn and written there.

    The file is `<folder>/shot_<k>-seed_<s>.json`. Where there is none, a pickle of that name
    left by CoOp is used, so that earlier results stay comparable. The generator is isolated:
    the sample depends on nothing but the pictures, the shots and the seed. A negative seed
    means unseeded, as in Dassl: the sample is drawn afresh and not kept.

    Args:
        folder: the benchmark's `split_fewshot` folder; made if it can be.
        train: the whole training part of the split.
        val: the whole validation part; at most 4 pictures of each class are drawn.
        benchmark: name of the benchmark, written into the file and checked.
        shots: pictures per class; below 1 means all, and no file.
        seed: CoOp's seed, the one of the run.

    Raises:
        UserError: if a saved sample is damaged, or is not a part of this benchmark's split.
    """
    if shots < 1:
        return list(train), list(val)
    _tell_scarce_classes(train, shots)
    if seed < 0:
        log.warning("%s: no seed, so the few-shot sample is another one in each run", benchmark)
        return _draw_both(train, val, shots, random.Random())

    path = sample_file(folder, shots, seed)
    identity = {"benchmark": benchmark, "shots": shots, "seed": seed}
    if path.is_file():
        return _read_sample(path, train, val, identity)
    old = path.with_suffix(".pkl")
    if old.is_file():
        log.info("Using the few-shot sample of the old file %s", old)
        drawn = read_pickle(old, train, val)
    else:
        # The same lists as random.seed(seed) and the module's functions, which CoOp uses.
        drawn = _draw_both(train, val, shots, random.Random(seed))
    try:
        write_sample(path, identity, *drawn)
    except OSError as error:
        log.info("The few-shot sample is kept in memory only: %s", error)
    return drawn


def sample_file(folder: Path, shots: int, seed: int) -> Path:
    """Where a sample is kept in a benchmark's `split_fewshot` folder."""
    return folder / f"shot_{shots}-seed_{seed}.json"


def write_sample(
    path: Path, identity: dict[str, Any], train: Sequence[Picture], val: Sequence[Picture]
) -> None:
    """Write a sample with its hash.

    Args:
        path: of the file.
        identity: the benchmark, the shots and the seed, which `sample` checks.
        train: the pictures.
        val: the validation pictures.

    Raises:
        OSError: if the folder cannot be written.
    """
    content = {"split_hash": split_hash(train, val), "train": list(train), "val": list(val)}
    write_json(identity | content, path, indent=None)


def read_pickle(
    path: Path, train: Sequence[Picture], val: Sequence[Picture]
) -> tuple[list[Picture], list[Picture]]:
    """Read a few-shot sample that CoOp pickled, without running anything that it may hold.

    Its paths are absolute and may be those of another machine: a picture is recognised by the
    longest end of its path that is a path of the split.

    Raises:
        UserError: if the file holds anything but pictures of this split.
    """
    try:
        with path.open("rb") as file:
            content = _DatumUnpickler(file).load()
        parts = [
            [(d["_impath"], d["_label"], d["_classname"]) for d in map(vars, content.get(part, []))]
            for part in ("train", "val")
        ]
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path}: not a few-shot sample of CoOp ({error}); delete it to draw the sample anew"
        ) from error
    remedy = "delete the file to draw the sample anew"
    return recognise(parts[0], train, path, remedy), recognise(parts[1], val, path, remedy)


def recognise(
    rows: Iterable[tuple[Any, Any, Any]], whole: Iterable[Picture], source: Path, remedy: str
) -> list[Picture]:
    """The pictures of `whole` that rows mean.

    Args:
        rows: path, label and class name; the longest end of a path that is known counts.
        whole: the part of the split that the rows are drawn from.
        source: the file that the rows are from.
        remedy: what to do if one is not recognised.

    Raises:
        UserError: if a row means no picture of `whole`.
    """
    known = {picture.path: picture for picture in whole}
    found = []
    for impath, label, classname in rows:
        picture = next((known[end] for end in path_ends(impath) if end in known), None)
        if picture is None or (picture.label, picture.classname) != (label, classname):
            raise UserError(
                f"{source}: {impath!r} ({label!r}, {classname!r}) is not in the split of this "
                f"benchmark; {remedy}"
            )
        found.append(picture)
    return found


def path_ends(path: Any) -> Iterator[str]:
    """A path of any machine without more and more of its first folders: "a/b/c", "b/c", "c"."""
    parts = str(path).replace("\\", "/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


class _DatumUnpickler(pickle._Unpickler):
    """Admits one name, Dassl's `Datum`, and gives an inert record in its place.

    The base is written in Python: the one in C allocates a table as long as the largest index that
    a pickle names.
    """

    def find_class(self, module: str, name: str) -> type:
        if (module, name) != ("dassl.data.datasets.base_dataset", "Datum"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        # A new class each time: what a pickle does to it cannot reach the next file.
        return type("Datum", (), {})


def _draw_both(
    train: Sequence[Picture], val: Sequence[Picture], shots: int, generator: random.Random
) -> tuple[list[Picture], list[Picture]]:
    return draw(train, shots, generator), draw(val, min(shots, MAX_VAL_SHOTS), generator)


def _read_sample(
    path: Path, train: Sequence[Picture], val: Sequence[Picture], identity: dict[str, Any]
) -> tuple[list[Picture], list[Picture]]:
    remedy = "delete the file to draw the sample anew"
    content = read_split_file(path, ("train", "val"), remedy)
    for key, expected in identity.items():
        if content.get(key) != expected:
            raise UserError(f"{path}: expected {key} {expected}, got {content.get(key)}; {remedy}")
    drawn: tuple[list[Picture], list[Picture]] = content["train"], content["val"]
    if content.get("split_hash") != split_hash(*drawn):
        raise UserError(f"{path}: the pictures do not match the file's split_hash; {remedy}")
    for part, whole in zip(drawn, (train, val), strict=True):
        for picture in sorted(set(part).difference(whole)):
            raise UserError(
                f"{path}: {picture.path} ({picture.label}, {picture.classname}) is not in the "
                f"split of this benchmark, which must have changed; {remedy}"
            )
    return drawn


def _tell_scarce_classes(train: Sequence[Picture], shots: int) -> None:
    counts = Counter((picture.label, picture.classname) for picture in train)
    scarce = [(count, name) for (_, name), count in counts.items() if count < shots]
    if scarce:
        count, name = min(scarce)
        log.warning(
            "%d of %d classes have fewer than %d training pictures (%r has %d): all are used",
            len(scarce),
            len(counts),
            shots,
            name,
            count,
        )
