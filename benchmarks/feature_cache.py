"""What shared image features save: CoOp's test on the built-in benchmark `emoji`.

    python benchmarks/feature_cache.py [--runs 5]

prints the time of a whole test (pictures, both towers, accuracy), median of several: without the
cache; where it is empty; where an earlier run has filled it; and of a later test of the same run,
as when an epoch is chosen on validation pictures. The process's own time says most where other
work is on the machine. Pictures lie in the system's memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from promptclip.config import build_cfg
from promptclip.feature_cache import OFF, VARIABLE
from promptclip.plugins import load_plugins

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def coop(folder: str) -> Any:
    """A trainer that is ready to be tested."""
    from dassl.engine import build_trainer

    load_plugins()
    cfg = build_cfg(
        "CoOp",
        CONFIGS / "datasets" / "emoji.yaml",
        CONFIGS / "trainers" / "CoOp" / "tiny.yaml",
        seed=1,
        output_dir=folder,
        overrides=["DATASET.NUM_SHOTS", 1, "VERBOSE", False],
    )
    return build_trainer(cfg)


def seconds(
    runs: int, test: Callable[[], object], before: Callable[[], object]
) -> tuple[float, float]:
    """Median time of `test`, of the process and of the clock; `before` does not count."""
    own, clock = [], []
    for _ in range(runs):
        before()
        start = time.process_time(), time.perf_counter()
        test()
        own.append(time.process_time() - start[0])
        clock.append(time.perf_counter() - start[1])
    return median(own), median(clock)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        trainer = coop(folder)

        def fresh(where: str, *, empty: bool = False) -> Callable[[], object]:
            def prepare() -> None:
                os.environ[VARIABLE] = where
                trainer._features.clear()
                if empty:
                    for file in Path(where).glob("*"):
                        file.unlink()

            return prepare

        cache = str(Path(folder, "features"))
        fresh(OFF)()
        trainer.test()  # the first one reads the pictures from the disk
        found = {
            "off": seconds(runs, trainer.test, fresh(OFF)),
            "empty": seconds(runs, trainer.test, fresh(cache, empty=True)),
            "filled": seconds(runs, trainer.test, fresh(cache)),
            "same run": seconds(runs, trainer.test, lambda: None),
        }
    rows = (
        f"| {name} | {own:.2f} | {found['off'][0] / own:.0f} | {clock:.2f} |\n"
        for name, (own, clock) in found.items()
    )
    sys.stdout.write(
        f"{len(trainer.test_loader.dataset)} pictures, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}\n\n| cache | process, s | times faster | clock, s |\n"
        f"|---|---:|---:|---:|\n{''.join(rows)}"
    )


if __name__ == "__main__":
    main()
