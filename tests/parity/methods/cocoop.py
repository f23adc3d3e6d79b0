"""CoCoOp: KaiyangZhou/CoOp, trainers/cocoop.py."""

from __future__ import annotations

from typing import Any

import torch
from parity.common import LONGEST, MANY, NAMES, Case
from parity.spec import Pair, Spec, unit
from torch import Tensor


def cases() -> dict[str, Case]:
    """Lengths, starts, class counts and batches, on every shape."""
    random, words = {"N_CTX": 16}, {"CTX_INIT": "a photo of a"}
    return {
        "tiny": Case("tiny", NAMES, random, lr=0.2),
        "deep": Case("deep", NAMES, {"N_CTX": 4}),
        "one_block": Case("one_block", NAMES[:5], {"N_CTX": 8}, lr=0.02),
        "words": Case("deep", NAMES, words, batches_per_epoch=2),
        "epochs": Case("tiny", NAMES, words, batches_per_epoch=2, steps=6, epochs=3, lr=0.02),
        "batch-of-one": Case("deep", NAMES, words, batch=1, lr=0.02),
        "single-class": Case("tiny", ("dog",), {"N_CTX": 4}),
        "one-token": Case("tiny", ("dog", "cat"), {"N_CTX": 1}, batch=5),
        "longest": Case("tiny", (LONGEST, "cat"), random),
        "many": Case("tiny", MANY, {"N_CTX": 4}, batch=3),
        "vit_b16": Case("vit_b16", NAMES[:4], words, batch=2, steps=2),
    }


class CoCoOp(Spec):
    """Its keys are ours."""

    name = "cocoop"
    repository = "https://github.com/KaiyangZhou/CoOp"
    module = "trainers.cocoop"
    trainer = "CoCoOp"
    cases = cases()
    node = "COCOOP"
    defaults = {"N_CTX": 16, "CTX_INIT": ""}
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """The context and the meta-net, under equal names."""
        names = ["ctx"] + [
            f"meta_net.linear{i}.{part}" for i in (1, 2) for part in ("weight", "bias")
        ]
        return {name: (f"prompt_learner.{name}", f"prompt_learner.{name}") for name in names}

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """Text features of every image, [B, C, D]."""
        model = trainer.model
        image = unit(model.image_encoder(images))
        tokens = model.tokenized_prompts
        text = [unit(model.text_encoder(one, tokens)) for one in model.prompt_learner(image)]
        return {"image_features": image, "text_features": torch.stack(text)}


SPEC = CoCoOp()
