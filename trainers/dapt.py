"""DAPT: distribution-aware prompt tuning.

E. Cho, J. Kim, H. J. Kim, "Distribution-Aware Prompt Tuning for Vision-Language Models",
ICCV 2023, arXiv 2309.03406. One text and one visual prompt; text features are pushed apart
between classes (inter-dispersion), image features are pulled to the prototype of their class
(intra-dispersion). Constants and details follow the published code, mlvlab/DAPT cacb311.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.losses import inter_dispersion, intra_dispersion
from promptclip.prompts import TextContext, VisualTokens
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer


@dataclass(frozen=True)
class DAPTOptions(MethodOptions):
    """Defaults of the published train.py; each benchmark has its betas in the yaml."""

    vis_num_tokens: int = 16
    vis_dropout: float = 0.0
    vis_beta: float = 0.1  # beta_v, weight of the intra-dispersion
    txt_num_tokens: int = 16
    txt_beta: float = 0.1  # beta_t, weight of the inter-dispersion
    txt_rbf_t: float = 2.0  # t of the Gaussian kernel

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vis_num_tokens", "txt_num_tokens"):
            self.check(name, getattr(self, name) > 0, "at least 1")
        for name in ("vis_beta", "txt_beta", "txt_rbf_t"):
            self.check(name, getattr(self, name) >= 0, "at least 0")
        self.check("vis_dropout", 0 <= self.vis_dropout < 1, "in [0, 1)")


class DAPTModel(PromptModel):
    """A context for the text tower, tokens for the image tower, both at the first layer."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: DAPTOptions) -> None:
        """Learned: [txt_num_tokens, text width] and [1, vis_num_tokens, visual width]."""
        width, patch = self.clip.config.visual_width, self.clip.config.patch_size
        # VPT's bound for its prompts (Xavier over a patch), which the published code takes over
        bound = math.sqrt(6 / (3 * patch**2 + width))
        self.image_prompter = VisualTokens(
            self.clip,
            options.vis_num_tokens,
            init=partial(nn.init.uniform_, a=-bound, b=bound),
            dropout=options.vis_dropout,
        )
        self.text_prompter = TextContext(self.clip, self.classnames, n_ctx=options.txt_num_tokens)
        self.prompt_learner = nn.ModuleDict(
            {"visual": self.image_prompter, "text": self.text_prompter}
        )


@TRAINER_REGISTRY.register()
class DAPT(PromptTrainer):
    """Cross-entropy and the two dispersion losses."""

    Options = DAPTOptions
    Model = DAPTModel

    def before_train(self) -> None:
        """The prototypes: class means of prompt-free unit features of the training pictures.

        Of one random training view of each, and not re-normalised, as published.
        """
        self.prototypes = self.class_means()
        super().before_train()

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """L = CE + beta_v L_intra + beta_t L_inter."""
        options = self.options
        intra = intra_dispersion(output.image_features, self.prototypes, label)
        inter = inter_dispersion(output.text_features, options.txt_rbf_t)
        return {
            "ce": F.cross_entropy(output.logits, label),
            "intra": options.vis_beta * intra,
            "inter": options.txt_beta * inter,
        }
