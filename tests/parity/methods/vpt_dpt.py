"""VPT: fanrena/DPT, trainers/VPT.py, which prompts every layer behind ln_pre."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.common import LONGEST, MANY, NAMES, Case
from parity.methods.dpt import CTX, Published
from parity.spec import Pair, unit
from torch import Tensor


def cases() -> dict[str, Case]:
    """Every shape, three of the hand-written prompts that are its classifier."""

    def options(tokens: int) -> dict[str, Any]:
        return {"VPT.N_CTX": tokens}

    default = Case("tiny", NAMES, options(5), lr=0.01)
    return {
        "tiny": default,
        "deep": replace(default, clip="deep", options=options(10), dataset="OxfordPets"),
        "one_block": replace(default, clip="one_block", lr=0.2, dataset="DescribableTextures"),
        "one-token": replace(
            default,
            classnames=("dog", "cat"),
            options=options(1),
            batches_per_epoch=2,
            epochs=3,
            dataset="FGVCAircraft",
        ),
        "longest": replace(default, classnames=(LONGEST, "cat", "sea lion")),
        "many": replace(default, classnames=MANY, batch=20),
        "vit_b16": replace(default, clip="vit_b16", options=options(10), batch=2, steps=2),
    }


class VPT(Published):
    """Only the image tower learns."""

    name = "vpt_dpt"
    ours = "vpt"
    module = "trainers.VPT"
    trainer = "VPT"
    cases = cases()

    def learned(self, case: Case) -> dict[str, Pair]:
        """One tensor for all layers."""
        return {"vis_ctx": (CTX, "prompt_learner.ctx")}

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """The text features are fixed."""
        model = trainer.model
        return {
            "image_features": unit(model.image_encoder(images)),
            "text_features": model.text_features,
        }

    def options(self, case: Case) -> dict[str, Any]:
        """In our keys."""
        return {"N_CTX": case.options["VPT.N_CTX"]}

    def weights(self, options: Any) -> dict[str, float]:
        """There is one term."""
        return {}


SPEC = VPT()
