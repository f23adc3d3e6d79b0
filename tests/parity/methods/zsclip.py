"""Zero-shot CLIP: KaiyangZhou/CoOp, trainers/zsclip.py."""

from __future__ import annotations

from typing import Any

from parity.common import MANY, NAMES, Case
from parity.spec import Pair, Spec, unit
from torch import Tensor


def cases() -> dict[str, Case]:
    """Three shapes, three hand-written templates."""
    return {
        "tiny": Case("tiny", NAMES, dataset="EuroSAT"),
        "deep": Case("deep", NAMES, dataset="ImageNet"),
        "one_block": Case("one_block", MANY, dataset="DescribableTextures"),
        "vit_b16": Case("vit_b16", NAMES, dataset="FGVCAircraft", batch=2),
    }


class ZeroshotCLIP(Spec):
    """Nothing is learned."""

    name = "zsclip"
    repository = "https://github.com/KaiyangZhou/CoOp"
    module = "trainers.zsclip"
    trainer = "ZeroshotCLIP"
    cases = cases()
    node = "ZEROSHOTCLIP"

    def learned(self, case: Case) -> dict[str, Pair]:
        """Nothing."""
        return {}

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """And the logits, as there is no step."""
        return {
            "text_features": trainer.text_features,
            "image_features": unit(trainer.clip_model.encode_image(images)),
            "logits": trainer.model_inference(images),
        }


SPEC = ZeroshotCLIP()
