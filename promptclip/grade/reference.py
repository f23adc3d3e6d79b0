"""What this installation says of a claimed run: its configuration, its pictures, its accuracy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptclip import data_sets, plugins
from promptclip.cell import Cell, Run
from promptclip.config import Builder, digest
from promptclip.data_sets import DataSet
from promptclip.errors import UserError
from promptclip.progress.amount import silence
from promptclip.protocols import PLANS, Settings
from promptclip.tree import TARGETS, Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """What a run is trained and tested on.

    Attributes:
        split_hash: as in `result.json`.
        num_test: test pictures.
    """

    split_hash: str
    num_test: int


class Reference:
    """The same runs with the files of this installation and the data of whoever grades.

    Args:
        work: an output tree, for the runs that are done again.
        root: the folder that holds the data sets.
        data: data sets besides those of `configs/datasets`.
        overrides: KEY VALUE KEY VALUE ... for every run.

    Raises:
        UserError: for overrides that no run can have.
    """

    def __init__(
        self,
        work: Path,
        root: str = "",
        data: Sequence[DataSet] = (),
        overrides: Sequence[object] = (),
    ) -> None:
        self._data = {one.name: one for one in data}
        self._settings = Settings(root, (0,), "", str(work), overrides, build=Builder())
        self._cells: dict[Place, Cell | UserError] = {}
        self._pictures: dict[str, Pictures | UserError] = {}
        # What is wrong with the overrides is no fault of a claim.
        PLANS["fewshot"](["ZeroshotCLIP"], data_sets.find("emoji"), self._settings, shots=[1])

    def run(self, place: Place) -> Run:
        """The run of a place, of which `cfg` may be "".

        Raises:
            UserError: if there is no such run here.
        """
        kind = replace(place, seed=0)
        if kind not in self._cells:
            try:
                self._cells[kind] = self._cell(kind)
            except UserError as error:
                self._cells[kind] = error
        found = self._cells[kind]
        if isinstance(found, UserError):
            raise found
        return Run(found, place.seed)

    def pictures(self, run: Run) -> Pictures:
        """The pictures of a run, without doing it.

        Raises:
            UserError: if the data set cannot be used here.
        """
        values = {**run.cell.values, "SEED": run.seed}
        kept = ("DATASET.", "SEED", "TEST.SPLIT")
        key = digest({name: value for name, value in values.items() if name.startswith(kept)})
        if key not in self._pictures:
            try:
                self._pictures[key] = _pictures(run)
            except UserError as error:
                self._pictures[key] = error
        found = self._pictures[key]
        if isinstance(found, UserError):
            raise found
        return found

    def _cell(self, place: Place) -> Cell:
        own: dict[str, Any] = {}
        if place.protocol in TARGETS:
            own["targets"] = [self._find(place.target)]
        elif place.protocol == "imbalance":
            own["ratios"] = [place.ratio]
        settings = replace(self._settings, cfg_name=place.cfg)
        data = self._find(place.dataset)
        plan = PLANS[place.protocol]([place.method], data, settings, shots=[place.shots], **own)
        for run in plan.runs:
            if (run.place.protocol, run.place.target) == (place.protocol, place.target):
                return run.cell
        raise UserError("; ".join([*plan.skipped, *plan.notes]))

    def _find(self, name: str) -> DataSet:
        return self._data.get(name) or data_sets.find(name)


def _pictures(run: Run) -> Pictures:
    plugins.load_plugins()
    from dassl.data.datasets import build_dataset

    cfg = run.cfg
    with silence():
        dataset: Any = build_dataset(cfg)
    tested = dataset.val if cfg.TEST.SPLIT == "val" else dataset.test
    return Pictures(str(getattr(dataset, "split_hash", "")), len(tested))


def rerun(run: Run) -> Mapping[str, Any]:
    """Do a run, and the training that it tests, unless that has been done; give its result.

    Raises:
        UserError: as of `promptclip.cell.Run`.
    """
    if run.model:
        rerun(run.model)
    try:
        with silence():
            return run()
    except Exception as error:
        run.failed(error)
        raise
