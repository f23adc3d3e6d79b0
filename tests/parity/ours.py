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
from parity.spec import Learned, Spec, specs
from torch import Tensor

from promptclip import plugins
from promptclip.clip.model import FrozenCLIP
from promptclip.config import default_cfg


@DATASET_REGISTRY.register()
class ParityPictures(DatasetBase):
    """The few-shot set of a case, written to files below DATASET.ROOT."""

    def __init__(self, cfg: Any) -> None:
        method, name = cfg.DATASET.ROOT.split("/")[-2:]
        case = specs()[method].cases[name]
        self.template = common.provenance(method)["cases"][name].get("template", "")
        folder = Path(cfg.DATASET.ROOT)
        folder.mkdir(parents=True)
        data = []
        for index, (pixels, label) in enumerate(case.pictures()):
            path = folder / f"{index}.png"
            PIL.Image.fromarray(pixels).save(path)
            data.append(Datum(impath=str(path), label=label, classname=case.classnames[label]))
        super().__init__(train_x=data, test=data)
        cfg.DATASET.NAME = case.dataset  # which a method may ask for


def build(spec: Spec, name: str, folder: Path, *, textbook: bool) -> Any:
    """Our trainer for a case."""
    case = spec.cases[name]
    cfg = default_cfg()
    cfg.TRAINER.NAME = plugins.trainer_name(spec.ours or spec.name)
    cfg.DATASET.NAME = "ParityPictures"
    cfg.DATASET.ROOT = str(folder / spec.name / name)
    cfg.OUTPUT_DIR = str(folder / "output")
    cfg.MODEL.EXACT_TEXTBOOK = textbook
    case.configure(cfg)
    for key, value in {**spec.options(case), "PREC": "fp32"}.items():
        cfg.TRAINER[cfg.TRAINER.NAME.upper()][key] = value

    def load_clip(
        _: str, *, precision: str, textbook: bool, device: Any, **others: object
    ) -> FrozenCLIP:
        weights = common.random_clip(case.clip)
        clip = FrozenCLIP(weights, common.CLIPS[case.clip], precision=precision, textbook=textbook)
        return clip.to(device)

    torch.manual_seed(common.SEED)  # where a start is compared by its spread
    with mock.patch("promptclip.trainer.load_clip", load_clip):
        return plugins.methods()[cfg.TRAINER.NAME](cfg)


def learned(spec: Spec, name: str, trainer: Any) -> dict[str, Learned]:
    """Our learned tensors by their short names, none of them left out."""
    pairs = spec.learned(spec.cases[name])
    found = {short: Learned(trainer.model, ours) for short, (_, ours) in pairs.items()}
    ours = {id(one.parameter) for one in found.values()}
    left = [n for n, p in trainer.model.named_parameters() if p.requires_grad and id(p) not in ours]
    if left:
        raise ValueError(f"{spec.name} also learns {', '.join(left)}")
    return found


@contextmanager
def watched(trainer: Any, weights: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """Keeps logits and terms, without their coefficient, as they pass through `losses`."""
    seen: dict[str, Tensor] = {}
    losses = trainer.losses

    def watching(output: Any, label: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = losses(output, label)
        seen["logits"] = output.logits
        seen.update({term: value / weights.get(term, 1.0) for term, value in terms.items()})
        return terms

    trainer.losses = watching
    yield seen
    trainer.losses = losses


def term_gradients(
    recorded: set[str], own: dict[str, Learned], terms: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradient of each loss term alone, where it was recorded."""
    return {
        key: one.part(torch.autograd.grad(value, [one.parameter], retain_graph=True)[0])
        for term, value in terms.items()
        for short, one in own.items()
        if (key := f"grad/{term}/{short}") in recorded
    }


def run(spec: Spec, name: str, folder: Path, *, textbook: bool) -> dict[str, Tensor]:
    """Features and, if there is something to learn, every step, under the published names."""
    case = spec.cases[name]
    trainer = build(spec, name, folder, textbook=textbook)
    own_loop = spec.run_ours(trainer, case)
    if own_loop is not None:
        return own_loop
    if not spec.learned(case):
        with torch.no_grad():
            output = trainer.model(case.images(0))
        return {
            "image_features": output.image_features,
            "text_features": output.text_features,
            "logits": output.logits,
        }
    trainer.before_train()
    trainer.close_writer()
    own = learned(spec, name, trainer)
    result = {}
    if case.options.get("CTX_INIT"):
        result["init/ctx"] = own["ctx"].value.clone()
    golden = common.golden_case(spec.name, name)
    for short, one in own.items():
        start = golden.get(f"init/{short}")
        one.value.copy_(spec.start(name, short, one.value.shape) if start is None else start)
    result |= spec.results(trainer)

    trainer.set_model_mode("train")
    trainer.num_batches = case.batches_per_epoch
    recorded = {key.split("#")[0] for key in golden}
    history: dict[str, list[Tensor]] = {}
    with watched(trainer, spec.weights(trainer.options)) as seen:
        trainer.epoch = 0
        output = trainer.model(case.images(0))
        trainer.losses(output, case.label(0))
        result["image_features"] = output.image_features.detach()
        result["text_features"] = output.text_features.detach()
        result |= term_gradients(recorded, own, seen)
        for step in range(case.steps):
            trainer.epoch, trainer.batch_idx = divmod(step, case.batches_per_epoch)
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
                result |= {f"grad/{short}": one.gradient.clone() for short, one in own.items()}
            if trainer.batch_idx + 1 == case.batches_per_epoch:
                spec.end_epoch(trainer)
    result |= {f"final/{short}": one.value.clone() for short, one in own.items()}
    return result | {key: torch.stack(values) for key, values in history.items()}
