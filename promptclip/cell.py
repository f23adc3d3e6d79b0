"""A cell of a table and the runs in it, told by what their configuration is built from."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptclip import plugins, results
from promptclip.config import Builder, config_hash, digest, hashed
from promptclip.errors import UserError
from promptclip.run import run, state
from promptclip.run_file import RUN_FILE
from promptclip.tree import Place, find, of_shots


@dataclass(frozen=True)
class Cell:
    """Trainings or tests that differ in their seed alone.

    Attributes:
        place: of the one with seed 0.
        dataset_file: the yaml of the data that the results are measured on.
        config_file: the method's yaml.
        root: the folder that holds the data sets.
        output: results go below this folder, see `promptclip.tree`.
        overrides: KEY VALUE KEY VALUE ... of the data set, the protocol and the user.
        model: the trainings whose models these test; None for those that train their own.
        build: of the plan that the cell is part of.
    """

    place: Place
    dataset_file: str
    config_file: str
    root: str
    output: str
    overrides: tuple[object, ...]
    model: Cell | None
    build: Builder = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a place that is none of the tree: a plan may come from somebody else.

        Raises:
            UserError: if its folder would lie elsewhere.
        """
        path = self.place.path
        if ".." in path.parts or find(Path(os.sep, path)) != self.place:
            raise UserError(f"{path} is no folder of a run below {self.output}")

    def cfg(self, seed: int = 0) -> CfgNode:
        """The configuration; of tests elsewhere as that of their training but for the data.

        Raises:
            UserError: for unusable input.
        """
        place = replace(self.place, seed=seed)
        own = self.build(
            place.method,
            self.dataset_file,
            self.config_file,
            root=self.root,
            seed=seed,
            overrides=[
                *("DATASET.NUM_SHOTS", place.shots, "DATASET.SUBSAMPLE_CLASSES", place.classes),
                *self.overrides,
                *("OUTPUT_DIR", str(Path(self.output, place.path))),
            ],
        )
        if self.model is None:
            return own
        cfg = self.model.cfg(seed)
        cfg.defrost()
        cfg.DATASET, cfg.OUTPUT_DIR = own.DATASET, own.OUTPUT_DIR
        cfg.freeze()
        return cfg

    @functools.cached_property
    def values(self) -> Mapping[str, Any]:
        """What of the configuration can change a number, with seed 0.

        Raises:
            UserError: as of `cfg`.
        """
        return hashed(self.cfg())


@dataclass(frozen=True)
class Run:
    """A training or a test.

    So little of it is its own that it can be written down and carried out by another process.
    """

    cell: Cell
    seed: int

    def __str__(self) -> str:
        """Such as "CoOp, seed 1, base classes"."""
        return str(self.place)

    @functools.cached_property
    def place(self) -> Place:
        """What is run, and where below the output folder."""
        return replace(self.cell.place, seed=self.seed)

    @property
    def folder(self) -> Path:
        """Where the result is written."""
        return Path(self.cell.output, self.place.path)

    @property
    def model(self) -> Run | None:
        """The training whose model this tests; None for a run that trains its own."""
        return Run(self.cell.model, self.seed) if self.cell.model else None

    @property
    def cfg(self) -> CfgNode:
        """The configuration, built anew.

        Raises:
            UserError: for unusable input.
        """
        return self.cell.cfg(self.seed)

    @property
    def config_hash(self) -> str:
        """The hash of the configuration, which is built once for all runs of the cell."""
        return digest({**self.cell.values, "SEED": self.seed})

    def __call__(self, planned: str = "") -> dict[str, Any]:
        """Carry it out, and give the result; see `promptclip.run.run`.

        Args:
            planned: the hash that the configuration must have; "" for any.

        Raises:
            UserError: if the input is unusable, or the configuration is not the planned one.
        """
        cfg = self.cfg
        if planned and config_hash(cfg) != planned:
            raise UserError(
                "its configuration is not the planned one: a file of configs/ has changed since; "
                "start the grid again"
            )
        if self.model and results.read(self.model.folder) is None:
            trained = self.model.place
            raise UserError(
                f"no finished training in {self.model.folder}; "
                f"train on {trained.target or trained.dataset} first"
            )
        return run(cfg, **self._how)

    def failed(self, error: BaseException) -> None:
        """Leave a record for the table of what failed before it could leave one itself."""
        if not Path(self.folder, RUN_FILE).exists():
            results.failed(self.folder, error)

    @property
    def state(self) -> str:
        """What carrying it out would find; see `promptclip.run.state`."""
        return state(self.folder, self.config_hash, lambda: self.cfg, **self._how)

    def plan(self, state: str) -> str:
        """What there is to do, for which data, in what state it is, and where."""
        place = self.place
        trains = self.model is None and plugins.trains(place.method)
        return (
            f"{place.method}, {place.benchmark}, {of_shots(place.shots)}, seed {place.seed}: "
            f"{'train and test' if trains else 'test only'}, {place.classes} classes, "
            f"{state}, {self.folder}"
        )

    @property
    def _how(self) -> dict[str, Any]:
        """Arguments of `promptclip.run.run` besides the configuration."""
        if self.model is None:
            return {}
        values = self.cell.values
        best = values["TEST.FINAL_MODEL"] == "best_val"
        return {
            "eval_only": True,
            "model_dir": str(self.model.folder),
            "load_epoch": None if best else values["OPTIM.MAX_EPOCH"],
        }
