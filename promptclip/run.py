"""One training or one test, from a configuration to `result.json`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from promptclip import imbalance, plugins, results, run_file, trouble
from promptclip.config import config_difference, config_hash
from promptclip.errors import UserError, number_in_environment
from promptclip.files import DamagedError
from promptclip.lock import LEASE_FILE, LOCK_FILE, locked
from promptclip.progress import screen
from promptclip.progress.amount import silence
from promptclip.progress.watch import around, watched
from promptclip.run_file import RUN_FILE
from promptclip.stopping import stop_behind

log = logging.getLogger(__name__)


def run(
    cfg: CfgNode,
    *,
    eval_only: bool = False,
    model_dir: str = "",
    load_epoch: int | None = None,
    no_train: bool = False,
) -> dict[str, Any]:
    """Train and test, or only test, in `cfg.OUTPUT_DIR`.

    A finished run of the same configuration is not repeated; an interrupted one goes on after its
    last checkpoint. What fails before training starts leaves no trace on disk.

    Args:
        cfg: of `promptclip.config.build_cfg`.
        eval_only: load a checkpoint and test it.
        model_dir: with `eval_only`, the output folder of the training run.
        load_epoch: with `eval_only`, the epoch to load; None means the best on validation.
        no_train: build everything and stop, to try a configuration.

    Returns:
        The result, as in `result.json`; empty with `no_train`.

    Raises:
        UserError: if the input is unusable, or the folder holds another run.
        KeyboardInterrupt: if it was stopped; that is no failure, and started again it goes on.
    """
    how: dict[str, Any] = {"eval_only": eval_only, "model_dir": model_dir, "load_epoch": load_epoch}
    if number_in_environment("WORLD_SIZE", 1) == 1:
        return _run(cfg, no_train=no_train, **how)
    from promptclip import parallel

    if parallel.join(cfg) == 0:
        return _run(cfg, no_train=no_train, tell=parallel.tell, **how)
    return {} if no_train else _assist(cfg, **how)


def _run(
    cfg: CfgNode, *, no_train: bool, tell: Callable[[bool], object] = bool, **how: Any
) -> dict[str, Any]:
    """`run` in one process, or in the first of several.

    Args:
        cfg: as of `run`.
        no_train: as of `run`.
        tell: called once with whether there is something to do.
        how: the rest of `run`.
    """
    folder = Path(cfg.OUTPUT_DIR)
    purpose = _purpose(config_hash(cfg), **how)
    with trouble.told(cfg), traceless(folder) as keep, locked(folder):
        if conflict := _conflict(folder, purpose, lambda: cfg):
            raise UserError(f"{folder} {conflict}; give another --output-dir, or delete the folder")
        done = results.read_of(folder, purpose["config_hash"])
        if done is not None:
            log.info("%s holds a finished run", folder)
            keep()
            tell(False)
            return done
        try:
            with screen.prepared(_title(cfg)) as shown, _logged(folder), trouble.told(cfg):
                if no_train:
                    _build(cfg, **how)
                    return {}
                tell(True)
                clock = Clock()
                with clock("build"):
                    trainer = _build(cfg, **how)
                keep()
                log.info("%s\n%s", " ".join(sys.argv), _shown(cfg))
                run_file.write(purpose, cfg, folder)
                _carry_out(trainer, clock, how["eval_only"], shown)
                trained = not how["eval_only"]
                result = results.collect(trainer, cfg, seconds=clock.seconds, trained=trained)
                if cfg.DATASET.IMBALANCE < 1 and "groups" in result:
                    log.info("=> by training pictures\n%s", imbalance.listed(result["groups"]))
                results.write(result, folder)
                return result
        except Exception as error:
            if stop := stop_behind(error):
                raise stop from error
            if (folder / RUN_FILE).is_file() or not isinstance(error, UserError):
                keep()
                with contextlib.suppress(OSError):  # where there is no room, the log has to do
                    results.failed(folder, error)
            raise


def _assist(cfg: CfgNode, **how: Any) -> dict[str, Any]:
    """What the other processes of torchrun do: the same, in a copy of the folder.

    They resume from what the first resumes from, and what they write is let go.
    """
    from promptclip import parallel

    if not parallel.told():
        return {}
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as own, silence():
        shutil.copytree(cfg.OUTPUT_DIR, own, dirs_exist_ok=True)
        parallel.wait()
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = own
        cfg.freeze()
        _carry_out(_build(cfg, **how), Clock(), how["eval_only"])
    return {}


def state(
    folder: Path,
    hash: str,
    cfg: Callable[[], CfgNode],
    *,
    eval_only: bool = False,
    model_dir: str = "",
    load_epoch: int | None = None,
) -> str:
    """What `run` would find: "done", "failed before", "begun", "not done", or why it refuses.

    Args:
        folder: of the run.
        hash: of its configuration.
        cfg: gives the configuration, which is needed only to tell what differs from it.
        eval_only: as of `run`.
        model_dir: as of `run`.
        load_epoch: as of `run`.
    """
    if conflict := _conflict(folder, _purpose(hash, eval_only, model_dir, load_epoch), cfg):
        return f"refused: {conflict}"
    if results.read_of(folder, hash) is not None:
        return "done"
    if results.read_failure(folder):
        return "failed before"
    return "begun" if (folder / RUN_FILE).is_file() else "not done"


class Clock:
    """Seconds spent in each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time inside to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    def around(self, owner: Any, method: str) -> contextlib.AbstractContextManager[None]:
        """Count the time in a method of `owner` as a phase of that name."""

        def timed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with self(method):
                return function(*args, **kwargs)

        return around(owner, method, timed)


def _shown(cfg: CfgNode) -> CfgNode:
    """The configuration without the options of methods and regularisers that are not used."""
    from dassl.config import clean_cfg

    shown = cfg.clone()
    shown.defrost()
    clean_cfg(shown, cfg.TRAINER.NAME)
    shown.TRAINER.REGULARIZERS = cfg.TRAINER.REGULARIZERS
    for name in set(shown.REGULARIZER) - {name.upper() for name in cfg.TRAINER.REGULARIZERS}:
        del shown.REGULARIZER[name]
    return shown


def _build(cfg: CfgNode, *, eval_only: bool, model_dir: str, load_epoch: int | None) -> Any:
    """The trainer, with data and weights loaded."""
    plugins.load_plugins()
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from promptclip import arithmetic

    arithmetic.arrange(cfg)
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    trainer = build_trainer(cfg)
    if eval_only:
        trainer.load_model(model_dir, epoch=load_epoch)
    return trainer


def _title(cfg: CfgNode) -> str:
    """What a run is called where it is shown."""
    data = cfg.DATASET
    sample = f"{data.NUM_SHOTS} shots" if data.NUM_SHOTS > 0 else "all pictures"
    classes = f"{data.SUBSAMPLE_CLASSES} classes"
    return f"{cfg.TRAINER.NAME} on {data.NAME}, {classes}, {sample}, seed {cfg.SEED}"


def _carry_out(
    trainer: Any, clock: Clock, eval_only: bool, shown: screen.Screen | None = None
) -> None:
    """Train and test, or only test; the time of each goes to the clock."""
    with clock.around(trainer, "test"), watched(trainer, shown):
        if eval_only:
            trainer.test()
        else:
            with clock("train"):
                trainer.train()
            clock.seconds["train"] -= clock.seconds.get("test", 0.0)


def _purpose(hash: str, eval_only: bool, model_dir: str, load_epoch: int | None) -> dict[str, Any]:
    """What a folder is for, as its run.json says it, beside the configuration itself."""
    return {
        "config_hash": hash,
        "model": _identity(model_dir) if eval_only else None,
        "load_epoch": load_epoch if eval_only else None,
    }


def _identity(model_dir: str) -> str:
    """What was trained in a folder, or is in a file; its path where that is not on record."""
    place = Path(model_dir)
    if model_dir and place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()[:16]
    try:
        trained = run_file.read(place) if model_dir else None
    except DamagedError as error:
        raise UserError(
            f"{error}: it is not known what was trained there; train again in another folder"
        ) from None
    if trained:
        return str(trained["config_hash"])
    return str(place.resolve()) if model_dir else ""


def _conflict(folder: Path, purpose: Mapping[str, Any], cfg: Callable[[], CfgNode]) -> str:
    """What stands in the way of a run of this purpose in a folder; "" if nothing."""
    try:
        other = run_file.read(folder)
    except DamagedError as error:
        return f"cannot be used, because {error}"
    if other is None:
        found = any(folder.glob("*/checkpoint"))
        return f"holds checkpoints without a {RUN_FILE} beside them" if found else ""
    different = [key for key in purpose if purpose[key] != other.get(key)]
    if not different:
        return ""
    difference = config_difference(cfg(), other["config"]) + [
        f"{key}: {purpose[key]!r}, not {other.get(key)!r}"
        for key in different
        if key != "config_hash"
    ]
    return f"was written by another run ({'; '.join(difference)})"


@contextlib.contextmanager
def traceless(folder: Path) -> Iterator[Callable[[], None]]:
    """Take back the folders and files made inside, unless what this yields is called."""
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        yield keep
    finally:
        if not kept and folder in made:
            # Unless another process was as quick, and is in the folder or has been
            with contextlib.suppress(OSError, UserError):
                with locked(folder):
                    ours = {*folder.glob("log.txt*"), folder / LOCK_FILE}
                    if {*folder.iterdir()} - {folder / LEASE_FILE} == ours:
                        for file in ours:
                            file.unlink()
                for path in made:
                    path.rmdir()


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Write `folder/log.txt`, and leave no trace of that in this process.

    Our runtime adds a handler to the root logger; the original Dassl replaces `sys.stdout`, so
    there a handler is needed that writes to it, unless there is one, as on the command line.
    """
    from dassl.utils import setup_logger

    stdout, handlers = sys.stdout, list(logging.root.handlers)
    ours = logging.getLogger("promptclip")
    level, our_handlers = ours.level, list(ours.handlers)
    setup_logger(str(folder))
    ours.setLevel(min(ours.getEffectiveLevel(), logging.INFO))
    replaced = sys.stdout is not stdout
    if replaced and all(getattr(h, "stream", None) is not sys.stdout for h in our_handlers):
        ours.addHandler(logging.StreamHandler(sys.stdout))
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in [h for h in ours.handlers if h not in our_handlers]:
            ours.removeHandler(handler)
        sys.stdout = stdout
        for handler in [h for h in logging.root.handlers if h not in handlers]:
            logging.root.removeHandler(handler)
            handler.close()
