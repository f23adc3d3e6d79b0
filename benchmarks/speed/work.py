"""Pieces of a trainer's work, of which the results can be compared between the paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F


class Work:
    """Work that gives results, which are the same on either path.

    Attributes:
        trainer: whose work it is.
        found: results of the first time, by name.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.found: dict[str, Tensor] = {}

    def __call__(self) -> None:
        """Do it."""
        raise NotImplementedError

    def difference(self, ours: Work) -> dict[str, float]:
        """Of the results from ours, relative to the largest of these."""
        return {
            name: float((value - ours.found[name]).abs().max() / value.abs().max())
            for name, value in self.found.items()
        }


class Steps(Work):
    """Training steps on one batch, each from where the one before came to.

    The loss of the first is the result.

    Args:
        trainer: made ready for its first epoch.
        batch: pictures, if other than configured.
    """

    def __init__(self, trainer: Any, batch: int = 0) -> None:
        super().__init__(trainer)
        # else DAPT would push all training pictures through the image tower first
        torch.manual_seed(2)
        means = F.normalize(torch.randn(trainer.num_classes, trainer.model.clip.config.embed_dim))
        save_file({"class_means": means}, Path(trainer.output_dir, "class_means.safetensors"))
        trainer.before_train()
        trainer.set_model_mode("train")
        trainer.batch_idx, trainer.num_batches = 0, 2  # no end of an epoch
        torch.manual_seed(2)
        whole = next(iter(trainer.train_loader_x))
        self.batch = {key: value[: batch or None] for key, value in whole.items()}

    def __call__(self) -> None:
        """A step."""
        if not self.found:
            torch.manual_seed(3)  # what the first one draws
        loss = self.trainer.forward_backward(self.batch)["loss"]
        self.found = self.found or {"loss": torch.tensor(loss)}


class Text(Work):
    """Text features and their gradient.

    Args:
        trainer: CoOp's.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        torch.manual_seed(2)
        size = trainer.num_classes, trainer.model.clip.config.embed_dim
        self.direction = torch.randn(size, device=trainer.device)

    def __call__(self) -> None:
        """Forward and backward."""
        model = self.trainer.model
        model.zero_grad()
        features = model.text_features()
        (features * self.direction).sum().backward()
        gradient = model.prompt_learner.ctx.grad.clone()
        self.found = self.found or {"features": features.detach(), "gradient": gradient}
