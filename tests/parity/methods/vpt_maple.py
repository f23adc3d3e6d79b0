"""VPT: muzairkhattak/multimodal-prompt-learning, trainers/vpt.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parity.common import LONGEST, MANY, NAMES, Case
from parity.spec import Pair, Spec, unit
from torch import Tensor


def cases() -> dict[str, Case]:
    """Shallow, deep and between, on every shape."""

    def options(tokens: int, depth: int) -> dict[str, Any]:
        return {"N_CTX_VISION": tokens, "PROMPT_DEPTH_VISION": depth}

    shallow = Case("tiny", NAMES, options(2, 1), lr=0.0025)
    return {
        "shallow": shallow,
        "deep": replace(shallow, clip="deep", options=options(8, 3)),
        "between": replace(shallow, clip="deep", options=options(4, 2), lr=0.05),
        "one_block": replace(shallow, clip="one_block", options=options(8, 1), lr=0.02),
        "one-token": replace(
            shallow, classnames=("dog", "cat", "bus"), options=options(1, 2), batches_per_epoch=2
        ),
        "longest": replace(shallow, classnames=(LONGEST, "cat", "sea lion")),
        "many": replace(shallow, classnames=MANY, options=options(8, 2), batch=20),
        "vit_b16": replace(shallow, clip="vit_b16", options=options(8, 12), batch=2, steps=2),
    }


class VPT(Spec):
    """Its keys are ours; it reads no template and no CTX_INIT."""

    name = "vpt_maple"
    ours = "vpt"
    repository = "https://github.com/muzairkhattak/multimodal-prompt-learning"
    module = "trainers.vpt"
    trainer = "VPT"
    cases = cases()
    node = "VPT"
    largest = 1100
    signed = True
    defaults: Mapping[str, Any] = {
        "N_CTX_VISION": 2,
        "CTX_INIT": "a photo of a",
        "PROMPT_DEPTH_VISION": 1,
    }

    def learned(self, case: Case) -> dict[str, Pair]:
        """One tensor for each layer."""
        theirs = ["VPT"]
        for layer in range(1, case.options["PROMPT_DEPTH_VISION"]):
            theirs.append(f"transformer.resblocks.{layer}.VPT_shallow")
        return {
            f"ctx_{layer}": (f"image_encoder.{name}", f"prompt_learner.ctx[{layer}]")
            for layer, name in enumerate(theirs)
        }

    def load_clip(self, module: Any, cfg: Any, weights: dict[str, Tensor]) -> Any:
        """Its CLIP makes the prompts, and must be told of them."""
        from clip.model import build_model

        options = cfg.TRAINER.VPT
        design = {
            "trainer": "VPT",
            "vision_depth": options.PROMPT_DEPTH_VISION,
            "vision_ctx": options.N_CTX_VISION,
            "language_depth": 0,
            "language_ctx": 0,
        }
        return build_model(weights, design)

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """The text features are fixed."""
        text = trainer.model.embeddings.return_fixed_embeddings()
        return {
            "image_features": unit(trainer.model.image_encoder(images)),
            "text_features": unit(text),
        }


SPEC = VPT()
