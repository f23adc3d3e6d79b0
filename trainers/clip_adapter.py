"""CLIP-Adapter: a small network behind the image tower.

P. Gao, S. Geng, R. Zhang, T. Ma, R. Fang, Y. Zhang, H. Li, Y. Qiao, "CLIP-Adapter: Better
Vision-Language Models with Feature Adapters", IJCV 2024, arXiv 2110.04544. A bottleneck of two
layers makes new image features, which are mixed with the frozen ones. Constants follow the
published code, gaopengcuhk/CLIP-Adapter 08d07f8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class CLIPAdapterOptions(MethodOptions):
    """What the published code has written into it."""

    reduction: int = 4  # features for one hidden unit
    ratio: float = 0.2  # alpha, share of the new features
    template: str = ""  # hand-written prompt, "{}" stands for the name; "" is the benchmark's

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("ratio", 0 < self.ratio <= 1, "in (0, 1]")
        self.check("template", not self.template or "{}" in self.template, 'text with "{}"')


class CLIPAdapterModel(PromptModel):
    """The visual adapter; the text features are a template's."""

    learns = frozenset({"image"})

    def build(self, options: CLIPAdapterOptions) -> None:
        """Learned: W_1 [D / reduction, D] and W_2 [D, D / reduction], without bias."""
        width = self.clip.config.embed_dim
        options.check("reduction", 1 <= options.reduction <= width, f"1 to {width}, the features")
        hidden = width // options.reduction
        self.options = options
        layers = (
            nn.Linear(width, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False),
            nn.ReLU(),
        )
        self.prompt_learner = nn.ModuleDict({"adapter": nn.Sequential(*layers)})

    def text_features(self) -> Tensor:
        """Of the hand-written prompt, [C, D]."""
        return self.template_features(self.options.template or self.template)

    def image_features(self, image: Tensor) -> Tensor:
        """The mixture alpha A(f) + (1 - alpha) f with the raw frozen features f, [B, D]."""
        with torch.no_grad():
            frozen = self.clip.encode_image(image).float()
        new: Tensor = self.prompt_learner["adapter"](frozen)
        return self.options.ratio * new + (1 - self.options.ratio) * frozen


@TRAINER_REGISTRY.register()
class CLIPAdapter(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = CLIPAdapterOptions
    Model = CLIPAdapterModel
