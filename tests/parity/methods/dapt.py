"""DAPT: mlvlab/DAPT, trainers/dapt.py, and its dispersion losses alone."""

from __future__ import annotations

import pickle
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from parity.common import LONGEST, MANY, NAMES, SEED, Case, draw
from parity.spec import Call, Pair, Spec, unit
from torch import Tensor
from torch.nn import functional as F


def cases() -> dict[str, Case]:
    """The published settings of several benchmarks, on every shape."""

    def options(vis: int, txt: int, vis_beta: float, txt_beta: float) -> dict[str, Any]:
        return {
            "VIS_NUM_TOKENS": vis,
            "TXT_NUM_TOKENS": txt,
            "VIS_BETA": vis_beta,
            "TXT_BETA": txt_beta,
        }

    default = Case("tiny", NAMES, options(16, 16, 0.1, 0.1), lr=0.002)
    return {
        "tiny": default,
        "deep": replace(default, clip="deep", options=options(16, 16, 10.0, 0.01), lr=0.2),
        "one_block": replace(
            default, clip="one_block", options=options(16, 16, 10.0, 0.1), lr=0.02
        ),
        "eurosat": replace(default, options=options(16, 16, 100.0, 10.0), lr=20.0),
        "aircraft": replace(default, clip="deep", options=options(4, 4, 100.0, 0.01), lr=2.0),
        "unequal": replace(default, options=options(3, 5, 0.1, 0.1), batches_per_epoch=2),
        "narrow-kernel": replace(default, options={**options(1, 1, 1.0, 1.0), "TXT_RBF_T": 0.5}),
        "two-classes": replace(default, classnames=NAMES[:2]),
        "longest": replace(default, classnames=(LONGEST, "cat", "sea lion")),
        "many": replace(default, classnames=MANY, options=options(4, 4, 0.1, 0.1), batch=20),
        "vit_b16": replace(default, clip="vit_b16", batch=2, steps=2),
    }


# The dispersion losses alone: classes, features, t, and how far the classes lie apart.
LOSSES = {
    "losses-pair": (2, 8, 2.0, 1.0),
    "losses-many": (60, 128, 2.0, 1.0),
    "losses-wide": (20, 64, 0.5, 1.0),
    "losses-near": (12, 128, 2.0, 0.1),  # cosines of 0.99; trained CLIPs have 0.5 to 0.9
}


def loss_inputs(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Raw image features [B, D], raw text features [C, D], prototypes [C, D], label [B]."""
    classes, width, _, spread = LOSSES[name]
    label = torch.arange(2 * classes) * 7 % classes
    common_part = draw(f"{name}/common", (width,), 1.0)
    text = common_part * (1 - spread) + spread * draw(f"{name}/text", (classes, width), 1.0)
    image = draw(f"{name}/image", (2 * classes, width), 1.0)
    prototypes = 0.9 * draw(f"{name}/prototypes", (classes, width), width**-0.5)
    return image, text, prototypes, label


class DAPT(Spec):
    """Its keys are ours; the prototypes are computed in a run of their own."""

    name = "dapt"
    repository = "https://github.com/mlvlab/DAPT"
    module = "trainers.dapt"
    trainer = "DAPT"
    cases = cases()
    node = "DAPT"
    defaults = {
        "VIS_NUM_TOKENS": 16,
        "VIS_DROPOUT": 0.0,
        "VIS_BETA": 0.1,
        "TXT_NUM_TOKENS": 16,
        "TXT_RBF_T": 2.0,
        "TXT_BETA": 0.1,
        "PROTOTYPE_GEN": False,
    }
    watched = (F.cross_entropy, F.mse_loss, torch.Tensor.mean)
    keeps_start = True

    def learned(self, case: Case) -> dict[str, Pair]:
        """Both prompts."""
        return {
            "vis_ctx": ("prompt_learner.vis_ctx", "prompt_learner.visual.ctx"),
            "txt_ctx": ("prompt_learner.txt_ctx", "prompt_learner.text.ctx"),
        }

    def prepare(self, module: Any, case: Case, folder: Path) -> None:
        """The pictures, and the file that lists them where the published code looks for it."""
        from dassl.data.datasets import Datum

        folder = folder / module.DS_PATH[case.dataset]
        (folder / "split_fewshot").mkdir(parents=True)
        data = []
        for index, (pixels, label) in enumerate(case.pictures()):
            path = folder / f"{index}.png"
            PIL.Image.fromarray(pixels).save(path)
            data.append(Datum(impath=str(path), label=label, classname=case.classnames[label]))
        with (folder / "split_fewshot" / f"shot_{case.shots}-seed_1.pkl").open("wb") as file:
            pickle.dump({"train": data}, file)

    def build(self, published: type, cfg: Any) -> Any:
        """First the run that writes the prototypes."""
        cfg.TRAINER.DAPT.PROTOTYPE_GEN = True
        published(cfg)
        cfg.TRAINER.DAPT.PROTOTYPE_GEN = False
        torch.manual_seed(SEED)
        return published(cfg)

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """And the prototypes."""
        _, image, text = trainer.model(images)
        prototypes = trainer.prototype.clone()
        return {"prototypes": prototypes, "image_features": image, "text_features": text}

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """The mean is that of the kernel."""
        names = {F.cross_entropy: "ce", F.mse_loss: "intra", torch.Tensor.mean: "inter"}
        return {names[function]: result for function, _, result in calls if result.requires_grad}

    def weights(self, options: Any) -> dict[str, float]:
        """Both betas."""
        return {"intra": options.vis_beta, "inter": options.txt_beta}

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """The prototypes."""
        return {"prototypes": trainer.prototypes}

    def more(self, module: Any, watch: Any) -> dict[str, dict[str, Tensor]]:
        """The losses alone: the published step with a stand-in for the model."""
        return {name: self._losses(module, name, watch) for name in LOSSES}

    def _losses(self, module: Any, name: str, watch: Any) -> dict[str, Tensor]:
        image, text, prototypes, label = (
            value.to(watch.dtype) if value.is_floating_point() else value
            for value in loss_inputs(name)
        )
        raw = {"image": image.requires_grad_(), "text": text.requires_grad_()}
        logits = torch.zeros(len(label), len(prototypes), dtype=watch.dtype)
        result: dict[str, Tensor] = {}

        def differentiate(loss: Tensor) -> None:
            terms = self.terms(watch.calls)
            for term, key in (("intra", "image"), ("inter", "text")):
                result[f"losses/{term}"] = terms[term].detach()
                (result[f"grad/{key}"],) = torch.autograd.grad(terms[term], [raw[key]])

        options = types.SimpleNamespace(VIS_BETA=1.0, TXT_BETA=1.0, TXT_RBF_T=LOSSES[name][2])
        cfg = types.SimpleNamespace(USE_CUDA=False, TRAINER=types.SimpleNamespace(DAPT=options))
        trainer = types.SimpleNamespace(
            cfg=cfg,
            prototype=prototypes,
            batch_idx=0,
            num_batches=2,
            parse_batch_train=lambda batch: batch,
            model=lambda image: (logits, unit(image), unit(raw["text"])),
            model_backward_and_update=differentiate,
        )
        watch.calls.clear()
        module.DAPT.forward_backward(trainer, (raw["image"], label))
        return result


SPEC = DAPT()
