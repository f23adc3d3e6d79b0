"""A user's own pictures as a benchmark: a folder or a CSV index, and no code.

Three forms are read:

- a folder with `train/`, `test/` and perhaps `val/`, each with one sub-folder per class;
- a folder with one sub-folder per class, which is split by the rule of `promptclip.splits`;
- a CSV file with the columns `path`, `classname` or `label`, and perhaps `split`.

Beside them may lie `classnames.txt` (folder, space, class name) and `template.txt`.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from promptclip import pictures as picture_files
from promptclip import splits
from promptclip.benchmark import list_class_folders, read_classnames
from promptclip.errors import UserError, printable
from promptclip.few_shot import PARTS, Picture, refuse_outside
from promptclip.files import content_hash
from promptclip.pictures import SUFFIXES

log = logging.getLogger(__name__)

LITTER = frozenset({"thumbs.db", "desktop.ini"})  # left by systems, no word about them
TEMPLATE = "a photo of a {}."
COLUMNS = ("path", "label", "classname", "split")
_PART_NAMES = {name: name for name in PARTS} | {"valid": "val", "validation": "val"}
_SAMPLES = "split_fewshot"
_Parts: TypeAlias = "tuple[list[Picture], list[Picture] | None, list[Picture]]"


@dataclass(frozen=True)
class OwnData:
    """What a folder or an index says.

    Attributes:
        folder: that the paths of the pictures are relative to.
        parts: training, validation and test pictures. Validation is None where there is none of
            its own; all is None as long as the pictures are not split.
        pictures: all, before they are split.
        template: prompt with `{}` for the class name.
        remarks: what lies there and is left out.
    """

    path: Path
    folder: Path
    parts: _Parts | None
    pictures: list[Picture]
    template: str
    remarks: tuple[str, ...] = ()

    @property
    def sample_dir(self) -> Path:
        """The folder of the few-shot samples."""
        below = () if self.path == self.folder else (self.path.stem,)
        return Path(self.folder, _SAMPLES, *below)

    @property
    def split_path(self) -> Path:
        """The split file: beside the pictures, or in the user's cache where nobody may write."""
        name = "split_promptclip.json"
        beside = self.folder / (name if self.path == self.folder else f"{self.path.stem}.{name}")
        if beside.is_file() or os.access(self.folder, os.W_OK):
            return beside
        from promptclip.emoji import default_root

        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return default_root() / "splits" / f"{self.path.stem}-{digest}.json"

    @cached_property
    def split(self) -> tuple[_Parts, str]:
        """The parts, and where they are from: "own", or what the split file says.

        Raises:
            UserError: if there is a split file and the pictures have changed since.
        """
        if self.parts is not None:
            return self.parts, "own"
        if self.split_path.is_file():
            content = splits.read(self.split_path)
            self.check_split(content, self.split_path)
            parts = content["train"], content["val"], content["test"]
            return parts, str(content.get("origin", "own"))
        split = splits.three_parts(self.pictures)
        return (split["train"], split["val"], split["test"]), splits.made_here()["origin"]

    @cached_property
    def hash(self) -> str:
        """Hash of all that can change a number, but the content of the pictures."""
        parts, _ = self.split
        return content_hash({"parts": parts, "template": self.template})

    @property
    def added(self) -> list[str]:
        """Pictures that came after the split file was made, which does not have them."""
        parts, _ = self.split
        inside = {picture.path for part in parts for picture in part or ()}
        return sorted({picture.path for picture in self.pictures} - inside)

    def check_split(self, split: Mapping[str, Sequence[Picture]], source: Path) -> None:
        """Check that the pictures of a split are there and have their classes.

        Args:
            split: pictures by part.
            source: the file that it was read from.

        Raises:
            UserError: if they have not.
        """
        remedy = "the file was made from other pictures"
        if source == self.split_path:
            remedy = (
                f"put it right, or delete {self.split_path} and make it anew with "
                f"`promptclip data split {self.path}`"
            )
        known = {picture.path: picture for picture in self.pictures}
        inside = [picture for part in PARTS for picture in split[part]]
        for picture in inside:
            if known.get(picture.path) != picture:
                raise UserError(
                    f"{source}: {picture.path} ({picture.label}, {picture.classname}) is no "
                    f"longer there or has another class; {remedy}"
                )
        classes = {picture.label for picture in inside}
        if lost := [p.classname for p in self.pictures if p.label not in classes]:
            raise UserError(f"{source}: class {lost[0]!r} is not in it; {remedy}")


def read(path: str | Path) -> OwnData:
    """Read a folder or an index; no picture is opened.

    Raises:
        UserError: if it is not there, is of another form, or holds too little.
    """
    path = Path(os.path.abspath(os.path.expanduser(path)))
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(
            f"no folder or CSV file {path}; relative paths count from the folder that the command "
            "works in, which for scripts is the checkout"
        )
    template = _read_template(folder / "template.txt")
    names = folder / "classnames.txt"
    classnames = read_classnames(names) if names.is_file() else {}
    try:
        remarks: list[str] = []
        if path.is_dir():
            parts, pictures = _read_folder(path, classnames, remarks)
        else:
            parts, pictures = _read_index(path, classnames)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return OwnData(path, folder, parts, pictures, template, tuple(remarks))


def check(data: OwnData, *, skip: bool = False) -> None:
    """Look at the head of every picture, and tell what is left out.

    Args:
        data: what a folder or an index says.
        skip: what cannot be read may be left out of a run.

    Raises:
        UserError: if some are no pictures, or cannot be read, unless they may be left out.
    """
    for remark in data.remarks:
        log.warning("%s", remark)
    if added := data.added:
        log.warning(
            "%s: %d pictures came after the split was made and are left out, such as %s; delete "
            "the file to make it anew",
            data.split_path,
            len(added),
            added[0],
        )
    paths = {str(data.folder / picture.path): picture.path for picture in data.pictures}
    look = partial(picture_files.read, decode=False)
    with picture_files.quiet(), ThreadPoolExecutor() as pool:
        bad = [trouble for found in pool.map(look, ([path] for path in paths)) for trouble in found]
    if bad:
        found = (
            f"{data.path}: {len(bad)} of {len(paths)} pictures cannot be read, the first is "
            f"{paths[bad[0].path]} ({bad[0].detail})"
        )
        if not skip:
            raise UserError(
                f"{found}; replace or remove them, or leave them out with DATASET.BAD_IMAGES skip"
            )
        log.warning("%s; runs leave them out", printable(found))


def _read_template(file: Path) -> str:
    if not file.is_file():
        return TEMPLATE
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if len(lines) != 1 or "{}" not in lines[0] or re.sub("[^{}]", "", lines[0]) != "{}":
        raise UserError(f'{file}: expected one line with one {{}}, such as "{TEMPLATE}"')
    return lines[0].strip()


def _read_folder(
    folder: Path, classnames: Mapping[str, str], remarks: list[str]
) -> tuple[_Parts | None, list[Picture]]:
    """The parts, where the folder has them, and all pictures; adds to the remarks."""
    parts = [part for part in PARTS if _has_folders(folder / part)]
    if parts and not {"train", "test"}.issubset(parts):
        raise UserError(
            f"{folder}: expected train/ and test/ with a sub-folder for each class, got only "
            f"{'/ and '.join(parts)}/; or give a folder of class folders alone"
        )
    listings = {
        part: _list(folder / part, f"{part}/" if part else "", remarks) for part in (parts or [""])
    }
    keys = sorted({key for listing in listings.values() for key in listing})
    labels = _label(keys, {key: classnames.get(key, key) for key in keys}, folder)
    if unknown := sorted(set(classnames).difference(keys)):
        raise UserError(
            f"{folder / 'classnames.txt'}: there is no class folder {unknown[0]!r}; a folder whose "
            "name has spaces cannot stand there"
        )
    pictures = {
        part: [Picture(path, *labels[key]) for key, paths in listing.items() for path in paths]
        for part, listing in listings.items()
    }
    everything = [picture for members in pictures.values() for picture in members]
    if not parts:
        return None, everything
    return (pictures["train"], pictures.get("val"), pictures["test"]), everything


def _has_folders(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _list(folder: Path, prefix: str, remarks: list[str]) -> dict[str, list[str]]:
    """Paths of the pictures of each class folder; adds a remark on what is no picture."""
    listing = {}
    beside = _visible(path.name for path in folder.iterdir() if path.is_file())
    others = [name for name in beside if Path(name).suffix.lower() in SUFFIXES]
    for key, names in list_class_folders(folder, ignored=(_SAMPLES,)).items():
        pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
        left = set(names).difference(pictures)
        others += [f"{key}/{name}" for name in _visible(left)]
        if not pictures:
            raise UserError(
                f"{folder / key}: expected the pictures of a class, there is none; known are "
                f"{' '.join(sorted(SUFFIXES))}, and sub-folders of a class are not read"
            )
        listing[key] = [f"{prefix}{key}/{name}" for name in pictures]
    if others:
        remarks.append(
            f"{folder}: {len(others)} files or folders are no pictures of a class and are left "
            f"out, the first is {others[0]}"
        )
    return listing


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in sorted(names) if name.lower() not in LITTER and name[0] != "."]


def _label(
    keys: Sequence[str], names: Mapping[str, str], source: Path
) -> dict[str, tuple[int, str]]:
    """The label and the class name of each class, in this order.

    Raises:
        UserError: for fewer than two classes, and for two that prompts cannot tell apart.
    """
    if len(keys) < 2:
        raise UserError(f"{source}: expected at least two classes, got {', '.join(keys) or 'none'}")
    seen: dict[str, str] = {}
    labels = {}
    for label, key in enumerate(keys):
        name = " ".join(names[key].replace("_", " ").split())
        if not name:
            raise UserError(f"{source}: class {key!r} has no name; give it one in classnames.txt")
        if (other := seen.setdefault(name.lower(), key)) != key:
            raise UserError(
                f"{source}: the classes {other!r} and {key!r} are both called {name!r} in prompts; "
                "give them different names, for folders in classnames.txt"
            )
        labels[key] = (label, name)
    return labels


def _read_index(file: Path, classnames: Mapping[str, str]) -> tuple[_Parts | None, list[Picture]]:
    """The same of a CSV file."""
    rows = _read_rows(file)
    named = "classname" in rows[0]
    keys = {row["label" if "label" in row else "classname"]: row for row in rows}
    ordered = sorted(keys, key=lambda key: (int(key) if key.isdecimal() else -1, key))
    if named:
        names = {key: row["classname"] for key, row in keys.items()}
        _check_names(rows, names, file)
    else:
        names = {key: classnames.get(key, key) for key in ordered}
        if all(name.isdecimal() for name in names.values()):
            raise UserError(
                f"{file}: CLIP needs the names of the classes, and the labels are numbers; add a "
                "column classname, or a classnames.txt with <label> <class name> in a line"
            )
    labels = _label(ordered, names, file)
    parts: dict[str, list[Picture]] = {part: [] for part in PARTS}
    pictures = []
    for row in rows:
        key = row["label" if "label" in row else "classname"]
        pictures.append(Picture(row["path"], *labels[key]))
        parts[_PART_NAMES[row.get("split", "train")]].append(pictures[-1])
    if "split" not in rows[0]:
        return None, pictures
    return (parts["train"], parts["val"] or None, parts["test"]), pictures


def _check_names(rows: Iterable[Mapping[str, str]], names: Mapping[str, str], file: Path) -> None:
    for row in rows:
        if "label" in row and names[row["label"]] != row["classname"]:
            raise UserError(
                f"{file}: label {row['label']} is called {row['classname']!r} and "
                f"{names[row['label']]!r}"
            )


def _read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of an index, checked one by one.

    Raises:
        UserError: for another form.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = [str(name).strip().lower() for name in reader.fieldnames or ()]
            _check_columns(columns, file)
            reader.fieldnames = columns
            rows: list[dict[Any, Any]] = list(reader)
    except (ValueError, csv.Error) as error:  # ValueError: not UTF-8
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read as a CSV file ({error})") from error
    if not rows:
        raise UserError(f"{file}: expected a picture in each line, there is none")
    checked = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not all(v.strip() for v in row.values()):
            raise UserError(
                f"{file}, row {number}: expected {len(columns)} values, got {row!r:.200}"
            )
        row = {key: value.strip() for key, value in row.items()}
        row["path"] = row["path"].replace("\\", "/")
        refuse_outside(row["path"], file)
        if "split" in row and row["split"].lower() not in _PART_NAMES:
            raise UserError(
                f"{file}, row {number}: split must be train, val or test, got {row['split']!r}"
            )
        checked.append(row | ({"split": row["split"].lower()} if "split" in row else {}))
    path, count = Counter(row["path"] for row in checked).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file}: {path} stands in {count} rows")
    return checked


def _check_columns(columns: Sequence[str], file: Path) -> None:
    wanted = "path, classname or label or both, and perhaps split"
    if unknown := [column for column in columns if column not in COLUMNS]:
        hint = ", with commas between them" if re.search("[;\t]", unknown[0]) else ""
        raise UserError(f"{file}: the columns are {wanted}{hint}; got {unknown[0]!r}")
    if "path" not in columns or not {"label", "classname"}.intersection(columns):
        raise UserError(f"{file}: the columns are {wanted}; got {', '.join(columns) or 'none'}")
