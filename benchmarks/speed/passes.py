"""A test pass of CoOp over many pictures: first, after another run, and as it is published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from promptclip.benchmark import PictureSet
from promptclip.feature_cache import OFF, FeatureCache, identity, instead
from speed.bench import Bench
from speed.measure import Measured, once
from speed.table import Row, times
from speed.work import take

AS_PUBLISHED = "textbook, text features at every batch"


@dataclass(frozen=True)
class Passes:
    """What tests of all pictures take; those that run the image tower are scaled to all batches.

    Attributes:
        cold: no features are known.
        cached: an earlier run has left the image features.
        again: a later test of the same run.
        textbook: as published.
        text: the text features alone.
        batches: of all pictures.
    """

    cold: Measured
    cached: Measured
    again: Measured
    textbook: Measured | None
    text: Measured
    batches: int


def passes(bench: Bench, precision: str = "fp32") -> Passes:
    """Measure them once; the textbook's in fp32 alone."""
    found: Passes = bench.once(("test", precision), lambda: _passes(bench, precision))
    return found


def _passes(bench: Bench, precision: str) -> Passes:
    sizes = bench.sizes
    per_class = sizes.test_images // sizes.test_classes
    root = bench.data(sizes.test_classes, test=per_class)
    cache = bench.folder / f"features-{precision}"
    key = "TEST.FEATURE_CACHE", str(cache)
    with bench.trainer("CoOp", root, *key, precision=precision, workers=True) as trainer:
        whole, model = trainer.test_loader, trainer.model
        ours, theirs = sizes.test_batches

        def text() -> None:
            model.forget()
            with torch.no_grad():
                model.current_text_features()

        text_features = bench.measure(text)
        with first_batches(trainer, ours):
            cold = once(trainer.test, bench.device)
        rest = cold.seconds - text_features.seconds
        seconds = text_features.seconds + rest * len(whole) / ours
        cold = replace(cold, seconds=seconds, scaled=True, runs=ours)

        # What `cold` would have kept, had it gone through all pictures
        its = identity(model.clip, whole, trainer.cfg)
        features = torch.randn(len(whole.dataset), sizes.clip.embed_dim, dtype=model.clip.dtype)
        if its is None:
            raise RuntimeError("these pictures' features cannot be kept: expected a plain test set")
        FeatureCache(cache).keep(its, features)

        def cached() -> None:
            trainer._features.clear()
            trainer.test()

        filled = bench.measure(cached)
        again = bench.measure(trainer.test)
        textbook = _as_published(trainer, theirs, len(whole)) if precision == "fp32" else None
        return Passes(cold, filled, again, textbook, text_features, len(whole))


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


def _as_published(trainer: Any, batches: int, all_batches: int) -> Measured:
    inference = trainer.model_inference

    def forgetful(image: Any) -> Any:
        trainer.model.forget()
        return inference(image)

    take(trainer, textbook=True)
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.TEST.FEATURE_CACHE = OFF
    trainer._features.clear()
    with ExitStack() as stack:
        stack.enter_context(first_batches(trainer, batches))
        stack.enter_context(instead(trainer, "model_inference", forgetful))
        stack.enter_context(instead(trainer, "cfg", cfg))
        found = once(trainer.test, trainer.device)
    return replace(found, seconds=found.seconds * all_batches / batches, scaled=True, runs=batches)


def test(bench: Bench) -> Iterator[Row]:
    """Against the textbook path as published."""
    found, sizes = passes(bench), bench.sizes
    if found.textbook is None:
        raise RuntimeError("the textbook path was not measured: expected fp32")
    what = f"CoOp, {sizes.test_classes} classes, {sizes.test_images} images: test pass"
    full = sizes.test_images >= 5000
    for name, ours, target in (
        ("cold", found.cold, 2),
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
