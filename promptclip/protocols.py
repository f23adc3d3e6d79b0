"""Experiments of many runs: what there is to run, and running it in one process.

Base-to-new, few-shot, cross-dataset, domain generalisation and class imbalance plan their runs
differently (`PLANS`) and have everything else in common. Here one process carries them out, in
`promptclip.grid` many do. Finished runs are not repeated. A failing run does not keep the others
from running, and is shown as failed in the table that comes last. A model is trained once, however
many tests it is for, and a test of it elsewhere has the configuration of its training but for
the data.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptclip import data_sets, plugins, results, table
from promptclip.cell import Cell, Run
from promptclip.config import Builder, config_file
from promptclip.data_sets import DataSet
from promptclip.errors import UserError
from promptclip.progress.amount import silence
from promptclip.progress.screen import titled
from promptclip.tree import HALVES, PROTOCOLS, TARGETS, Place

log = logging.getLogger(__name__)

# What the protocol itself decides about a run.
OWN_KEYS = {
    *("DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
    *("DATASET.FOLDER", "DATASET.FOLDER_HASH"),
    *("OUTPUT_DIR", "SEED", "TRAINER.NAME"),
}
_ALSO_OWN = {"imbalance": {"DATASET.IMBALANCE"}}
PARTS = ("train", "test")  # of base-to-new
SHOTS = (16,)  # by default
FEWSHOT_SHOTS = (1, 2, 4, 8, 16)
RATIOS = (1.0, 0.25, 0.06)
_MAX_SEED = 2**32 - 1  # NumPy takes no larger one
_BOUND = "what it learns cannot be used for other classes"


@dataclass(frozen=True)
class Settings:
    """What every protocol takes.

    Attributes:
        root: the folder that holds the data sets.
        seeds: of the runs, each with its own few-shot sample.
        cfg_name: stem of a file in `configs/trainers/<METHOD>`, or the path of a yaml file; ""
            takes the choice of the data set that is trained on.
        output: results go below this folder, see `promptclip.tree`.
        overrides: KEY VALUE KEY VALUE ... for every run.
        quiet: one line for each run; the rest goes to its log.txt alone.
        brief: the same, and on a terminal how far the run is.
        dry_run: say what would be run, and where, and do nothing.
        build: of all configurations of a plan.
    """

    root: str = ""
    seeds: Sequence[int] = (1, 2, 3)
    cfg_name: str = ""
    output: str = "output"
    overrides: Sequence[object] = ()
    quiet: bool = False
    brief: bool = False
    dry_run: bool = False
    build: Builder = field(default_factory=Builder, compare=False, repr=False)


@dataclass(frozen=True)
class Plan:
    """What a protocol will run.

    Attributes:
        runs: in this order; a training comes before its tests.
        skipped: a line for each part of what was asked for that cannot be run.
        notes: lines about what does not apply.
        dataset: that all are trained on, by its name in the output tree; empty if several are.
    """

    runs: Sequence[Run]
    skipped: Sequence[str] = ()
    notes: Sequence[str] = ()
    dataset: str = ""


def base2new(
    methods: Sequence[str],
    dataset: str,
    *,
    shots: int = 16,
    parts: Sequence[str] = PARTS,
    **settings: Any,
) -> int:
    """Train on the base classes, test on base and new classes, print the table.

    A method whose model cannot be used for other classes is not tested on the new ones.

    Args:
        methods: names in any case, such as "coop".
        dataset: as `promptclip.data_sets.find` takes it.
        shots: training pictures per class.
        parts: "train" trains on base and tests on base, "test" tests on new.
        settings: see `Settings`.

    Returns:
        The exit status: 1 if a run has failed.

    Raises:
        UserError: for unusable input, before anything is run.
    """
    given = Settings(**settings)
    data = data_sets.find(dataset, given.overrides)
    plan = plan_base2new(methods, data, given, shots=[shots], parts=parts)
    # The table of one half finds the other; those of other data sets are not asked for.
    return _carry_out(plan, given, "base2new", HALVES["base"], plan.dataset, f"shots_{shots}")


def fewshot(
    methods: Sequence[str],
    dataset: str,
    *,
    shots: Sequence[int] = FEWSHOT_SHOTS,
    **settings: Any,
) -> int:
    """Train and test on all classes with several numbers of training pictures, print the table.

    Arguments, result and errors as of `base2new`, but for `shots`: one or more numbers.
    """
    given = Settings(**settings)
    plan = plan_fewshot(methods, data_sets.find(dataset, given.overrides), given, shots=shots)
    return _carry_out(plan, given, "fewshot", plan.dataset)


def xd(methods: Sequence[str], source: str, **kwargs: Any) -> int:
    """Cross-dataset: train on all classes of the source, test on other benchmarks.

    A method whose model cannot be used for other classes is left out, and named as failed.
    Arguments as of `dg`.
    """
    return _transfer("xd", methods, source, **kwargs)


def dg(methods: Sequence[str], source: str, **kwargs: Any) -> int:
    """Domain generalisation: train on all classes of the source, test on its variants.

    Arguments, result and errors as of `base2new`, without `parts`, and with `targets`: names of
    data sets, as `promptclip.data_sets.find` takes them, none for the usual ones of the source
    (`promptclip.tree.TARGETS`).
    """
    return _transfer("dg", methods, source, **kwargs)


def imbalance(
    methods: Sequence[str],
    dataset: str,
    *,
    shots: int = 16,
    ratios: Sequence[float] = RATIOS,
    **settings: Any,
) -> int:
    """Train and test on all classes with training pictures that get rarer from class to class.

    With the ratio 1 nothing is taken away: that is the few-shot run, which is shared.

    Arguments, result and errors as of `base2new`, without `parts`, and with `ratios`: of the
    rarest class's training pictures to the most frequent one's, see `promptclip.imbalance`.
    """
    given = Settings(**settings)
    data = data_sets.find(dataset, given.overrides)
    plan = plan_imbalance(methods, data, given, shots=[shots], ratios=ratios)
    return _carry_out(plan, given, "imbalance", plan.dataset)


def _transfer(
    protocol: str,
    methods: Sequence[str],
    source: str,
    *,
    shots: int = 16,
    targets: Sequence[str] = (),
    **settings: Any,
) -> int:
    given = Settings(**settings)
    data, *others = (data_sets.find(name, given.overrides) for name in [source, *targets])
    plan = PLANS[protocol](methods, data, given, shots=[shots], targets=others)
    return _carry_out(plan, given, protocol, plan.dataset)


def plan_base2new(
    methods: Sequence[str],
    data: DataSet,
    settings: Settings,
    *,
    shots: Sequence[int] = SHOTS,
    parts: Sequence[str] = PARTS,
) -> Plan:
    """The runs of `base2new`, with one or more numbers of shots."""
    planner = _Planner("base2new", methods, data, shots, settings)

    def cells(method: str, shots: int) -> list[Cell]:
        found = {"train": planner.training(method, shots, "base")}
        if _transfers(method):
            found["test"] = planner.test(found["train"], "new", data)
        return [found[part] for part in parts if part in found]

    bound = [method for method in planner.methods if not _transfers(method)]
    notes = [f"{method}: no test on new classes, {_BOUND}" for method in bound]
    return Plan(planner.runs(cells), notes=notes, dataset=data.name)


def plan_fewshot(
    methods: Sequence[str],
    data: DataSet,
    settings: Settings,
    *,
    shots: Sequence[int] = FEWSHOT_SHOTS,
) -> Plan:
    """The runs of `fewshot`."""
    planner = _Planner("fewshot", methods, data, shots, settings)
    return Plan(planner.runs(lambda *which: [planner.training(*which)]), dataset=data.name)


def plan_imbalance(
    methods: Sequence[str],
    data: DataSet,
    settings: Settings,
    *,
    shots: Sequence[int] = SHOTS,
    ratios: Sequence[float] = RATIOS,
) -> Plan:
    """The runs of `imbalance`, with one or more numbers of shots."""
    planner = _Planner("imbalance", methods, data, shots, settings)
    ratios = list(dict.fromkeys(ratios))
    if not any(ratio < 1 for ratio in ratios):
        raise UserError(
            f"expected a ratio below 1, got {' '.join(map(str, ratios)) or 'none'}; without one "
            "this is few-shot training: promptclip fewshot"
        )

    def cells(method: str, shots: int) -> list[Cell]:
        return [planner.training(method, shots, ratio=ratio) for ratio in ratios]

    return Plan(planner.runs(cells), dataset=data.name)


def _plan_transfer(
    protocol: str,
    methods: Sequence[str],
    data: DataSet,
    settings: Settings,
    *,
    shots: Sequence[int] = SHOTS,
    targets: Sequence[DataSet] = (),
) -> Plan:
    """The model of a few-shot run on other data; the run is shared by all protocols."""
    planner = _Planner(protocol, methods, data, shots, settings)
    targets = targets or [data_sets.find(name) for name in TARGETS[protocol].get(data.name, ())]
    if not targets:
        known = ", ".join(TARGETS[protocol])
        raise UserError(f"{data.name} has no usual targets ({known} have); give --targets")
    names = [target.name for target in targets]
    if data.name in names:
        raise UserError(f"{data.name} is the source and cannot be a target as well")
    if twice := [one for one in names if names.count(one) > 1]:
        raise UserError(f"two targets are called {twice[0]}; their results would lie in one place")
    bound = [m for m in planner.methods if protocol == "xd" and not _transfers(m)]

    def cells(method: str, shots: int) -> list[Cell]:
        if method in bound:
            return []
        trained = planner.training(method, shots)
        return [trained, *(planner.test(trained, target.name, target) for target in targets)]

    skipped = [f"{method}: not run, {_BOUND}" for method in bound]
    return Plan(planner.runs(cells), skipped, dataset=data.name)


# What each protocol would run: (methods, `DataSet`, settings, shots=..., ...) -> Plan, with
# `UserError` for unusable input. All configurations are checked.
PLANS: dict[str, Callable[..., Plan]] = {
    "base2new": plan_base2new,
    "fewshot": plan_fewshot,
    "xd": functools.partial(_plan_transfer, "xd"),
    "dg": functools.partial(_plan_transfer, "dg"),
    "imbalance": plan_imbalance,
}


class _Planner:
    """Makes the runs of a protocol with one data set to train on."""

    def __init__(
        self,
        protocol: str,
        methods: Sequence[str],
        data: DataSet,
        shots: Sequence[int],
        settings: Settings,
    ) -> None:
        own = OWN_KEYS | _ALSO_OWN.get(protocol, set())
        if own := own.intersection(map(str, settings.overrides[::2])):
            keys = ", ".join(sorted(own))
            raise UserError(f"{keys} cannot be set here: {PROTOCOLS[protocol]} sets it itself")
        seeds = settings.seeds
        if min(shots, default=0) < 1 or not all(0 <= seed <= _MAX_SEED for seed in seeds):
            raise UserError(
                f"shots must be at least 1 and seeds between 0 and {_MAX_SEED}; got "
                f"{' '.join(map(str, shots))} and {' '.join(map(str, seeds))}"
            )
        self.protocol, self.data, self.shots, self.settings = protocol, data, shots, settings
        self.methods = {}  # name -> its yaml
        for method in map(plugins.trainer_name, methods):
            name = settings.cfg_name or settings.build(method, data.file, "").DATASET.CFG
            self.methods[method] = config_file(f"trainers/{method}", name)

    def runs(self, cells: Callable[[str, int], Sequence[Cell]]) -> list[Run]:
        """All runs, of which a seed's follow each other.

        Args:
            cells: those of a method and a number of shots.

        Raises:
            UserError: if the configuration of a cell is unusable.
        """
        found = []
        for which in itertools.product(self.methods, self.shots):
            together = cells(*which)
            for cell in together:
                cell.values  # noqa: B018  a wrong key is found now
            found += [Run(cell, seed) for seed in self.settings.seeds for cell in together]
        return found

    def training(self, method: str, shots: int, half: str = "", ratio: float = 1.0) -> Cell:
        """Train and test on all classes, on half of them, or on all with a ratio of imbalance."""
        stem, own = self.methods[method].stem, tuple[object, ...]()
        protocol = "base2new" if half else "fewshot"
        place = Place(protocol, self.data.name, shots, method, stem, 0, half)
        if ratio != 1:
            own = "DATASET.IMBALANCE", float(ratio)
            place = replace(place, protocol="imbalance", target=f"ratio_{float(ratio)}")
        return self._cell(place, self.data, own)

    def test(self, trained: Cell, target: str, data: DataSet) -> Cell:
        """Test on other data what was trained."""
        place = replace(trained.place, protocol=self.protocol, target=target)
        return self._cell(place, data, model=trained)

    def _cell(
        self,
        place: Place,
        data: DataSet,
        own: tuple[object, ...] = (),
        model: Cell | None = None,
    ) -> Cell:
        """A cell with KEY VALUE pairs of the protocol's `own`."""
        settings = self.settings
        return Cell(
            place,
            str(data.file),
            str(self.methods[place.method]),
            settings.root,
            settings.output,
            (*data.overrides, *own, *settings.overrides),
            model,
            settings.build,
        )


def _carry_out(plan: Plan, settings: Settings, *folder: str) -> int:
    """Run everything and print the table of a folder of the output tree.

    Returns:
        The exit status.

    Raises:
        UserError: for unusable input, before anything is run.
    """
    for note in plan.notes:
        log.info("%s", note)
    if not plan.runs and plan.skipped:
        raise UserError("; ".join(plan.skipped))
    if settings.dry_run:
        for number, one in enumerate(plan.runs, 1):
            log.info("[%d/%d] %s", number, len(plan.runs), one.plan(one.state))
        failed = list(plan.skipped)
    else:
        failed = [*plan.skipped, *_run_all(plan.runs, settings)]
        log.info("%s", table.render(table.build(Path(settings.output, *folder))))
    for line in failed:
        log.error("failed: %s", line)
    return 1 if failed else 0


def _transfers(method: str) -> bool:
    """Whether a model of this method can be used for other classes, as far as is known."""
    ours = plugins.methods().get(method)
    return ours is None or ours.Model.transfers


def _run_all(planned: Sequence[Run], settings: Settings) -> list[str]:
    """Run each in turn; say nothing of those that were finished before.

    Returns:
        One line for each that has failed.

    Raises:
        UserError: from the first run, when nothing has been started: what is wrong with it is
            most likely wrong with all.
    """
    failed: list[str] = []
    for number, one in enumerate(planned, 1):
        label = f"[{number}/{len(planned)}] {one}"
        start = time.perf_counter()
        finished = results.read(one.folder) is not None
        try:
            with silence(settings.quiet or finished, brief=settings.brief), titled(label):
                result = one()
        except Exception as error:
            if number == 1 and isinstance(error, UserError):
                raise
            unexpected = not isinstance(error, UserError)
            log.error("%s: failed: %s", label, error, exc_info=unexpected)
            failed.append(f"{one}: {error}")
            one.failed(error)
            continue
        if not finished:
            seconds = time.perf_counter() - start
            log.info("%s: %s (%.0f s)", label, results.told(result), seconds)
    return failed
