"""PromptSRC: muzairkhattak/PromptSRC, trainers/promptsrc.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parity.common import LONGEST, NAMES, Case
from parity.methods.ivlp import IVLP, prompts
from parity.spec import Call, unit
from torch import Tensor
from torch.nn import functional as F


def cases() -> dict[str, Case]:
    """Aggregated at the end of all epochs, and not before; lengths, depths, weights, edges."""

    def options(
        vision: tuple[int, int],
        text: tuple[int, int],
        ctx_init: str = "a photo of a",
        gpa: tuple[float, float] = (3, 1),
        weights: tuple[float, float] = (25, 10),
    ) -> dict[str, Any]:
        keys = ("GPA_MEAN", "GPA_STD", "TEXT_LOSS_WEIGHT", "IMAGE_LOSS_WEIGHT")
        more = dict(zip(keys, (*gpa, *weights), strict=True))
        return {**prompts(vision, text, ctx_init), **more}

    default = Case("tiny", NAMES, options((4, 2), (4, 2)), lr=0.0025, batch=4)
    deep = replace(default, clip="deep", classnames=NAMES[:5])
    return {
        "tiny": default,
        "deep": replace(
            deep,
            options=options((4, 3), (4, 4), gpa=(2, 0.5)),
            batches_per_epoch=2,
            epochs=3,
            steps=6,
        ),
        "one_block": replace(default, clip="one_block", options=options((2, 1), (2, 1))),
        "not-yet": replace(default, options=options((2, 2), (2, 2)), steps=4),
        "few-shot": replace(default, options=options((4, 2), (4, 2), gpa=(30, 30)), lr=0.02),
        "weights": replace(
            deep, options=options((2, 1), (3, 2), weights=(5, 0.5)), batches_per_epoch=3
        ),
        "text-only": replace(default, options=options((0, 0), (4, 2))),
        "one-name": replace(default, classnames=("dog",)),
        "longest": replace(
            default, classnames=(LONGEST, "cat"), options=options((2, 2), (16, 2), "")
        ),
        "vit_b16": replace(
            default,
            clip="vit_b16",
            classnames=NAMES[:3],
            options=options((4, 9), (4, 9), gpa=(1, 1)),
            batch=2,
            epochs=2,
            steps=2,
        ),
    }


class PromptSRC(IVLP):
    """Its keys are ours; the prompts are IVLP's."""

    name = "promptsrc"
    repository = "https://github.com/muzairkhattak/PromptSRC"
    module = "trainers.promptsrc"
    trainer = "PromptSRC"
    cases = cases()
    node = "PROMPTSRC"
    watched = (F.cross_entropy, F.l1_loss, F.kl_div)

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """And the text features to stay near to."""
        teacher = unit(trainer.model.prompt_learner.fixed_embeddings)
        return {"teacher": teacher, **super().features(trainer, images)}

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """The divergence is divided by the number of logits."""
        by_function = {function: (args, result) for function, args, result in calls}
        text, image = (result for function, _, result in calls if function is F.l1_loss)
        divergence = by_function[F.kl_div][1] / by_function[F.cross_entropy][0][0].numel()
        return {
            "ce": by_function[F.cross_entropy][1],
            "text": text,
            "image": image,
            "kl": divergence,
        }

    def weights(self, options: Any) -> dict[str, float]:
        """Both coefficients."""
        return {"text": options.text_loss_weight, "image": options.image_loss_weight}

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """The text features to stay near to."""
        return {"teacher": trainer.teacher}

    def end_epoch(self, trainer: Any) -> None:
        """Add the epoch's prompts to the sum."""
        trainer.aggregate()


SPEC = PromptSRC()
