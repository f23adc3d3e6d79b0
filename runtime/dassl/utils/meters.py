"""Running values of losses and times."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class AverageMeter:
    """The last value, and the average of all."""

    def __init__(self, ema: bool = False) -> None:
        """Start at zero.

        Args:
            ema: exponential moving average with factor 0.9 instead of the mean.
        """
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val: float = 0
        self.avg: float = 0
        self.sum: float = 0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Add a value that stands for `n` samples."""
        self.val = val.item() if isinstance(val, Tensor) else val
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / self.count


class MetricMeter:
    """One AverageMeter per name; prints as `name last (average)`."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, Any] | None) -> None:
        """Add one value for each name; None adds nothing.

        Raises:
            TypeError: if it is neither None nor a dictionary.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, dict):
            raise TypeError(f"expected a dict of metrics, got {type(input_dict).__name__}")
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items()
        )
