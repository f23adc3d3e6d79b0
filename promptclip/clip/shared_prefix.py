"""The text tower's fast path: exact, and free of what nobody reads.

The tower is causal and read at the end-of-text token only. So the tokens that all classes begin
with are computed once, every class attends to their keys and values (never copied), nothing behind
a class's end-of-text token is computed, and in the last block only the token that is read.

The classes' own tokens go through the tower in parts of a fixed size. What the backward pass needs
of a part is kept as long as the memory budget lasts; of the other parts it is computed again when
their turn comes. Either way the same operations run on the same shapes, so results do not depend
on the budget, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptclip import memory
from promptclip.clip.attention import attention

if TYPE_CHECKING:
    from promptclip.clip.model import Block, FrozenCLIP
    from promptclip.prompts import OwnTokens, TextTokens

KeysValues = Sequence[tuple[Tensor, Tensor]]  # of each layer, [heads, P, d] or [B, heads, P, d]
Learned = Sequence[Tensor | None]  # of each layer, [M, D] or [B, M, D]

TOKENS_AT_ONCE = 4608  # of one part: all of ImageNet's names, in some GB for ViT-B/16
AUTOMATIC = 0.5  # of the free memory: the image tower and temporary tensors want their share


def encode(clip: FrozenCLIP, prompts: TextTokens, learned: Learned) -> Tensor:
    """The last block's output at every class's end-of-text token, [C, D] or [B, C, D].

    Args:
        clip: the tower, and the memory budget.
        prompts: the token sequences of C classes.
        learned: for each layer the vectors that slots stand for; None keeps those before.
    """
    keys_values = _prefix(clip, prompts, learned)
    jobs = [
        [partial(_part, clip, part, *of_these) for part in prompts.parts]
        for of_these in _by_images(prompts, learned, keys_values)
    ]
    run = _run
    if sum(map(len, jobs)) > 1 and torch.is_grad_enabled():
        run = _Budget(clip, keys_values).run
    features = torch.cat([torch.cat([run(job) for job in row], -2) for row in jobs])
    return features[..., prompts.in_class_order, :]


def in_one_part(prompts: TextTokens, learned: Learned) -> bool:
    """Whether all classes, of all images, are computed at once: nothing is computed again then."""
    images = [len(vectors) for vectors in learned if vectors is not None and vectors.dim() == 3]
    return len(prompts.parts) == 1 and max(images, default=1) <= _images_at_once(prompts)


def _images_at_once(prompts: TextTokens) -> int:
    """Images with prompts of their own that make up a part."""
    return max(TOKENS_AT_ONCE // max(len(part.positions) for part in prompts.parts), 1)


def _prefix(clip: FrozenCLIP, prompts: TextTokens, learned: Learned) -> KeysValues:
    """Keys and values of the tokens that all classes begin with."""
    x = prompts.prefix.embed(learned[0]) + clip.text_positions[prompts.prefix_positions]
    found = []
    for layer, block in enumerate(clip.text_blocks):
        if layer:
            x = prompts.prefix.replace(x, learned[layer])
        query, key, value = block.queries_keys_values(block.ln_1(x))
        found.append((key, value))
        if layer + 1 < len(clip.text_blocks):
            x = block.finish(x, attention(query, key, value, causal=True))
    return found


def _by_images(
    prompts: TextTokens, learned: Learned, keys_values: KeysValues
) -> Iterator[tuple[Learned, KeysValues]]:
    """Prompts of each image, taken apart into those of as many images as make up a part."""
    images = {len(vectors) for vectors in learned if vectors is not None and vectors.dim() == 3}
    if not images:  # the same for all of them
        yield learned, keys_values
        return
    at_once = _images_at_once(prompts)
    for first in range(0, max(images), at_once):
        rows = slice(first, first + at_once)
        yield (
            [vectors[rows] if vectors is not None and vectors.dim() == 3 else vectors
             for vectors in learned],
            [(key[rows], value[rows]) if key.dim() == 4 else (key, value)
             for key, value in keys_values],
        )  # fmt: skip


def _part(clip: FrozenCLIP, own: OwnTokens, learned: Learned, keys_values: KeysValues) -> Tensor:
    """Some classes' own tokens through all blocks, [C', D] or [B', C', D]."""
    x = own.rows.embed(learned[0]) + clip.text_positions[own.positions]
    last, through = len(clip.text_blocks) - 1, clip.quick(_block)
    for layer, block in enumerate(clip.text_blocks):
        if layer:
            x = own.rows.replace(x, learned[layer])
        x = through(block, x, *keys_values[layer], own.groups, own.hidden(ends=layer == last),
                    own.ends if layer == last else None)  # fmt: skip
    return x


class _Budget:
    """Runs parts one after the other and keeps what their backward passes need while it lasts."""

    def __init__(self, clip: FrozenCLIP, keys_values: KeysValues) -> None:
        self.device = clip.device
        self.whole = clip.memory_budget or AUTOMATIC * memory.available(clip.device)
        self.left = self.whole
        self.in_memory = [*clip.text_blocks.buffers(), *chain.from_iterable(keys_values)]
        self.needed = 0  # by the part before

    def run(self, job: Callable[[], Tensor]) -> Tensor:
        if self.left < self.needed:
            again: Tensor = checkpoint(job, use_reentrant=False, preserve_rng_state=False)
            return again
        with memory.saved_for_backward(without=self.in_memory) as saved:
            result = job()
        self.needed = saved.bytes
        self.left -= saved.bytes
        if self.left < self.whole / 2:  # what it costs to take it again matters less than its size
            memory.give_back(self.device)
        return result


def _run(job: Callable[[], Tensor]) -> Tensor:
    return job()


def _block(
    block: Block,
    x: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    groups: list[tuple[int, int]],
    hidden: list[Tensor | None],
    read: Tensor | None,
) -> Tensor:
    """One block over every class's own tokens, which attend to the shared prefix and themselves.

    Args:
        block: the block.
        x: own tokens of all classes one after the other, [T, D] or [B, T, D].
        prefix_key: keys of the shared tokens, [heads, P, d] or [B, heads, P, d].
        prefix_value: their values, likewise.
        groups: (classes, tokens of each) of the runs of classes with equally many tokens.
        hidden: for each group what its tokens may not see of their class's.
        read: positions to compute, the last of each class; all if None.

    Returns:
        [..., T, D], or [..., C, D] with `read`.
    """
    query, key, value = block.queries_keys_values(block.ln_1(x), read)
    # Head by head in memory: products in half precision copy anything else, forward and backward
    query = query.contiguous() * query.shape[-1] ** -0.5
    to_prefix = query @ prefix_key.transpose(-1, -2)
    batch = to_prefix.shape[:-2]  # prompts of each image differ from the prefix on, [B, heads]
    # Split at once: the gradient of a slice would be a tensor of zeros as large as the whole
    rows = [1 if read is not None else length for _, length in groups]
    own_tokens = [classes * length for classes, length in groups]
    asked = [classes * each for (classes, _), each in zip(groups, rows, strict=True)]
    keys, values = key.split(own_tokens, -2), value.split(own_tokens, -2)
    queries, ahead = query.split(asked, -2), to_prefix.split(asked, -2)
    weights, own = [], []
    for i, (classes, length) in enumerate(groups):
        shape = classes, rows[i]
        scores = queries[i].unflatten(-2, shape) @ _by_class(keys[i], length).transpose(-1, -2)
        if (mask := hidden[i]) is not None:
            scores = scores.masked_fill(mask, float("-inf"))
        scores = scores.expand(*batch, *scores.shape[-3:])
        weight = torch.cat([ahead[i].unflatten(-2, shape), scores], -1).softmax(-1)
        to_shared, to_own = weight.split([prefix_key.shape[-2], length], -1)
        own.append((to_own @ _by_class(values[i], length)).flatten(-3, -2))
        weights.append(to_shared.flatten(-3, -2))
    attended = torch.cat(weights, -2) @ prefix_value + torch.cat(own, -2)
    return block.finish(x if read is None else x[..., read, :], attended)


def _by_class(tokens: Tensor, length: int) -> Tensor:
    """Tokens of classes with equally many, [..., C * length, d] -> [..., C, length, d]."""
    by_class: Tensor = tokens.unflatten(-2, (-1, length))
    return by_class
