"""IVLP: muzairkhattak/multimodal-prompt-learning, trainers/independentVL.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parity.common import LONGEST, NAMES, Case
from parity.spec import Pair, Spec
from torch import Tensor


def prompts(
    vision: tuple[int, int], text: tuple[int, int], ctx_init: str = "a photo of a"
) -> dict[str, Any]:
    """Published keys of (tokens, depth) of both towers, and the words to start from."""
    keys = ("N_CTX_VISION", "PROMPT_DEPTH_VISION", "N_CTX_TEXT", "PROMPT_DEPTH_TEXT")
    return {**dict(zip(keys, (*vision, *text), strict=True)), "CTX_INIT": ctx_init}


def cases() -> dict[str, Case]:
    """Lengths and depths of both towers, starts from words of which some stay, and edges."""
    default = Case("tiny", NAMES, prompts((2, 2), (2, 2)), lr=0.0035, batch=4)
    deep = replace(default, clip="deep")
    return {
        "tiny": default,
        "deep": replace(deep, options=prompts((4, 3), (4, 4)), batches_per_epoch=2, epochs=3),
        "one_block": replace(default, clip="one_block", options=prompts((2, 1), (2, 1))),
        "unequal": replace(deep, options=prompts((3, 1), (1, 3))),
        "text-only": replace(deep, options=prompts((0, 0), (4, 4))),
        "random": replace(default, options=prompts((2, 2), (5, 2), "")),
        "split-word": replace(default, options=prompts((2, 2), (2, 2), "a_hippopotamus photo")),
        "one-name": replace(default, classnames=("dog",), lr=2.0),
        "longest": replace(
            default, classnames=(LONGEST, "cat"), options=prompts((2, 2), (16, 2), "")
        ),
        "longest-words": replace(default, classnames=(LONGEST, "cat")),
        "vit_b16": replace(
            default,
            clip="vit_b16",
            classnames=NAMES[:3],
            options=prompts((2, 12), (2, 12)),
            batch=2,
            steps=2,
        ),
    }


class IVLP(Spec):
    """Its keys are ours; all prompts but the first text prompt lie in the published towers."""

    name = "ivlp"
    repository = "https://github.com/muzairkhattak/multimodal-prompt-learning"
    module = "trainers.independentVL"
    trainer = "IVLP"
    cases = cases()
    node = "IVLP"
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """Every layer's prompts, by tower."""
        ours = "prompt_learner.{}[{}]"
        pairs = {"ctx": ("prompt_learner.ctx", "prompt_learner.text.ctx")}
        for layer in range(1, case.options["PROMPT_DEPTH_TEXT"]):
            theirs = f"text_encoder.transformer.resblocks.{layer}.VPT_shallow"
            pairs[f"text_{layer}"] = (theirs, ours.format("text.deep", layer - 1))
        for layer in range(case.options["PROMPT_DEPTH_VISION"]):
            theirs = f"transformer.resblocks.{layer}.VPT_shallow" if layer else "VPT"
            pairs[f"vis_{layer}"] = (f"image_encoder.{theirs}", ours.format("visual.ctx", layer))
        return pairs

    def load_clip(
        self, module: Any, cfg: Any, weights: dict[str, Tensor], frozen: bool = False
    ) -> Any:
        """Build the published CLIP, whose prompts the configuration describes."""
        from clip.model import build_model

        node = cfg.TRAINER[self.node]
        design = {
            "trainer": "IVLP",
            "vision_depth": 0 if frozen else node.PROMPT_DEPTH_VISION,
            "language_depth": 0 if frozen else node.PROMPT_DEPTH_TEXT,
            "vision_ctx": 0 if frozen else node.N_CTX_VISION,
            "language_ctx": 0 if frozen else node.N_CTX_TEXT,
        }
        return build_model(weights, design)


SPEC = IVLP()
