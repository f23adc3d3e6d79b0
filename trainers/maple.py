"""MaPLe: multi-modal prompt learning.

M. U. Khattak, H. Rasheed, M. Maaz, S. Khan, F. S. Khan, "MaPLe: Multi-modal Prompt Learning",
CVPR 2023, arXiv 2210.03117. The first layers of both towers are prompted; the visual prompts are
linear maps of the text prompts, so both are learned as one. Constants and details follow the
published code, muzairkhattak/multimodal-prompt-learning 69bce21.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.clip.model import FrozenCLIP
from promptclip.prompts import TextContext
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class MaPLeOptions(MethodOptions):
    """Defaults of the published train.py, extend_cfg."""

    n_ctx: int = 2  # b, tokens of a layer in each tower
    ctx_init: str = "a photo of a"  # the first n_ctx tokens are learned; "" is a random start
    prompt_depth: int = 9  # J, prompted layers

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_ctx", "prompt_depth"):
            self.check(name, getattr(self, name) > 0, "at least 1")


class CoupledPrompts(nn.Module):
    """Text prompts P_k of each layer, and the functions F_k that make visual ones of them.

    It is the prompter of the image tower, and `text` is that of the text tower.
    """

    before_norm = True

    def __init__(self, clip: FrozenCLIP, classnames: Sequence[str], options: MaPLeOptions) -> None:
        super().__init__()
        depth, widths = options.prompt_depth, (clip.config.text_width, clip.config.visual_width)
        self.text = TextContext(
            clip,
            classnames,
            n_ctx=options.n_ctx,
            ctx_init=options.ctx_init,
            keep_rest=True,
            depth=depth,
        )
        first, deeper = (nn.Linear(*widths) for _ in range(2))
        # All but the first layer's start equal (trainers/maple.py, line 117)
        self.coupling = nn.ModuleList([first, *(copy.deepcopy(deeper) for _ in range(depth - 1))])

    def forward(self, layer: int, tokens: Tensor) -> Tensor | None:
        """Visual tokens F_k(P_k) of this layer, [n_ctx, visual width]."""
        if layer >= len(self.coupling):
            return None
        visual: Tensor = self.coupling[layer](self.text(layer, None))
        return visual


class MaPLeModel(PromptModel):
    """Coupled prompts at the first `prompt_depth` layers of both towers."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: MaPLeOptions) -> None:
        """Learned: P_k [n_ctx, text width] and F_k [visual width, text width] of each layer."""
        layers = min(self.clip.config.text_layers, self.clip.config.visual_layers)
        options.check("prompt_depth", options.prompt_depth <= layers,
                      f"at most {layers}, the layers of this CLIP's shorter tower")  # fmt: skip
        self.prompt_learner = CoupledPrompts(self.clip, self.classnames, options)
        self.image_prompter, self.text_prompter = self.prompt_learner, self.prompt_learner.text


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = MaPLeOptions
    Model = MaPLeModel
