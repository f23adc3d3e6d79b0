"""What was found of each row, and whether its runs may be averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

from promptclip.table.outcome import Outcome
from promptclip.tree import BALANCED, TARGETS


class Group(NamedTuple):
    """Rows that are to be compared."""

    protocol: str
    dataset: str
    shots: int  # 0 where they are columns


class Key(NamedTuple):
    """A row."""

    group: Group
    method: str
    cfg: str
    origin: str = ""


class Spot(NamedTuple):
    """A cell of a row, for one seed."""

    column: str
    seed: int


Found = Mapping[Spot, Outcome]


def _compared(protocol: str, column: str) -> str:
    """Runs of a row must have equal configurations if this is equal.

    In "fewshot" a yaml may say something else for each number of shots. What is balanced is
    trained for few-shot, and has no profile.
    """
    return column if protocol == "fewshot" or column == BALANCED else ""


def difference(protocol: str, found: Found, column: str | None = None) -> str:
    """The first two runs of a row whose configurations differ in more than they must.

    Only runs that are comparable with those of `column`, or with any.
    """
    from promptclip.config import config_difference

    first: dict[str, tuple[Spot, dict[str, object]]] = {}
    for spot, read in sorted(found.items()):
        kind = _compared(protocol, spot.column)
        if read.config is None or (column is not None and kind != _compared(protocol, column)):
            continue
        config = copy.deepcopy(dict(read.config))
        config.pop("SEED", None)
        config["DATASET"].pop("SUBSAMPLE_CLASSES", None)
        if protocol in TARGETS:
            del config["DATASET"]
        elif protocol == "imbalance":
            config["DATASET"].pop("IMBALANCE", None)
        one, config_of_one = first.setdefault(kind, (spot, config))
        if keys := config_difference(config_of_one, config):
            return (
                f"{one.column} seed {one.seed} and {spot.column} seed {spot.seed} have different "
                "configurations: " + "; ".join(keys)
            )
    return ""
