"""Stretches of a run's work: how far they are, how fast they go, what they come to so far."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Pace:
    """How fast steps follow each other.

    The first one counts for nothing: much is made ready in it. Steps of an earlier process, which
    this run goes on from, are not counted either, so times that are told are of this process.
    """

    def __init__(self) -> None:
        self._steps, self._images = -1, 0
        self._busy = 0.0  # seconds in steps
        self._since = self._start = time.perf_counter()

    def go(self) -> None:
        """Begin with steps, now or again after something else."""
        self._since = time.perf_counter()

    def step(self, images: int) -> None:
        """Count a step that is done."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps:
            self._images += images
            self._busy += now - self._since
        else:
            self._start = now
        self._since = now

    @property
    def speed(self) -> float | None:
        """Images per second, while steps are made."""
        return self._images / self._busy if self._busy else None

    def left(self, steps: int) -> float | None:
        """Seconds for so many steps, with what comes in between, such as validations."""
        return (self._since - self._start) / self._steps * steps if self._steps > 0 else None


class Stretch:
    """So many images to be worked off.

    Args:
        name: what is done with them.
        total: number of images.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.pace = Pace()

    def step(self, images: int) -> None:
        """Count images that are done."""
        self.done += images
        self.pace.step(images)

    @property
    def share(self) -> float:
        """Of the whole that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def left(self) -> float | None:
        """Seconds; None if that is not known."""
        speed = self.pace.speed
        return max(0, self.total - self.done) / speed if speed else None

    def where(self) -> list[str]:
        """What the stretch is, and how far."""
        return [self.name, f"{self.done}/{self.total}"]

    def facts(self) -> Iterator[str]:
        """All of that, and how fast it goes."""
        yield from self.where()
        if self.pace.speed is not None:
            yield f"{self.pace.speed:,.1f} images/s"
        if self.left:
            yield f"{datetime.timedelta(seconds=round(self.left))} left"

    def numbers(self) -> Iterator[str]:
        """What it comes to so far."""
        yield from ()


class Training(Stretch):
    """All epochs of a training.

    Args:
        trainer: of Dassl; its attributes say where it is.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__("train", 0)
        self._trainer = trainer
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Means are those of an epoch."""
        self._last: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._count = 0
        self.pace.go()

    def add(self, metrics: Any, images: int) -> None:
        """Count a step and what came of it: numbers, or tensors, which the engine reads as well."""
        self.pace.step(images)
        self._count += 1
        found = metrics if isinstance(metrics, Mapping) else {}  # the engine refuses others
        self._last = {name: float(value) for name, value in found.items()}
        for name, value in self._last.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    @property
    def _steps(self) -> tuple[int, int]:
        """Steps done and in all, those of an earlier process among them."""
        trainer = self._trainer
        each = getattr(trainer, "num_batches", 0)
        within = trainer.batch_idx + 1 if self._count else 0
        return trainer.epoch * each + within, trainer.max_epoch * each

    @property
    def share(self) -> float:
        """Of the whole that is done, 0 to 1."""
        done, total = self._steps
        return done / total if total else 0.0

    @property
    def left(self) -> float | None:
        """Seconds; None if that is not known."""
        done, total = self._steps
        return self.pace.left(total - done)

    def where(self) -> list[str]:
        """The epoch, and the batch if there was one."""
        trainer = self._trainer
        found = [f"epoch {trainer.epoch + 1}/{trainer.max_epoch}"]
        if self._count:
            found.append(f"batch {trainer.batch_idx + 1}/{trainer.num_batches}")
        return found

    def numbers(self) -> Iterator[str]:
        """Of the last batch, and in brackets the mean of the epoch."""
        for name, value in self._last.items():
            yield f"{name} {value:.4g} ({self._sums[name] / self._count:.4g})"
        if self._count:
            yield f"lr {self._trainer.get_current_lr():.4g}"


class Test(Stretch):
    """A test.

    Args:
        trainer: of Dassl.
        split: as its `test` takes it.
    """

    def __init__(self, trainer: Any, split: str | None) -> None:
        loader = loader_name(trainer, split)
        name = {"val_loader": "validation", "test_loader": "test"}[loader]
        super().__init__(name, len(getattr(trainer, loader).dataset))
        self._evaluator = trainer.evaluator
        self._seen = self._right = 0

    def numbers(self) -> Iterator[str]:
        """Accuracy so far, if the evaluator is one that keeps predictions as Dassl's does."""
        if not self.done:  # it still holds those of the test before
            return
        predicted, true = (getattr(self._evaluator, name, ()) for name in ("_y_pred", "_y_true"))
        pairs = zip(predicted[self._seen :], true[self._seen :], strict=False)
        self._right += sum(a == b for a, b in pairs)
        self._seen = len(predicted)
        if self._seen:
            yield f"acc {100 * self._right / self._seen:.4g}"


def loader_name(trainer: Any, split: str | None) -> str:
    """The attribute of a trainer with the pictures that `test(split)` is on."""
    wanted = (split or trainer.cfg.TEST.SPLIT) == "val" and trainer.val_loader is not None
    return "val_loader" if wanted else "test_loader"


def images_in(batch: Any) -> int:
    """Number of images of a batch, as Dassl's loaders make it."""
    return len(batch["label"]) if isinstance(batch, Mapping) and "label" in batch else 0
