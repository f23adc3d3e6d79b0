"""The registry of trainers."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Build the trainer named by `cfg.TRAINER.NAME`, with its data and its model.

    Raises:
        ValueError: if no trainer has that name.
    """
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        logger.info("Loading trainer: %s", cfg.TRAINER.NAME)
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
