"""A benchmark of a few coloured pictures and a random CLIP on disk, to train on in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import random_clip
import torch
from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image
from random_clip import TINY
from yacs.config import CfgNode

from promptclip.benchmark import Benchmark
from promptclip.config import build_cfg, configs_dir

CLASSES = ["red dog", "green_cat", "blue owl", "yellow fire engine", "white ox"]
COLOURS = [(200, 20, 20), (20, 200, 20), (20, 20, 200), (200, 200, 20), (230, 230, 230)]


@DATASET_REGISTRY.register()
class Mini(Benchmark):
    """Five classes of noisy one-coloured pictures."""

    dataset_dir = "mini"
    image_dir = "images"
    split_file = "split_zhou_Mini.json"
    template = "a picture of a {}."


@DATASET_REGISTRY.register()
class MiniDomain(Mini):
    """A folder of its own, for another data set of any classes."""

    dataset_dir = "mini_domain"


def make(root: Path, train: int = 6, val: int = 2, test: int = 4) -> Path:
    """Write the pictures, the split file, the CLIP and the data set's yaml.

    Returns:
        The yaml.
    """
    random = np.random.default_rng(0)
    split: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for label, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True)):
        for part, count in (("train", train), ("val", val), ("test", test)):
            for number in range(count):
                path = f"{label}/{part}_{number}.png"
                file = root / "mini" / "images" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = random.integers(-60, 60, (36, 36, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(file)
                split[part].append([path, label, name])
    (root / "mini" / "split_zhou_Mini.json").write_text(json.dumps(split))
    weights = root / "clip.safetensors"
    random_clip.save(weights)
    yaml = root / "mini.yaml"
    yaml.write_text(
        f"DATASET: {{NAME: Mini, CFG: tiny}}\n"
        f"MODEL: {{BACKBONE: {{NAME: '{weights}'}}}}\n"
        f"INPUT: {{SIZE: [{TINY.image_size}, {TINY.image_size}]}}\n"
        "DATALOADER: {NUM_WORKERS: 0, TRAIN_X: {BATCH_SIZE: 8}}\n"
        "TRAIN: {PRINT_FREQ: 1}\n"
    )
    return yaml


def cfg_of(method: str, yaml: Path, output: Path, *overrides: object, seed: int = 1) -> CfgNode:
    """The configuration of a short run of a method with its `tiny` yaml."""
    return build_cfg(
        method,
        yaml,
        configs_dir() / "trainers" / method / "tiny.yaml",
        root=str(yaml.parent),
        seed=seed,
        output_dir=str(output),
        overrides=["DATASET.NUM_SHOTS", 4, "OPTIM.MAX_EPOCH", 3, "TRAIN.PRINT_FREQ", 1, *overrides],
    )


def build(method: str, yaml: Path, output: Path, *overrides: object, seed: int = 1) -> Any:
    """A trainer, seeded, ready for its first epoch."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    cfg = cfg_of(method, yaml, output, *overrides, seed=seed)
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def batch_of(trainer: Any) -> dict[str, Any]:
    """One fixed training batch."""
    torch.manual_seed(0)
    return next(iter(trainer.train_loader_x))
