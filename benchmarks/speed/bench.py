"""Real trainers on generated data, and what their steps cost on either path.

Each path has a trainer of its own, built as users build it, with the same weights, batch and
prompts. All that is compared with one another is done in turn (`speed.measure`), and nothing is
measured twice in a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from promptclip import arithmetic
from promptclip.clip.config import CLIPConfig
from promptclip.config import build_cfg, configs_dir
from promptclip.plugins import load_plugins, methods
from speed import pictures, weights
from speed.measure import Key, Measured, Piece, in_turn
from speed.operations import Counter
from speed.work import Steps, Text, Work


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
    test_batches: tuple[int, int] = (2, 1)  # that are measured, of ours and of the textbook's
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


TEXTBOOK = "textbook"


@dataclass(frozen=True)
class Job:
    """A training step, or the text tower forward and backward.

    Attributes:
        work: a method, or `TEXT`: CoOp's prompts, ended by a sum of features.
        classes: how many.
        precision: TRAINER.<METHOD>.PREC.
        textbook: on the textbook path, too.
        batch: pictures, if other than configured.
        context: tokens that `TEXT` learns.
    """

    work: str
    classes: int
    precision: str = "fp32"
    textbook: bool = False
    batch: int = 0
    context: int = 16


TEXT = "text tower"


class Way(NamedTuple):
    """What was done, and how: in a precision of ours, or on the textbook path."""

    work: str
    how: str
    classes: int


@dataclass(frozen=True)
class Done:
    """Some work that was done in one way.

    Attributes:
        operations: that it needs, and
        share: of the machine's own speed in matrix products that they reach; not of the textbook.
        difference: of results from ours, relative; only of the textbook path.
    """

    took: Measured
    operations: int = 0
    share: float | None = None
    difference: dict[str, float] = field(default_factory=dict)


class Bench:
    """Measures on one machine, keeps what it has measured.

    Args:
        folder: for weights, pictures and runs.
        sizes: of the work.
        repeat: rounds.
        rows: that are wanted: what is compared in several of them is done once, in turn.
    """

    def __init__(self, folder: Path, sizes: Sizes, repeat: int, rows: Collection[str]) -> None:
        load_plugins()
        self.folder, self.sizes, self.repeat, self.rows = folder, sizes, repeat, rows
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

    def in_turn(self, pieces: Iterable[tuple[Key, Piece]]) -> dict[Key, Measured]:
        """See `speed.measure`."""
        return in_turn(pieces, self.repeat, self.device, self.sizes.product)

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
        textbook: bool = False,
        workers: bool = False,
    ) -> Iterator[Any]:
        """A method's trainer with its published settings.

        Args:
            method: registered name.
            root: of the data set.
            overrides: keys and values of the configuration.
            precision: TRAINER.<METHOD>.PREC.
            textbook: MODEL.EXACT_TEXTBOOK.
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
                    *("MODEL.EXACT_TEXTBOOK", textbook, "VERBOSE", False),
                    *(f"TRAINER.{method.upper()}.PREC", precision, *self.sizes.settings),
                    *(() if workers else ("DATALOADER.NUM_WORKERS", 0)),
                    *overrides,
                ],
            )
            arithmetic.arrange(cfg)
            torch.manual_seed(1)
            trainer = build_trainer(cfg)
            for tensor in trainer.model.buffers():
                tensor.sum()  # the file is mapped: what is not read yet would count as needed later
            yield trainer
            trainer.close_writer()

    # ---------------------------------------------------------------- steps

    def family(self, work: str) -> dict[Way, Done]:
        """A method's step, or the text tower, in all ways that the rows ask for.

        Beyond `textbook_classes` the textbook path's step is the one there, and its text tower's
        part as much more as there are more classes.
        """
        found: dict[Way, Done] = self.once(work, lambda: self._family(work))
        return found

    def _family(self, work: str) -> dict[Way, Done]:
        few, classes = self.sizes.textbook_classes, [*self.sizes.classes]
        row = "text" if work == TEXT else work.lower()
        textbook = row in self.rows
        scaled = [count for count in classes if count > few] if textbook else []
        jobs = [
            Job(work, count, precision, textbook and precision == "fp32" and count <= few)
            for count in sorted({*classes, few} if scaled else classes)
            for precision in ("fp32", *self._halves(work, count))
        ]
        if scaled and work != TEXT:
            jobs.append(Job(TEXT, few, textbook=True))
        found = self.compared(jobs)
        for count in scaled:
            step, text = (found[Way(one, TEXTBOOK, few)].took for one in (work, TEXT))
            found[Way(work, TEXTBOOK, count)] = Done(_with_more(step, text, count / few - 1))
        return found

    def _halves(self, work: str, classes: int) -> tuple[str, ...]:
        """Precisions of half the width that the row `half` asks for.

        With more classes than the first number only where the image tower does not learn: else its
        part is the same again.
        """
        first = classes == self.sizes.classes[0]
        learns_images = work != TEXT and methods()[work].Model.prompts_image
        return self.precisions if "half" in self.rows and (first or not learns_images) else ()

    def compared(self, jobs: Iterable[Job]) -> dict[Way, Done]:
        """Do some work in turn, in all ways."""
        counters: dict[Way, Counter] = {}
        works: dict[Way, Work] = {}
        with ExitStack() as stack:
            took = self.in_turn(
                piece for job in jobs for piece in self.pieces(job, stack, works, counters)
            )
        found = {}
        for way, measured in took.items():
            if way.how == TEXTBOOK:
                ours = works[way._replace(how="fp32")]
                found[way] = Done(measured, difference=works[way].difference(ours))
            else:
                needed = counters[way].total
                found[way] = Done(measured, needed, measured.share(needed))
        return found

    def pieces(
        self,
        job: Job,
        stack: ExitStack,
        works: dict[Way, Work],
        counters: dict[Way, Counter],
    ) -> Iterator[tuple[Way, Piece]]:
        """A job as work for `in_turn`: trainers are built when their piece is asked for.

        Args:
            job: what is to be done.
            stack: closes the trainers.
            works: is given the work of each piece.
            counters: are given what counts the operations of ours.
        """
        ours, counter = Way(job.work, job.precision, job.classes), Counter()
        work, clip = self._work(job, stack)

        def counted() -> None:
            counter.total = 0
            with counter.watching(clip):
                work()

        works[ours], counters[ours] = work, counter
        yield ours, Piece(counted, dtype=clip.dtype)
        if job.textbook:
            theirs = ours._replace(how=TEXTBOOK)
            works[theirs], _ = self._work(job, stack, textbook=True)
            yield theirs, Piece(works[theirs])

    def _work(self, job: Job, stack: ExitStack, *, textbook: bool = False) -> tuple[Work, Any]:
        """What a job is, and the CLIP that does it."""
        text = job.work == TEXT
        trainer = stack.enter_context(
            self.trainer(
                "CoOp" if text else job.work,
                self.small(job.classes),
                *(("TRAINER.COOP.N_CTX", job.context) if text else ()),
                precision=job.precision,
                textbook=textbook,
            )
        )
        work: Work = Text(trainer) if text else Steps(trainer, job.batch)
        return work, trainer.model.clip

    def small(self, classes: int) -> Path:
        """A data set for steps on one batch: small pictures, a batch of them at least."""
        return self.data(classes, train=-(-32 // classes), pixels=SMALL_PICTURE)


def _with_more(step: Measured, text: Measured, times: float) -> Measured:
    """A step, and its text tower's part some more times, run by run."""
    return replace(
        step.scale(lambda one, part: one + times * part, text),
        bytes=round(step.bytes + times * text.bytes),
        peak=round(step.peak + times * text.bytes),
    )
