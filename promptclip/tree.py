"""The output tree: where the runs of every protocol lie, and what a folder says of its run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Folder of the tree, which is also the command, and what the protocol is called.
PROTOCOLS = {
    "base2new": "base to new",
    "fewshot": "few-shot, all classes",
    "xd": "cross-dataset",
    "dg": "domain generalisation",
}
OWN = "own_"  # what the names of own pictures begin with, and no other data set's
OWN_YAML = "own_pictures"  # their file of `configs/datasets`
HALVES = {"base": "train_base", "new": "test_new"}  # classes -> CoOp's folder
# What a model is tested on, by the data set that it was trained on: CoCoOp's (arXiv 2203.05557).
TARGETS = {
    "xd": {
        "imagenet": ("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101",
                     "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
        "emoji": ("emoji_people",),
        "emoji_people": ("emoji",),
    },
    "dg": {
        "imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
        "emoji": ("emoji_openmoji", "emoji_line"),
    },
}  # fmt: skip

_RUN = r"/shots_(?P<shots>\d+)/(?P<method>[^/]+)/(?P<cfg>[^/]+)/seed(?P<seed>\d+)$"
_PATHS = {
    "base2new": r"/(?P<target>train_base|test_new)/(?P<dataset>[^/]+)",
    "fewshot": r"/fewshot/(?P<dataset>[^/]+)",
    "xd": r"/xd/(?P<dataset>[^/]+)/(?P<target>[^/]+)",
    "dg": r"/dg/(?P<dataset>[^/]+)/(?P<target>[^/]+)",
}


@dataclass(frozen=True, order=True)
class Place:
    """What is run in a folder of the tree.

    Attributes:
        protocol: one of `PROTOCOLS`.
        dataset: that is trained on, a file of `configs/datasets` without its suffix, or "own_"
            and the name of a folder of own pictures.
        target: what the model is tested on: a half of the classes in "base2new", "" for all
            classes of `dataset`, else another data set.
    """

    protocol: str
    dataset: str
    shots: int
    method: str
    cfg: str
    seed: int
    target: str = ""

    @property
    def path(self) -> Path:
        """The folder, below the output folder."""
        middle = [self.dataset, self.target]
        if self.protocol == "base2new":
            middle = [HALVES[self.target], self.dataset]
        run = (f"shots_{self.shots}", self.method, self.cfg, f"seed{self.seed}")
        return Path(self.protocol, *middle, *run)

    @property
    def source(self) -> Place | None:
        """Where the model of a test on another data set is trained: it is a few-shot run."""
        if self.protocol in TARGETS:
            return replace(self, protocol="fewshot", target="")
        return None

    @property
    def benchmark(self) -> str:
        """The data set that the result is measured on."""
        return self.target if self.protocol in TARGETS else self.dataset

    @property
    def classes(self) -> str:
        """The classes that the result is measured on: "base", "new" or "all"."""
        return self.target if self.protocol == "base2new" else "all"

    def __str__(self) -> str:
        """Such as "CoOp, seed 1, base classes"."""
        test = f"on {self.target}"
        if self.protocol == "base2new":
            test = f"{self.target} classes"
        elif self.protocol == "fewshot":
            test = f"{self.dataset}, {of_shots(self.shots)}"
        return f"{self.method}, seed {self.seed}, {test}"


def of_shots(shots: int) -> str:
    """Such as "16 shots"."""
    return f"{shots} shot{'s' if shots != 1 else ''}"


def find(folder: Path) -> Place | None:
    """The place that a path names; None for any other folder."""
    for protocol, head in _PATHS.items():
        if match := re.search(head + _RUN, folder.as_posix()):
            named: dict[str, Any] = match.groupdict()
            named |= {key: int(named[key]) for key in ("shots", "seed")}
            if protocol == "base2new":
                named["target"] = {folder: half for half, folder in HALVES.items()}[named["target"]]
            return Place(protocol, **named)
    return None
