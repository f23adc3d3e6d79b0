"""Made-up results, where runs would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from promptclip import results
from promptclip.config import configs_dir, read_yaml
from promptclip.tree import Place

HALVES = {"base": "train_base", "new": "test_new"}


def folder_of(root: Path, half: str, method: str, seed: int, cfg: str = "tiny") -> Path:
    return root / f"base2new/{HALVES[half]}/emoji/shots_16/{method}/{cfg}/seed{seed}"


def put(
    root: Path, half: str, method: str, seed: int, accuracy: float, **changes: Any
) -> dict[str, Any]:
    """Write a result where a run would write it."""
    lr = changes.pop("lr", 0.002)
    folder = changes.pop("folder", None) or folder_of(root, half, method, seed)
    result = {
        "schema": results.SCHEMA,
        "method": method,
        "dataset": "Emoji",
        "subsample": half,
        "shots": 16,
        "seed": seed,
        "metrics": {"accuracy": accuracy},
        "trainable_parameters": 8192,
        "seconds": {"train": 10.0, "test": 5.0},
        "split_hash": f"sample {seed}",
        "config": {
            "SEED": seed,
            "DATASET": {"SUBSAMPLE_CLASSES": half, "ROOT": f"/{half}"},
            "TRAINER": {"NAME": method},
            "OPTIM": {"LR": lr},
        },
    }
    results.write(result | changes, folder)
    return result


def few_shot(
    root: Path, method: str, shots: int, seed: int, accuracy: float, **changes: Any
) -> None:
    folder = root / f"fewshot/emoji/shots_{shots}/{method}/tiny/seed{seed}"
    put(root, "all", method, seed, accuracy, shots=shots, folder=folder, **changes)


def elsewhere(root: Path, protocol: str, target: str, method: str, seed: int, accuracy: float,
              **changes: Any) -> None:  # fmt: skip
    folder = root / f"{protocol}/emoji/{target}/shots_16/{method}/tiny/seed{seed}"
    names = {"emoji_people": "EmojiPeople", "emoji_line": "EmojiLine"}
    more = {"dataset": names.get(target, "EmojiOpenMoji")} | changes
    put(root, "all", method, seed, accuracy, folder=folder, **more)


def at(root: Path, place: Place, accuracy: float, **changes: Any) -> Path:
    """Write the result of a place of the tree; gives its folder."""
    folder = root / place.path
    yaml = configs_dir() / "datasets" / f"{place.benchmark}.yaml"
    name = read_yaml(yaml)["DATASET"]["NAME"] if yaml.is_file() else place.benchmark
    more = {"dataset": name, "shots": place.shots} | changes
    put(root, place.classes, place.method, place.seed, accuracy, folder=folder, **more)
    return folder


def config_of(
    method: str, classes: str, seed: int, backbone: str, lr: float = 0.002
) -> dict[str, Any]:
    """What a result says of its run."""
    return {
        "SEED": seed,
        "DATASET": {"SUBSAMPLE_CLASSES": classes},
        "TRAINER": {"NAME": method},
        "OPTIM": {"LR": lr},
        "MODEL": {"BACKBONE": {"NAME": backbone}},
    }
