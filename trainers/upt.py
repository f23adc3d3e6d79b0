"""UPT: unified prompt tuning.

Y. Zang, W. Li, K. Zhou, C. Huang, C. C. Loy, "Unified Vision and Language Prompt Learning",
arXiv 2210.07225. One prompt for both modalities passes a small transformer layer and is then split
into a part for the text tower and a part for the image tower. Details follow the authors' release
of 2 May 2025 (trainers/unified.py, `Unified_v6`), read in the fork pedramyamini2023/UPT 2e0fada.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.clip.model import FrozenCLIP
from promptclip.prompts import POSITIONS, LayerTokens, context_tokens, normal
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class UPTOptions(MethodOptions):
    """Defaults of the released trainer and its yaml files."""

    axis: str = "released"  # what attention runs over: nothing (an axis of length one), or U
    n_ctx: int = 4  # n, tokens of each part
    vis_depth: int = 1  # layers of the image tower that get a part of their own
    hidden: int = 0  # width of the feed-forward network; 0 is the text width
    dropout: float = 0.1
    class_token_position: str = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("axis", self.axis in ("released", "tokens"), '"released" or "tokens"')
        for name in ("n_ctx", "vis_depth"):
            self.check(name, getattr(self, name) > 0, "at least 1")
        self.check("hidden", self.hidden >= 0, "a width, or 0 for the text tower's")
        self.check("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self.check("class_token_position", self.class_token_position in POSITIONS,
                   '"end", "middle" or "front"')  # fmt: skip


class UnifiedPrompt(nn.Module):
    """U, the layer that transforms it, and the projection of the visual part.

    `MultiheadAttention` attends along the first axis. U lies as [1, N, D] in the release, so each
    token attends to itself alone; as [N, 1, D] all N attend to each other. A checkpoint of one
    axis does not fit the other.
    """

    def __init__(self, clip: FrozenCLIP, options: UPTOptions) -> None:
        super().__init__()
        self.n_ctx, count = options.n_ctx, options.n_ctx * (1 + options.vis_depth)
        width, rate = clip.config.text_width, options.dropout
        hidden = options.hidden or width
        shape = (1, count) if options.axis == "released" else (count, 1)
        self.ctx = nn.Parameter(normal(clip, *shape, width))  # U
        self.attention = nn.MultiheadAttention(width, num_heads=1, dropout=rate)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn_in, self.ffn_out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(rate)
        self.to_visual = nn.Linear(width, clip.config.visual_width)

    def forward(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """U_t, [n, text width], and U_v by layer, each [n, visual width]."""
        attended, _ = self.attention(self.ctx, self.ctx, self.ctx)
        x = self.norm_1(self.ctx + self.dropout(attended))
        inner = self.dropout(torch.relu(self.ffn_in(self.norm_2(x))))
        y = (x + self.dropout(self.ffn_out(inner))).flatten(0, 1)
        return y[: self.n_ctx], self.to_visual(y[self.n_ctx :]).split(self.n_ctx)


class UPTModel(PromptModel):
    """U_t enters the text tower's first layer, U_v the image tower's first layers."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: UPTOptions) -> None:
        """Learned: U with n_ctx (1 + vis_depth) tokens of the text width, and the transform."""
        layers = self.clip.config.visual_layers
        options.check("vis_depth", options.vis_depth <= layers,
                      f"at most {layers}, the layers of this image tower")  # fmt: skip
        self.prompt_learner = UnifiedPrompt(self.clip, options)
        self.tokens = context_tokens(
            self.clip, self.classnames, options.n_ctx, position=options.class_token_position
        )
        self.forget()

    def forget(self) -> None:
        """Drop the prompts of an earlier test, too."""
        super().forget()
        self._prompts: Any = None

    def prompts(self) -> Any:
        """U_t and U_v: once in a test; anew for either tower, with its own dropout, in training."""
        if torch.is_grad_enabled():
            return self.prompt_learner()
        self._prompts = self._prompts or self.prompt_learner()
        return self._prompts

    def text_features(self) -> Tensor:
        """With U_t around every class name, [C, D]."""
        return self.clip.encode_text(self.tokens, LayerTokens([self.prompts()[0]]))

    def image_features(self, image: Tensor) -> Tensor:
        """With U_v, its first part before `ln_pre`, [B, D]."""
        return self.clip.encode_image(image, LayerTokens(self.prompts()[1], before_norm=True))


@TRAINER_REGISTRY.register()
class UPT(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = UPTOptions
    Model = UPTModel
