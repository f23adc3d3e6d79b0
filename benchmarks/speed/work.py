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


class Steps:
    """Training steps on one batch, each from where the one before came to.

    Args:
        trainer: made ready for its first epoch.
        batch: pictures, if other than configured.
    """

    def __init__(self, trainer: Any, batch: int = 0) -> None:
        # else DAPT would push all training pictures through the image tower first
        means = F.normalize(torch.randn(trainer.num_classes, trainer.model.clip.config.embed_dim))
        save_file({"class_means": means}, Path(trainer.output_dir, "class_means.safetensors"))
        trainer.before_train()
        trainer.set_model_mode("train")
        trainer.batch_idx, trainer.num_batches = 0, 2  # no end of an epoch
        torch.manual_seed(2)
        whole = next(iter(trainer.train_loader_x))
        self.batch = {key: value[: batch or None] for key, value in whole.items()}
        self.trainer, self._losses = trainer, list[float]()
        self._learned = {
            name: copy.deepcopy(model.state_dict()) for name, model in trainer._models.items()
        }

    def start(self, *, textbook: bool) -> None:
        """Go back to the first step, with the same draws to come."""
        take(self.trainer, textbook=textbook)
        for name, state in self._learned.items():
            self.trainer._models[name].load_state_dict(state)
        self._losses.clear()
        torch.manual_seed(3)

    def __call__(self) -> None:
        """A step."""
        self._losses.append(self.trainer.forward_backward(self.batch)["loss"])

    def results(self) -> dict[str, Tensor]:
        """The loss of the first step since the start."""
        return {"loss": torch.tensor(self._losses[0])}


class Text:
    """Text features and their gradient.

    Args:
        trainer: CoOp's.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.model = trainer, trainer.model
        torch.manual_seed(2)
        size = trainer.num_classes, self.model.clip.config.embed_dim
        self.direction = torch.randn(size, device=trainer.device)

    def start(self, *, textbook: bool) -> None:
        """Choose the path."""
        take(self.trainer, textbook=textbook)

    def __call__(self) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        features = self.model.text_features()
        (features * self.direction).sum().backward()
        self.features = features.detach()

    def results(self) -> dict[str, Tensor]:
        """What was computed last."""
        return {"features": self.features, "gradient": self.model.prompt_learner.ctx.grad.clone()}
