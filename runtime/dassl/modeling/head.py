"""Layers between backbone and classifier."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

HEAD_REGISTRY = Registry("HEAD")

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """Build the head of that name.

    Raises:
        ValueError: if there is none.
    """
    check_availability(name, HEAD_REGISTRY.registered_names())
    if verbose:
        logger.info("Head: %s", name)
    return HEAD_REGISTRY.get(name)(**kwargs)


class MLP(nn.Module):
    """Linear layers, each with optional batch normalisation and dropout."""

    def __init__(
        self,
        in_features: int = 2048,
        hidden_layers: int | Sequence[int] = (),
        activation: str = "relu",
        bn: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """Build the layers.

        Raises:
            ValueError: if there is no hidden layer or the activation is unknown.
        """
        super().__init__()
        sizes = [hidden_layers] if isinstance(hidden_layers, int) else list(hidden_layers)
        if not sizes or activation not in _ACTIVATIONS:
            raise ValueError(
                f"expected hidden layers and one of {list(_ACTIVATIONS)}, "
                f"got {sizes} and {activation!r}"
            )
        self.out_features = sizes[-1]
        layers: list[nn.Module] = []
        for size in sizes:
            layers.append(nn.Linear(in_features, size))
            if bn:
                layers.append(nn.BatchNorm1d(size))
            layers.append(_ACTIVATIONS[activation](inplace=True))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            in_features = size
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, D] to features [B, out_features]."""
        out: Tensor = self.mlp(x)
        return out


@HEAD_REGISTRY.register()
def mlp(**kwargs: Any) -> MLP:
    """Build an MLP."""
    return MLP(**kwargs)
