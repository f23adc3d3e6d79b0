"""The configuration tree that experiments start from (yacs)."""

import copy

from yacs.config import CfgNode

from dassl.config.defaults import DEFAULTS

__all__ = ["clean_cfg", "get_cfg_default"]


def get_cfg_default() -> CfgNode:
    """Return a fresh tree with every default."""
    return CfgNode(copy.deepcopy(DEFAULTS))


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the options of all other trainers, so that printing the tree shows what matters.

    Args:
        cfg: changed in place.
        trainer: name of the trainer that is kept.
    """
    for key in set(cfg.TRAINER) - {"NAME", trainer.upper()}:
        del cfg.TRAINER[key]
