"""CoOp: context optimisation.

K. Zhou, J. Yang, C. C. Loy, Z. Liu, "Learning to Prompt for Vision-Language Models", IJCV 2022,
arXiv 2109.01134. The words around the class names are learned vectors; both towers are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY

from promptclip.prompts import POSITIONS, TextContext
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class CoOpOptions(MethodOptions):
    """Defaults of KaiyangZhou/CoOp ff61507, train.py, extend_cfg."""

    n_ctx: int = 16  # M, context vectors
    csc: bool = False  # class-specific context
    ctx_init: str = ""  # words to start from, e.g. "a photo of a"; they set the number of vectors
    class_token_position: str = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("n_ctx", self.n_ctx > 0, "at least 1")
        self.check("class_token_position", self.class_token_position in POSITIONS,
                   '"end", "middle" or "front"')  # fmt: skip


class CoOpModel(PromptModel):
    """One context for all classes, or one for each."""

    def build(self, options: CoOpOptions) -> None:
        """Learned: the context, [n_ctx, text width] or [C, n_ctx, text width]."""
        self.prompt_learner = self.text_prompter = TextContext(
            self.clip,
            self.classnames,
            n_ctx=options.n_ctx,
            ctx_init=options.ctx_init,
            csc=options.csc,
            position=options.class_token_position,
        )


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = CoOpOptions
    Model = CoOpModel
