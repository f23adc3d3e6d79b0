"""What the NPT-style losses do on validation pictures, by weight; no test picture is read.

    python benchmarks/npt_weights.py
    python benchmarks/npt_weights.py --method npt --weights 0 0.1 --datasets emoji --epochs 60

Trains on the base half of emoji (16 shots) and of emoji_people (8 shots) with both losses at the
same weight. Prints, as means over seeds, the accuracy on the validation pictures of both halves
and the neural collapse of the base half's. Any method but NPT takes the losses as a regulariser.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from promptclip import plugins
from promptclip.config import build_cfg, configs_dir
from promptclip.run import run

SHOTS = {"emoji": 16, "emoji_people": 8}
SHOWN = ("nc1_variability", "nc2_max_angle_text", "nc3_self_duality", "effective_rank_text")


def measure(args: argparse.Namespace, dataset: str, weight: float, seed: int) -> dict[str, float]:
    """Validation accuracy in percent on both halves, and measures of collapse."""
    method = plugins.trainer_name(args.method)
    node = "TRAINER.NPT" if method == "NPT" else "REGULARIZER.NPT"
    chosen: list[Any] = [f"{node}.LC_WEIGHT", weight, f"{node}.MI_WEIGHT", weight]
    chosen += [f"{node}.LC", args.lc, f"{node}.MI", args.mi]
    if method != "NPT":
        chosen += ["TRAINER.REGULARIZERS", "npt"]

    def cfg_of(half: str, folder: str) -> Any:
        return build_cfg(
            method,
            configs_dir() / "datasets" / f"{dataset}.yaml",
            configs_dir() / "trainers" / method / "tiny.yaml",
            seed=seed,
            output_dir=str(Path(folder, half)),
            overrides=[
                *("DATASET.NUM_SHOTS", SHOTS[dataset], "DATASET.SUBSAMPLE_CLASSES", half),
                *("TEST.SPLIT", "val", "TEST.COLLAPSE_METRICS", True),
                *("OPTIM.MAX_EPOCH", args.epochs, *chosen),
            ],
        )

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        base = run(cfg_of("base", folder))
        checkpoint = {"model_dir": str(Path(folder, "base")), "load_epoch": args.epochs}
        new = run(cfg_of("new", folder), eval_only=True, **checkpoint)
    halves = {"base": base["metrics"]["accuracy"], "new": new["metrics"]["accuracy"]}
    return halves | {name: base["collapse"][name] for name in SHOWN}


def main() -> None:
    """Print a table."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="coop")
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 0.01, 0.1, 1])
    parser.add_argument("--datasets", nargs="+", default=list(SHOTS), choices=list(SHOTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lc", default="target")
    parser.add_argument("--mi", default="means")
    args = parser.parse_args()
    for dataset in args.datasets:
        for weight in args.weights:
            runs = [measure(args, dataset, weight, seed) for seed in args.seeds]
            cells = "  ".join(
                f"{name} {statistics.fmean(run[name] for run in runs):.4g}" for name in runs[0]
            )
            print(f"{args.method} {dataset} weight {weight:g}: {cells}", flush=True)


if __name__ == "__main__":
    main()
