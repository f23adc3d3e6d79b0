"""VLP: fanrena/DPT, trainers/VLP.py, which is DPT without CAVPT."""

from __future__ import annotations

from typing import Any

from parity.common import CLIPS, LONGEST, MANY, Case
from parity.methods.dpt import CTX, Published, case
from parity.spec import Pair


def cases() -> dict[str, Case]:
    """Both phases and each alone, on every shape."""
    return {
        "tiny": case("tiny", C=2),
        "guided": case("deep", N_CTX=4, VIS_N_CTX=10, C=9, dataset="OxfordPets"),
        "joint": case("one_block", VIS_N_CTX=3, C=0, lr=0.1, dataset="ImageNet"),
        "two-batches": case("deep", N_CTX=4, C=1, batches_per_epoch=2, epochs=3),
        "one-token": case(
            "tiny", ("dog", "cat"), N_CTX=1, VIS_N_CTX=1, C=2, dataset="DescribableTextures"
        ),
        "longest": case("tiny", (LONGEST, "cat", "sea lion"), C=2),
        "many": case("tiny", MANY, N_CTX=4, C=2, batch=20),
        "words": case("deep", CTX_INIT="a photo of a", CLASS_TOKEN_POSITION="middle", C=2),
        "vit_b16": case("vit_b16", VIS_N_CTX=10, C=1, batch=2, steps=2),
    }


class VLP(Published):
    """Ours is DPT with CAVPT in none of the layers."""

    name = "vlp"
    ours = "dpt"
    module = "trainers.VLP"
    trainer = "VLP"
    cases = cases()

    def learned(self, case: Case) -> dict[str, Pair]:
        """Both prompts."""
        return {
            "txt_ctx": ("prompt_learner.ctx", "prompt_learner.ctx"),
            "vis_ctx": (CTX, "visual_learner.prompts.ctx"),
        }

    def options(self, case: Case) -> dict[str, Any]:
        """One layer more than there are."""
        return {**super().options(case), "BOTTOM_LIMIT": CLIPS[case.clip].visual_layers + 1}


SPEC = VLP()
