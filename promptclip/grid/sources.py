"""What a plan was made from, to tell whether it would be the same if it were made now."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import promptclip
from promptclip import data_sets
from promptclip.cell import Cell
from promptclip.config import Builder, configs_dir


@dataclass(frozen=True)
class Sources:
    """All that decides about the configurations of a plan besides what was asked for.

    Attributes:
        files: configuration files, each with its SHA-256.
        pictures: paths of own pictures, each with the hash of what is there.
        program: SHA-256 of promptclip's own code, which has the defaults, and its data sets.
    """

    files: Mapping[str, str]
    pictures: Mapping[str, str]
    program: str

    @classmethod
    def of(cls, build: Builder, cells: Iterable[Cell]) -> Sources:
        """Those of cells that a builder has configured."""
        chosen = (dict(zip(c.overrides[::2], c.overrides[1::2], strict=True)) for c in cells)
        pictures = {
            str(one["DATASET.FOLDER"]): str(one["DATASET.FOLDER_HASH"])
            for one in chosen
            if "DATASET.FOLDER" in one
        }
        return cls(build.files, pictures, _program())

    def unchanged(self) -> bool:
        """Whether all of them are what they were."""
        files = {file: _sha256([Path(file)]) for file in self.files}
        pictures = {path: data_sets.pictures_hash(path) for path in self.pictures}
        return self == Sources(files, pictures, _program())


def _program() -> str:
    return _sha256(_code())


def _code() -> Iterator[Path]:
    yield from sorted(Path(promptclip.__file__).parent.rglob("*.py"))
    for plugins in ("trainers", "datasets"):
        for folder in importlib.import_module(f"promptclip.{plugins}").__path__:
            yield from sorted(Path(folder).glob("*.py"))
    yield from sorted((configs_dir() / "datasets").glob("*.yaml"))  # that "all" stands for


def _sha256(files: Iterable[Path]) -> str:
    """Of the content of all files together; "" if one is gone."""
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.read_bytes())
    except FileNotFoundError:
        return ""
    return digest.hexdigest()
