"""MaPLe: muzairkhattak/multimodal-prompt-learning, trainers/maple.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from parity.common import LONGEST, NAMES, Case
from parity.spec import Pair, Spec, unit
from torch import Tensor, nn


def cases() -> dict[str, Case]:
    """Lengths and depths, starts from words of which some stay, and edges."""

    def options(n_ctx: int, depth: int, ctx_init: str = "a photo of a") -> dict[str, Any]:
        return {"N_CTX": n_ctx, "PROMPT_DEPTH": depth, "CTX_INIT": ctx_init}

    default = Case("tiny", NAMES, options(2, 2), lr=0.0035, batch=4)
    return {
        "tiny": default,
        "deep": replace(default, clip="deep", options=options(4, 3), batches_per_epoch=2, epochs=3),
        "one_block": replace(default, clip="one_block", options=options(2, 1)),
        "wide": replace(default, clip="wide", classnames=NAMES[:4]),
        "shallow": replace(default, options=options(3, 1), lr=0.02),
        "random": replace(default, options=options(5, 2, "")),
        "split-word": replace(default, options=options(2, 2, "a_hippopotamus photo")),
        "one-name": replace(default, classnames=("dog",), lr=2.0),
        "longest": replace(default, classnames=(LONGEST, "cat"), options=options(16, 2, "")),
        "longest-words": replace(default, classnames=(LONGEST, "cat")),
        "vit_b16": replace(
            default, clip="vit_b16", classnames=NAMES[:3], options=options(2, 9), batch=2, steps=2
        ),
    }


class _Instead:
    """A module in which some names mean something else."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.module, self.names = module, names

    def __getattr__(self, name: str) -> Any:
        return self.names.get(name) or getattr(self.module, name)


class MaPLe(Spec):
    """Its keys are ours."""

    name = "maple"
    repository = "https://github.com/muzairkhattak/multimodal-prompt-learning"
    module = "trainers.maple"
    trainer = "MaPLe"
    cases = cases()
    node = "MAPLE"

    def learned(self, case: Case) -> dict[str, Pair]:
        """Every layer's text prompts, and the maps that make visual prompts of them."""
        pairs = {"ctx": ("prompt_learner.ctx", "prompt_learner.text.ctx")}
        for part in ("weight", "bias"):
            pairs[f"proj_0.{part}"] = (
                f"prompt_learner.proj.{part}",
                f"prompt_learner.coupling.0.{part}",
            )
        for layer in range(1, case.options["PROMPT_DEPTH"]):
            row = layer - 1
            pairs[f"text_{layer}"] = (
                f"prompt_learner.compound_prompts_text.{row}",
                f"prompt_learner.text.deep[{row}]",
            )
            for part in ("weight", "bias"):
                pairs[f"proj_{layer}.{part}"] = (
                    f"prompt_learner.compound_prompt_projections.{row}.{part}",
                    f"prompt_learner.coupling.{layer}.{part}",
                )
        return pairs

    def load_clip(self, module: Any, cfg: Any, weights: dict[str, Tensor]) -> Any:
        """Build the published CLIP.

        The prompt learner, which is made next, has ViT-B/16's widths written into it: where it
        calls for 768 or 512 numbers, give it the widths of this CLIP.
        """
        from clip.model import build_model

        visual, text = weights["visual.class_embedding"].shape[0], weights["ln_final.bias"].shape[0]
        module.nn, module.torch = nn, torch
        if (visual, text) != (768, 512):
            module.nn = _Instead(nn, Linear=lambda width, _: nn.Linear(width, visual))
            module.torch = _Instead(torch, empty=lambda n, _, **kind: torch.empty(n, text, **kind))
        design = dict.fromkeys(("vision_depth", "language_depth", "vision_ctx", "language_ctx"), 0)
        length = cfg.TRAINER.MAPLE.N_CTX
        return build_model(weights, {"trainer": "MaPLe", "maple_length": length, **design})

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """What the published towers make of the first batch."""
        model = trainer.model
        prompts, first, deep_text, deep_visual = model.prompt_learner()
        text = model.text_encoder(prompts, model.tokenized_prompts, deep_text)
        image = model.image_encoder(images, first, deep_visual)
        return {"image_features": unit(image), "text_features": unit(text)}


SPEC = MaPLe()
