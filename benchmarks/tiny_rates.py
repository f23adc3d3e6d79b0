"""Choose the rate of a method's `tiny` recipe on validation pictures; no test picture is read.

    python benchmarks/tiny_rates.py coop
    python benchmarks/tiny_rates.py dapt --rates 0.001 0.003 --set TRAINER.DAPT.VIS_BETA 10

Trains on the base half of emoji (16 shots) and of emoji_people (8 shots), seeds 1 to 3, and prints
the mean accuracy on the validation pictures of the same classes for each rate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
from pathlib import Path

from promptclip import plugins
from promptclip.config import build_cfg, configs_dir
from promptclip.run import run

SHOTS = {"emoji": 16, "emoji_people": 8}


def accuracy(method: str, dataset: str, rate: float, seed: int, overrides: list[str]) -> float:
    """Percent of the validation pictures after one training."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg = build_cfg(
            method,
            configs_dir() / "datasets" / f"{dataset}.yaml",
            configs_dir() / "trainers" / method / "tiny.yaml",
            seed=seed,
            output_dir=str(Path(folder, "run")),
            overrides=[
                *("DATASET.NUM_SHOTS", SHOTS[dataset], "DATASET.SUBSAMPLE_CLASSES", "base"),
                *("TEST.SPLIT", "val", "OPTIM.LR", rate, *overrides),
            ],
        )
        return float(run(cfg)["metrics"]["accuracy"])


def main() -> None:
    """Print a table."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0003, 0.001, 0.003, 0.01])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    args = parser.parse_args()
    method = plugins.trainer_name(args.method)
    overrides = [part for pair in args.set for part in pair]
    print(f"{method} {' '.join(overrides)}: validation accuracy, mean of {len(args.seeds)} seeds")
    for rate in args.rates:
        means = {
            dataset: statistics.fmean(
                accuracy(method, dataset, rate, seed, overrides) for seed in args.seeds
            )
            for dataset in SHOTS
        }
        cells = "  ".join(f"{dataset} {mean:5.1f}" for dataset, mean in means.items())
        print(f"rate {rate:g}: {cells}  mean {statistics.fmean(means.values()):5.1f}", flush=True)


if __name__ == "__main__":
    main()
