"""A test pass of CoOp over many pictures: first, after another run, and as it is published."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from promptclip.benchmark import PictureSet
from promptclip.feature_cache import OFF, FeatureCache, identity, instead
from speed.bench import Bench
from speed.measure import Measured, Piece
from speed.table import Row, times

AS_PUBLISHED = "textbook, text features at every batch"


@dataclass(frozen=True)
class Passes:
    """What tests of all pictures take; those that run the image tower are scaled to all batches.

    Attributes:
        cold: no features are known; by precision.
        cached: an earlier run has left the image features.
        again: a later test of the same run.
        textbook: as published.
        text: the text features alone.
        batches: of all pictures.
    """

    cold: dict[str, Measured]
    cached: Measured
    again: Measured
    textbook: Measured
    text: Measured
    batches: int


def passes(bench: Bench) -> Passes:
    """Measure them once, in turn; in half precision if that is wanted."""
    found: Passes = bench.once("test", lambda: _passes(bench))
    return found


def _passes(bench: Bench) -> Passes:
    sizes = bench.sizes
    ours, theirs = sizes.test_batches
    half = bench.precisions if "half-test" in bench.rows else ()
    with ExitStack() as stack:
        trainers = {
            precision: stack.enter_context(_trainer(bench, precision))
            for precision in ("fp32", *half)
        }
        fp32, published = trainers["fp32"], stack.enter_context(_trainer(bench, textbook=True))
        number = len(fp32.test_loader)
        _fill_cache(fp32)
        took = bench.in_turn(
            [
                ("text", Piece(partial(_text, fp32), partial(_ready, fp32))),
                *(
                    (("cold", name), Piece(partial(_cold, one, ours), partial(_ready, one)))
                    for name, one in trainers.items()
                ),
                ("cached", Piece(fp32.test, partial(_ready, fp32))),
                ("again", Piece(fp32.test)),
                ("textbook", Piece(partial(_as_published, published, theirs))),
            ]
        )
    text = took["text"]

    def whole(some: float, text: float) -> float:
        return text + (some - text) * number / ours

    return Passes(
        {name: took["cold", name].scale(whole, text) for name in trainers},
        took["cached"],
        took["again"],
        took["textbook"].scale(lambda some: some * number / theirs),
        text,
        number,
    )


def _trainer(
    bench: Bench, precision: str = "fp32", *, textbook: bool = False
) -> AbstractContextManager[Any]:
    sizes = bench.sizes
    root = bench.data(sizes.test_classes, test=sizes.test_images // sizes.test_classes)
    key = "TEST.FEATURE_CACHE", str(bench.folder / f"features-{precision}")
    return bench.trainer("CoOp", root, *key, precision=precision, textbook=textbook, workers=True)


def _ready(trainer: Any) -> None:
    """Know no features but those in the cache."""
    trainer._features.clear()


def _fill_cache(trainer: Any) -> None:
    """What a cold pass through all pictures would have kept."""
    clip, loader = trainer.model.clip, trainer.test_loader
    its = identity(clip, loader, trainer.cfg)
    if its is None:
        raise RuntimeError("these pictures' features cannot be kept: expected a plain test set")
    features = torch.randn(len(loader.dataset), clip.config.embed_dim, dtype=clip.dtype)
    FeatureCache(Path(trainer.cfg.TEST.FEATURE_CACHE)).keep(its, features)


def _text(trainer: Any) -> None:
    trainer.model.forget()
    with torch.no_grad():
        trainer.model.current_text_features()


def _cold(trainer: Any, batches: int) -> None:
    """Some batches, of which an empty cache knows nothing."""
    with (
        tempfile.TemporaryDirectory(dir=trainer.output_dir) as empty,
        first_batches(trainer, batches),
        _other_cache(trainer, empty),
    ):
        trainer.test()


@contextmanager
def _other_cache(trainer: Any, folder: str) -> Iterator[None]:
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.TEST.FEATURE_CACHE = folder
    with instead(trainer, "cfg", cfg):
        yield


@contextmanager
def first_batches(trainer: Any, count: int) -> Iterator[None]:
    """Only so many batches of test pictures."""
    loader = trainer.test_loader
    pictures = loader.dataset
    some = pictures.data_source[: count * loader.batch_size]
    few = PictureSet(trainer.cfg, some, pictures.transform)
    loader = DataLoader(few, loader.batch_size, num_workers=loader.num_workers)
    with instead(trainer, "test_loader", loader):
        yield


def _as_published(trainer: Any, batches: int) -> None:
    """Some batches, with text features computed for every one of them."""
    inference = trainer.model_inference

    def forgetful(image: Any) -> Any:
        trainer.model.forget()
        return inference(image)

    with ExitStack() as stack:
        stack.enter_context(first_batches(trainer, batches))
        stack.enter_context(instead(trainer, "model_inference", forgetful))
        stack.enter_context(_other_cache(trainer, OFF))
        trainer.test()


def test(bench: Bench) -> Iterator[Row]:
    """Against the textbook path as published."""
    found, sizes = passes(bench), bench.sizes
    what = f"CoOp, {sizes.test_classes} classes, {sizes.test_images} images: test pass"
    full = sizes.test_images >= 5000
    for name, ours, target in (
        ("cold", found.cold["fp32"], 2),
        ("cached image features", found.cached, 50),
        ("again in the same run", found.again, None),
    ):
        yield times(
            "test",
            f"{what}, {name}",
            ours,
            found.textbook,
            AS_PUBLISHED,
            target=target if full else None,
        )
