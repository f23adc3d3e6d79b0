"""Accuracy, error and F1 of class predictions; all in percent."""

import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.utils import atomic_write

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """Collects predictions batch by batch, then computes metrics."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forget all predictions."""
        raise NotImplementedError

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add the predictions of a batch."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        """Return the metrics; the first is the one to select models by."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Metrics of single-label classification."""

    def __init__(
        self, cfg: CfgNode, lab2cname: Mapping[int, str] | None = None, **kwargs: Any
    ) -> None:
        """Start without predictions.

        Args:
            cfg: the configuration; `TEST.PER_CLASS_RESULT` and `TEST.COMPUTE_CMAT` add output.
            lab2cname: class names by label.
            kwargs: not used.

        Raises:
            ValueError: if results per class are wanted and there are no names.
        """
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs class names: pass lab2cname")
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch.

        Args:
            mo: logits, [B, C].
            gt: class indices, [B].
        """
        self._y_pred += mo.max(1).indices.tolist()
        self._y_true += gt.tolist()

    def evaluate(self) -> OrderedDict[str, float]:
        """Log and return `accuracy`, `error_rate`, `macro_f1` and maybe `perclass_accuracy`.

        Raises:
            ValueError: if nothing was processed.
        """
        total = len(self._y_true)
        if total == 0:
            raise ValueError("expected predictions to evaluate, got none")
        true, predicted = Counter(self._y_true), Counter(self._y_pred)
        hits = Counter(t for t, p in zip(self._y_true, self._y_pred, strict=True) if t == p)
        correct = hits.total()
        labels = sorted(true)
        accuracy = 100.0 * correct / total
        # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (predicted + true), over the labels that occur.
        f1 = [2 * hits[label] / (predicted[label] + true[label]) for label in labels]
        macro_f1 = 100.0 * sum(f1) / len(f1)
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        logger.info(
            "=> result\n* total: %s\n* correct: %s\n"
            "* accuracy: %.1f%%\n* error: %.1f%%\n* macro_f1: %.1f%%",
            f"{total:,}",
            f"{correct:,}",
            accuracy,
            results["error_rate"],
            macro_f1,
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._log_classes(labels, hits, true)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion()
        return results

    def _log_classes(self, labels: list[int], hits: Counter[int], true: Counter[int]) -> float:
        """Log a line for each class and return the mean of their accuracies."""
        accuracies = [100.0 * hits[label] / true[label] for label in labels]
        logger.info("=> per-class result")
        for label, accuracy in zip(labels, accuracies, strict=True):
            logger.info(
                "* class: %d (%s)\ttotal: %s\tcorrect: %s\tacc: %.1f%%",
                label,
                self._lab2cname[label],
                f"{true[label]:,}",
                f"{hits[label]:,}",
                accuracy,
            )
        average = sum(accuracies) / len(accuracies)
        logger.info("* average: %.1f%%", average)
        return average

    def _save_confusion(self) -> None:
        """Save the confusion matrix, rows true labels in shares of their pictures, as a tensor."""
        labels = sorted({*self._y_true, *self._y_pred})
        row = {label: index for index, label in enumerate(labels)}
        matrix = torch.zeros(len(labels), len(labels), dtype=torch.float64)
        for t, p in zip(self._y_true, self._y_pred, strict=True):
            matrix[row[t], row[p]] += 1
        matrix /= matrix.sum(dim=1, keepdim=True).clamp(min=1)
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        with atomic_write(path) as file:
            torch.save(matrix, file)
        logger.info("Confusion matrix is saved to %s", path)
