"""Pieces of a trainer's work that can be done on either path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F


def take(trainer: Any, *, textbook: bool) -> None:
    """Send a trainer that was built for both through one of the paths."""
    trainer.model.clip.textbook = textbook


class _Both:
    """Work that gives results on either path, which shall be the same."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.found: dict[bool, dict[str, Tensor]] = {}  # by path

    @property
    def textbook(self) -> bool:
        """Whether the textbook path is the one to come."""
        on_textbook: bool = self.trainer.model.clip.textbook
        return on_textbook

    def difference(self) -> dict[str, float]:
        """Of the results on the two paths, relative to the largest of the textbook path's."""
        ours, theirs = self.found[False], self.found[True]
        return {
            name: float((value - ours[name]).abs().max() / value.abs().max())
            for name, value in theirs.items()
        }


class Steps(_Both):
    """Training steps on one batch, each from where the one before came to.

    The first on either path begins at the start, and its loss is the result.

    Args:
        trainer: made ready for its first epoch.
        batch: pictures, if other than configured.
    """

    def __init__(self, trainer: Any, batch: int = 0) -> None:
        super().__init__(trainer)
        # else DAPT would push all training pictures through the image tower first
        means = F.normalize(torch.randn(trainer.num_classes, trainer.model.clip.config.embed_dim))
        save_file({"class_means": means}, Path(trainer.output_dir, "class_means.safetensors"))
        trainer.before_train()
        trainer.set_model_mode("train")
        trainer.batch_idx, trainer.num_batches = 0, 2  # no end of an epoch
        torch.manual_seed(2)
        whole = next(iter(trainer.train_loader_x))
        self.batch = {key: value[: batch or None] for key, value in whole.items()}
        self._learned = {
            name: copy.deepcopy(model.state_dict()) for name, model in trainer._models.items()
        }

    def ready(self, *, textbook: bool) -> None:
        """Choose the path; before its first step, go back to the start and its draws."""
        take(self.trainer, textbook=textbook)
        if textbook not in self.found:
            for name, state in self._learned.items():
                self.trainer._models[name].load_state_dict(state)
            torch.manual_seed(3)

    def __call__(self) -> None:
        """A step."""
        loss = self.trainer.forward_backward(self.batch)["loss"]
        self.found.setdefault(self.textbook, {"loss": torch.tensor(loss)})


class Text(_Both):
    """Text features and their gradient.

    Args:
        trainer: CoOp's.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self.model = trainer.model
        torch.manual_seed(2)
        size = trainer.num_classes, self.model.clip.config.embed_dim
        self.direction = torch.randn(size, device=trainer.device)

    def ready(self, *, textbook: bool) -> None:
        """Choose the path."""
        take(self.trainer, textbook=textbook)

    def __call__(self) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        features = self.model.text_features()
        (features * self.direction).sum().backward()
        gradient = self.model.prompt_learner.ctx.grad.clone()
        self.found[self.textbook] = {"features": features.detach(), "gradient": gradient}
