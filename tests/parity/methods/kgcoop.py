"""KgCoOp: htyao89/KgCoOp, KgCoOp/trainers/kgcoop.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from parity.common import LONGEST, MANY, NAMES, Case
from parity.spec import Call, Pair, Spec, unit
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode


def cases() -> dict[str, Case]:
    """Weights, starts and hand-written prompts, on every shape."""
    random, words = {"N_CTX": 16, "W": 8.0}, {"CTX_INIT": True, "W": 8.0}
    return {
        "tiny": Case("tiny", NAMES, random),
        "deep": Case("deep", NAMES, {"N_CTX": 4, "W": 8.0}, dataset="OxfordPets", lr=0.02),
        "one_block": Case("one_block", NAMES[:5], random, dataset="DescribableTextures"),
        "weight": Case("tiny", NAMES, {"N_CTX": 8, "W": 1.0}, dataset="ImageNet", lr=0.2),
        # With ImageNet's prompt the distance would start at 0, its gradient pure rounding.
        "words": Case("deep", NAMES, words, dataset="UCF101", batches_per_epoch=2, lr=0.2),
        "epochs": Case(
            "tiny", NAMES, words, dataset="Food101", batches_per_epoch=2, steps=6, epochs=3, lr=0.02
        ),
        "single-class": Case("tiny", ("dog",), {"N_CTX": 4, "W": 8.0}, lr=0.2),
        "one-token": Case("tiny", ("dog", "cat"), {"N_CTX": 1, "W": 2.0}, batch=5),
        "longest": Case("tiny", (LONGEST, "cat"), random, dataset="ImageNet"),
        "many": Case("tiny", MANY, {"N_CTX": 4, "W": 8.0}, dataset="FGVCAircraft"),
        "vit_b16": Case("vit_b16", NAMES, words, batch=2, steps=2),
    }


class KgCoOp(Spec):
    """Its keys are those of CoOp; any true CTX_INIT means "a photo of a"."""

    name = "kgcoop"
    repository = "https://github.com/htyao89/KgCoOp"
    module = "trainers.kgcoop"
    trainer = "KgCoOp"
    cases = cases()
    node = "COOP"
    defaults = {
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": False,
        "W": 1.0,
        "CLASS_TOKEN_POSITION": "end",
    }
    watched = (F.cross_entropy, torch.mean)
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """The context; the published learner's other tensors get no gradient and no use."""
        return {"ctx": ("prompt_learner.ctx", "prompt_learner.ctx")}

    def configure(self, cfg: Any, case: Case) -> None:
        """It also reads a key of CoCoOp."""
        super().configure(cfg, case)
        cfg.TRAINER.COCOOP = CfgNode({"PREC": "fp32"})

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """And those of the hand-written prompt."""
        known = unit(trainer.model.ori_embedding)
        return {**super().features(trainer, images), "known": known}

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """The mean is that of the cosines."""
        found = {function: result for function, _, result in calls}
        return {"ce": found[F.cross_entropy], "kg": 1 - found[torch.mean]}

    def options(self, case: Case) -> dict[str, Any]:
        """Words are written out."""
        words = "a photo of a" if case.options.get("CTX_INIT") else ""
        return {**case.options, "CTX_INIT": words}

    def weights(self, options: Any) -> dict[str, float]:
        """The weight of the distance."""
        return {"kg": options.w}

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """Features of the hand-written prompt."""
        return {"known": trainer.model.template_features()}


SPEC = KgCoOp()
