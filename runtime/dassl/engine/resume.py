"""The file from which a stopped run continues as if it had not been stopped.

After each epoch a trainer writes `resume.pth.tar`; the one before stays as
`resume-previous.pth.tar`, in case the newer is damaged. Both hold tensors and plain values only.
"""

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dassl.utils import atomic_write, is_intact

logger = logging.getLogger(__name__)

CURRENT = "resume.pth.tar"
PREVIOUS = "resume-previous.pth.tar"


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, in tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back; those of devices that are not here are left out."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def write(state: dict[str, Any], directory: str) -> None:
    """Write the state, whole or not at all, and keep the one before."""
    current = Path(directory, CURRENT)
    with atomic_write(current) as file:
        torch.save(state, file)
        if current.exists():
            os.replace(current, Path(directory, PREVIOUS))


def read(directory: str) -> dict[str, Any] | None:
    """Return the newest state in a folder that is not damaged; None if there is none.

    Raises:
        RuntimeError: if there are files and all are damaged.
    """
    damaged = []
    for path in (Path(directory, CURRENT), Path(directory, PREVIOUS)):
        if not path.exists():
            continue
        if is_intact(path):
            logger.info("Resuming exactly from %s", path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        logger.warning("%s is damaged and is not used", path)
        damaged.append(str(path))
    if damaged:
        raise RuntimeError(
            f"cannot resume: {' and '.join(damaged)} damaged; delete it to train from the last "
            "checkpoint or from the start"
        )
    return None
