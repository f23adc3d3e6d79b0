"""DPT: fanrena/DPT, trainers/DPT.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.common import CLIPS, LONGEST, MANY, NAMES, Case
from parity.spec import Call, Pair, Spec, unit
from torch import Tensor

CTX = "image_encoder.transformer.ctx_learner.ctx"
EXTRACTOR = "image_encoder.transformer.extractor"

# The published key, where train.py puts it, its default, and our key.
KEYS = {
    "COOP.N_CTX": (16, "N_CTX"),
    "COOP.CTX_INIT": ("", "CTX_INIT"),
    "COOP.CLASS_TOKEN_POSITION": ("end", "CLASS_TOKEN_POSITION"),
    "VPT.N_CTX": (5, "VIS_N_CTX"),
    "SELECTED_COVPT.CPN": (5, "CPN"),
    "TOPDOWN_SECOVPT.BOTTOMLIMIT": (12, "BOTTOM_LIMIT"),
    "PRETRAIN.C": (30, "C"),
    "ALPHA": (1.0, "ALPHA"),
}


def case(clip: str, classnames: tuple[str, ...] = NAMES, **settings: Any) -> Case:
    """A case; settings in capitals are ours and stand for the published ones."""
    published = {ours: key for key, (_, ours) in KEYS.items()}
    options = {published[key]: settings.pop(key) for key in list(settings) if key.isupper()}
    return Case(clip, classnames, options, **{"lr": 0.01, **settings})


def cases() -> dict[str, Case]:
    """CAVPT in the top layer and in more, both phases and each alone, some true classes missed."""
    small = {"N_CTX": 4, "VIS_N_CTX": 3, "CPN": 3, "ALPHA": 0.3}
    top = {**small, "BOTTOM_LIMIT": 2, "C": 2}
    one = {**top, "N_CTX": 1, "VIS_N_CTX": 1, "CPN": 1, "dataset": "DescribableTextures"}
    two = {**small, "BOTTOM_LIMIT": 2, "C": 1, "batches_per_epoch": 2, "epochs": 3}
    return {
        "top": case("tiny", **top),  # guided in the first two of five epochs
        "all-guided": case("tiny", **{**small, "BOTTOM_LIMIT": 1, "C": 9}, lr=0.1),
        "deep-two": case("deep", **two, dataset="OxfordPets"),
        "one_block": case("one_block", BOTTOM_LIMIT=1, C=0, dataset="ImageNet"),
        "one-token": case("tiny", ("dog", "cat"), **one),
        "longest": case("tiny", (LONGEST, "cat", "sea lion"), BOTTOM_LIMIT=2, CPN=10, C=0),
        "many": case("tiny", MANY, **{**top, "CPN": 10}, batch=20),
        "vit_b16": case("vit_b16", VIS_N_CTX=10, ALPHA=0.3, C=1, batch=2, steps=2),
    }


class Published(Spec):
    """What the trainers of this repository have in common: three optimisers, and two phases."""

    repository = "https://github.com/fanrena/DPT"
    node = "COOP"
    largest = 1100  # many matrices, and each loss term's gradients
    signed = True

    def configure(self, cfg: Any, case: Case) -> None:
        """Its keys lie in six sections."""
        from yacs.config import CfgNode

        case.configure(cfg)
        for node in ("COOP", "VPT", "SELECTED_COVPT", "TOPDOWN_SECOVPT"):
            cfg.TRAINER[node] = CfgNode()
        cfg.PRETRAIN = CfgNode()
        cfg.TRAINER.COOP.CSC = False
        cfg.TRAINER.COOP.PREC = "fp32"
        for key, (default, _) in KEYS.items():
            *sections, leaf = key.split(".")
            node = cfg if "PRETRAIN" in sections else cfg.TRAINER
            for section in sections:
                node = node[section]
            node[leaf] = case.options.get(key, default)

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """The auxiliary loss has soft targets; of the others there are three while guided."""
        hard = [result for _, args, result in calls if args[1].ndim == 1]
        soft = [result for _, args, result in calls if args[1].ndim == 2]
        names = ("text", "image", "joint") if len(hard) == 3 else ("ce",)
        return dict(zip((*names, "class_aware"), (*hard, *soft), strict=False))

    def logits(self, calls: Sequence[Call]) -> Tensor:
        """Of the joint prediction."""
        return [args[0] for _, args, _ in calls if args[1].ndim == 1][-1]

    def options(self, case: Case) -> dict[str, Any]:
        """In our keys; a case that wants more candidates than classes gets all, as published."""
        options = {KEYS[key][1]: value for key, value in case.options.items()}
        if "CPN" in options:
            options["CPN"] = min(options["CPN"], len(case.classnames))
        return options

    def weights(self, options: Any) -> dict[str, float]:
        """Alpha, and the joint prediction's weight while guided."""
        return {"class_aware": options.alpha, "joint": options.joint_weight}


class DPT(Published):
    """CAVPT from some layer on."""

    name = "dpt"
    module = "trainers.DPT"
    trainer = "DPT"
    cases = cases()

    def learned(self, case: Case) -> dict[str, Pair]:
        """The context, the visual prompts, and each upper layer's own."""
        lower = case.options.get("TOPDOWN_SECOVPT.BOTTOMLIMIT", 12) - 1
        pairs = {"txt_ctx": ("prompt_learner.ctx", "prompt_learner.ctx")}
        if lower:
            pairs["vis_ctx"] = (CTX, "visual_learner.prompts.ctx")
        for index in range(CLIPS[case.clip].visual_layers - lower):
            ours = f"visual_learner.cavpt.{lower + index}"
            pairs[f"memory_{index}"] = (f"{EXTRACTOR}.ctx[{index}]", f"{ours}.memory")
            for theirs, name in {
                f"meta_nets.{index}.weight": f"{ours}.embed.weight",
                f"meta_nets.{index}.bias": f"{ours}.embed.bias",
                f"attns.{index}.qmlp.weight": f"{ours}.query.weight",
                f"attns.{index}.kmlp.weight": f"{ours}.key.weight",
                f"attns.{index}.vmlp.weight": f"{ours}.value.weight",
                f"lns2.{index}.weight": f"{ours}.norm.weight",
                f"lns2.{index}.bias": f"{ours}.norm.bias",
                f"lns.{index}.weight": f"auxiliary_head.norm.{index}.weight",
                f"lns.{index}.bias": f"auxiliary_head.norm.{index}.bias",
                f"classfiers.{index}.weight": f"auxiliary_head.classify.{index}.weight",
            }.items():
                pairs[theirs] = (f"{EXTRACTOR}.{theirs}", name)
        return pairs

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """And which classes are likely for each image."""
        model = trainer.model
        text = model.text_encoder(model.prompt_learner(), model.tokenized_prompts)
        likely = model(images)[2]
        image, _ = model.image_encoder(images, text[likely])
        return {
            "image_features": unit(image),
            "text_features": unit(text),
            "likely": likely.to(text.dtype),
        }

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """Which classes are likely for each image."""
        case = self.cases[Path(trainer.cfg.DATASET.ROOT).name]
        return {"likely": trainer.model(case.images(0)).aux["likely"]().float()}


SPEC = DPT()
