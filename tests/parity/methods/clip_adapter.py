"""CLIP-Adapter: gaopengcuhk/CLIP-Adapter, clip_adapter.py, with the `clip` of KaiyangZhou/CoOp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.common import CLIPS, LONGEST, MANY, NAMES, Case
from parity.spec import Pair, Spec, unit
from torch import Tensor


def cases() -> dict[str, Case]:
    """Its 1,024 features, and others; what it has written into it cannot vary."""
    return {
        "as-published": Case("many_features", NAMES, dataset="ImageNet"),
        "tiny": Case("tiny", NAMES, dataset="EuroSAT"),
        "deep": Case("deep", MANY, dataset="UCF101", batches_per_epoch=2, epochs=8, steps=6),
        "one_block": Case("one_block", NAMES[:5], dataset="OxfordPets", lr=0.2),
        "two-classes": Case("tiny", ("dog", "cat"), batch=5),
        "single-class": Case("tiny", ("dog",), lr=2.0),
        "longest": Case("tiny", (LONGEST, "cat"), dataset="FGVCAircraft"),
    }


class CLIPAdapter(Spec):
    """The published names of its two layers."""

    name = "clip_adapter"
    repository = "https://github.com/gaopengcuhk/CLIP-Adapter"
    module = "clip_adapter"
    trainer = "CLIP_Adapter"
    cases = cases()
    node = "CLIP_ADAPTER"

    def learned(self, case: Case) -> dict[str, Pair]:
        """Both layers."""
        return {
            f"{layer}.weight": (
                f"adapter.fc.{layer}.weight",
                f"prompt_learner.adapter.{layer}.weight",
            )
            for layer in (0, 2)
        }

    def prepare(self, module: Any, case: Case, folder: Path) -> None:
        """Another number of features for the adapter."""
        width = CLIPS[case.clip].embed_dim
        published = vars(module).setdefault("published", module.Adapter.__init__)

        def resized(adapter: Any, c_in: int, reduction: int) -> None:
            published(adapter, width, reduction)

        module.Adapter.__init__ = resized

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """Those of the images are never named; the logits of the first step have them."""
        return {"text_features": unit(trainer.model.text_encoder())}


SPEC = CLIPAdapter()
