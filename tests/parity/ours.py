"""Our trainers in the situations in which the published ones were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import PIL.Image
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from parity import common
from torch import Tensor

from promptclip import plugins
from promptclip.clip.model import FrozenCLIP
from promptclip.config import default_cfg

LEARNED = {"coop": {"ctx": "ctx"}, "dapt": {"vis_ctx": "visual.ctx", "txt_ctx": "text.ctx"}}


@DATASET_REGISTRY.register()
class ParityPictures(DatasetBase):
    """The few-shot set of a case, written to files below DATASET.ROOT."""

    def __init__(self, cfg: Any) -> None:
        method, name = cfg.DATASET.ROOT.split("/")[-2:]
        case = common.CASES[method][name]
        if method == "zsclip":
            self.template = common.provenance(method)["cases"][name]["template"]
        folder = Path(cfg.DATASET.ROOT)
        folder.mkdir(parents=True)
        data = []
        for index, (pixels, label) in enumerate(case.pictures()):
            path = folder / f"{index}.png"
            PIL.Image.fromarray(pixels).save(path)
            data.append(Datum(impath=str(path), label=label, classname=case.classnames[label]))
        super().__init__(train_x=data, test=data)


def build(method: str, name: str, folder: Path, *, textbook: bool) -> Any:
    """Our trainer for a case, its prompts as the published ones started."""
    case = common.CASES[method][name]
    cfg = default_cfg()
    cfg.TRAINER.NAME = plugins.trainer_name(method)
    cfg.DATASET.NAME = "ParityPictures"
    cfg.DATASET.ROOT = str(folder / method / name)
    cfg.OUTPUT_DIR = str(folder / "output")
    cfg.MODEL.EXACT_TEXTBOOK = textbook
    case.configure(cfg, cfg.TRAINER.NAME.upper())

    def load_clip(_: str, *, precision: str, device: torch.device, textbook: bool) -> FrozenCLIP:
        weights = common.random_clip(case.clip)
        clip = FrozenCLIP(weights, common.CLIPS[case.clip], precision=precision, textbook=textbook)
        return clip.to(device)

    with mock.patch("promptclip.trainer.load_clip", load_clip):
        return plugins.methods()[cfg.TRAINER.NAME](cfg)


def learned(method: str, trainer: Any) -> dict[str, torch.nn.Parameter]:
    """Our learned tensors by the published names."""
    own = dict(trainer.model.prompt_learner.named_parameters())
    names = LEARNED[method]
    if own.keys() != set(names.values()):
        raise ValueError(f"learned are {sorted(own)}, expected {sorted(names.values())}")
    return {theirs: own[ours] for theirs, ours in names.items()}


@contextmanager
def watched(trainer: Any, betas: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """Keeps logits and terms, without their coefficient, as they pass through `losses`."""
    seen: dict[str, Tensor] = {}
    losses = trainer.losses

    def watching(output: Any, label: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = losses(output, label)
        seen["logits"] = output.logits
        seen.update({term: value / betas.get(term, 1.0) for term, value in terms.items()})
        return terms

    trainer.losses = watching
    yield seen
    trainer.losses = losses


def term_gradients(
    method: str, name: str, trainer: Any, terms: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradient of each loss term alone, where it was recorded."""
    return {
        f"grad/{term}/{key}": torch.autograd.grad(value, [parameter], retain_graph=True)[0]
        for term, value in terms.items()
        for key, parameter in learned(method, trainer).items()
        if f"{name}/grad/{term}/{key}" in common.golden(method)
    }


def run_learner(method: str, name: str, folder: Path, *, textbook: bool) -> dict[str, Tensor]:
    """Steps of our CoOp or DAPT from the published start, recorded under the published names."""
    case = common.CASES[method][name]
    golden = common.golden(method)
    trainer = build(method, name, folder, textbook=textbook)
    trainer.before_train()
    trainer.close_writer()
    parameters = learned(method, trainer)
    result = {}
    if case.options.get("CTX_INIT"):
        result["init/ctx"] = parameters["ctx"].detach().clone()
    for key, value in parameters.items():
        value.data.copy_(golden[f"{name}/init/{key}"])
    options, betas = trainer.options, {}
    if method == "dapt":
        result["prototypes"] = trainer.prototypes
        betas = {"intra": options.vis_beta, "inter": options.txt_beta}

    trainer.set_model_mode("train")
    trainer.num_batches = case.batches_per_epoch
    history: dict[str, list[Tensor]] = {}
    with watched(trainer, betas) as seen:
        output = trainer.model(case.images(0))
        trainer.losses(output, case.label(0))
        result["image_features"] = output.image_features.detach()
        result["text_features"] = output.text_features.detach()
        result |= term_gradients(method, name, trainer, seen)
        for step in range(case.steps):
            trainer.batch_idx = step % case.batches_per_epoch
            lr = trainer.get_current_lr()
            batch = {"img": case.images(step), "label": case.label(step)}
            summary = trainer.forward_backward(batch)
            scalars = {
                "loss": torch.tensor(summary["loss"]),
                "lr": torch.tensor(lr, dtype=torch.float64),
            }
            for key, value in {**seen, **scalars}.items():
                history.setdefault(f"steps/{key}", []).append(value.detach().clone())
            if step == 0:
                result |= {f"grad/{key}": value.grad.clone() for key, value in parameters.items()}
    result |= {f"final/{key}": value.detach().clone() for key, value in parameters.items()}
    return result | {key: torch.stack(values) for key, values in history.items()}
