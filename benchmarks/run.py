"""Speed and memory on ViT-B/16 with random weights, against the textbook path.

    python benchmarks/run.py                         all rows
    python benchmarks/run.py text coop dapt          some
    python benchmarks/run.py --quick                 a tiny CLIP: shows that everything runs
    python benchmarks/run.py --plot docs/figures     also cost against classes, images and tokens

Nothing is downloaded. All that is compared runs in this process, in turn, on the same weights,
batch and prompts, in fp32 unless a row says otherwise. The textbook path (MODEL.EXACT_TEXTBOOK
True) pushes 77 tokens of every class through all blocks at each step. Memory is the peak of the
first run beyond what the process held before (Linux; what PyTorch has allocated on a GPU).
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
from speed.bench import FULL, QUICK, Bench
from speed.curves import Curve, curves, draw
from speed.measure import RULE
from speed.rows import ROWS, SHARE
from speed.table import Row, lines

from promptclip.files import write_json
from promptclip.results import hardware, versions

SCALED = """\
* not measured as a whole. Beyond {classes} classes the textbook path's step is the one at
  {classes}, and the text tower's part of it (the row `text`) once more for each further {classes};
  it grows faster than that. A cold test pass and the textbook's are of {batches} batches, scaled
  to all; ours but for its text features, which it computes once."""


def main() -> None:
    """Measure and print."""
    parser = _parser()
    args = parser.parse_args()
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"unknown rows {', '.join(unknown)}; known are {', '.join(ROWS)}")
    if args.plot and importlib.util.find_spec("matplotlib") is None:  # now, not after hours
        parser.error("--plot draws with matplotlib; pip install 'promptclip[plots]'")
    torch.set_num_threads(args.threads)
    gc.freeze()  # a collection before each measurement need not look at what was imported
    logging.disable(logging.INFO)  # the trainers tell what they build
    logging.getLogger("promptclip.trainer").setLevel(logging.ERROR)  # ... and ImageNet's twin names
    sizes = QUICK if args.quick else FULL
    chosen = {"classes": args.classes, "textbook_classes": args.textbook_limit}
    sizes = dataclasses.replace(
        sizes, **{name: value for name, value in chosen.items() if value is not None}
    )
    begin, rows, found = time.perf_counter(), list[Row](), list[Curve]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), sizes, args.repeat, args.rows or [*ROWS])
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": hardware(bench.device),
            "versions": versions(),
            "quick": args.quick,
            "repeat": args.repeat,
            "rule": RULE,
            "sizes": dataclasses.asdict(sizes),
        }

        def keep() -> None:
            """Write what there is so far: a row may take all memory, and the process with it."""
            about["seconds"] = time.perf_counter() - begin
            if args.json:
                about["rows"] = [row.as_json() for row in rows]
                about["curves"] = [curve.as_json() for curve in found]
                write_json(about, args.json)

        for name in args.rows or ROWS:
            for row in ROWS[name](bench):
                rows.append(row)
                keep()
                print(
                    f"{about['seconds']:6.0f} s  {row.work}: {row.figure:.3g} {row.unit}",
                    file=sys.stderr,
                )
        for curve in curves(bench) if args.plot else ():
            found.append(curve)
            keep()
    _print(about, rows, sizes)
    if args.plot:
        print(*draw(found, args.plot))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    flag("--quick", action="store_true", help="a tiny CLIP and little data, in seconds")
    flag("--json", type=Path, metavar="FILE", help="write everything that was measured")
    flag("--plot", type=Path, metavar="FOLDER", help="measure and draw cost.png and cost.svg")
    flag("--threads", type=int, default=2)
    flag("--repeat", type=int, default=5, help="rounds that a median is of")
    flag("--classes", type=int, nargs="+", help="of the text tower and of steps (100 1000)")
    flag("--textbook-limit", type=int, metavar="N",
         help="most classes at which the textbook path is measured (100)")  # fmt: skip
    return parser


def _print(about: dict[str, Any], rows: list[Row], sizes: Any) -> None:
    machine, packages = about["hardware"], about["versions"]
    print(
        f"{machine['gpu'] or machine['cpu']}, {machine['threads']} threads, torch "
        f"{packages['torch']}, {about['date']}; {about['seconds'] / 60:.0f} minutes.",
        f"Medians of {about['repeat']}. {RULE}",
        "",
        *lines(rows),
        "",
        f"share: of the machine's own speed in large matrix products; at least {SHARE:.0%} is "
        "meant to be reached in fp32 steps.",
        sep="\n",
    )
    if any(part.scaled for row in rows for part in (row.ours, row.other) if part):
        batches = " and ".join(map(str, sizes.test_batches))
        print(SCALED.format(classes=sizes.textbook_classes, batches=batches))


if __name__ == "__main__":
    main()
