"""Experiments of many runs, in one process: base-to-new."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptclip import plugins, results, table
from promptclip.config import build_cfg, closest, configs_dir
from promptclip.errors import UserError
from promptclip.run import run

log = logging.getLogger(__name__)

PROTOCOL = "base2new"
# What the protocol itself decides about a run.
OWN_KEYS = {
    *("DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
    *("OUTPUT_DIR", "SEED", "TRAINER.NAME"),
}
# Part -> its folder in CoOp's output tree, and the classes that it is tested on.
PARTS = {"train": ("train_base", "base"), "test": ("test_new", "new")}


@dataclass(frozen=True)
class Run:
    """A configuration, and what it is tested with if it is not trained."""

    cfg: CfgNode
    model: Run | None = None

    def __str__(self) -> str:
        """Such as "CoOp, seed 1, base classes"."""
        cfg = self.cfg
        return f"{cfg.TRAINER.NAME}, seed {cfg.SEED}, {cfg.DATASET.SUBSAMPLE_CLASSES} classes"

    def __call__(self) -> dict[str, Any]:
        """The result; see `promptclip.run.run`."""
        if self.model is None:
            return run(self.cfg)
        trained = self.model.cfg
        if results.read(Path(trained.OUTPUT_DIR)) is None:
            raise UserError(f"no finished training in {trained.OUTPUT_DIR}; train on base first")
        best = trained.TEST.FINAL_MODEL == "best_val"
        return run(
            self.cfg,
            eval_only=True,
            model_dir=trained.OUTPUT_DIR,
            load_epoch=None if best else trained.OPTIM.MAX_EPOCH,
        )


def base2new(
    methods: Sequence[str],
    dataset: str,
    *,
    root: str = "",
    seeds: Sequence[int] = (1, 2, 3),
    shots: int = 16,
    cfg_name: str = "",
    output: str = "output",
    parts: Sequence[str] = tuple(PARTS),
    overrides: Sequence[object] = (),
    quiet: bool = False,
) -> int:
    """Train on the base classes, test on base and new classes, print the table.

    Finished runs are not repeated. A failing run does not keep the others from running.

    Args:
        methods: names in any case, such as "coop".
        dataset: stem of a file in `configs/datasets`, or the path of a yaml file.
        root: the folder that holds the data sets.
        seeds: of the runs, each with its own few-shot sample.
        shots: training pictures per class.
        cfg_name: stem of a file in `configs/trainers/<METHOD>`, or the path of a yaml file; ""
            takes the data set's choice.
        output: results go below `<output>/base2new`.
        parts: "train" trains on base and tests on base, "test" tests on new.
        overrides: KEY VALUE KEY VALUE ... for every run.
        quiet: one line for each run; the rest goes to its log.txt alone.

    Returns:
        The exit status: 1 if a run has failed.

    Raises:
        UserError: for unusable input, before anything is run.
    """
    if own := OWN_KEYS.intersection(map(str, overrides[::2])):
        raise UserError(f"{', '.join(sorted(own))} cannot be set here: base-to-new sets it itself")
    if shots < 1 or min(seeds, default=0) < 0:
        raise UserError(f"shots must be at least 1 and seeds at least 0; got {shots} and {seeds}")
    planned: list[Run] = []
    dataset_file = _config_file("datasets", dataset)
    half = Path(dataset_file.stem, f"shots_{shots}")
    for method in map(plugins.trainer_name, methods):
        name = cfg_name or build_cfg(method, dataset_file, "").DATASET.CFG
        config_file = _config_file(f"trainers/{method}", name)
        for seed in seeds:
            runs: dict[str, Run] = {}
            for part, (place, classes) in PARTS.items():
                folder = Path(output, PROTOCOL, place, half, method, config_file.stem)
                cfg = build_cfg(
                    method,
                    dataset_file,
                    config_file,
                    root=root,
                    seed=seed,
                    output_dir=str(folder / f"seed{seed}"),
                    overrides=[
                        *("DATASET.NUM_SHOTS", shots, "DATASET.SUBSAMPLE_CLASSES", classes),
                        *overrides,
                    ],
                )
                runs[part] = Run(cfg, runs.get("train"))
            planned += [runs[part] for part in parts]
    failed = _run_all(planned, quiet)
    # The table of one half finds the other; those of other data sets are not asked for.
    log.info("%s", table.render(table.build(Path(output, PROTOCOL, PARTS["train"][0], half))))
    for line in failed:
        log.error("failed: %s", line)
    return 1 if failed else 0


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


def _config_file(folder: str, name: str) -> Path:
    """The file `configs/<folder>/<name>.yaml`, or the yaml file that `name` is the path of."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    place = configs_dir() / folder
    known = sorted(path.stem for path in place.glob("*.yaml"))
    if name not in known:
        match = closest(name, known)
        hint = f", did you mean {match!r}" if match else ""
        raise UserError(f"no {name!r} in {place}{hint}? There are: {', '.join(known) or 'none'}")
    return place / f"{name}.yaml"
