"""The registry of whole networks; empty until somebody registers one."""

import logging
from typing import Any

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

NETWORK_REGISTRY = Registry("NETWORK")


def build_network(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """Build the network of that name.

    Raises:
        ValueError: if there is none.
    """
    check_availability(name, NETWORK_REGISTRY.registered_names())
    if verbose:
        logger.info("Network: %s", name)
    return NETWORK_REGISTRY.get(name)(**kwargs)
