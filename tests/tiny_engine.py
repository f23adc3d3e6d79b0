"""A data set of 8x8 pictures and two trainers of a linear model, for the tests of `runtime/`."""

import random
from pathlib import Path

import numpy as np
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from PIL import Image
from torch import nn
from torch.nn import functional as F

CLASSES = ("red", "green", "blue")


@DATASET_REGISTRY.register(force=True)
class TinyColours(DatasetBase):
    """Noisy one-colour pictures: 8 per class to train, 3 to validate, 4 to test."""

    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT)
        parts = {
            part: [
                Datum(str(path), label, label % 2, name)
                for label, name in enumerate(CLASSES)
                for path in sorted((root / part / name).glob("*.png"))
            ]
            for part in ("train", "val", "test")
        }
        super().__init__(train_x=parts["train"], val=parts["val"], test=parts["test"])


@TRAINER_REGISTRY.register(force=True)
class Linear(TrainerX):
    """A linear classifier with dropout, so that every generator matters."""

    def build_model(self):
        self.model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, 3))
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


def draw_pictures(root):
    """Write the pictures below a folder."""
    rng = np.random.default_rng(0)
    for part, count in {"train": 8, "val": 3, "test": 4}.items():
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 230, size=(8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 12  # hard enough that accuracies differ between epochs
                Image.fromarray(pixels).save(folder / f"{index}.png")


class StoppedError(Exception):
    """The machine goes away."""


@TRAINER_REGISTRY.register(force=True)
class Careful(Linear):
    """Draws from every generator, scales gradients, accumulates, validates; can be stopped."""

    stop_after: tuple[int, int] | None = None  # epoch and batch, from 0

    def build_model(self):
        super().build_model()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        self.average = torch.zeros(3, 192)
        self.seen = []

    def before_train(self):
        super().before_train()
        torch.rand(3)  # a method's own preparation must not shift the epochs' random numbers

    def forward_backward(self, batch):
        noise = random.random() + np.random.rand() + np.random.standard_normal()
        self.seen.append((self.epoch, noise, batch["label"].tolist(), batch["img"].sum().item()))
        image, label, _ = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(image + 0.01 * noise), label)
        self.model_zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self.scaler.update()
        self.average.lerp_(self.model[2].weight.detach(), 0.1)
        if (self.epoch, self.batch_idx) == self.stop_after:
            raise StoppedError
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def extra_state(self):
        return {"average": self.average}

    def load_extra_state(self, state):
        self.average = state["average"]
