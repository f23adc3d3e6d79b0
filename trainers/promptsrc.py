"""PromptSRC: prompting with self-regulating constraints.

M. U. Khattak, S. T. Wasim, M. Naseer, S. Khan, M.-H. Yang, F. S. Khan, "Self-regulating Prompts:
Foundational Model Adaptation without Forgetting", ICCV 2023, arXiv 2307.06948. Both towers are
prompted as in IVLP; features and predictions are held near those of the frozen CLIP, and the final
prompts are a Gaussian-weighted sum of those of all epochs. Constants and details follow the
published code, muzairkhattak/PromptSRC bb95c77.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from promptclip.losses import feature_consistency, logit_consistency
from promptclip.prompts import IndependentPrompts
from promptclip.templates import PROMPTSRC
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer, unit


@dataclass(frozen=True)
class PromptSRCOptions(MethodOptions):
    """Defaults of the published train.py; the prompts' ranges depend on the CLIP."""

    n_ctx_vision: int = 4  # tokens of a layer; 0: the image tower is left alone
    n_ctx_text: int = 4
    ctx_init: str = "a photo of a"  # the first n_ctx_text tokens are learned; "": random start
    prompt_depth_vision: int = 9  # prompted layers; 0: the image tower is left alone
    prompt_depth_text: int = 9
    text_loss_weight: float = 25.0  # of the text features' L_SCL
    image_loss_weight: float = 10.0  # of the image features' L_SCL
    gpa_mean: float = 15.0  # mu, the epoch, counted from 1, of the largest weight
    gpa_std: float = 1.0  # sigma, in epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_loss_weight", "image_loss_weight"):
            self.check(name, getattr(self, name) >= 0, "at least 0")
        self.check("gpa_std", self.gpa_std > 0, "more than 0")


class PromptSRCModel(PromptModel):
    """Prompts at the first layers of each tower, and the sum of those of the epochs so far."""

    learns = frozenset({"text", "image"})
    prompts_image = True

    def build(self, options: PromptSRCOptions) -> None:
        """Learned: [n_ctx_text, text width], [n_ctx_vision, visual width] for each layer."""
        self.prompt_learner = IndependentPrompts(self.clip, self.classnames, options)
        self.text_prompter = self.prompt_learner.text
        self.image_prompter = self.prompt_learner.visual
        for name, prompt in self.prompt_learner.named_parameters():
            own = f"sum_{name.replace('.', '_')}"
            self.prompt_learner.register_buffer(own, torch.zeros_like(prompt))

    def sums(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each learned tensor, and its weighted sum; buffers, so that they survive a resume."""
        for name, prompt in self.prompt_learner.named_parameters():
            yield prompt, self.prompt_learner.get_buffer(f"sum_{name.replace('.', '_')}")

    def forward(self, image: Tensor) -> Output:
        """Cosine logits of images [B, 3, H, W], which the losses show to the frozen CLIP too."""
        output = super().forward(image)
        output.aux["image"] = image
        return output


@TRAINER_REGISTRY.register()
class PromptSRC(PromptTrainer):
    """Cross-entropy, three consistency terms, and aggregated prompts."""

    Options = PromptSRCOptions
    Model = PromptSRCModel
    model: PromptSRCModel

    def before_train(self) -> None:
        """The teacher's text features, the mean of raw ones; a new run starts a new sum."""
        features = [self.model.encode_template(template).float() for template in PROMPTSRC]
        self.teacher = unit(torch.stack(features).mean(0))
        epochs = torch.arange(1, self.max_epoch + 1, dtype=torch.float64)
        squared = ((epochs - self.options.gpa_mean) / self.options.gpa_std).square()
        self.epoch_weights = (-squared / 2).softmax(0)
        super().before_train()
        if self.start_epoch == 0:
            for _, total in self.model.sums():
                total.zero_()

    def losses(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy + weighted L_SCL of text and image features + L_SCL of the logits."""
        image = self.model.frozen_image_features(output.aux["image"])
        logits = self.model.clip.logit_scale * image @ self.teacher.T
        text_term = feature_consistency(output.text_features, self.teacher)
        image_term = feature_consistency(output.image_features, image)
        return {
            "ce": F.cross_entropy(output.logits, label),
            "text": self.options.text_loss_weight * text_term,
            "image": self.options.image_loss_weight * image_term,
            "kl": logit_consistency(output.logits, logits),
        }

    def after_epoch(self) -> None:
        """Aggregate before the checkpoint is written, so that the last one holds the sum."""
        self.aggregate()
        super().after_epoch()

    @torch.no_grad()
    def aggregate(self) -> None:
        """Add this epoch's prompts to the sum, which the last epoch puts in their place (GPA)."""
        for prompt, total in self.model.sums():
            total.add_(prompt, alpha=self.epoch_weights[self.epoch].item())
            if self.epoch + 1 == self.max_epoch:
                prompt.copy_(total)
