"""Zero-shot CLIP: the benchmark's hand-written prompt, nothing learned.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv 2103.00020.
"""

from __future__ import annotations

from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY
from torch import nn

from promptclip.trainer import MethodOptions, PromptModel, PromptTrainer


@dataclass(frozen=True)
class ZeroshotCLIPOptions(MethodOptions):
    """None of its own."""


class ZeroshotCLIPModel(PromptModel):
    """Text features of `template` with every class name."""

    learns = frozenset()

    def build(self, options: ZeroshotCLIPOptions) -> None:
        """Nothing is learned."""
        self.prompt_learner = nn.Module()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Tested only."""

    Options = ZeroshotCLIPOptions
    Model = ZeroshotCLIPModel
