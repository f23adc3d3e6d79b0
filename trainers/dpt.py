"""DPT: dual-modality prompt tuning, with class-aware visual prompts (CAVPT) in the upper layers.

Y. Xing et al., "Dual Modality Prompt Tuning for Vision-Language Pre-Trained Model", IEEE TMM 2023,
arXiv 2208.08340. Text and visual prompts learn together; in the upper layers an image's likely
classes ask its tokens for more. Without CAVPT it is VLP. Details follow fanrena/DPT 11fef90.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from promptclip.cavpt import ClassAwareTokens, ClassHeads, count_likely, likely_classes
from promptclip.losses import class_aware_loss
from promptclip.prompts import POSITIONS, TextContext
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer, unit


@dataclass(frozen=True)
class DPTOptions(MethodOptions):
    """Defaults of the published train.py, or what the published trainer has fixed."""

    n_ctx: int = 16  # M, context vectors of the text
    ctx_init: str = ""  # words to start from
    class_token_position: str = "end"
    vis_n_ctx: int = 5  # P, ordinary visual prompts of a layer
    cpn: int = 5  # K_N, likely classes of an image, and class-aware prompts of a layer
    bottom_limit: int = 12  # b, the first layer with CAVPT, from 1; layers + 1: none, which is VLP
    memory_n_ctx: int = 10  # rows of U
    variant: str = "code"  # "figure": ordinary prompts in all layers, and in the place of U
    alpha: float = 1.0  # weight of the auxiliary loss L_ca
    c: int = 30  # C, epochs of general-knowledge guidance
    joint_weight: float = 0.1  # of the joint prediction in these epochs
    text_lr: float = 0.002  # of the text context; OPTIM has the image side's
    text_warmup_epoch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "n_ctx", "vis_n_ctx", "cpn", "bottom_limit", "memory_n_ctx")
        self.at_least(0, "alpha", "c", "joint_weight", "text_lr", "text_warmup_epoch")
        self.one_of("class_token_position", *POSITIONS)
        self.one_of("variant", "code", "figure")


class DPTModel(PromptModel):
    """Three learners: the image side, the text context, and what only L_ca reads."""

    learns = frozenset({"text", "image"})
    prompts_image = True
    training_only = frozenset({"auxiliary_head"})

    def build(self, options: DPTOptions) -> None:
        """Learned: `ClassAwareTokens`, V [n_ctx, text width], `ClassHeads`."""
        layers, lower = self.clip.config.visual_layers, options.bottom_limit - 1
        options.check("bottom_limit", lower <= layers, f"at most {layers + 1}: {layers} layers + 1")
        place, words = options.class_token_position, options.ctx_init
        self.prompt_learner = self.text_prompter = TextContext(
            self.clip, self.classnames, n_ctx=options.n_ctx, ctx_init=words, position=place
        )
        n_memory = 0 if options.variant == "figure" else options.memory_n_ctx
        self.visual_learner = ClassAwareTokens(self.clip, options.vis_n_ctx, lower, n_memory)
        self.auxiliary_head = ClassHeads(self.clip, layers - lower, len(self.classnames))
        self.n_likely = count_likely(options.cpn, len(self.classnames)) if lower < layers else 0

    @property
    def learners(self) -> dict[str, Any]:
        """The image side stands first: its rate is the one that Dassl logs."""
        both = {"visual_learner": self.visual_learner, "prompt_learner": self.prompt_learner}
        return both | ({"auxiliary_head": self.auxiliary_head} if self.n_likely else {})

    def forward(self, image: Tensor) -> Output:
        """The joint prediction; `aux` has what the losses need besides."""
        text, found = self.current_text_features(), list[Tensor]()
        plain = cache(partial(self.frozen_image_features, image))  # computed when first asked for
        likely = cache(lambda: likely_classes(plain(), self.template_features(), self.n_likely))
        prompter = partial(self.visual_learner, lambda: text[likely()], found)
        image_features, text_features = unit(self.clip.encode_image(image, prompter)), unit(text)
        logits = self.clip.logit_scale * image_features @ text_features.T
        aux = {"plain": plain, "likely": likely, "auxiliary": partial(self.auxiliary_head, found)}
        return Output(logits, image_features, text_features, aux)


@TRAINER_REGISTRY.register()
class DPT(PromptTrainer):
    """General-knowledge guidance for C epochs, then the joint prediction; L_ca in both."""

    Options = DPTOptions
    Model = DPTModel

    def optim_cfg(self, learner: str) -> Any:
        """OPTIM; the text context has a rate and a warm-up of its own."""
        own = {"LR": self.options.text_lr, "WARMUP_EPOCH": self.options.text_warmup_epoch}
        optim = self.cfg.OPTIM
        return type(optim)(optim | own) if learner == "prompt_learner" else optim

    def before_train(self) -> None:
        """There must be as many classes as are taken for likely."""
        expected = f"at most {self.num_classes}, the classes (the published code takes all then)"
        self.options.check("cpn", self.model.n_likely in (0, self.options.cpn), expected)
        super().before_train()

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """CE(y_text) + CE(y_image) + 0.1 CE(y) while guided, then CE(y); plus alpha L_ca."""
        options, scale = self.options, self.model.clip.logit_scale
        ce = partial(F.cross_entropy, target=label)
        terms = {"ce": ce(output.logits)}
        if self.epoch < options.c:
            text = scale * output.aux["plain"]() @ output.text_features.T
            image = scale * output.image_features @ self.model.template_features().T
            joint = options.joint_weight * terms["ce"]
            terms = {"text": ce(text), "image": ce(image), "joint": joint}
        if self.model.n_likely:
            found = class_aware_loss(output.aux["auxiliary"](), output.aux["likely"](), label)
            terms["class_aware"] = options.alpha * found
        return terms
