"""Feature extractors: torchvision's residual networks."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dassl.utils import Registry, check_availability
from dassl.utils.tools import refuse_offline

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

        self.model = torchvision.models.get_model(name)
        if pretrained:
            url = torchvision.models.get_model_weights(name).DEFAULT.url
            self.model.load_state_dict(_published(url))
        self._out_features = self.model.fc.in_features
        self.model.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x)
        return features


def _published(url: str) -> dict[str, Tensor]:
    """The weights at an address, whose name ends with the beginning of their SHA-256.

    They are kept where torch.hub keeps them, and read for their tensors only.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if not (folder / Path(url).name).exists():
        refuse_offline(url, str(folder))
    tensors: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
        url, map_location="cpu", check_hash=True, weights_only=True
    )
    return tensors


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
