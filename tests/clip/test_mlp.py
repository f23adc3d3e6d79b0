"""The MLP of a frozen block: to the bit what PyTorch's own operations give, and no more tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from promptclip import memory
from promptclip.clip.mlp import FrozenMLP

WIDTH = 24


def arguments(dtype, residual_dtype=None):
    torch.manual_seed(0)
    shapes = [(4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    maps = [(torch.randn(shape) / 4).to(dtype) for shape in shapes]
    residual, x = (
        torch.randn(3, 5, WIDTH).to(kind).requires_grad_()
        for kind in (residual_dtype or dtype, dtype)
    )
    return residual, x, *maps


def plain(residual, x, fc_weight, fc_bias, proj_weight, proj_bias):
    hidden = F.silu(F.linear(x, fc_weight, fc_bias))
    return residual + F.linear(hidden, proj_weight, proj_bias)


@pytest.mark.parametrize("residual", [None, torch.float32], ids=["", "amp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_plain_operations(dtype, residual):
    given = arguments(dtype, residual)
    direction = torch.randn(3, 5, WIDTH).to(residual or dtype)
    found = []
    for function in (FrozenMLP.apply, plain):
        result = function(*given)
        found.append((result.detach(), *torch.autograd.grad(result, given[:2], direction)))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_a_second_backward_pass_gives_the_same():
    """What is kept is not what is changed in place, nor is what comes in."""
    given = arguments(torch.float32)
    before = [one.detach().clone() for one in given]
    result = FrozenMLP.apply(*given)
    direction = torch.randn_like(result)
    unchanged = direction.clone()
    first, second = (
        torch.autograd.grad(result, given[1], direction, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(direction, unchanged)
    assert all(map(torch.equal, given, before))


def test_keeps_one_tensor_of_the_hidden_width():
    residual, x, *maps = arguments(torch.float32)
    with memory.saved_for_backward(without=maps) as saved:
        FrozenMLP.apply(residual, x, *maps)
    assert saved.bytes == 3 * 5 * 4 * WIDTH * 4


def test_gradients_of_gradients_are_refused():
    residual, x, *maps = arguments(torch.float32)
    result = FrozenMLP.apply(residual, x, *maps)
    direction = torch.ones_like(result, requires_grad=True)
    (gradient,) = torch.autograd.grad(result, x, direction, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
