"""Attention to the shared prefix, written out by hand: against the plain formula."""

from __future__ import annotations

import pytest
import torch

from promptclip import memory
from promptclip.clip.prefix_attention import PrefixAttention

HEADS, WIDTH, SHARED = 2, 3, 4
GROUPS = [(1, 1), (3, 2), (2, 5)]  # classes, tokens of each
LENGTHS = [length for classes, length in GROUPS for _ in range(classes)]
TOKENS = SHARED + sum(LENGTHS)
ENDS = SHARED - 1 + torch.tensor(LENGTHS).cumsum(0)


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def projected(*images, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(*images, TOKENS, 3, HEADS, WIDTH).to(dtype).requires_grad_()


def ours(maps, *, ends=False, frozen=False):
    """Of all tokens or, with `ends`, of each class's last."""
    hidden = [None if ends else causal(length) for length in (SHARED, *(n for _, n in GROUPS))]
    pieces = [maps[..., ENDS, :1, :, :], maps[..., 1:, :, :]] if ends else [maps]
    return PrefixAttention.apply(SHARED, GROUPS, hidden, frozen, *pieces)


def plain(maps, *, ends=False):
    """All tokens with all: nobody sees what comes later, or is of another class."""
    query, key, value = maps.movedim(-3, 0).transpose(-2, -3)
    of_class = torch.tensor([-1] * SHARED + [c for c, n in enumerate(LENGTHS) for _ in range(n)])
    seen = (of_class == of_class[:, None]) | (of_class == -1)
    scores = query @ key.transpose(-1, -2) * WIDTH**-0.5
    scores = scores.masked_fill(~seen | causal(TOKENS), float("-inf"))
    result = scores.softmax(-1) @ value
    return result[..., ENDS, :] if ends else result


@pytest.mark.parametrize("ends", [False, True], ids=["all", "ends"])
@pytest.mark.parametrize("images", [(), (2,)], ids=["", "2 images"])
def test_equals_the_formula(images, ends):
    maps = projected(*images)
    found = []
    for function in (ours, plain):
        result = function(maps, ends=ends)
        torch.manual_seed(1)
        direction = torch.randn(result.shape, dtype=result.dtype)
        found.append((result, *torch.autograd.grad(result, maps, direction)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    maps = projected(dtype=dtype)
    torch.testing.assert_close(ours(maps), plain(maps.double()).to(dtype), atol=2e-2, rtol=2e-2)


def test_frozen_tokens_change_nothing_for_the_prefix():
    maps = projected()
    whole, of_prefix = (
        torch.autograd.grad(ours(maps, frozen=frozen).sin().sum(), maps)[0]
        for frozen in (False, True)
    )
    assert torch.equal(whole[:SHARED], of_prefix[:SHARED])
    assert not of_prefix[SHARED:].any()


def test_a_second_backward_pass_gives_the_same():
    """What is kept is not what is changed in place, nor is what comes in."""
    maps = projected()
    before = maps.detach().clone()
    result = ours(maps)
    direction = torch.randn_like(result)
    unchanged = direction.clone()
    first, second = (
        torch.autograd.grad(result, maps, direction, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(direction, unchanged)
    assert torch.equal(maps, before)


def test_what_is_kept_does_not_grow_with_the_square_of_the_tokens():
    maps = projected()
    with memory.saved_for_backward(without=[]) as saved:
        ours(maps)
    copies = TOKENS + 3 * sum(LENGTHS) + 2 * SHARED  # queries, twice; keys and values
    scores = TOKENS * SHARED + sum(length * (SHARED + length) for length in LENGTHS)
    assert saved.bytes <= 8 * HEADS * (WIDTH * copies + scores)


def test_gradients_of_gradients_are_refused():
    maps = projected()
    result = ours(maps)
    direction = torch.ones_like(result, requires_grad=True)
    (gradient,) = torch.autograd.grad(result, maps, direction, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
