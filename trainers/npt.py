"""NPT-style prompt tuning: text and image features are drawn to one simplex ETF.

D. Zhu et al., "Neural Collapse Anchored Prompt Tuning for Generalizable Vision-Language Models",
KDD 2024, arXiv 2306.15955. Two losses on top of a prompt-tuning method: text features of different
classes are spread to equal angles, and image features are tied to the same structure.

NPT-style, form chosen here: the paper's equations, weights, base method and recipe have not been
seen, and no code of the authors' was found. See docs/methods/npt.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.losses import (
    ISOMORPHISM_FORMS,
    LANGUAGE_FORMS,
    language_modality_collapse,
    multi_modality_isomorphism,
)
from promptclip.prompts import TextContext, VisualTokens
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NPTOptions(MethodOptions):
    """NPT-style, all defaults chosen here."""

    n_ctx: int = 4  # context vectors of the text tower
    ctx_init: str = "a photo of a"  # words to start from; they set the number of vectors
    vis_num_tokens: int = 4  # tokens of each prompted layer of the image tower
    prompt_depth: int = 9  # prompted layers of the image tower
    lc: str = "target"  # form of the language-modality collapse
    mi: str = "means"  # form of the multi-modality isomorphism
    lc_weight: float = 0.1  # lambda_1
    mi_weight: float = 0.1  # lambda_2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_ctx", "vis_num_tokens", "prompt_depth"):
            self.check(name, getattr(self, name) > 0, "at least 1")
        for name, forms in (("lc", LANGUAGE_FORMS), ("mi", ISOMORPHISM_FORMS)):
            self.check(name, getattr(self, name) in forms, f"one of {', '.join(forms)}")
        for name in ("lc_weight", "mi_weight"):
            self.check(name, getattr(self, name) >= 0, "at least 0")


class NPTModel(PromptModel):
    """CoOp's context, and deep visual prompts: both sides can move."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: NPTOptions) -> None:
        """Learned: [n_ctx, text width] and [prompt_depth, vis_num_tokens, visual width]."""
        layers = self.clip.config.visual_layers
        options.check("prompt_depth", options.prompt_depth <= layers,
                      f"at most {layers}, the layers of this CLIP's image tower")  # fmt: skip
        self.text_prompter = TextContext(
            self.clip, self.classnames, n_ctx=options.n_ctx, ctx_init=options.ctx_init
        )
        self.image_prompter = VisualTokens(
            self.clip, options.vis_num_tokens, depth=options.prompt_depth
        )
        learned = {"text": self.text_prompter, "image": self.image_prompter}
        self.prompt_learner = nn.ModuleDict(learned)


@TRAINER_REGISTRY.register()
class NPT(PromptTrainer):
    """Cross-entropy, language-modality collapse and multi-modality isomorphism."""

    Options = NPTOptions
    Model = NPTModel

    def before_train(self) -> None:
        """Say that this is no reproduction."""
        log.info("NPT-style: the forms and weights of the losses are chosen here, not the paper's")
        super().before_train()

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """L = CE + lambda_1 L_LC + lambda_2 L_MI (NPT-style, form chosen here)."""
        options = self.options
        image, text = output.image_features, output.text_features
        collapse = language_modality_collapse(text, options.lc)
        isomorphism = multi_modality_isomorphism(image, text, label, options.mi)
        return {
            "ce": F.cross_entropy(output.logits, label),
            "lc": options.lc_weight * collapse,
            "mi": options.mi_weight * isomorphism,
        }
