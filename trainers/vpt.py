"""VPT: visual prompt tuning of CLIP's image tower, shallow or deep.

M. Jia, L. Tang, B.-C. Chen, C. Cardie, S. Belongie, B. Hariharan, S.-N. Lim, "Visual Prompt
Tuning", ECCV 2022, arXiv 2203.12119. Learned tokens stand beside the patches, at the first layer or
anew at each of several; the classifier is the text features of a hand-written prompt. Two
repositories publish a trainer VPT for CLIP: `N_CTX_VISION`, `PROMPT_DEPTH_VISION` and `CTX_INIT`
are the keys of muzairkhattak/multimodal-prompt-learning 69bce21 (MaPLe's), and hold while `N_CTX`
is 0; a positive `N_CTX`, the key of fanrena/DPT 11fef90, selects that one's form.
"""

from __future__ import annotations

from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY

from promptclip.prompts import VisualTokens
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class VPTOptions(MethodOptions):
    """Defaults of the train.py of MaPLe's repository."""

    n_ctx_vision: int = 2  # tokens of a layer
    prompt_depth_vision: int = 1  # layers with tokens of their own; 1 is VPT-shallow
    ctx_init: str = "a photo of a"  # words before the class name; "": the benchmark's template
    n_ctx: int = 0  # DPT's form, if positive: so many tokens in every layer, always its template
    ln: bool = False  # declared beside N_CTX, and read by nothing

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "n_ctx_vision", "prompt_depth_vision")
        self.at_least(0, "n_ctx")
        self.check("ctx_init", "{" not in self.ctx_init, "words, which the class name follows")
        self.check("ln", not self.ln, "False: the repository that declares this key never reads it")
        if self.n_ctx:
            for name in ("n_ctx_vision", "prompt_depth_vision", "ctx_init"):
                default = getattr(VPTOptions, name)
                why = f"left at {default!r} where N_CTX is set: they belong to two repositories"
                self.check(name, getattr(self, name) == default, why)


class VPTModel(PromptModel):
    """Tokens for the image tower; the text features stay what they are."""

    learns = frozenset({"image"})
    prompts_image = True

    def build(self, options: VPTOptions) -> None:
        """Learned: [depth, tokens, visual width]."""
        layers = self.clip.config.visual_layers
        depth, n_tokens = options.prompt_depth_vision, options.n_ctx_vision
        options.check("prompt_depth_vision", depth <= layers, f"at most {layers}, the layers")
        words = " ".join(options.ctx_init.replace("_", " ").split())
        if options.n_ctx:
            depth, n_tokens, words = layers, options.n_ctx, ""
        if words:
            self.template = words + " {}."
        self.prompt_learner = self.image_prompter = VisualTokens(
            self.clip, n_tokens, depth=depth, before_norm=not options.n_ctx
        )


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Cross-entropy of the cosine logits."""

    Options = VPTOptions
    Model = VPTModel
