"""Two small benchmarks that a process of its own knows as well, and commands over them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import dassl
import mini_benchmark
import torch

ROOT = Path(__file__).parent.parent
# File of configs/datasets to be -> registered name, folder of pictures, split file.
BENCHMARKS = {
    "one": ("Caltech101", "caltech-101/101_ObjectCategories", "split_zhou_Caltech101.json"),
    "two": ("DescribableTextures", "dtd/images", "split_zhou_DescribableTextures.json"),
}


def make(root: Path) -> list[str]:
    """Write the miniature benchmark in the layout of two others.

    Returns:
        Their yaml files.
    """
    root.mkdir(exist_ok=True)
    mini = mini_benchmark.make(root)
    yamls = []
    for stem, (name, pictures, split) in BENCHMARKS.items():
        folder = root / pictures
        folder.parent.mkdir()
        folder.symlink_to(root / "mini" / "images")
        (folder.parent / split).write_bytes((root / "mini" / "split_zhou_Mini.json").read_bytes())
        yaml = root / f"{stem}.yaml"
        yaml.write_text(mini.read_text().replace("NAME: Mini", f"NAME: {name}"))
        yamls.append(str(yaml))
    return yamls


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "promptclip", "grid", *map(str, args)]


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds what this one finds, and computes with as many threads."""
    threads = str(torch.get_num_threads())
    engine = str(Path(dassl.__file__).parents[1])
    path = os.pathsep.join([str(ROOT), engine, *filter(None, sys.path)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        **more,
    }


def measured(output: Path) -> dict[str, Any]:
    """Metrics and learned tensors of every run of a tree, by its folder in the tree."""
    found = {}
    for file in output.glob("**/seed*/result.json"):
        result = json.loads(file.read_text())
        tensors = {
            str(weights.relative_to(file.parent)): [
                (name, value.numpy().tobytes())
                for name, value in torch.load(weights, weights_only=True)["state_dict"].items()
                if isinstance(value, torch.Tensor)
            ]
            for weights in file.parent.glob("*/model.pth.tar-*")
        }
        found[str(file.parent.relative_to(output))] = (result["metrics"], tensors)
    return found
