"""`result.json`: what a run measured, and everything that is needed to make sense of it.

Written last and in one step, so a run is finished exactly when `read` gives something.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promptclip
from promptclip import imbalance
from promptclip.errors import UserError
from promptclip.files import DamagedError, checked, read_json, read_record, write_record

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCHEMA = 1
RESULT_FILE = "result.json"
FAILURE_FILE = "failed.json"
_PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow", "safetensors")


def collect(
    trainer: Any, cfg: CfgNode, *, seconds: Mapping[str, float], trained: bool = True
) -> dict[str, Any]:
    """Everything about a run that has just been tested.

    Args:
        trainer: a Dassl trainer; its evaluator holds the labels and predictions of the last test.
        cfg: the run's configuration.
        seconds: wall-clock time by phase.
        trained: whether the training pictures at hand are those that the model knows.

    Returns:
        JSON content; accuracies in percent at full precision, memory in bytes. `metrics` is None
        if nothing was tested. `collapse` is there if `TEST.COLLAPSE_METRICS` asked for it,
        `skipped` if DATASET.BAD_IMAGES lets pictures be left out, `num_train` of every class and
        `groups` (head, medium, tail) if `trained` and the benchmark is one of promptclip's.
    """
    from promptclip import bad_pictures
    from promptclip.config import config_hash

    evaluator = trainer.evaluator
    classnames = [trainer.lab2cname[label] for label in sorted(trainer.lab2cname)]
    collapse = getattr(trainer, "collapse", None)
    model = getattr(trainer, "model", None)
    chosen = dict(getattr(model, "chosen", {}))
    classes = per_class(evaluator._y_true, evaluator._y_pred, classnames)
    skipped = getattr(trainer.dm.dataset, "skipped", None)
    known = trained and hasattr(trainer.dm.dataset, "class_order")
    return {
        "schema": SCHEMA,
        "method": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "subsample": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        # The hand-written prompt, of which no data set has to be asked once more
        "template": getattr(trainer.dm.dataset, "template", None),
        "seed": cfg.SEED,
        "metrics": metrics(evaluator._y_true, evaluator._y_pred),
        "per_class": classes,
        **(_by_training(classes, trainer.dm.dataset) if known else {}),
        **({} if collapse is None else {"collapse": collapse}),
        **({} if skipped is None else {"skipped": bad_pictures.summary(skipped)}),
        "trainable_parameters": _trainable(trainer),
        "transfers": getattr(model, "transfers", True),
        # Hyper-parameters that the method chose, and where; "none" if all are those of `config`
        "tuned_on": "validation" if chosen else "none",
        # "computed" or "found" if the test's image features are shared between runs
        "shared_features": getattr(trainer, "shared_features", None),
        "chosen": chosen,
        "seconds": dict(seconds),
        "peak_memory": _peak_memory(trainer.device),
        "config_hash": config_hash(cfg),
        # Of the sample; then where the whole split is from, and its hash
        "split_hash": getattr(trainer.dm.dataset, "split_hash", None),
        "split_origin": getattr(trainer.dm.dataset, "split_origin", None),
        "split_file_hash": getattr(trainer.dm.dataset, "split_file_hash", None),
        "config": json.loads(json.dumps(cfg)),
        "versions": versions(),
        "git": _git(),
        "hardware": hardware(trainer.device),
        "date": _now(),
    }


def metrics(y_true: Sequence[int], y_pred: Sequence[int]) -> dict[str, float] | None:
    """Dassl's three metrics in percent, and the number of test pictures; None if there are none.

    Macro F1 is over the classes that have test pictures, as in Dassl.
    """
    if not y_true:
        return None
    hits = Counter(t for t, p in zip(y_true, y_pred, strict=True) if t == p)
    actual, predicted = Counter(y_true), Counter(y_pred)
    accuracy = 100 * hits.total() / len(y_true)
    f1 = [2 * hits[label] / (actual[label] + predicted[label]) for label in actual]
    return {
        "accuracy": accuracy,
        "error_rate": 100 - accuracy,
        "macro_f1": 100 * sum(f1) / len(f1),
        "num_test": len(y_true),
    }


def per_class(
    y_true: Sequence[int], y_pred: Sequence[int], classnames: Sequence[str]
) -> list[dict[str, Any]]:
    """Accuracy in percent of every class, in the order of labels; None without test pictures."""
    hits = Counter(t for t, p in zip(y_true, y_pred, strict=True) if t == p)
    total = Counter(y_true)
    return [
        {
            "classname": name,
            "num_test": total[label],
            "accuracy": 100 * hits[label] / total[label] if total[label] else None,
        }
        for label, name in enumerate(classnames)
    ]


def _by_training(classes: Sequence[Mapping[str, Any]], dataset: Any) -> dict[str, Any]:
    """Training pictures by label, and what they mean for the accuracies."""
    trained = Counter(picture.label for picture in dataset.train_x)
    counts = [trained[label] for label in range(len(classes))]
    groups = imbalance.group_accuracies(classes, counts, dataset.class_order)
    return {"num_train": counts, "groups": groups}


def write(result: Mapping[str, Any], folder: str | Path) -> None:
    """Write `result.json` with a checksum, in one step, and withdraw an earlier failure.

    Raises:
        ValueError: if a number is not finite.
    """
    write_record(result, Path(folder, RESULT_FILE))
    Path(folder, FAILURE_FILE).unlink(missing_ok=True)


def read(folder: str | Path) -> dict[str, Any] | None:
    """The result in a folder; None if there is none, or not a whole one as it was written.

    Raises:
        UserError: if it is of a newer version: to this one it says nothing, but it is whole.
    """
    file = Path(folder, RESULT_FILE)
    try:
        result = read_json(file)
        schema = result.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:  # whose checksum may be another, too
            raise UserError(
                f"{file} has schema {schema}, of a newer promptclip, and this one reads {SCHEMA}; "
                "install the newer one, or move the folder away"
            )
        return checked(result, file, sealed=True) if schema == SCHEMA else None
    except DamagedError:
        return None
    except UserError:
        raise
    except (OSError, ValueError, AttributeError):  # no JSON, or no object
        return None


def read_of(folder: str | Path, config_hash: str) -> dict[str, Any] | None:
    """The same, if it is of the run with a configuration of that hash."""
    result = read(folder)
    return result if result and result["config_hash"] == config_hash else None


def failed(folder: str | Path, error: BaseException) -> None:
    """Leave a record that a run failed, for the table; a later `write` removes it."""
    record = {"error": type(error).__name__, "message": str(error), "date": _now()}
    write_record(record, Path(folder, FAILURE_FILE))


def read_failure(folder: str | Path) -> dict[str, str] | None:
    """The record of a failed run; None if there is none."""
    unknown = {"error": "unknown", "message": "", "date": ""}
    try:
        record = read_record(Path(folder, FAILURE_FILE))
    except FileNotFoundError:
        return None
    except (OSError, DamagedError) as error:
        return unknown | {"message": str(error)}
    return {key: str(record.get(key, value)) for key, value in unknown.items()}


def told(result: Mapping[str, Any]) -> str:
    """The accuracy of a result, in words."""
    metrics = result["metrics"]
    return f"{metrics['accuracy']:.1f} %" if metrics else "not tested"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _trainable(trainer: Any) -> int:
    """The trainer's own count, or that of its registered models: what a checkpoint holds."""
    counted = getattr(trainer, "num_trainable", None)
    if counted is not None:
        return int(counted)
    parameters = (p for model in trainer._models.values() for p in model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad)


def _peak_memory(device: Any) -> dict[str, int | None]:
    """Bytes: resident, of the process since it began; on the GPU, allocated by torch."""
    import torch

    try:
        import resource
    except ImportError:  # Windows
        resident = None
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        resident = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"resident": resident, "cuda": cuda}


def versions() -> dict[str, str | None]:
    """Of Python and the packages that compute; None for one that is not installed."""
    import dassl

    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "promptclip": promptclip.__version__,
        # Of the module, not of the distribution: a checkout on the path has no metadata. The
        # version tells the original from runtime/.
        "dassl": getattr(dassl, "__version__", None),
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that is running, and whether files differ from it; None elsewhere."""
    root = Path(promptclip.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(
                ["git", "--no-optional-locks", "-C", str(root), *command],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def hardware(device: Any) -> dict[str, Any]:
    """The machine, and what of it computes."""
    import torch

    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
