"""What became of one run: the numbers of its `result.json`, or why there are none."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptclip import results
from promptclip.errors import UserError
from promptclip.tree import OWN, OWN_YAML, Place


@dataclass(frozen=True)
class Outcome:
    """One cell of a row for one seed.

    Attributes:
        accuracy: in percent; None if there is none.
        problem: then why, in few words; a seed's number follows them in a table.
        detail: more about the problem, for a note.
        pictures: hash of the training and test pictures; empty if it is not known.
        tuned_on: the pictures that hyper-parameters were chosen on, or "none"; empty if unknown.
        config: the run's configuration; None if it is not known.
        result: all of `result.json`; empty if there is none.
    """

    accuracy: float | None = None
    problem: str = "missing"
    detail: str = ""
    pictures: str = ""
    config: Mapping[str, Any] | None = None
    seconds: float | None = None
    trainable_parameters: int | None = None
    transfers: bool = True
    tuned_on: str = ""
    place: Place | None = None
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)


MISSING = Outcome()


def of_run(place: Place, folder: Path) -> Outcome:
    """Read what a run has left in its folder."""
    try:
        result = results.read(folder)
    except UserError as error:
        return Outcome(problem="unreadable result.json of", detail=f"cannot be read: {error}")
    if result is None:
        if (folder / results.RESULT_FILE).exists():
            return Outcome(problem="damaged result.json of")
        if failure := results.read_failure(folder):
            message = " ".join(failure["message"].split())
            return Outcome(problem="failed", detail=f"failed: {failure['error']}: {message}")
        return Outcome(problem="no result.json of") if folder.is_dir() else MISSING
    identity = (result["shots"], result["method"], result["subsample"], result["seed"])
    if identity != (place.shots, place.method, place.classes, place.seed):
        return Outcome(problem="misplaced")
    ratio = result["config"]["DATASET"].get("IMBALANCE", 1.0)
    if place.ratio is not None and place.ratio != ratio:
        return Outcome(problem="misplaced")
    if result.get("dataset") != (_registered(place.benchmark) or result.get("dataset")):
        return Outcome(problem="misplaced")
    if not result["metrics"]:
        return Outcome(problem="untested")
    return Outcome(
        accuracy=result["metrics"]["accuracy"],
        pictures=_pictures(result),
        config=result["config"],
        seconds=sum(result["seconds"].values()),
        trainable_parameters=result["trainable_parameters"],
        transfers=result.get("transfers", True),
        tuned_on=result.get("tuned_on", "none"),
        place=place,
        result=result,
    )


def _pictures(result: Mapping[str, Any]) -> str:
    """The hash of the sample, and of what was left out of a run's pictures where something was."""
    skipped = result.get("skipped", {}).items()
    left_out = [f"{name}:{part['hash']}" for name, part in skipped if part["number"]]
    return "-".join([result["split_hash"] or "", *left_out])


@functools.cache
def _registered(dataset: str) -> str | None:
    """DATASET.NAME of a file of `configs/datasets`; None if it is not one of them."""
    from promptclip.config import configs_dir, read_yaml

    stem = OWN_YAML if dataset.startswith(OWN) else dataset
    file = configs_dir() / "datasets" / f"{stem}.yaml"
    name: str | None = read_yaml(file)["DATASET"]["NAME"] if file.is_file() else None
    return name
