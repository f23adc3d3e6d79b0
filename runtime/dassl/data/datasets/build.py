"""The registry of data sets."""

import logging

from yacs.config import CfgNode

from dassl.data.datasets.base_dataset import DatasetBase
from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """Build the data set named by `cfg.DATASET.NAME`.

    Raises:
        ValueError: if no data set has that name.
    """
    check_availability(cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    dataset: DatasetBase = DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
    return dataset
