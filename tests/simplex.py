"""A simplex ETF: vectors that are all at the same, largest possible angle to each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def simplex(classes: int, dimensions: int, seed: int = 0) -> Tensor:
    """Unit vectors [classes, dimensions] in fp64 with cosines -1 / (classes - 1), turned anyhow."""
    turned = rotation(dimensions, seed)
    corners = torch.eye(classes, dtype=torch.float64) - 1 / classes
    # The corners span one dimension less than there are classes
    _, _, axes = torch.linalg.svd(corners)
    flat = F.normalize(corners @ axes[: classes - 1].T, dim=-1)
    return flat @ turned[: classes - 1]


def rotation(dimensions: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix in fp64."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square)[0]


def random_units(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors in fp64."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)
