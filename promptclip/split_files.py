"""Splits and few-shot samples made, read from the files of others, and written for them.

Read are: CoOp's split file and its pickled few-shot samples; the JSON samples of
linzhiqiu/cross_modal_adaptation (commit ac9077e, `indices/`); the JSON Lines samples of
FarinaMatteo/rethinking_fewshot_vlms (64ac143, "2SFS"); and what `export` writes. Paths of other
machines are recognised by their ends. No file can run code.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptclip import data_sets, plugins, splits
from promptclip.config import build_cfg
from promptclip.errors import UserError
from promptclip.few_shot import (
    PARTS,
    Picture,
    is_outside,
    path_ends,
    read_pickle,
    recognise,
    sample,
    sample_file,
    split_hash,
    write_sample,
)
from promptclip.files import read_json, write_bytes

if TYPE_CHECKING:
    from promptclip.benchmark import Benchmark

log = logging.getLogger(__name__)

FIELDS = ("path", "label", "classname", "split")
# What others call them
_NAMES = {
    "path": ("path", "impath", "_impath"),
    "label": ("label", "_label"),
    "classname": ("classname", "_classname"),
}
_SAMPLE_NAME = re.compile(r"shot_(\d+)-seed_(\d+)")
_Row = tuple[str, int, str]
_Rows = dict[str, list[_Row]]  # by part


def place_of(dataset: str, root: str = "") -> Benchmark:
    """A benchmark's place on disk, see `Benchmark.at`.

    Args:
        dataset: as `promptclip.data_sets.find` takes it.
        root: the folder that holds the data sets.

    Raises:
        UserError: if there is no such benchmark.
    """
    plugins.load_plugins()
    from dassl.data.datasets import DATASET_REGISTRY

    from promptclip.benchmark import Benchmark

    data = data_sets.find(dataset)
    cfg = build_cfg("ZeroshotCLIP", data.file, "", root=root, overrides=data.overrides)
    kind = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if not (isinstance(kind, type) and issubclass(kind, Benchmark)):
        raise UserError(
            f"{cfg.DATASET.NAME} reads its own split, which only its plug-in can write: expected "
            "a benchmark of promptclip"
        )
    place = kind.at(cfg)
    if not os.path.isdir(place.image_dir):
        raise UserError(
            f"{cfg.DATASET.NAME}: expected pictures in {place.image_dir}, which is not there"
        )
    return place


def make(place: Benchmark, seed: int) -> Path:
    """Make a split file by the rule of `promptclip.splits`, where there is none.

    Returns:
        The file.

    Raises:
        UserError: if a published split is there, or another one of ours, or if the lists that the
            data set comes with cannot be understood.
    """
    _refuse_needless(place)
    try:
        split = place.make_split(seed)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{place.dataset_dir}: the lists of the data set are damaged or of another version "
            f"({type(error).__name__}: {error})"
        ) from error
    place.check_split([split[part] for part in PARTS], place.dataset_dir)
    _write_split(place, split, splits.made_here(seed))
    return Path(place.our_split_path)


def take_over(
    file: Path, place: Benchmark, shots: int | None = None, seed: int | None = None
) -> None:
    """Read a split or a few-shot sample of others and keep it as ours.

    A file with a test part is a whole split, any other a few-shot sample of the present split.

    Args:
        file: with the suffix .pkl, .json, .jsonl or .csv.
        place: of the benchmark.
        shots: of a sample; None takes it from the file's name.
        seed: likewise.

    Raises:
        UserError: if the file is of another form, names what the benchmark does not have, or
            something else is kept already.
    """
    if not file.is_file():
        raise UserError(f"{file}: expected a file with a split or a sample, there is none")
    if file.suffix == ".pkl":
        _keep_sample(file, place, None, shots, seed)
        return
    if file.match("*_val.jsonl") and _sibling(file, "_val", "_train").is_file():
        log.info("%s belongs to %s and is read with it", file, _sibling(file, "_val", "_train"))
        return
    rows = read_rows(file)
    if rows.get("test"):
        _refuse_needless(place)
        split = {part: _on_disk(rows.get(part, []), place, file) for part in PARTS}
        place.check_split([split[part] for part in PARTS], file)
        _write_split(place, split, {"origin": f"import of {file.name}"})
    else:
        _keep_sample(file, place, rows, shots, seed)


def export(place: Benchmark, file: Path, shots: int | None = None, seed: int | None = None) -> None:
    """Write the split that runs use, or a few-shot sample of it, with relative paths.

    Args:
        place: of the benchmark.
        file: .json for CoOp's form, .jsonl or .csv for a row for each picture.
        shots: of a few-shot sample; None writes the whole split.
        seed: of a few-shot sample.

    Raises:
        UserError: if the file is there already, has another suffix or cannot be written, or if
            there is no such sample.
    """
    if file.exists():
        raise UserError(f"{file} is there already; give another name")
    place.check_layout()
    train, val, test = place.read_split()
    parts = {"train": train, "val": val or [], "test": test}
    name = type(place).__name__
    if shots is not None and seed is not None:
        _check_numbers(shots, seed)
        drawn = sample(
            Path(place.sample_dir), train, val or [], benchmark=name, shots=shots, seed=seed
        )
        parts = dict(zip(("train", "val"), drawn, strict=True))
    try:
        if file.suffix == ".json" and "test" in parts:
            splits.write(parts, file, {"origin": place.split_origin})
        elif file.suffix == ".json":
            identity = {"benchmark": name, "shots": shots, "seed": seed}
            write_sample(file, identity, parts["train"], parts["val"])
        elif file.suffix in (".jsonl", ".csv"):
            write_bytes(_lines(parts, file.suffix).encode(errors="surrogateescape"), file)
        else:
            raise UserError(f"{file}: expected a name that ends with .json, .jsonl or .csv")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error})") from error
    digest = splits.parts_hash(parts) if "test" in parts else split_hash(*parts.values())
    log.info("%s: %s of %s, hash %s", file, _counts(parts), name, digest[:12])


def read_rows(file: Path) -> _Rows:
    """Rows of a .json, .jsonl or .csv file by part.

    Raises:
        UserError: if it is of another form.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if file.suffix not in readers:
        raise UserError(f"{file}: expected .pkl, {', '.join(readers)}, got {file.suffix or 'none'}")
    try:
        rows = readers[file.suffix](file)
    except UserError:
        raise
    # ValueError: not JSON, not UTF-8; RecursionError: JSON of a thousand brackets
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as {file.suffix} ({error})") from error
    if not rows.get("train"):
        raise UserError(f"{file}: expected pictures for training, there are none")
    return rows


def _read_json(file: Path) -> _Rows:
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object with train, val or test")
    rows = {}
    for part in PARTS:
        members = content.get(part, [])
        if isinstance(members, dict):  # of cross_modal_adaptation, beside "indices"
            members = members.get("data")
        if not isinstance(members, list):
            raise UserError(f"{file}: expected a list of pictures in {part}")
        rows[part] = [_row(member, file) for member in members]
    return rows


def _read_jsonl(file: Path) -> _Rows:
    rows: _Rows = {part: [] for part in PARTS}
    files = {"": file}
    if file.stem.endswith("_train"):  # of 2SFS: a file for each part
        files = {"train": file, "val": _sibling(file, "_train", "_val")}
    for part, one in files.items():
        if part == "val" and not one.is_file():
            continue
        for line in one.read_text(encoding="utf-8").splitlines():
            if line.strip():
                record = json.loads(line)
                rows[_part(record, part, one)].append(_row(record, one))
    return rows


def _read_csv(file: Path) -> _Rows:
    rows: _Rows = {part: [] for part in PARTS}
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        for record in reader:
            rows[_part(record, "", file)].append(_row(record, file))
    return rows


def _part(record: Any, part: str, file: Path) -> str:
    """The part that a record belongs to, if its file does not say it."""
    part = part or (str(record.get("split")) if isinstance(record, dict) else "")
    if part not in PARTS:
        raise UserError(
            f"{file}: expected split train, val or test in each row, got {record!r:.200}"
        )
    return part


def _row(record: Any, file: Path) -> _Row:
    if isinstance(record, Mapping):
        values = [
            next((record[n] for n in names if n in record), None) for names in _NAMES.values()
        ]
    else:
        values = record if isinstance(record, list) and len(record) == 3 else [None] * 3
    path, label, classname = values
    if isinstance(label, str) and label.isdecimal():  # of a CSV file
        label = int(label)
    if not isinstance(path, str) or type(label) is not int or not isinstance(classname, str):
        raise UserError(f"{file}: expected path, label and class name, got {record!r:.200}")
    if label < 0:
        raise UserError(f"{file}: expected labels from 0, got {record!r:.200}")
    return path, label, classname


def _sibling(file: Path, old: str, new: str) -> Path:
    return file.with_name(f"{file.stem.removesuffix(old)}{new}{file.suffix}")


def _on_disk(rows: Sequence[_Row], place: Benchmark, file: Path) -> list[Picture]:
    """Pictures with the longest end of each path that is a file of the benchmark."""
    pictures = []
    for path, label, classname in rows:
        ends = [end for end in path_ends(path) if not is_outside(end)]
        found = (end for end in ends if os.path.isfile(os.path.join(place.image_dir, end)))
        if (end := next(found, None)) is None:
            raise UserError(f"{file}: no end of {path!r} is a picture in {place.image_dir}")
        pictures.append(Picture(end, label, classname))
    return pictures


def _refuse_needless(place: Benchmark) -> None:
    """Raise `UserError` where a split file of ours would not be read."""
    if not place.needs_split:
        name = type(place).__name__
        raise UserError(f"{name}: {place.dataset_dir} has parts of its own and needs no split file")
    published = Path(place.dataset_dir, place.split_file)
    if place.split_file and published.is_file():
        raise UserError(f"{published} is there and counts; no other split is kept beside it")


def _write_split(place: Benchmark, split: splits.Split, marks: Mapping[str, Any]) -> None:
    path = place.our_split_path
    state = "made"
    if path.is_file():
        if splits.parts_hash(splits.read(path)) != splits.parts_hash(split):
            raise UserError(f"{path} holds another split; delete it first, and results with it")
        state = "there already"
    else:
        try:
            splits.write(split, path, marks)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error})") from error
    log.info("%s: %s, %s, hash %s", path, state, _counts(split), splits.parts_hash(split)[:12])


def _keep_sample(
    file: Path, place: Benchmark, rows: _Rows | None, shots: int | None, seed: int | None
) -> None:
    """Write a few-shot sample where runs look for it."""
    named = _SAMPLE_NAME.search(file.name)
    shots = shots if shots is not None else int(named[1]) if named else None
    seed = seed if seed is not None else int(named[2]) if named else None
    if shots is None or seed is None:
        raise UserError(f"{file}: its name does not say shot_K-seed_S; give --shots and --seed")
    _check_numbers(shots, seed)
    place.check_layout()
    train, val, _ = place.read_split()
    if rows is None:
        drawn = read_pickle(file, train, val or [])
    else:
        remedy = "the file was made from another split"
        if val is None and rows.get("val"):
            log.info("%s: %s has no validation part, those of the file are left out", file,
                     type(place).__name__)  # fmt: skip
        drawn = (
            recognise(rows["train"], train, file, remedy),
            recognise(rows["val"] if val is not None else (), val or [], file, remedy),
        )
    _check_sample(drawn[0], train, shots, file)
    path = sample_file(Path(place.sample_dir), shots, seed)
    name = type(place).__name__
    if path.is_file():
        kept = sample(path.parent, train, val or [], benchmark=name, shots=shots, seed=seed)
        if kept != drawn:
            raise UserError(f"{path} holds another sample; delete it first, and results with it")
    identity = {"benchmark": name, "shots": shots, "seed": seed, "origin": f"import of {file.name}"}
    try:
        write_sample(path, identity, *drawn)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    counts = _counts({"train": drawn[0], "val": drawn[1]})
    log.info("%s: %s, hash %s", path, counts, split_hash(*drawn)[:12])


def _check_numbers(shots: int, seed: int) -> None:
    """Only such a sample is kept and can be had again."""
    if shots < 1 or seed < 0:
        raise UserError(
            f"a few-shot sample has --shots of at least 1 and --seed of at least 0, got {shots} "
            f"and {seed}"
        )


def _check_sample(
    drawn: Sequence[Picture], train: Sequence[Picture], shots: int, file: Path
) -> None:
    """Each class has pictures, no more than `shots`, and none twice."""
    counts = Counter(picture.label for picture in drawn)
    names = {picture.label: picture.classname for picture in train}
    for label, name in names.items():
        if not 1 <= counts[label] <= shots:
            raise UserError(
                f"{file}: expected 1 to {shots} training pictures of class {name!r}, got "
                f"{counts[label]}"
            )
    if len(set(drawn)) < len(drawn):
        twice = next(picture for picture in drawn if drawn.count(picture) > 1)
        raise UserError(f"{file}: {twice.path} is there twice")


def _lines(parts: Mapping[str, Sequence[Picture]], suffix: str) -> str:
    rows = [dict(zip(FIELDS, (*p, part), strict=True)) for part in parts for p in parts[part]]
    if suffix == ".jsonl":
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _counts(parts: Mapping[str, Sequence[Picture]]) -> str:
    counts = ", ".join(f"{len(members)} {part}" for part, members in parts.items())
    return f"{counts} pictures"
