"""From picture to tensor."""

from typing import Any

from dassl.data.transforms import transforms
from dassl.data.transforms.transforms import build_transform

__all__ = ["INTERPOLATION_MODES", "build_transform"]


def __getattr__(name: str) -> Any:
    if name == "INTERPOLATION_MODES":  # needs torchvision
        return transforms.INTERPOLATION_MODES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
