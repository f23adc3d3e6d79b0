"""Learning rates by epoch: a warm-up, then a schedule that starts counting at its end."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]


class _WarmupScheduler(LRScheduler):
    """Sets the rate itself for `warmup_epoch` epochs, then lets its successor do so."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        last_epoch: int = -1,
    ) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def _warmup_lr(self) -> list[float]:
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group for the current epoch."""
        if self.last_epoch >= self.warmup_epoch:
            return list(self.successor.get_last_lr())
        return list(self._warmup_lr())

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values only, so that checkpoints need no unpickling of classes."""
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the state was taken, on this scheduler's own optimiser.

        Args:
            state_dict: from `state_dict`, or from the original Dassl, whose state holds the
                successor itself and with it a copy of the optimiser.
        """
        own = dict(state_dict)
        successor = own.pop("successor")
        if not isinstance(successor, dict):
            successor = {k: v for k, v in vars(successor).items() if k != "optimizer"}
        self.successor.load_state_dict(successor)
        super().load_state_dict(own)


class ConstantWarmupScheduler(_WarmupScheduler):
    """Warm-up at one small rate."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def _warmup_lr(self) -> list[float]:
        return [self.cons_lr] * len(self.base_lrs)


class LinearWarmupScheduler(_WarmupScheduler):
    """Warm-up at `min_lr` in epoch 0, then in proportion to the epoch."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def _warmup_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [self.min_lr] * len(self.base_lrs)
        return [float(lr) * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """Build the scheduler that a configuration's `OPTIM` describes; step it once per epoch.

    Args:
        optimizer: its learning rates are set at once.
        optim_cfg: the node `OPTIM`. The schedule after a warm-up of W epochs is not shortened: a
            cosine over MAX_EPOCH epochs ends W epochs before its minimum.

    Raises:
        ValueError: if a name is unknown.
        TypeError: if `STEPSIZE` does not fit the scheduler.
    """
    scheduler = _plain_scheduler(optimizer, optim_cfg)
    warmup: int = optim_cfg.WARMUP_EPOCH
    if warmup <= 0:
        return scheduler
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = warmup
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_CONS_LR)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_MIN_LR)
    raise ValueError(
        f'OPTIM.WARMUP_TYPE must be "constant" or "linear", got {optim_cfg.WARMUP_TYPE!r}'
    )


def _plain_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    stepsize, max_epoch = optim_cfg.STEPSIZE, optim_cfg.MAX_EPOCH
    match optim_cfg.LR_SCHEDULER:
        case "cosine":
            return CosineAnnealingLR(optimizer, float(max_epoch))  # type: ignore[arg-type]
        case "single_step":
            last = stepsize[-1] if isinstance(stepsize, list | tuple) else stepsize
            if not isinstance(last, int):
                raise TypeError(f"OPTIM.STEPSIZE must be a whole number of epochs, got {last!r}")
            return StepLR(optimizer, last if last > 0 else max_epoch, optim_cfg.GAMMA)
        case "multi_step":
            if not isinstance(stepsize, list | tuple):
                raise TypeError(f"OPTIM.STEPSIZE must be a list of epochs, got {stepsize!r}")
            return MultiStepLR(optimizer, list(stepsize), optim_cfg.GAMMA)
    raise ValueError(
        f"OPTIM.LR_SCHEDULER must be one of {AVAI_SCHEDS}, got {optim_cfg.LR_SCHEDULER!r}"
    )
