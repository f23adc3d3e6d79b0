"""What a grid consists of: runs of several protocols, data sets, methods, shots and seeds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptclip import data_sets, plugins
from promptclip.cell import Cell, Run
from promptclip.config import Builder, configs_dir
from promptclip.data_sets import DataSet
from promptclip.errors import UserError
from promptclip.files import DamagedError, content_hash, read_record, write_record
from promptclip.grid.sources import Sources
from promptclip.protocols import PLANS, Plan, Settings
from promptclip.tree import OWN_YAML, TARGETS, Place

log = logging.getLogger(__name__)

SCHEMA = 2
PLAN_FILE = "plan.json"
GRIDS = "grid"  # the folder of the output tree that holds them
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Spec:
    """What was asked for.

    Attributes:
        methods: names in any case, or "all".
        datasets: stems of files in `configs/datasets`, paths of yaml files, or "all" for those
            that a method can be trained on.
        protocols: of `promptclip.protocols.PLANS`.
        shots: training pictures per class, in every protocol; () for what each has by default.
        seeds: of the runs.
        targets: what `xd` and `dg` test on; () for the usual ones of each source.
        cfg: as `Settings.cfg_name`.
        root: the folder that holds the data sets.
        overrides: KEY VALUE KEY VALUE ... for every run.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    protocols: tuple[str, ...] = ("fewshot",)
    shots: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    targets: tuple[str, ...] = ()
    cfg: str = ""
    root: str = ""
    overrides: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if unknown := set(self.protocols) - set(PLANS):
            raise UserError(
                f"no protocol {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}"
            )
        for name in ("methods", "datasets", "protocols", "seeds"):
            if not getattr(self, name):
                raise UserError(f"a grid needs {name}; got none")

    @property
    def name(self) -> str:
        """Of the grid's folder, the same whenever the same is asked for."""
        return f"{'-'.join(self.protocols)}-{content_hash(dataclasses.asdict(self))[:8]}"

    def absolute(self) -> Spec:
        """The same with paths that mean the same everywhere."""
        return replace(
            self,
            datasets=tuple(_absolute(name) for name in self.datasets),
            targets=tuple(_absolute(name) for name in self.targets),
            cfg=_absolute(self.cfg),
            root=self.root and os.path.abspath(self.root),
        )


@dataclass(frozen=True)
class Stored:
    """A plan as it stands in a grid's folder.

    Attributes:
        asked: the `Spec`, as JSON gives it back.
        runs: a training stands before its tests.
        hashes: of the configuration of each run, as it was planned.
        skipped: a line for each part of what was asked for that cannot be run.
        sources: what it was made from.
    """

    asked: Mapping[str, Any]
    runs: Sequence[Run]
    hashes: Sequence[str]
    skipped: Sequence[str]
    sources: Sources


def make(spec: Spec, output: str | Path, build: Builder | None = None) -> Plan:
    """Plan all runs of a grid; each is there once, however many protocols ask for it.

    Args:
        spec: what is asked for.
        output: the folder that results go below.
        build: of the configurations; a new one unless given.

    Raises:
        UserError: for unusable input, such as an unknown key.
    """
    build = build or Builder()
    settings = Settings(spec.root, spec.seeds, spec.cfg, str(output), spec.overrides, build=build)
    own_shots: dict[str, Any] = {"shots": spec.shots} if spec.shots else {}
    methods, names = list(_methods(spec.methods)), list(_datasets(spec.datasets))
    found = _found([*names, *spec.targets], spec.overrides)
    sources = dict.fromkeys(found[name] for name in names)
    targets = dict.fromkeys(found[name] for name in spec.targets)
    runs: dict[Place, Run] = {}
    skipped, notes = [], []
    for protocol, data in itertools.product(spec.protocols, sources):
        own = dict(own_shots)
        if protocol in TARGETS:
            own["targets"] = [target for target in targets if target.name != data.name]
            if not own["targets"] and (targets or data.name not in TARGETS[protocol]):
                which = "other" if targets else "usual"
                notes.append(f"{protocol}: {data.name} has no {which} targets and is left out")
                continue
        plan = PLANS[protocol](methods, data, settings, **own)
        for run in plan.runs:
            runs.setdefault(run.place, run)
        skipped += [f"{protocol}, {data.name}: {line}" for line in plan.skipped]
        notes += plan.notes
    if not runs:
        raise UserError("; ".join([*skipped, *notes]) or "a grid without runs")
    return Plan(list(runs.values()), list(dict.fromkeys(skipped)), list(dict.fromkeys(notes)))


def store(spec: Spec, folder: Path) -> Stored:
    """The plan of a grid in its folder, made if need be.

    It is made again where what it was made from is not what it was.

    Raises:
        UserError: for unusable input, or if the folder holds the plan of something else.
    """
    asked = json.loads(json.dumps(dataclasses.asdict(spec)))
    if (folder / PLAN_FILE).is_file():
        content = _content(folder)
        if different := [key for key in asked if asked[key] != content["asked"].get(key)]:
            raise UserError(
                f"{folder} holds a grid with other {', '.join(different)}; "
                "give another --name, or delete it"
            )
        if content["schema"] == SCHEMA and (stored := load(folder)).sources.unchanged():
            return stored
    log.info("planning %s", folder)
    build = Builder()
    plan = make(spec, _output(folder), build)
    write_record(_record(asked, plan, build), folder / PLAN_FILE, indent=None)
    return load(folder)


def load(folder: Path) -> Stored:
    """The plan in a grid's folder; its runs lie where that folder lies now.

    Raises:
        UserError: if there is none that can be read.
    """
    content = _content(folder)
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{folder / PLAN_FILE} is of another version of promptclip; the command that made it "
            "makes it anew"
        )
    try:
        return _stored(content, str(_output(folder)))
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(folder / PLAN_FILE, error) from error


def _stored(content: Mapping[str, Any], output: str) -> Stored:
    """A plan from what `_record` gave."""
    asked, build = content["asked"], Builder()
    cells: list[Cell] = []
    for record in content["cells"]:
        place = Place(**record["place"])
        files = record["dataset_file"], record["config_file"]
        overrides = _plain(record["overrides"])
        model = None if record["model"] is None else cells[record["model"]]
        cells.append(Cell(place, *files, asked["root"], output, overrides, model, build))
    runs = [Run(cells[cell], seed) for cell, seed, _ in content["runs"]]
    hashes = [hash for _, _, hash in content["runs"]]
    skipped = content["skipped"]
    if not isinstance(skipped, list) or not all(isinstance(line, str) for line in skipped):
        raise ValueError("what it leaves out is no list of lines")
    return Stored(asked, runs, hashes, skipped, Sources(**content["sources"]))


def folder_of(output: str | Path, name: str) -> Path:
    """Where a grid of this name lies."""
    return Path(os.path.abspath(output), GRIDS, name)


def newest(output: str | Path) -> Path:
    """The grid that was planned last.

    Raises:
        UserError: if there is none.
    """
    files = list(Path(os.path.abspath(output), GRIDS).glob(f"*/{PLAN_FILE}"))
    if not files:
        raise UserError(f"no grid in {output}/{GRIDS}; give the folder of one")
    return max(files, key=lambda file: file.stat().st_mtime).parent


def _output(folder: Path) -> Path:
    return Path(os.path.abspath(folder)).parents[1]


def _record(asked: Mapping[str, Any], plan: Plan, build: Builder) -> dict[str, Any]:
    """The content of a plan's file; cells and runs are known by their place in a list."""
    numbers: dict[Place, int] = {}
    cells: list[Cell] = []

    def number(cell: Cell) -> int:
        if cell.place not in numbers:
            if cell.model:
                number(cell.model)
            numbers[cell.place] = len(cells)
            cells.append(cell)
        return numbers[cell.place]

    return {
        "schema": SCHEMA,
        "asked": asked,
        "skipped": plan.skipped,
        "runs": [[number(run.cell), run.seed, run.config_hash] for run in plan.runs],
        "cells": [
            {
                "place": dataclasses.asdict(cell.place),
                "dataset_file": cell.dataset_file,
                "config_file": cell.config_file,
                "overrides": cell.overrides,
                "model": cell.model and numbers[cell.model.place],
            }
            for cell in cells
        ],
        "sources": dataclasses.asdict(Sources.of(build, cells)),
    }


def _content(folder: Path) -> dict[str, Any]:
    """The content of a plan's file, of whatever schema.

    Raises:
        UserError: if there is no such file, or it is no plan.
    """
    file = folder / PLAN_FILE
    try:
        content = read_record(file)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no grid: there is no {PLAN_FILE}") from None
    except (OSError, DamagedError) as error:
        raise _damaged(file, error) from None
    if "schema" not in content or not isinstance(content.get("asked"), dict):
        raise _damaged(file, "it is no plan")
    return content


def _damaged(file: Path, why: object) -> UserError:
    return UserError(f"{file} is damaged ({why}); delete it")


def _methods(names: Iterable[str]) -> Iterator[str]:
    """Each name, and for "all" those of every method."""
    for name in names:
        yield from sorted(plugins.methods()) if name == "all" else [name]


def _datasets(names: Iterable[str]) -> Iterator[str]:
    """Each name, and for "all" those that are more than a variant to test on."""
    others = {OWN_YAML, *itertools.chain(*TARGETS["dg"].values())}
    for name in names:
        if name == "all":
            files = sorted((configs_dir() / "datasets").glob("*.yaml"))
            yield from (file.stem for file in files if file.stem not in others)
        else:
            yield name


def _found(names: Iterable[str], chosen: Sequence[object]) -> dict[str, DataSet]:
    """The data set of each name; own pictures are read here and nowhere else in a plan.

    Raises:
        UserError: for an unknown one, and if two have one place in the output tree.
    """
    found = {name: data_sets.find(name, chosen) for name in dict.fromkeys(names)}
    known: dict[str, DataSet] = {}
    for data in found.values():
        if known.setdefault(data.name, data) != data:
            raise UserError(
                f"two data sets are called {data.name}; their results would lie in one place"
            )
    return found


def _absolute(name: str) -> str:
    """The path of a yaml file or of own pictures from wherever it is read; a name as it is."""
    if name.endswith(_SUFFIXES) or data_sets.is_path(name):
        return os.path.abspath(os.path.expanduser(name))
    return name


def _plain(value: Any) -> Any:
    """What JSON gives back, with tuples as they were."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
