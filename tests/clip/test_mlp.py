"""The MLP of a frozen block: to the bit what PyTorch's own operations give, and no more tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from promptclip import memory
from promptclip.clip.mlp import GAIN, FrozenMLP

WIDTH = 24


def arguments(dtype):
    torch.manual_seed(0)
    shapes = [(4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    maps = [(torch.randn(shape) / 4).to(dtype) for shape in shapes]
    x = torch.randn(3, 5, WIDTH).to(dtype).requires_grad_()
    return x, maps


def plain(x, fc_weight, fc_bias, proj_weight, proj_bias, gain):
    hidden = F.silu(F.linear(x, fc_weight, fc_bias) * gain) / gain
    return F.linear(hidden, proj_weight, proj_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gain", [GAIN, 1.0])
def test_equals_plain_operations(gain, dtype):
    x, maps = arguments(dtype)
    direction = torch.randn(3, 5, WIDTH).to(dtype)
    found = []
    for function in (FrozenMLP.apply, plain):
        result = function(x, *maps, gain)
        (gradient,) = torch.autograd.grad(result, x, direction)
        found.append((result.detach(), gradient))
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)


def test_a_second_backward_pass_gives_the_same():
    """What is kept is not what is changed in place."""
    x, maps = arguments(torch.float32)
    result = FrozenMLP.apply(x, *maps, GAIN)
    direction = torch.randn_like(result)
    unchanged = direction.clone()
    first, second = (
        torch.autograd.grad(result, x, direction, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(direction, unchanged)


def test_keeps_one_tensor_of_the_hidden_width():
    x, maps = arguments(torch.float32)
    with memory.saved_for_backward(without=maps) as saved:
        FrozenMLP.apply(x, *maps, GAIN)
    assert saved.bytes == 3 * 5 * 4 * WIDTH * 4


def test_gradients_of_gradients_are_refused():
    x, maps = arguments(torch.float32)
    result = FrozenMLP.apply(x, *maps, GAIN)
    direction = torch.ones_like(result, requires_grad=True)
    (gradient,) = torch.autograd.grad(result, x, direction, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
