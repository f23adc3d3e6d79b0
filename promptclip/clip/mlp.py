"""The two linear maps of a frozen block with QuickGELU between them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

GAIN = 1.702  # QuickGELU is x * sigmoid(1.702 x), which is silu(1.702 x) / 1.702


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation by itself, in three passes."""
    return F.silu(GAIN * x) / GAIN


def added(new: Tensor, residual: Tensor) -> Tensor:
    """The sum, in the memory of `new` if that has the residual stream's type (not in "amp")."""
    return new.add_(residual) if new.dtype == residual.dtype else residual + new


class FrozenMLP(torch.autograd.Function):
    """Keeps one tensor for the backward pass, and does in place what lies between the products.

    The hidden layer's tensors are a block's largest: on a CPU each new one costs more than what is
    computed. Weights get no gradient. To the bit what PyTorch's own operations give.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        fc_weight: Tensor,
        fc_bias: Tensor,
        proj_weight: Tensor,
        proj_bias: Tensor,
    ) -> Tensor:
        """[..., D] and [..., D] -> [..., D].

        Args:
            ctx: of autograd.
            residual: what the result is added to.
            x: what comes in.
            fc_weight: of the first map, `GAIN` times, [4 D, D].
            fc_bias: likewise, [4 D].
            proj_weight: of the second map, divided by `GAIN`, [D, 4 D].
            proj_bias: [D].
        """
        hidden = F.linear(x, fc_weight, fc_bias)
        ctx.save_for_backward(hidden, fc_weight, proj_weight)
        return added(F.linear(F.silu(hidden), proj_weight, proj_bias), residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `residual` and `x`."""
        hidden, fc_weight, proj_weight = ctx.saved_tensors
        inner = grad.to(hidden.dtype) @ proj_weight
        torch.ops.aten.silu_backward.grad_input(inner, hidden, grad_input=inner)
        return grad, inner @ fc_weight, None, None, None, None
