"""Logistic regression with a squared penalty, and the search for its strength."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Exponents of ten that lpclip/linear_probe.py of KaiyangZhou/CoOp ff61507 begins with, in its order
COARSE = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)


def fit(
    features: Tensor,
    label: Tensor,
    n_classes: int,
    c: float,
    *,
    tolerance: float = 1e-6,
    max_iter: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Weights and bias that minimise scikit-learn's objective of `LogisticRegression(C=c)`.

    L = mean cross-entropy + |W|^2 / (2 c N), multinomial, in float64 by L-BFGS from zero. The bias
    is not penalised. For two classes scikit-learn has one weight vector w for both; with the rows
    w / 2 and -w / 2 of W its |w|^2 is 2 |W|^2.

    Args:
        features: [N, D].
        label: class indices, [N].
        n_classes: C, of which each should come up.
        c: inverse strength of the penalty.
        tolerance: stop at a gradient whose largest element is smaller.
        max_iter: stop after as many iterations.

    Returns:
        [C, D] and [C], in float64.
    """
    features = features.double()
    weight = features.new_zeros(n_classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(n_classes).requires_grad_()
    penalty = (2 if n_classes == 2 else 1) / (2 * c * len(features))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        tolerance_grad=tolerance,
        tolerance_change=1e-6 * tolerance,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.addmm(bias, features, weight.T)
        loss = F.cross_entropy(logits, label) + penalty * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def search(accuracy: Callable[[float], float], rounds: int) -> float:
    """The exponent of ten whose accuracy is best: a coarse list, then halving, as in lpclip.

    The interval is from a tenth to ten times the best of the list. In each round the end with the
    higher accuracy stays, the left one of equals, and the other moves half way to it.

    Args:
        accuracy: of an exponent; asked once for each.
        rounds: of halving, at least 1; the result is the end that won the last of them.
    """
    of = functools.cache(accuracy)
    peak = max(COARSE, key=of)
    left, right = peak - 1, peak + 1
    best = left
    for _ in range(rounds):
        middle = (left + right) / 2
        if of(left) < of(right):
            best, left = right, middle
        else:
            best, right = left, middle
    return best
