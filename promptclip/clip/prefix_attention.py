"""Attention of every class's own tokens to a prefix that all classes share, and to themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from promptclip.clip.attention import by_head

_DENSE = torch.contiguous_format
Groups = Sequence[tuple[int, int]]  # (classes, tokens of each) of runs with equally many tokens


class PrefixAttention(torch.autograd.Function):
    """The prefix's keys and values are met by the queries of all tokens in one product.

    The products are small, so what lies between them counts: it is written where it is needed,
    forward and backward, rather than split, joined and copied.

    There are T tokens: P of the prefix, then all classes' own, one class after the other. A of
    them ask: all, or each class's end-of-text. Heads are d wide.
    """

    @staticmethod
    def forward(
        ctx: Any,
        shared: int,
        groups: Groups,
        hidden: Sequence[Tensor | None],
        frozen: bool,
        *projected: Tensor,
    ) -> Tensor:
        """What the tokens that ask receive, [..., heads, A, d].

        Args:
            ctx: of autograd.
            shared: tokens of the prefix, P.
            groups: of the classes.
            hidden: what the tokens may not see of their class's, for each group, and before them
                of the prefix's.
            frozen: nobody reads the gradient of what is not the prefix's, as of words alone.
            projected: queries, keys and values, [..., T, 3, heads, d]; or queries,
                [..., A, 1, heads, d], and keys and values, [..., T, 2, heads, d].
        """
        query, key, value = by_head(projected)
        prefix_key, prefix_value = key[..., :shared, :].clone(), value[..., :shared, :].clone()
        # Head by head in memory: products in half precision copy anything else
        scale = query.shape[-1] ** -0.5
        query = torch.mul(query, scale, out=query.new_empty(query.shape))
        every = len(projected) == 1
        asking = shared if every else 0  # tokens of the prefix
        weights = query @ prefix_key.transpose(-1, -2)  # scores, until each part has its weights
        in_prefix, *masks = hidden
        if asking and in_prefix is not None:
            scores = weights[..., :asking, :]
            scores.copy_(scores.masked_fill(in_prefix, float("-inf")).softmax(-1))
        parts = list(_parts(asking, shared, groups, every=every))
        kept, received = [], []
        for part, mask in zip(parts, masks, strict=True):
            queries = part.asking(query).contiguous()
            # Never views, which would keep all that was projected
            keys, values = (part.own(one).clone(memory_format=_DENSE) for one in (key, value))
            scores = queries @ keys.transpose(-1, -2)
            if mask is not None:
                scores.masked_fill_(mask, float("-inf"))
            ahead = part.asking(weights)
            both = torch.cat([ahead, scores], -1).softmax(-1)
            ahead.copy_(both[..., :shared])
            received.append(both[..., shared:] @ values)
            kept += [queries, keys, values, both]
        from_prefix = weights @ prefix_value
        *images, heads, tokens, width = from_prefix.shape
        result = from_prefix.new_empty(*images, tokens, heads, width).transpose(-2, -3)
        result[..., :asking, :] = from_prefix[..., :asking, :]
        for part, from_own in zip(parts, received, strict=True):
            torch.add(part.asking(from_prefix), from_own, out=part.asking(result))
        ctx.parts, ctx.shared, ctx.asking, ctx.frozen = parts, shared, asking, frozen
        ctx.shapes = [one.shape for one in projected]
        ctx.save_for_backward(query, prefix_key, prefix_value, weights, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of what was projected."""
        query, prefix_key, prefix_value, weights, *kept = ctx.saved_tensors
        shared, asking = ctx.shared, ctx.asking
        new = grad.new_zeros if ctx.frozen else grad.new_empty
        grads = [new(shape) for shape in ctx.shapes]
        query_grad, key_grad, value_grad = by_head(grads)
        scores = grad @ prefix_value.transpose(-1, -2)  # of the weights, then of the scores
        in_prefix = scores[..., :asking, :]
        in_prefix.copy_(_softmax_backward(in_prefix, weights[..., :asking, :]))
        asked = asking if ctx.frozen else query.shape[-2]  # whose gradient is read
        query_grad[..., :asking, :] = 0
        for part, *saved in zip(ctx.parts, *(kept[i::4] for i in range(4)), strict=True):
            queries, keys, values, both = saved
            ahead, arriving = part.asking(scores), part.asking(grad).contiguous()
            of_both = torch.cat([ahead, arriving @ values.transpose(-1, -2)], -1)
            of_both = _softmax_backward(of_both, both)
            ahead.copy_(of_both[..., :shared])
            if ctx.frozen:
                continue
            of_own = of_both[..., shared:]
            part.asking(query_grad).copy_(of_own @ keys)
            part.own(key_grad).copy_(of_own.transpose(-1, -2) @ queries)
            part.own(value_grad).copy_(both[..., shared:].transpose(-1, -2) @ arriving)
        query_grad = query_grad[..., :asked, :]
        query_grad.add_(scores[..., :asked, :] @ prefix_key).mul_(query.shape[-1] ** -0.5)
        key_grad[..., :shared, :] = scores.transpose(-1, -2) @ query
        value_grad[..., :shared, :] = weights.transpose(-1, -2) @ grad
        return None, None, None, None, *grads


class _Rows(NamedTuple):
    """Those of a group's classes among all tokens, as many of each class."""

    first: int
    classes: int
    each: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """A view [..., classes, each, n] of [..., tokens, n]."""
        rows = tokens.narrow(-2, self.first, self.classes * self.each)
        by_class: Tensor = rows.unflatten(-2, (self.classes, self.each))
        return by_class


class _Part(NamedTuple):
    """Where a group's tokens are, among those that ask and among all."""

    asking: _Rows
    own: _Rows


def _parts(asking: int, own: int, groups: Groups, *, every: bool) -> Iterator[_Part]:
    """Of each group, from the first row behind the prefix's."""
    for classes, length in groups:
        each = length if every else 1
        yield _Part(_Rows(asking, classes, each), _Rows(own, classes, length))
        asking += classes * each
        own += classes * length


def _softmax_backward(grad: Tensor, result: Tensor) -> Tensor:
    return torch._softmax_backward_data(grad, result, -1, grad.dtype)
