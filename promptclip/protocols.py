"""Experiments of many runs, in one process.

Base-to-new, few-shot, cross-dataset and domain generalisation plan their runs differently and have
everything else in common. Finished runs are not repeated. A failing run does not keep the others
from running, and is shown as failed in the table that comes last. A model is trained once, however
many tests it is for, and a test of it elsewhere has the configuration of its training but for
the data.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptclip import data_sets, plugins, results, table
from promptclip.config import build_cfg, config_file
from promptclip.data_sets import DataSet
from promptclip.errors import UserError
from promptclip.run import RUN_FILE, run, state
from promptclip.tree import HALVES, PROTOCOLS, TARGETS, Place, of_shots

log = logging.getLogger(__name__)

# What the protocol itself decides about a run.
OWN_KEYS = {
    *("DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
    *("DATASET.FOLDER", "DATASET.FOLDER_HASH"),
    *("OUTPUT_DIR", "SEED", "TRAINER.NAME"),
}
PARTS = ("train", "test")  # of base-to-new
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
        dry_run: say what would be run, and where, and do nothing.
    """

    root: str = ""
    seeds: Sequence[int] = (1, 2, 3)
    cfg_name: str = ""
    output: str = "output"
    overrides: Sequence[object] = ()
    quiet: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Run:
    """A configuration, and the training whose model it tests if it is not trained."""

    place: Place
    cfg: CfgNode
    model: Run | None = None

    def __str__(self) -> str:
        """Such as "CoOp, seed 1, base classes"."""
        return str(self.place)

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of `promptclip.run.run` besides the configuration."""
        if self.model is None:
            return {}
        trained = self.model.cfg
        best = trained.TEST.FINAL_MODEL == "best_val"
        return {
            "eval_only": True,
            "model_dir": trained.OUTPUT_DIR,
            "load_epoch": None if best else trained.OPTIM.MAX_EPOCH,
        }

    def __call__(self) -> dict[str, Any]:
        """The result; see `promptclip.run.run`."""
        if self.model and results.read(Path(self.model.cfg.OUTPUT_DIR)) is None:
            trained = self.model.place
            raise UserError(
                f"no finished training in {self.model.cfg.OUTPUT_DIR}; "
                f"train on {trained.target or trained.dataset} first"
            )
        return run(self.cfg, **self.how)

    def plan(self) -> str:
        """What there is to do, for which data, in what state it is, and where."""
        place = self.place
        trains = self.model is None and plugins.trains(place.method)
        return (
            f"{place.method}, {place.benchmark}, {of_shots(place.shots)}, seed {place.seed}: "
            f"{'train and test' if trains else 'test only'}, {place.classes} classes, "
            f"{state(self.cfg, **self.how)}, {self.cfg.OUTPUT_DIR}"
        )


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
    planner = _Planner("base2new", methods, dataset, [shots], Settings(**settings))
    planned = []
    for one in planner:
        runs = {"train": planner.training(*one, "base")}
        if _transfers(one[0]):
            runs["test"] = planner.test(runs["train"], "new", planner.data)
        planned += [runs[part] for part in parts if part in runs]
    for method in planner.methods:
        if not _transfers(method):
            log.info("%s: no test on new classes, %s", method, _BOUND)
    # The table of one half finds the other; those of other data sets are not asked for.
    return planner.carry_out(planned, HALVES["base"], planner.dataset, f"shots_{shots}")


def fewshot(
    methods: Sequence[str],
    dataset: str,
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    **settings: Any,
) -> int:
    """Train and test on all classes with several numbers of training pictures, print the table.

    Arguments, result and errors as of `base2new`, but for `shots`: one or more numbers.
    """
    planner = _Planner("fewshot", methods, dataset, shots, Settings(**settings))
    planned = [planner.training(*one) for one in planner]
    return planner.carry_out(planned, planner.dataset)


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


def _transfer(
    protocol: str,
    methods: Sequence[str],
    source: str,
    *,
    shots: int = 16,
    targets: Sequence[str] = (),
    **settings: Any,
) -> int:
    """The model of a few-shot run on other data; the run is shared by all protocols."""
    planner = _Planner(protocol, methods, source, [shots], Settings(**settings))
    targets = targets or TARGETS[protocol].get(planner.dataset, ())
    if not targets:
        known = ", ".join(TARGETS[protocol])
        raise UserError(f"{planner.dataset} has no usual targets ({known} have); give --targets")
    found = [data_sets.find(name) for name in targets]
    names = [planner.dataset, *(target.name for target in found)]
    if names[0] in names[1:]:
        raise UserError(f"{planner.dataset} is the source and cannot be a target as well")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two targets are called {twice[0]}; their results would lie in one place")
    bound = [m for m in planner.methods if protocol == "xd" and not _transfers(m)]
    planned = []
    for one in planner:
        if one[0] not in bound:
            trained = planner.training(*one)
            tests = (planner.test(trained, target.name, target) for target in found)
            planned += [trained, *tests]
    skipped = [f"{method}: not run, {_BOUND}" for method in bound]
    return planner.carry_out(planned, planner.dataset, skipped=skipped)


class _Planner:
    """Makes the runs of a protocol.

    Iterating gives (method, shots, seed) of every training.
    """

    def __init__(
        self,
        protocol: str,
        methods: Sequence[str],
        dataset: str,
        shots: Sequence[int],
        settings: Settings,
    ) -> None:
        if own := OWN_KEYS.intersection(map(str, settings.overrides[::2])):
            keys = ", ".join(sorted(own))
            raise UserError(f"{keys} cannot be set here: {PROTOCOLS[protocol]} sets it itself")
        if min(shots, default=0) < 1 or min(settings.seeds, default=0) < 0:
            raise UserError(
                "shots must be at least 1 and seeds at least 0; got "
                f"{' '.join(map(str, shots))} and {settings.seeds}"
            )
        self.protocol, self.shots, self.settings = protocol, shots, settings
        self.data = data_sets.find(dataset)
        self.dataset = self.data.name
        self.methods = {}  # name -> its yaml
        for method in map(plugins.trainer_name, methods):
            name = settings.cfg_name or build_cfg(method, self.data.file, "").DATASET.CFG
            self.methods[method] = config_file(f"trainers/{method}", name)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        return itertools.product(self.methods, self.shots, self.settings.seeds)

    def cfg(self, place: Place, data: DataSet) -> CfgNode:
        """The configuration of a run on a data set."""
        return build_cfg(
            place.method,
            data.file,
            self.methods[place.method],
            root=self.settings.root,
            seed=place.seed,
            output_dir=str(Path(self.settings.output, place.path)),
            overrides=[
                *data.overrides,
                *("DATASET.NUM_SHOTS", place.shots, "DATASET.SUBSAMPLE_CLASSES", place.classes),
                *self.settings.overrides,
            ],
        )

    def training(self, method: str, shots: int, seed: int, half: str = "") -> Run:
        """Train and test on all classes, or on half of them."""
        protocol = "base2new" if half else "fewshot"
        stem = self.methods[method].stem
        place = Place(protocol, self.dataset, shots, method, stem, seed, half)
        return Run(place, self.cfg(place, self.data))

    def test(self, trained: Run, target: str, data: DataSet) -> Run:
        """Test on other data what was trained, configured as it was but for the data."""
        place = replace(trained.place, protocol=self.protocol, target=target)
        elsewhere = self.cfg(place, data)
        cfg = trained.cfg.clone()
        cfg.defrost()
        cfg.DATASET, cfg.OUTPUT_DIR = elsewhere.DATASET, elsewhere.OUTPUT_DIR
        cfg.freeze()
        return Run(place, cfg, trained)

    def carry_out(self, planned: Sequence[Run], *below: str, skipped: Sequence[str] = ()) -> int:
        """Run everything and print the table of the folder `below` that of the protocol.

        Args:
            planned: in this order.
            below: names of folders.
            skipped: lines about what could not be planned.

        Returns:
            The exit status.
        """
        if not planned and skipped:
            raise UserError("; ".join(skipped))
        if self.settings.dry_run:
            for number, one in enumerate(planned, 1):
                log.info("[%d/%d] %s", number, len(planned), one.plan())
            failed = list(skipped)
        else:
            failed = [*skipped, *_run_all(planned, self.settings.quiet)]
            folder = Path(self.settings.output, self.protocol, *below)
            log.info("%s", table.render(table.build(folder)))
        for line in failed:
            log.error("failed: %s", line)
        return 1 if failed else 0


def _transfers(method: str) -> bool:
    """Whether a model of this method can be used for other classes, as far as is known."""
    ours = plugins.methods().get(method)
    return ours is None or ours.Model.transfers


def _run_all(planned: Sequence[Run], quiet: bool) -> list[str]:
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
        finished = results.read(Path(one.cfg.OUTPUT_DIR)) is not None
        try:
            with _silence(quiet or finished):
                result = one()
        except Exception as error:
            if number == 1 and isinstance(error, UserError):
                raise
            unexpected = not isinstance(error, UserError)
            log.error("%s: failed: %s", label, error, exc_info=unexpected)
            failed.append(f"{one}: {error}")
            # What fails before it starts leaves no trace of its own, but must show in the table.
            if not Path(one.cfg.OUTPUT_DIR, RUN_FILE).exists():
                results.failed(one.cfg.OUTPUT_DIR, error)
            continue
        if not finished:
            metrics = result["metrics"]
            accuracy = f"{metrics['accuracy']:.1f} %" if metrics else "not tested"
            log.info("%s: %s (%.0f s)", label, accuracy, time.perf_counter() - start)
    return failed


@contextlib.contextmanager
def _silence(quiet: bool) -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        yield
