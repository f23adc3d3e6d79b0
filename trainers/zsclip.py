"""Zero-shot CLIP: hand-written prompts, nothing learned.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv 2103.00020. A class is described by the benchmark's prompt with its name, or by
the mean over several prompts (an ensemble).
"""

from __future__ import annotations

from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip.templates import IMAGENET, IMAGENET_SELECT
from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class ZeroshotCLIPOptions(MethodOptions):
    """Which prompts."""

    templates: str = "benchmark"  # its own; "select": and CoOp's seven; "imagenet": OpenAI's 80

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("templates", "benchmark", "select", "imagenet")


class ZeroshotCLIPModel(PromptModel):
    """Text features of hand-written prompts with every class name."""

    learns = frozenset()
    templates: tuple[str, ...] = ()  # none: the benchmark's own

    def build(self, options: ZeroshotCLIPOptions) -> None:
        """Nothing is learned."""
        self.prompt_learner = nn.Module()

    def text_features(self) -> Tensor:
        """Means of unit vectors, as unit vectors, [C, D]."""
        return self.template_features(*self.templates)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Tested only."""

    Options = ZeroshotCLIPOptions
    Model = ZeroshotCLIPModel
    model: ZeroshotCLIPModel

    def build_model(self) -> None:
        """As of every method; the ensemble depends on the benchmark."""
        super().build_model()
        # CoOp's ZeroshotCLIP2: the seven were chosen on ImageNet, and are all that is taken there
        own = () if self.cfg.DATASET.NAME == "ImageNet" else (self.model.template,)
        ensembles = {"benchmark": (), "select": (*IMAGENET_SELECT, *own), "imagenet": IMAGENET}
        self.model.templates = ensembles[self.options.templates]
