"""What a data set is called on a command line, and what configures it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptclip.config import config_file, read_yaml
from promptclip.errors import UserError
from promptclip.tree import OWN, OWN_YAML


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        name: in the output tree.
        file: its yaml.
        overrides: KEY VALUE KEY VALUE ... that stand above the yaml.
    """

    name: str
    file: Path
    overrides: tuple[object, ...] = ()


def find(text: str, chosen: Sequence[object] = ()) -> DataSet:
    """The data set that a command line means.

    Args:
        text: a file of `configs/datasets` without its suffix, the path of a yaml file, or the
            path of a folder or a CSV file with own pictures: anything with a slash, and CSV files.
        chosen: KEY VALUE KEY VALUE ... of the command line, which may let bad pictures be left out.

    Raises:
        UserError: if there is no such data set, or the own pictures cannot be used.
    """
    skip = _skips(chosen)
    if text.endswith((".yaml", ".yml")):
        file = Path(text)
        section = read_yaml(file).get("DATASET")
        section = section if isinstance(section, dict) else {}
        folder = section.get("FOLDER")
        skip = skip or section.get("BAD_IMAGES") == "skip"
        return DataSet(file.stem, file, _own(str(folder), skip=skip) if folder else ())
    if is_path(text):
        return own(text, skip=skip)
    try:
        return DataSet(text, config_file("datasets", text))
    except UserError as error:
        if os.path.isdir(text):
            raise UserError(f"{error}. The folder of that name is ./{text}") from None
        raise


def _skips(chosen: Sequence[object]) -> bool:
    """Whether KEY VALUE KEY VALUE ... lets bad pictures be left out."""
    values = dict(zip(map(str, chosen[::2]), chosen[1::2], strict=False))
    return values.get("DATASET.BAD_IMAGES") == "skip"


def is_path(text: str) -> bool:
    """Whether a word is the path of own pictures rather than a name."""
    return os.sep in text or text.startswith("~") or text.lower().endswith(".csv")


def as_path(text: str) -> str:
    """The path of own pictures in a form that `find` takes for a path."""
    return text if is_path(text) else os.path.join(os.curdir, text)


def own(path: str, *, skip: bool = False) -> DataSet:
    """The data set in a folder or a CSV file.

    Its name is that of the folder or file after "own_", so that it is never that of another data
    set. Two folders of one name share their places in an output tree, where the one that comes
    second is refused: the hash of what a folder holds is part of the configuration. With `skip`
    bad pictures are left to the runs, which leave them out.

    Raises:
        UserError: if it cannot be used.
    """
    place = Path(os.path.abspath(os.path.expanduser(path)))
    stem = place.stem if place.is_file() else place.name
    name = OWN + re.sub(r"[^\w.-]+", "_", stem)
    return DataSet(name, config_file("datasets", OWN_YAML), _own(path, skip=skip))


def pictures_hash(path: str) -> str:
    """The hash of what a folder or a CSV file says now; "" if it cannot be used."""
    try:
        return str(_own(path, check=False)[-1])
    except UserError:
        return ""


def _own(path: str, *, check: bool = True, skip: bool = False) -> tuple[object, ...]:
    """Own pictures as overrides; `check` looks at the head of every one, `skip` only warns."""
    from promptclip import plugins

    plugins.load_plugins()
    from promptclip import own_pictures

    data = own_pictures.read(path)
    if check:
        own_pictures.check(data, skip=skip)
    return "DATASET.FOLDER", str(data.path), "DATASET.FOLDER_HASH", data.hash
