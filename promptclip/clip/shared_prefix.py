"""The text tower's fast path: exact, and free of what nobody reads.

The tower is causal and read at the end-of-text token only. So the tokens that all classes begin
with are computed once, every class attends to their keys and values (never copied), nothing behind
a class's end-of-text token is computed, and in the last block only the token that is read.

The classes' own tokens go through the tower in parts of a fixed size, with the tokens that all
begin with in front: in the same products, which cost next to nothing there and much by themselves,
since each reads all weights. What the backward pass needs
of a part is kept as long as the memory budget lasts; of the other parts it is computed again when
their turn comes. Either way the same operations run on the same shapes, so results do not depend
on the budget, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptclip import memory
from promptclip.clip.prefix_attention import Groups, PrefixAttention

if TYPE_CHECKING:
    from promptclip.clip.model import Block, FrozenCLIP
    from promptclip.prompts import OwnTokens, TextTokens

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
    jobs = [
        [partial(_part, clip, prompts, part, vectors) for part in prompts.parts]
        for vectors in _by_images(prompts, learned)
    ]
    run = _run
    if sum(map(len, jobs)) > 1 and torch.is_grad_enabled():
        run = _Budget(clip).run
    features = torch.cat([torch.cat([run(job) for job in row], -2) for row in jobs])
    return features[..., prompts.in_class_order, :]


def in_one_part(prompts: TextTokens, learned: Learned) -> bool:
    """Whether all classes, of all images, are computed at once: nothing is computed again then."""
    images = [len(vectors) for vectors in learned if vectors is not None and vectors.dim() == 3]
    return len(prompts.parts) == 1 and max(images, default=1) <= _images_at_once(prompts)


def _images_at_once(prompts: TextTokens) -> int:
    """Images with prompts of their own that make up a part."""
    return max(TOKENS_AT_ONCE // max(len(part.positions) for part in prompts.parts), 1)


def _by_images(prompts: TextTokens, learned: Learned) -> Iterator[Learned]:
    """Prompts of each image, taken apart into those of as many images as make up a part."""
    images = {len(vectors) for vectors in learned if vectors is not None and vectors.dim() == 3}
    at_once = _images_at_once(prompts)
    for first in range(0, max(images, default=1), at_once):
        rows = slice(first, first + at_once)
        yield [
            vectors[rows] if vectors is not None and vectors.dim() == 3 else vectors
            for vectors in learned
        ]


def _part(clip: FrozenCLIP, prompts: TextTokens, own: OwnTokens, learned: Learned) -> Tensor:
    """The prefix and some classes' own tokens through all blocks, [C', D] or [B', C', D]."""
    pieces = [
        prompts.prefix.embed(learned[0]) + clip.text_positions[prompts.prefix_positions],
        own.rows.embed(learned[0]) + clip.text_positions[own.positions],
    ]
    last = len(clip.text_blocks) - 1
    for layer, block in enumerate(clip.text_blocks):
        x = _block(block, pieces, own.first, own.groups, own.hidden(ends=layer == last),
                   own.ends if layer == last else None)  # fmt: skip
        if layer < last:
            x = prompts.prefix.replace(x, learned[layer + 1])
            pieces = [own.rows.replace(x, learned[layer + 1], own.first)]
    return x


class _Budget:
    """Runs parts one after the other and keeps what their backward passes need while it lasts."""

    def __init__(self, clip: FrozenCLIP) -> None:
        self.device = clip.device
        self.whole = clip.memory_budget or AUTOMATIC * memory.available(clip.device)
        self.left = self.whole
        self.in_memory = [*clip.text_blocks.buffers()]
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
    pieces: Sequence[Tensor],
    shared: int,
    groups: Groups,
    hidden: Sequence[Tensor | None],
    read: Tensor | None,
) -> Tensor:
    """One block over the shared tokens and every class's own, which attend to both.

    Args:
        block: the block.
        pieces: tokens [..., D] that make up [T, D] or [B, T, D]; those that need no gradient, or
            are the same for all images, by themselves.
        shared: how many of the tokens all classes begin with.
        groups: (classes, tokens of each) of the runs of classes with equally many tokens.
        hidden: what the shared tokens, and those of each group, may not see of their class's.
        read: positions to compute, the last of each class; all if None.

    Returns:
        [..., T, D], or [..., C, D] with `read`.
    """
    x = _joined(pieces, -2)
    if read is None:
        maps = [block.project(block.ln_1(piece)) for piece in pieces]
        projected = [_joined([piece for (piece,) in maps], -4)]
    else:
        projected, x = block.project(block.ln_1(x), read), x[..., read, :]
    frozen = not pieces[-1].requires_grad
    attended = PrefixAttention.apply(shared, groups, hidden, frozen, *projected)
    return block.finish(x, attended)


def _joined(pieces: Sequence[Tensor], axis: int) -> Tensor:
    """Along an axis; pieces that are the same for all images as often as there are images."""
    if len(pieces) == 1:
        return pieces[0]
    images = max((piece.shape[:axis] for piece in pieces), key=len)  # none, or their number
    return torch.cat([piece.expand(*images, *piece.shape[axis:]) for piece in pieces], axis)
