"""ProGrad: prompt-aligned gradient.

B. Zhu, Y. Niu, Y. Han, Y. Wu, H. Zhang, "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023,
arXiv 2205.14865. CoOp's context, moved only where this does not contradict zero-shot CLIP: a
gradient of the cross-entropy that would raise the divergence from CLIP's own prediction loses the
part that would. Details follow the published code, BeierZhu/Prompt-align 1b76203.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from promptclip.losses import distillation, without_conflict
from promptclip.prompts import POSITIONS, TextContext, word_vectors
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer


@dataclass(frozen=True)
class ProGradOptions(MethodOptions):
    """Defaults of the published train.py, extend_cfg."""

    n_ctx: int = 16  # M, context vectors
    csc: bool = False  # class-specific context
    ctx_init: str = ""  # words to start from, at the end of the context, zeros before them
    class_token_position: str = "end"
    t: float = 1.0  # temperature of both predictions in the divergence
    lam: float = 1.0  # lambda, how much of the conflicting part is taken away
    template: str = ""  # zero-shot CLIP's prompt with {} for the name; "" is the benchmark's

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_ctx", self.n_ctx > 0, "at least 1")
        places = '"end", "middle" or "front"'
        self.check("class_token_position", self.class_token_position in POSITIONS, places)
        self.check("t", self.t > 0, "above 0")
        self.check("lam", self.lam >= 0, "at least 0")
        self.check("template", not self.template or "{}" in self.template, 'text with "{}"')


class ProGradModel(PromptModel):
    """One context for all classes, or one for each."""

    def build(self, options: ProGradOptions) -> None:
        """Learned: the context, [n_ctx, text width] or [C, n_ctx, text width]."""
        place = options.class_token_position
        self.prompt_learner = self.text_prompter = TextContext(
            self.clip, self.classnames, n_ctx=options.n_ctx, csc=options.csc, position=place
        )
        if options.ctx_init:
            words = word_vectors(self.clip, options.ctx_init)
            free = options.n_ctx - len(words)
            needed = f"at least {len(words)}, the tokens of TRAINER.PROGRAD.CTX_INIT"
            options.check("n_ctx", free >= 0, needed)
            # As published (trainers/prograd.py, line 80), whose whole context is n_ctx long
            self.prompt_learner.ctx.data.copy_(F.pad(words, (0, 0, free, 0)))


@TRAINER_REGISTRY.register()
class ProGrad(PromptTrainer):
    """Cross-entropy, its gradient freed from what contradicts the divergence's."""

    Options = ProGradOptions
    Model = ProGradModel

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """The cross-entropy, and the divergence from zero-shot CLIP, which is only a guide.

        The image tower has no prompts, so its features are zero-shot CLIP's, too.
        """
        known = self.model.template_features(self.options.template)
        teacher = self.model.clip.logit_scale * output.image_features @ known.T
        return {
            "ce": F.cross_entropy(output.logits, label),
            "kl": distillation(output.logits, teacher, self.options.t),
        }

    def backward(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """G_d without its conflict with G_g, for each learned tensor.

        G_d is the gradient of all terms but the divergence, those of regularisers among them, and
        G_g that of the divergence. Both are scaled alike where gradients are scaled.
        """
        domain = torch.stack([term for name, term in terms.items() if name != "kl"]).sum()
        general = terms["kl"]
        if self.scaler is not None:
            domain, general = self.scaler.scale(domain), self.scaler.scale(general)
        learned = list(self.model.prompt_learner.parameters())
        directions = torch.autograd.grad(general, learned, retain_graph=True)
        domain.backward()
        for parameter, direction in zip(learned, directions, strict=True):
            gradient = parameter.grad
            parameter.grad = without_conflict(gradient, direction, self.options.lam)
