"""Real trainers on generated data, and what their steps cost on either path.

A trainer is built once, with what the textbook path needs, and taken on both paths in turn: the
same weights, batch and prompts. Nothing is measured twice in a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from promptclip import arithmetic
from promptclip.clip.config import CLIPConfig
from promptclip.config import build_cfg, configs_dir
from promptclip.plugins import load_plugins
from speed import pictures, weights
from speed.measure import Measured, measure, product_speed
from speed.operations import Counter
from speed.work import Steps, Text, take


@dataclass(frozen=True)
class Sizes:
    """How large the work is; `QUICK` shows in seconds that everything runs."""

    clip: CLIPConfig = weights.VIT_B16
    recipe: str = "vit_b16"  # of configs/trainers/<METHOD>/
    classes: tuple[int, ...] = (100, 1000)
    batch: int = 32  # as configured, but for CoCoOp
    textbook_classes: int = 100  # beyond, the textbook path is scaled
    many_classes: int = 21841  # of ImageNet-21k
    shots: int = 16  # of an epoch
    test_classes: int = 1000
    test_images: int = 5000
    test_batches: tuple[int, int] = (3, 1)  # that are measured, of ours and of the textbook's
    loop_steps: int = 2000
    compiled: tuple[str, ...] = ("CoOp", "DAPT")  # methods whose steps are compiled
    product: int = 2048  # rows of the matrices that tell the machine's speed
    curve_classes: tuple[int, ...] = (25, 50, 100, 300, 1000, 3000, 10000)
    curve_batches: tuple[int, ...] = (1, 8, 32)
    curve_contexts: tuple[int, ...] = (1, 4, 16, 32)
    settings: tuple[Any, ...] = ()  # of the configuration


FULL = Sizes()
QUICK = Sizes(
    clip=weights.TINY,
    recipe="tiny",
    classes=(6, 12),
    batch=4,
    textbook_classes=6,
    many_classes=24,
    shots=2,
    test_classes=12,
    test_images=24,
    test_batches=(2, 1),
    loop_steps=20,
    compiled=(),  # it takes minutes on any size
    product=64,
    curve_classes=(3, 6),
    curve_batches=(1, 4),
    curve_contexts=(1, 4),
    settings=("DATALOADER.TRAIN_X.BATCH_SIZE", 4, "DATALOADER.TEST.BATCH_SIZE", 6),
)
SMALL_PICTURE = 32  # pixels, where nothing depends on what a picture costs to read


@dataclass(frozen=True)
class Compared:
    """One piece of work on both paths.

    Attributes:
        difference: of results, relative; none where the textbook path was not taken.
        share: of the machine's own speed in matrix products that ours reaches.
        operations: that ours needs.
    """

    ours: Measured
    textbook: Measured | None
    difference: dict[str, float]
    share: float
    operations: int


class Bench:
    """Measures on one machine, keeps what it has measured.

    Args:
        folder: for weights, pictures and runs.
        sizes: of the work.
        repeat: runs of each piece of work.
    """

    def __init__(self, folder: Path, sizes: Sizes, repeat: int) -> None:
        load_plugins()
        self.folder, self.sizes, self.repeat = folder, sizes, repeat
        self._known: dict[Any, Any] = {}

    @cached_property
    def device(self) -> torch.device:
        """Where trainers put the model."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of half the width, as far as the device is quick in them."""
        return ("amp", "fp16", "bf16") if self.device.type == "cuda" else ("bf16",)

    def once(self, key: Any, work: Callable[[], Any]) -> Any:
        """What some work gives, done only if it was not done before."""
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]

    def measure(self, work: Callable[[], object], *, yardstick: bool = False) -> Measured:
        """See `speed.measure`."""
        return measure(work, self.repeat, self.device, yardstick=yardstick)

    # ------------------------------------------------------------- trainers

    @cached_property
    def weights(self) -> Path:
        """Of a random CLIP."""
        file = self.folder / "clip.safetensors"
        weights.write(file, self.sizes.clip)
        return file

    def data(self, classes: int, *, train: int = 1, test: int = 1, pixels: int = 0) -> Path:
        """The root of a data set; its pictures are as large as the CLIP's with `pixels` 0."""
        pixels = pixels or self.sizes.clip.image_size
        root = self.folder / f"data-{classes}-{train}-{test}-{pixels}"
        if not root.exists():
            names = pictures.classnames(classes)
            pictures.write(root, names, train=train, test=test, pixels=pixels)
        return root

    @contextmanager
    def trainer(
        self,
        method: str,
        root: Path,
        *overrides: object,
        precision: str = "fp32",
        workers: bool = False,
    ) -> Iterator[Any]:
        """A method's trainer with its published settings, ready for either path.

        Args:
            method: registered name.
            root: of the data set.
            overrides: keys and values of the configuration.
            precision: TRAINER.<METHOD>.PREC.
            workers: as many loader processes as configured; else none, which is right for work on
                one batch.
        """
        from dassl.engine import build_trainer

        yaml = self.folder / "data.yaml"
        yaml.write_text("DATASET: {NAME: SpeedPictures, NUM_SHOTS: -1}\n")
        size = self.sizes.clip.image_size
        with tempfile.TemporaryDirectory(dir=self.folder) as output:
            cfg = build_cfg(
                method,
                yaml,
                configs_dir() / "trainers" / method / f"{self.sizes.recipe}.yaml",
                root=str(root),
                seed=1,
                output_dir=output,
                overrides=[
                    *("MODEL.BACKBONE.NAME", str(self.weights), "INPUT.SIZE", (size, size)),
                    *("MODEL.EXACT_TEXTBOOK", True, "VERBOSE", False),
                    *(f"TRAINER.{method.upper()}.PREC", precision, *self.sizes.settings),
                    *(() if workers else ("DATALOADER.NUM_WORKERS", 0)),
                    *overrides,
                ],
            )
            arithmetic.arrange(cfg)
            torch.manual_seed(1)
            trainer = build_trainer(cfg)
            take(trainer, textbook=False)
            for tensor in trainer.model.buffers():
                tensor.sum()  # the file is mapped: what is not read yet would count as needed later
            yield trainer
            trainer.close_writer()

    # ---------------------------------------------------------------- steps

    def step(self, method: str, classes: int, precision: str = "fp32", batch: int = 0) -> Compared:
        """A training step, of `batch` pictures if that is given.

        The textbook path is taken in fp32; beyond `textbook_classes` its text tower's part is
        scaled with the number of classes.
        """
        batch = 0 if batch == self.sizes.batch else batch
        key = "step", method, classes, precision, batch
        found: Compared = self.once(key, lambda: self._step(*key[1:]))
        return found

    def _step(self, method: str, classes: int, precision: str, batch: int) -> Compared:
        few = self.sizes.textbook_classes
        both = precision == "fp32" and classes <= few
        with self.trainer(method, self.small(classes), precision=precision) as trainer:
            found = self._compared(trainer, Steps(trainer, batch), both=both)
        if precision == "fp32" and not both and classes in self.sizes.classes:
            textbook = self.step(method, few, batch=batch).textbook
            return replace(found, textbook=self._scaled(textbook, classes / few))
        return found

    def text(self, classes: int, precision: str = "fp32", context: int = 16) -> Compared:
        """The text tower forward and backward: CoOp's prompts, ended by a sum of features."""
        key = "text", classes, precision, context
        found: Compared = self.once(key, lambda: self._text(*key[1:]))
        return found

    def _text(self, classes: int, precision: str, context: int) -> Compared:
        few = self.sizes.textbook_classes
        both = precision == "fp32" and classes <= few
        key = "TRAINER.COOP.N_CTX", context
        with self.trainer("CoOp", self.small(classes), *key, precision=precision) as trainer:
            found = self._compared(trainer, Text(trainer), both=both)
        if precision == "fp32" and not both and classes in self.sizes.classes:
            textbook = self.text(few, context=context).textbook
            return replace(found, textbook=self._scaled(textbook, classes / few))
        return found

    def small(self, classes: int) -> Path:
        """A data set for steps on one batch: small pictures, a batch of them at least."""
        return self.data(classes, train=-(-32 // classes), pixels=SMALL_PICTURE)

    def _compared(self, trainer: Any, work: Steps | Text, *, both: bool) -> Compared:
        clip = trainer.model.clip
        peak = product_speed(self.sizes.product, clip.dtype, self.device)
        counter = Counter()

        def counted() -> None:
            counter.total = 0
            work()

        work.start(textbook=False)
        with counter.watching(clip):
            ours = self.measure(counted)
        result, textbook, difference = work.results(), None, {}
        if both:
            work.start(textbook=True)
            textbook = self.measure(work, yardstick=True)
            difference = {
                name: float((value - result[name]).abs().max() / value.abs().max())
                for name, value in work.results().items()
            }
        share = counter.total / ours.seconds / peak
        return Compared(ours, textbook, difference, share, counter.total)

    def _scaled(self, few: Measured | None, times: float) -> Measured:
        """Of a piece of work on the textbook path, with its text tower's part so often.

        Raises:
            RuntimeError: it was not measured.
        """
        text = self.text(self.sizes.textbook_classes).textbook
        if few is None or text is None:
            raise RuntimeError("the textbook path was not measured: expected few enough classes")
        return replace(
            few,
            seconds=few.seconds + (times - 1) * text.seconds,
            bytes=round(few.bytes + (times - 1) * text.bytes),
            peak=round(few.peak + (times - 1) * text.bytes),
            scaled=True,
        )
