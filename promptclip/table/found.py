"""What was found of each row, and whether its runs may be averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

from promptclip.table.outcome import Outcome
from promptclip.tree import TARGETS


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


def difference(protocol: str, found: Found, column: str = "") -> str:
    """The first two runs of a row whose configurations differ in more than they must.

    In "fewshot", a yaml may say something else for each number of shots: only runs of one column
    are compared, of `column` or of any.
    """
    from promptclip.config import config_difference

    by_column = protocol == "fewshot"
    first: dict[str, tuple[Spot, dict[str, object]]] = {}
    for spot, read in sorted(found.items()):
        if read.config is None or (by_column and column and spot.column != column):
            continue
        config = copy.deepcopy(dict(read.config))
        config.pop("SEED", None)
        config["DATASET"].pop("SUBSAMPLE_CLASSES", None)
        if protocol in TARGETS:
            del config["DATASET"]
        one, config_of_one = first.setdefault(spot.column if by_column else "", (spot, config))
        if keys := config_difference(config_of_one, config):
            return (
                f"{one.column} seed {one.seed} and {spot.column} seed {spot.seed} have different "
                "configurations: " + "; ".join(keys)
            )
    return ""
