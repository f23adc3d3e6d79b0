"""ProGrad: BeierZhu/Prompt-align, ProGrad.public/trainers/prograd.py, with its own Dassl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from parity.common import LONGEST, MANY, NAMES, Case
from parity.spec import Call, Pair, Spec
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

# What the published code makes of a true CTX_INIT: the words of the hand-written prompt.
WORDS = {
    "EuroSAT": "a centered satellite photo of",
    "UCF101": "a photo of a person doing",
    "DescribableTextures": "a texture of",
    "ImageNet": "a photo of a",
}
LOSS = ("T", "LAMBDA")  # in the published section LOSS


def cases() -> dict[str, Case]:
    """Places, starts, temperatures and strengths, on every shape."""
    random, words = {"N_CTX": 16}, {"CTX_INIT": True}
    return {
        # The gradients of the first step contradict each other in these...
        "tiny": Case("tiny", NAMES, words, dataset="UCF101", batch=4),
        "deep": Case("deep", NAMES[:5], random, dataset="ImageNet", lr=0.02),
        "one_block": Case("one_block", NAMES[:5], words, dataset="UCF101", lr=0.2),
        "weaker": Case("one_block", NAMES[:5], {"N_CTX": 4, "LAMBDA": 0.8}, dataset="ImageNet"),
        "stronger": Case("tiny", NAMES, {**random, "LAMBDA": 2.0}, dataset="UCF101", batch=4),
        "epochs": Case("deep", NAMES[:5], random, batches_per_epoch=2, steps=6, epochs=3, lr=0.2),
        # ... and agree in these.
        "aligned": Case("tiny", NAMES, words),
        "warm": Case("deep", NAMES, {**random, "T": 2.0}, dataset="OxfordPets", lr=0.02),
        "cold": Case("tiny", NAMES, {**random, "T": 0.5}, batches_per_epoch=2),
        "front": Case("deep", NAMES, {"N_CTX": 4, "CLASS_TOKEN_POSITION": "front"}),
        "specific": Case("tiny", NAMES, {"N_CTX": 4, "CSC": True}, dataset="Food101", lr=0.2),
        "one-token": Case("tiny", ("dog", "cat"), {"N_CTX": 4}, dataset="StanfordCars", batch=5),
        "longest": Case("tiny", (LONGEST, "cat"), random, dataset="ImageNet"),
        "many": Case("tiny", MANY, {"N_CTX": 4}, dataset="FGVCAircraft", batch=20),
        "vit_b16": Case("vit_b16", NAMES, words, batch=2, steps=2),
    }


class ProGrad(Spec):
    """Its keys are those of CoOp, and a section LOSS."""

    name = "prograd"
    repository = "https://github.com/BeierZhu/Prompt-align"
    module = "trainers.prograd"
    trainer = "ProGrad"
    cases = cases()
    node = "COOP"
    defaults = {"N_CTX": 16, "CSC": False, "CTX_INIT": False, "CLASS_TOKEN_POSITION": "end"}
    watched = (F.cross_entropy, torch.Tensor.mean)
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """The context."""
        return {"ctx": ("prompt_learner.ctx", "prompt_learner.ctx")}

    def configure(self, cfg: Any, case: Case) -> None:
        """Temperature and strength have a section of their own."""
        super().configure(cfg, case)
        node = cfg.TRAINER[self.node]
        given = {key: node.pop(key) for key in LOSS if key in node}
        cfg.LOSS = CfgNode({"NAME": "prograd", "T": 1.0, "LAMBDA": 1.0, **given})

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """The mean is that of the divergence."""
        found = {function: result for function, _, result in calls if result.requires_grad}
        return {"ce": found[F.cross_entropy], "kl": found[torch.Tensor.mean]}

    def options(self, case: Case) -> dict[str, Any]:
        """Words are written out; lambda is no name in Python."""
        options = dict(case.options)
        if "LAMBDA" in options:
            options["LAM"] = options.pop("LAMBDA")
        return {**options, "CTX_INIT": WORDS[case.dataset] if options.get("CTX_INIT") else ""}


SPEC = ProGrad()
