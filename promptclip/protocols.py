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


@dataclass(frozen=True)
class Run:
    """A configuration, and what it is tested with if it is not trained."""

    cfg: CfgNode
    model: Run | None = None

    def __str__(self) -> str:
        """Such as "CoOp, seed 1, train base"."""
        what = "train" if self.model is None else "test"
        classes = self.cfg.DATASET.SUBSAMPLE_CLASSES
        return f"{self.cfg.TRAINER.NAME}, seed {self.cfg.SEED}, {what} {classes}"

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
    parts: Sequence[str] = ("train", "test"),
    overrides: Sequence[object] = (),
    quiet: bool = False,
) -> int:
    """Train on the base classes, test on base and new classes, print the table.

    Finished runs are not repeated. A failing run does not keep the others from running.

    Args:
        methods: names in any case, such as "coop".
        dataset: stem of a file in `configs/datasets`.
        root: the folder that holds the data sets.
        seeds: of the runs, each with its own few-shot sample.
        shots: training pictures per class.
        cfg_name: stem of a file in `configs/trainers/<METHOD>`; "" takes the data set's choice.
        output: results go below `<output>/base2new`.
        parts: "train" trains on base and tests on base, "test" tests on new.
        overrides: KEY VALUE KEY VALUE ... for every run.
        quiet: one line for each run; the rest goes to its log.txt alone.

    Returns:
        The exit status: 1 if a run has failed.

    Raises:
        UserError: for unusable input, before anything is run.
    """
    places = {"train": ("train_base", "base"), "test": ("test_new", "new")}
    dataset_file = _config_file("datasets", dataset)
    planned = []
    for method in map(plugins.trainer_name, methods):
        name = cfg_name or build_cfg(method, dataset_file, "").DATASET.CFG
        config_file = _config_file(f"trainers/{method}", name)
        for seed in seeds:
            runs: dict[str, Run] = {}
            for part, (place, classes) in places.items():
                folder = Path(output, "base2new", place, dataset, f"shots_{shots}")
                cfg = build_cfg(
                    method,
                    dataset_file,
                    config_file,
                    root=root,
                    seed=seed,
                    output_dir=str(folder / method / name / f"seed{seed}"),
                    overrides=[
                        *("DATASET.NUM_SHOTS", shots, "DATASET.SUBSAMPLE_CLASSES", classes),
                        *overrides,
                    ],
                )
                runs[part] = Run(cfg, runs.get("train"))
            planned += [runs[part] for part in places if part in parts]
    failed = _run_all(planned, quiet)
    log.info("%s", table.render(table.build(Path(output, "base2new")), "text"))
    for line in failed:
        log.error("failed: %s", line)
    return 1 if failed else 0


def _run_all(planned: Sequence[Run], quiet: bool) -> list[str]:
    """Run each in turn.

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
        try:
            with _silence(quiet):
                result = one()
        except Exception as error:
            if number == 1 and isinstance(error, UserError):
                raise
            log.exception("%s: failed", label)
            failed.append(f"{one}: {error}")
        else:
            seconds = time.perf_counter() - start
            log.info("%s: %.1f %% (%.0f s)", label, result["metrics"]["accuracy"], seconds)
    return failed


@contextlib.contextmanager
def _silence(quiet: bool) -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        yield


def _config_file(folder: str, stem: str) -> Path:
    """`configs/<folder>/<stem>.yaml`."""
    place = configs_dir() / folder
    file = place / f"{stem}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in place.glob("*.yaml"))
        match = closest(stem, known)
        hint = f", did you mean {match!r}" if match else ""
        raise UserError(f"no {stem!r} in {place}{hint}? There are: {', '.join(known) or 'none'}")
    return file
