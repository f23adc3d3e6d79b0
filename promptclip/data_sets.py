"""What a data set is called on a command line, and what configures it."""

from __future__ import annotations

import os
import re
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


def find(text: str) -> DataSet:
    """The data set that a command line means.

    Args:
        text: a file of `configs/datasets` without its suffix, the path of a yaml file, or the
            path of a folder or a CSV file with own pictures: anything with a slash, and CSV files.

    Raises:
        UserError: if there is no such data set, or the own pictures cannot be used.
    """
    if text.endswith((".yaml", ".yml")):
        file = Path(text)
        section = read_yaml(file).get("DATASET")
        folder = section.get("FOLDER") if isinstance(section, dict) else None
        return DataSet(file.stem, file, _own(str(folder)) if folder else ())
    if is_path(text):
        return own(text)
    try:
        return DataSet(text, config_file("datasets", text))
    except UserError as error:
        if os.path.isdir(text):
            raise UserError(f"{error}. The folder of that name is ./{text}") from None
        raise


def is_path(text: str) -> bool:
    """Whether a word is the path of own pictures rather than a name."""
    return os.sep in text or text.startswith("~") or text.lower().endswith(".csv")


def as_path(text: str) -> str:
    """The path of own pictures in a form that `find` takes for a path."""
    return text if is_path(text) else os.path.join(os.curdir, text)


def own(path: str) -> DataSet:
    """The data set in a folder or a CSV file.

    Its name is that of the folder or file after "own_", so that it is never that of another data
    set. Two folders of one name share their places in an output tree, where the one that comes
    second is refused: the hash of what a folder holds is part of the configuration.

    Raises:
        UserError: if it cannot be used.
    """
    place = Path(os.path.abspath(os.path.expanduser(path)))
    stem = place.stem if place.is_file() else place.name
    name = OWN + re.sub(r"[^\w.-]+", "_", stem)
    return DataSet(name, config_file("datasets", OWN_YAML), _own(path))


def pictures_hash(path: str) -> str:
    """The hash of what a folder or a CSV file says now; "" if it cannot be used."""
    try:
        return str(_own(path, check=False)[-1])
    except UserError:
        return ""


def _own(path: str, *, check: bool = True) -> tuple[object, ...]:
    """Own pictures as overrides; `check` looks at the head of every one."""
    from promptclip import plugins

    plugins.load_plugins()
    from promptclip import own_pictures

    data = own_pictures.read(path)
    if check:
        own_pictures.check(data)
    return "DATASET.FOLDER", str(data.path), "DATASET.FOLDER_HASH", data.hash
