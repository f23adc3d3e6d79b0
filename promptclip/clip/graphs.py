"""The text tower recorded as a CUDA graph: what a GPU is asked for in a step, asked for in one go.

With few classes a GPU computes the tower faster than Python can ask for its two thousand small
operations. The same operations run in the same order on the same numbers, so results are equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Learned = Sequence[Tensor | None]  # of each layer
Encode = Callable[[Learned], Tensor]


class Recorded:
    """A function of the learned vectors that is recorded at its first call and replayed after.

    A recording holds the tensors of one forward pass, and its backward pass uses them up. It is
    replayed when the backward pass of the last one has come; before that, and without gradients,
    the function itself runs. Everything must be on a GPU.

    Args:
        encode: what is recorded; it must always do the same.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self._replay: dict[object, Callable[..., Tensor]] = {}
        self._waiting = False  # for the backward pass

    def __call__(self, learned: Learned) -> Tensor:
        """What `encode` gives."""
        vectors = [one for one in learned if one is not None]
        with_gradient = torch.is_grad_enabled() and any(one.requires_grad for one in vectors)
        if self._waiting or not with_gradient:
            return self.encode(learned)
        kind = tuple(
            None if one is None else (one.shape, one.dtype, one.requires_grad) for one in learned
        )
        if kind not in self._replay:
            self._replay[kind] = self._record(learned)
        found = self._replay[kind](*vectors)
        self._waiting = True
        found.register_hook(self._backward_comes)
        return found

    def _record(self, learned: Learned) -> Callable[..., Tensor]:
        given = [one is not None for one in learned]

        def encode(*vectors: Tensor) -> Tensor:
            left = iter(vectors)
            return self.encode([next(left) if there else None for there in given])

        samples = tuple(
            one.detach().clone().requires_grad_(one.requires_grad)
            for one in learned
            if one is not None
        )
        with warnings.catch_warnings():
            # What is tried before the recording runs beside the default stream, as it has to
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
            recorded: Any = torch.cuda.make_graphed_callables(encode, samples)
        replay: Callable[..., Tensor] = recorded
        return replay

    def _backward_comes(self, gradient: Tensor) -> None:
        if not self._waiting:
            raise RuntimeError(
                "a second backward pass came to text features that are recorded as a CUDA graph, "
                "whose tensors the first has used up; set COMPUTE.CUDA_GRAPHS False"
            )
        self._waiting = False
