"""Fixtures for the tests of `runtime/`."""

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from tiny_engine import draw_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of the pictures."""
    root = tmp_path_factory.mktemp("pictures")
    draw_pictures(root)
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
    yield
    torch.set_num_threads(threads)
