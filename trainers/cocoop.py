"""CoCoOp: conditional context optimisation.

K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Conditional Prompt Learning for Vision-Language Models",
CVPR 2022, arXiv 2203.05557. A small network, the meta-net, turns every image's feature into a
vector that shifts the learned context, so every image has text features of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.prompts import LayerTokens, TextContext
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer, unit


@dataclass(frozen=True)
class CoCoOpOptions(MethodOptions):
    """Defaults of KaiyangZhou/CoOp ff61507, train.py, extend_cfg."""

    n_ctx: int = 16  # M, context vectors
    ctx_init: str = ""  # words to start from, e.g. "a photo of a"; they set the number of vectors

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_ctx", self.n_ctx > 0, "at least 1")


class CoCoOpModel(PromptModel):
    """A context for all classes, shifted by what an image shows."""

    text_by_image = True

    def build(self, options: CoCoOpOptions) -> None:
        """Learned: the context, [n_ctx, text width], and the meta-net.

        Its hidden layer has a 16th of the image feature's width, as in the paper (Sec. 4).
        """
        width = self.clip.config.embed_dim
        hidden = max(width // 16, 1)
        meta_net = OrderedDict(
            linear1=nn.Linear(width, hidden),
            relu=nn.ReLU(),
            linear2=nn.Linear(hidden, self.clip.config.text_width),
        )
        self.prompt_learner = TextContext(
            self.clip, self.classnames, n_ctx=options.n_ctx, ctx_init=options.ctx_init
        )
        self.prompt_learner.meta_net = nn.Sequential(meta_net)

    def forward(self, image: Tensor) -> Output:
        """Cosine logits of images [B, 3, H, W], each against its own text features."""
        image_features = unit(self.image_features(image))
        text_features = self.text_features_for(image_features)
        cosines = torch.einsum("bd,bcd->bc", image_features, text_features)
        return Output(self.clip.logit_scale * cosines, image_features, text_features)

    def text_features_for(self, image_features: Tensor) -> Tensor:
        """Unit features [B, C, D] of all classes for images of unit features [B, D]."""
        shift = self.prompt_learner.meta_net(image_features)  # pi, [B, text width]
        contexts = self.prompt_learner.ctx + shift[:, None]  # v_m + pi, [B, n_ctx, text width]
        return unit(self.clip.encode_text(self.prompt_learner.tokens, LayerTokens([contexts])))


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = CoCoOpOptions
    Model = CoCoOpModel
