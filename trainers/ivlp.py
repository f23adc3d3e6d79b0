"""IVLP: independent vision-language prompting.

M. U. Khattak, H. Rasheed, M. Maaz, S. Khan, F. S. Khan, "MaPLe: Multi-modal Prompt Learning",
CVPR 2023, arXiv 2210.03117: the variant with which the paper compares MaPLe. The first layers of
both towers are prompted, each tower's prompts being learned for themselves. Constants and details
follow the published code, muzairkhattak/multimodal-prompt-learning 69bce21.
"""

from __future__ import annotations

from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY

from promptclip.prompts import IndependentPrompts
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class IVLPOptions(MethodOptions):
    """Defaults of the published train.py; their ranges depend on the CLIP."""

    n_ctx_vision: int = 2  # tokens of a layer; 0: the image tower is left alone
    n_ctx_text: int = 2
    ctx_init: str = "a photo of a"  # the first n_ctx_text tokens are learned; "": random start
    prompt_depth_vision: int = 9  # prompted layers; 0: the image tower is left alone
    prompt_depth_text: int = 9


class IVLPModel(PromptModel):
    """Prompts at the first layers of each tower."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: IVLPOptions) -> None:
        """Learned: [n_ctx_text, text width], [n_ctx_vision, visual width] for each layer."""
        self.prompt_learner = IndependentPrompts(self.clip, self.classnames, options)
        self.text_prompter = self.prompt_learner.text
        self.image_prompter = self.prompt_learner.visual


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = IVLPOptions
    Model = IVLPModel
