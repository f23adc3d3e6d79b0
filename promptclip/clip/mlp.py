"""The two linear maps of a frozen block with QuickGELU between them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

GAIN = 1.702  # QuickGELU is x * sigmoid(1.702 x), which is silu(1.702 x) / 1.702


class FrozenMLP(torch.autograd.Function):
    """Keeps one tensor for the backward pass, and does in place what lies between the products.

    The hidden layer's tensors are a block's largest: on a CPU each new one costs more than what is
    computed. Weights get no gradient. To the bit what PyTorch's own operations give.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fc_weight: Tensor,
        fc_bias: Tensor,
        proj_weight: Tensor,
        proj_bias: Tensor,
        gain: float,
    ) -> Tensor:
        """[..., D] -> [..., D].

        Args:
            ctx: of autograd.
            x: what comes in.
            fc_weight: of the first map, [4 D, D].
            fc_bias: [4 D].
            proj_weight: of the second map, [D, 4 D].
            proj_bias: [D].
            gain: `GAIN`; 1 if the weights bear it already.
        """
        hidden = F.linear(x, fc_weight, fc_bias)
        if gain != 1:
            hidden.mul_(gain)
        ctx.gain = gain
        ctx.save_for_backward(hidden, fc_weight, proj_weight)
        active = F.silu(hidden)
        if gain != 1:
            active.div_(gain)
        return F.linear(active, proj_weight, proj_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of `x`."""
        hidden, fc_weight, proj_weight = ctx.saved_tensors
        grad = grad @ proj_weight
        if ctx.gain != 1:
            grad.div_(ctx.gain)
        torch.ops.aten.silu_backward.grad_input(grad, hidden, grad_input=grad)
        if ctx.gain != 1:
            grad.mul_(ctx.gain)
        return grad @ fc_weight, None, None, None, None, None
