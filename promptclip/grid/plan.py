"""What a grid consists of: runs of several protocols, data sets, methods, shots and seeds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import promptclip
from promptclip import data_sets
from promptclip.config import config_hash, configs_dir
from promptclip.errors import UserError
from promptclip.files import content_hash, write_json
from promptclip.protocols import PLANS, Plan, Run, Settings
from promptclip.tree import TARGETS, Place

log = logging.getLogger(__name__)

SCHEMA = 1
PLAN_FILE = "plan.json"
GRIDS = "grid"  # the folder of the output tree that holds them
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Spec:
    """What was asked for.

    Attributes:
        methods: names in any case.
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
        files: SHA-256 of every configuration file that was read.
    """

    asked: Mapping[str, Any]
    runs: Sequence[Run]
    hashes: Sequence[str]
    skipped: Sequence[str]
    files: Mapping[str, str]


def make(spec: Spec, output: str | Path) -> tuple[Plan, list[str]]:
    """Plan all runs of a grid; each is there once, however many protocols ask for it.

    Returns:
        The plan, and the hash of each run's configuration.

    Raises:
        UserError: for unusable input, such as an unknown key.
    """
    settings = Settings(spec.root, spec.seeds, spec.cfg, str(output), spec.overrides)
    own_shots: dict[str, Any] = {"shots": spec.shots} if spec.shots else {}
    runs: dict[Path, Run] = {}
    skipped, notes = [], []
    for protocol, dataset in itertools.product(spec.protocols, _datasets(spec.datasets)):
        own = dict(own_shots)
        if protocol in TARGETS:
            source = data_sets.find(dataset).name
            own["targets"] = [t for t in spec.targets if data_sets.find(t).name != source]
            if not own["targets"] and source not in TARGETS[protocol]:
                notes.append(f"{protocol}: {source} has no usual targets and is left out")
                continue
        plan = PLANS[protocol](spec.methods, dataset, settings, **own)
        for one in plan.runs:
            # A test keeps the very run that is in the plan as its training.
            model = one.model and runs[one.model.folder]
            runs.setdefault(one.folder, replace(one, model=model))
        skipped += [f"{protocol}, {dataset}: {line}" for line in plan.skipped]
        notes += plan.notes
    if not runs:
        raise UserError("; ".join([*skipped, *notes]) or "a grid without runs")
    plan = Plan(list(runs.values()), list(dict.fromkeys(skipped)), list(dict.fromkeys(notes)))
    return plan, list(_hashes(plan.runs))


def store(spec: Spec, folder: Path) -> Stored:
    """The plan of a grid in its folder, made if need be.

    It is made again where a configuration file, or promptclip, is not what it was.

    Raises:
        UserError: for unusable input, or if the folder holds the plan of something else.
    """
    asked = json.loads(json.dumps(dataclasses.asdict(spec)))
    if (folder / PLAN_FILE).is_file():
        stored = load(folder)
        if stored.asked != asked:
            different = ", ".join(key for key in asked if asked[key] != stored.asked.get(key))
            raise UserError(
                f"{folder} holds a grid with other {different}; give another --name, or delete it"
            )
        if _fingerprint(stored.runs) == stored.files:
            return stored
    log.info("planning %s", folder)
    plan, hashes = make(spec, _output(folder))
    number = {run.folder: index for index, run in enumerate(plan.runs)}
    content = {
        "schema": SCHEMA,
        "asked": asked,
        "skipped": plan.skipped,
        "files": _fingerprint(plan.runs),
        "runs": [
            {
                "place": dataclasses.asdict(run.place),
                "dataset_file": run.dataset_file,
                "config_file": run.config_file,
                "overrides": run.overrides,
                "model": run.model and number[run.model.folder],
                "config_hash": hash,
            }
            for run, hash in zip(plan.runs, hashes, strict=True)
        ],
    }
    write_json(content, folder / PLAN_FILE, indent=None)
    return load(folder)


def load(folder: Path) -> Stored:
    """The plan in a grid's folder; its runs lie where that folder lies now.

    Raises:
        UserError: if there is none that can be read.
    """
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no grid: there is no {PLAN_FILE}") from None
    except ValueError as error:
        raise UserError(f"{folder / PLAN_FILE} is damaged ({error}); delete it") from None
    if content["schema"] != SCHEMA:
        raise UserError(f"{folder / PLAN_FILE} is of another version of promptclip; delete it")
    asked, output = content["asked"], str(_output(folder))
    runs: list[Run] = []
    for record in content["runs"]:
        model = None if record["model"] is None else runs[record["model"]]
        place = Place(**record["place"])
        files = record["dataset_file"], record["config_file"]
        overrides = _hashable(record["overrides"])
        runs.append(Run(place, *files, asked["root"], output, overrides, model))
    hashes = [record["config_hash"] for record in content["runs"]]
    return Stored(asked, runs, hashes, content["skipped"], content["files"])


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


def _datasets(names: Iterable[str]) -> Iterator[str]:
    """Each name, and for "all" those that are more than a variant to test on."""
    variants = set(itertools.chain(*TARGETS["dg"].values()))
    for name in names:
        if name == "all":
            files = sorted((configs_dir() / "datasets").glob("*.yaml"))
            yield from (file.stem for file in files if file.stem not in variants)
        else:
            yield name


def _hashes(runs: Iterable[Run]) -> Iterator[str]:
    """The hash of each run's configuration, which is built once for all seeds."""

    @functools.cache
    def built(run: Run) -> Mapping[str, Any]:
        cfg: Mapping[str, Any] = run.cfg
        return cfg

    @functools.cache
    def of_seed_0(run: Run) -> Run:
        place = replace(run.place, seed=0)
        return replace(run, place=place, model=run.model and of_seed_0(run.model))

    for run in runs:
        yield config_hash({**built(of_seed_0(run)), "SEED": run.place.seed})


def _fingerprint(runs: Iterable[Run]) -> dict[str, str]:
    """SHA-256 of each configuration file, "" for one that is gone, and promptclip's version."""
    files = {configs_dir() / "trainers" / "base.yaml"}
    for run in runs:
        files |= {Path(run.dataset_file), Path(run.config_file)}
    found = {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        for file in sorted(files)
    }
    return found | {"promptclip": promptclip.__version__}


def _absolute(name: str) -> str:
    """The path of a yaml file or of own pictures from wherever it is read; a name as it is."""
    if name.endswith(_SUFFIXES) or data_sets.is_path(name):
        return os.path.abspath(os.path.expanduser(name))
    return name


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
