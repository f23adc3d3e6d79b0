"""A data set of 8x8 pictures, a linear model and a trainer for the tests of `runtime/`."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import set_random_seed
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


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of the pictures."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in {"train": 8, "val": 3, "test": 4}.items():
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 160, size=(8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 60
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture
def make_cfg(pictures, tmp_path):
    """Build a configuration; keyword `OPTIM__LR` sets OPTIM.LR."""

    def make(**overrides):
        cfg = get_cfg_default()
        cfg.merge_from_list(
            [
                *("OUTPUT_DIR", str(tmp_path / "out"), "SEED", 1, "USE_CUDA", False),
                *("DATASET.ROOT", str(pictures), "DATASET.NAME", "TinyColours"),
                *("TRAINER.NAME", "Linear", "DATALOADER.NUM_WORKERS", 0),
                *("INPUT.SIZE", (8, 8), "INPUT.TRANSFORMS", ("random_flip", "normalize")),
                *("DATALOADER.TRAIN_X.BATCH_SIZE", 6, "OPTIM.NAME", "sgd", "OPTIM.LR", 0.02),
                *("OPTIM.LR_SCHEDULER", "cosine", "OPTIM.MAX_EPOCH", 4),
                *("OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant"),
            ]
        )
        for key, value in overrides.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        cfg.freeze()
        return cfg

    return make


@pytest.fixture
def make_trainer(make_cfg):
    """Seed everything and build a trainer, as train.py does."""

    def make(**overrides):
        cfg = make_cfg(**overrides)
        set_random_seed(cfg.SEED)
        return build_trainer(cfg)

    return make


@pytest.fixture(autouse=True)
def single_thread():
    """Keep the tests off the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield SimpleNamespace()
    torch.set_num_threads(threads)
