"""Rectified Adam (arXiv:1908.03265) with the arguments that the field's code passes."""

from collections.abc import Iterable
from typing import Any

import torch


class RAdam(torch.optim.RAdam):
    """torch's RAdam with decoupled weight decay; plain momentum while it cannot rectify."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        degenerated_to_sgd: bool = True,
    ) -> None:
        """Set up as torch does.

        Raises:
            ValueError: if `degenerated_to_sgd` is off: torch has no such variant.
        """
        if not degenerated_to_sgd:
            raise ValueError("RAdam is available with degenerated_to_sgd=True only")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
        )
