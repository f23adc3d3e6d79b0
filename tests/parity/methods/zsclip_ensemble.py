"""Zero-shot CLIP with several prompts: KaiyangZhou/CoOp, trainers/zsclip.py, ZeroshotCLIP2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.common import LONGEST, MANY, NAMES, Case
from parity.methods.zsclip import ZeroshotCLIP


def cases() -> dict[str, Case]:
    """The seven with a benchmark's own, the seven alone, and all 80."""
    select, imagenet = {"TEMPLATES": "select"}, {"TEMPLATES": "imagenet"}
    return {
        "tiny": Case("tiny", NAMES, select, dataset="EuroSAT"),
        "deep": Case("deep", MANY[:20], select, dataset="UCF101"),
        "imagenet": Case("one_block", NAMES, select, dataset="ImageNet"),
        "imagenet-v2": Case("tiny", NAMES, select, dataset="ImageNetV2"),
        "single-class": Case("tiny", ("dog",), select, dataset="Food101"),
        "longest": Case("tiny", (LONGEST, "cat"), select, dataset="OxfordPets"),
        "all-80": Case("tiny", NAMES[:3], imagenet, dataset="ImageNet"),
    }


class ZeroshotCLIP2(ZeroshotCLIP):
    """Nothing is learned."""

    name = "zsclip_ensemble"
    ours = "zsclip"
    trainer = "ZeroshotCLIP2"
    cases = cases()

    def prepare(self, module: Any, case: Case, folder: Path) -> None:
        """The templates as a new process has them, or those that stand there commented out.

        Each build adds the benchmark's own to a list of the module.
        """
        del module.IMAGENET_TEMPLATES_SELECT[7:]
        everything = case.options["TEMPLATES"] == "imagenet"
        templates = module.IMAGENET_TEMPLATES if everything else module.IMAGENET_TEMPLATES_SELECT
        module.ZeroshotCLIP2.templates = templates


SPEC = ZeroshotCLIP2()
