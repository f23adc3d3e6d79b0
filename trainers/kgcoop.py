"""KgCoOp: knowledge-guided context optimisation.

H. Yao, R. Zhang, C. Xu, "Visual-Language Prompt Tuning with Knowledge-guided Context
Optimization", CVPR 2023, arXiv 2303.13283. CoOp's context, and a loss that keeps the text features
close to those of a hand-written prompt, so that less of what CLIP knows is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from promptclip.losses import knowledge_distance
from promptclip.prompts import TextContext
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer


@dataclass(frozen=True)
class KgCoOpOptions(MethodOptions):
    """Defaults of htyao89/KgCoOp c43ccc3: train.py, and scripts/run.sh for the weight."""

    n_ctx: int = 16  # M, context vectors
    ctx_init: str = ""  # words to start from, e.g. "a photo of a"; they set the number of vectors
    w: float = 8.0  # lambda, weight of the distance
    template: str = ""  # hand-written prompt with {} for the name; "" is the benchmark's

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_ctx", self.n_ctx > 0, "at least 1")
        self.check("w", self.w >= 0, "at least 0")
        self.check("template", not self.template or "{}" in self.template, 'text with "{}"')


class KgCoOpModel(PromptModel):
    """One context for all classes."""

    def build(self, options: KgCoOpOptions) -> None:
        """Learned: the context, [n_ctx, text width]."""
        self.prompt_learner = self.text_prompter = TextContext(
            self.clip, self.classnames, n_ctx=options.n_ctx, ctx_init=options.ctx_init
        )


@TRAINER_REGISTRY.register()
class KgCoOp(PromptTrainer):
    """Cross-entropy and the distance to the hand-written prompt."""

    Options = KgCoOpOptions
    Model = KgCoOpModel

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """L = CE + lambda L_kg."""
        known = self.model.template_features(self.options.template)
        distance = knowledge_distance(output.text_features, known)
        return {
            "ce": F.cross_entropy(output.logits, label),
            "kg": self.options.w * distance,
        }
