"""What the work around the model costs: the epoch without its steps, the loop, the start."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from dassl.utils import setup_logger

from promptclip.config import configs_dir
from promptclip.feature_cache import instead
from speed.bench import QUICK, Bench, Job
from speed.measure import Measured, Piece
from speed.table import MILLISECONDS, PERCENT, SECONDS, Row

IMPORT = (
    "import sys, promptclip; print('heavy:', [name for name in ('numpy', 'open_clip', 'scipy', "
    "'torch', 'torchvision') if name in sys.modules])"
)
METRICS = {"loss": 1.0, "acc": 50.0}  # what an emptied step reports


def overhead(bench: Bench) -> Iterator[Row]:
    """An epoch of CoOp over JPEG files with nothing in the place of its steps."""
    classes, shots = bench.sizes.classes[0], bench.sizes.shots
    root = bench.data(classes, train=shots)
    with ExitStack() as stack:
        ((_, step),) = bench.pieces(Job("CoOp", classes), stack, {}, {})
        trainer = stack.enter_context(bench.trainer("CoOp", root, workers=True))
        trainer.train_loader_x.dataset.decode()
        trainer.before_train()
        stack.enter_context(logged(trainer.output_dir))
        stack.enter_context(instead(trainer, "forward_backward", _nothing))
        batches, images = len(trainer.train_loader_x), len(trainer.train_loader_x.dataset)
        empty: list[dict[str, Any]] = [{}] * bench.sizes.loop_steps

        def loop() -> None:
            with instead(trainer, "train_loader_x", empty):
                trainer.run_epoch()

        took = bench.in_turn(
            [
                ("step", step),
                ("epoch", Piece(trainer.run_epoch)),
                ("decoding", Piece(lambda: _decode(trainer))),
                ("loop", Piece(loop)),
            ]
        )
    per_batch, per_step = took["epoch"].part(batches), took["loop"].part(len(empty))
    yield Row(
        "overhead",
        f"epoch of {images} JPEGs around the model, a batch",
        per_batch,
        100 * took["step"].times_faster(per_batch),
        PERCENT,
        f"CoOp step, {classes} classes",
        took["step"],
        target=5,
        at_most=True,
    )
    yield Row("overhead", f"decoding of {images} JPEGs, once a run", took["decoding"],
              took["decoding"].seconds, SECONDS)  # fmt: skip
    events = "" if importlib.util.find_spec("tensorboard") else ", without TensorBoard"
    yield Row(
        "overhead",
        f"the loop alone, a step{events}",
        per_step,
        1000 * per_step.seconds,
        MILLISECONDS,
        target=0.2,
        at_most=True,
    )


def _decode(trainer: Any) -> None:
    pictures = trainer.train_loader_x.dataset
    pictures._decoded.clear()
    pictures.decode()


def _nothing(batch: Any) -> dict[str, float]:
    return METRICS


@contextmanager
def logged(folder: str) -> Iterator[None]:
    """Log as a run does, to a file and a console that nobody sees."""
    level = logging.root.manager.disable
    handlers = [*logging.root.handlers]
    logging.disable(logging.NOTSET)
    setup_logger(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        for handler in {*logging.root.handlers} - {*handlers}:
            logging.root.removeHandler(handler)
            handler.close()


# ---------------------------------------------------------------- processes


def start(bench: Bench) -> Iterator[Row]:
    """From nothing to the first training step, and to the imported package."""
    full = bench.sizes != QUICK
    yaml = configs_dir() / "datasets" / "emoji.yaml"
    shown, shots, data = "emoji", 16, ["--dataset-config-file", str(yaml)]
    if not full:
        folder = bench.data(bench.sizes.classes[0], train=4) / "pictures" / "images" / "train"
        shown, shots, data = "own pictures", 2, ["--data-folder", str(folder)]
    recipe = configs_dir() / "trainers" / "CoOp" / "tiny.yaml"

    def train() -> float:
        with tempfile.TemporaryDirectory(dir=bench.folder) as output:
            return seconds_to(
                "batch [1/",
                *("-m", "promptclip", "train", "--trainer", "CoOp", "--config-file", str(recipe)),
                *(*data, "--seed", "1", "--output-dir", output),
                *("DATASET.NUM_SHOTS", str(shots), "TRAIN.PRINT_FREQ", "1"),
            )

    def imported() -> float:
        return seconds_to("heavy: []", "-c", IMPORT)

    for work, run, limit in (
        (f"promptclip train on {shown} to its first step", train, 4 if full else None),
        ("import promptclip, nothing heavy in it", imported, 0.3),
    ):
        # The first fills the system's cache of files, and draws pictures that are not there
        ours = Measured(tuple(run() for _ in range(1 + bench.repeat)))
        yield Row("start", work, ours, ours.seconds, SECONDS, target=limit, at_most=True)


def seconds_to(line: str, *arguments: str) -> float:
    """Time from the start of a Python process to a line of its output; it is ended then.

    Args:
        line: what the line must hold.
        arguments: of the interpreter.

    Raises:
        RuntimeError: the process ended without it.
    """
    threads = str(torch.get_num_threads())
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    seen = []
    with process:
        for text in process.stdout or ():
            if line in text:
                seconds = time.perf_counter() - begin
                process.terminate()
                return seconds
            seen.append(text)
    raise RuntimeError(f"expected {line!r} from {arguments}, got\n{''.join(seen[-20:])}")
