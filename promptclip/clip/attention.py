"""Attention by the fastest way that a device has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 8  # images, or classes, of which all scores are in memory


def attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Softmax of scaled products times values, [B, ..., L, d].

    PyTorch's own kernel; but on a CPU in half precision that one takes longer than the products of
    matrices do of which it consists, and its gradient four times as long (docs/performance.md).
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    parts = zip(*(one.split(_AT_ONCE) for one in (query, key, value)), strict=True)
    return torch.cat([_written_out(*part, causal=causal) for part in parts])


def _written_out(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    attended: Tensor = scores.softmax(-1) @ value
    return attended


def by_head(projected: Sequence[Tensor]) -> Iterator[Tensor]:
    """Views of what linear maps have made, head by head.

    Args:
        projected: one or several tensors [..., L, n, heads, d], of n maps each.

    Yields:
        What each of the maps has made, [..., heads, L, d].
    """
    for maps in projected:
        yield from maps.movedim(-3, 0).transpose(-2, -3)
