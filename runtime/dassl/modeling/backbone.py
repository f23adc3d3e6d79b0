"""Feature extractors: torchvision's residual networks."""

import logging
from typing import Any

from torch import Tensor, nn

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

BACKBONE_REGISTRY = Registry("BACKBONE")


class Backbone(nn.Module):
    """Images to features; subclasses set `_out_features`."""

    _out_features: int | None = None

    @property
    def out_features(self) -> int | None:
        """Size of the features."""
        return self._out_features


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """Build the backbone of that name.

    Raises:
        ValueError: if there is none.
    """
    check_availability(name, BACKBONE_REGISTRY.registered_names())
    if verbose:
        logger.info("Backbone: %s", name)
    return BACKBONE_REGISTRY.get(name)(**kwargs)


class _ResNet(Backbone):
    """A torchvision residual network without its last linear layer."""

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        import torchvision.models  # type: ignore[import-untyped]

        self.model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
        self._out_features = self.model.fc.in_features
        self.model.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x)
        return features


@BACKBONE_REGISTRY.register()
def resnet18(pretrained: bool = True, **kwargs: Any) -> Backbone:
    """ResNet-18 (arXiv:1512.03385)."""
    return _ResNet("resnet18", pretrained=pretrained)


@BACKBONE_REGISTRY.register()
def resnet50(pretrained: bool = True, **kwargs: Any) -> Backbone:
    """ResNet-50 (arXiv:1512.03385)."""
    return _ResNet("resnet50", pretrained=pretrained)


@BACKBONE_REGISTRY.register()
def resnet101(pretrained: bool = True, **kwargs: Any) -> Backbone:
    """ResNet-101 (arXiv:1512.03385)."""
    return _ResNet("resnet101", pretrained=pretrained)
