"""A cache of training features beside a classifier (Tip-Adapter), and the search for its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptclip.errors import UserError


class Cache(nn.Module):
    """Keys, which may be learned, and the labels of the pictures that they are features of.

    A checkpoint decides how many there are: another data set with the same classes has another
    number of training pictures.

    Args:
        label: class indices, [N].
        width: D, of a feature.
        n_classes: C.
        learned: whether the keys get a gradient.

    Attributes:
        keys: [N, D], zero until there are features.
        values: one-hot labels, [N, C].
    """

    values: Tensor

    def __init__(self, label: Sequence[int], width: int, n_classes: int, *, learned: bool) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(len(label), width), requires_grad=learned)
        values = F.one_hot(torch.tensor(label, dtype=torch.long), n_classes).float()
        self.register_buffer("values", values, persistent=False)

    def forward(self, features: Tensor, beta: float) -> Tensor:
        """exp(-beta (1 - f K^T)) V, the likeness of unit features [B, D] to each class, [B, C]."""
        return torch.exp(beta * (features @ self.keys.T - 1)) @ self.values

    def get_extra_state(self) -> dict[str, Any]:
        """The labels, saved with the keys."""
        return {"label": self.values.argmax(-1).tolist()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the labels of other keys."""
        label, n_classes = state["label"], self.values.shape[1]
        if len(label) != len(self.keys) or not all(0 <= number < n_classes for number in label):
            raise UserError(
                f"this checkpoint's cache has {len(self.keys)} keys and {len(label)} labels from "
                f"{min(label, default=0)} to {max(label, default=0)}; expected a label for each "
                f"key, from 0 to {n_classes - 1}, as this run has {n_classes} classes"
            )
        self.values = F.one_hot(torch.tensor(label, dtype=torch.long), n_classes).to(self.values)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        keys = state_dict.get(f"{prefix}keys")
        if keys is not None and keys.shape[1:] == self.keys.shape[1:]:
            self.keys.data = self.keys.data.new_empty(keys.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def search(
    cache: Cache,
    features: Tensor,
    label: Tensor,
    logits: Tensor,
    scale: Sequence[float],
    step: Sequence[int],
) -> tuple[float, float, float]:
    """The beta and alpha with which `logits + alpha cache(features, beta)` are right most often.

    The grid of each is n even steps from 0.1 towards its end, which is left out. Of equally good
    pairs the first, with beta in the outer loop: gaopengcuhk/Tip-Adapter d0e2d6f, utils.py.

    Args:
        cache: with its keys.
        features: unit vectors, [V, D].
        label: class indices, [V].
        logits: without the cache, [V, C].
        scale: ends for beta and for alpha.
        step: numbers of values for beta and for alpha.

    Returns:
        beta, alpha, and their accuracy in percent.
    """
    betas, alphas = (
        [0.1 + i * (end - 0.1) / n for i in range(n)] for end, n in zip(scale, step, strict=True)
    )
    hits = []
    for beta in betas:
        near = cache(features, beta)
        hits += [((logits + alpha * near).argmax(-1) == label).sum() for alpha in alphas]
    most, best = torch.stack(hits).max(0)
    b, a = divmod(int(best), len(alphas))
    return betas[b], alphas[a], 100 * most.item() / len(label)
