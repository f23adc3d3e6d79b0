"""Tip-Adapter: gaopengcuhk/Tip-Adapter, main.py and utils.py, functions over loaders.

Its logits have a scale of 100 written into them, and its validation and test pictures are loaded
as features. Random views are drawn here, so that both sides average the same ones.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from parity.common import CLIPS, LONGEST, MANY, NAMES, Case, draw, random_clip
from parity.spec import Spec
from torch import Tensor
from torch.nn import functional as F

MODULES = {"DescribableTextures": "dtd", "FGVCAircraft": "fgvc", "ImageNet": "imagenet"}
STEPS = 5
FAINT = 0.7  # spread of a pattern; 1 is that of the noise


def cases() -> dict[str, Case]:
    """Published grids and weights, coarser, on every shape; one and several views and shots."""

    def options(scale: tuple[float, float], alpha: float, **others: Any) -> dict[str, Any]:
        grid = {"SEARCH_SCALE": scale, "SEARCH_STEP": (40, 10)}
        return {"ALPHA": alpha, "AUGMENT_EPOCH": 3, **grid, **others}

    first = Case("tiny", NAMES, options((12.0, 10.0), 2.0), lr=0.001)
    select = options((7.0, 3.0), 1.17, TEMPLATES="select")
    return {
        "eurosat": first,
        "imagenet": Case("deep", NAMES, select, dataset="ImageNet", shots=3, lr=0.001),
        "dtd": Case(
            "one_block", NAMES[:5], options((13.0, 13.0), 2.0), dataset="DescribableTextures"
        ),
        "aircraft": Case(
            "tiny", MANY[:20], options((30.0, 30.0), 5.0, AUGMENT_EPOCH=1), dataset="FGVCAircraft"
        ),
        "sharp": Case("deep", NAMES, options((50.0, 50.0), 10.0, BETA=5.5), shots=1, lr=0.1),
        "two-classes": Case("deep", ("dog", "cat"), options((7.0, 3.0), 3.0), shots=4),
        "longest": Case("tiny", (LONGEST, "cat", "dog"), options((7.0, 3.0), 3.0)),
    }


@lru_cache(maxsize=3)
def views(part: str, label: tuple[int, ...], size: int, number: int) -> Tensor:
    """Pictures in some pass: the pattern of a class, faint in much noise."""
    patterns = draw(f"tip/patterns/{size}", (max(label) + 1, 3, size, size), FAINT)
    noise = draw(f"tip/{part}/{size}/{number}", (len(label), 3, size, size), 1.0)
    return patterns[list(label)] + noise


@dataclass
class Pictures:
    """Pictures that look different in each pass, in batches or one by one."""

    case: Case
    part: str
    label: list[int]
    dtype: torch.dtype = torch.float32
    batch: int = 4
    seen: int = field(default=0, init=False)

    def view(self, number: int) -> Tensor:
        """All pictures as they look in a pass, [N, 3, H, W]."""
        size = CLIPS[self.case.clip].image_size
        return views(self.part, tuple(self.label), size, number).to(self.dtype)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For the published code."""
        images = self.view(self.seen).split(self.batch)
        self.seen += 1
        return iter(zip(images, torch.tensor(self.label).split(self.batch), strict=True))

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """For ours."""
        image = self.view(self.seen)[index]
        self.seen += index + 1 == len(self)
        return {"img": image, "label": self.label[index]}

    def decode(self) -> None:
        """There are no files."""


def pictures(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Pictures]:
    """For training, validation and test."""
    n = len(case.classnames)
    labels = {
        "train": [label for _, label in case.pictures()],
        "val": [i % n for i in range(4 * n)],
        "test": [i % n for i in range(3 * n)],
    }
    return {part: Pictures(case, part, label, dtype) for part, label in labels.items()}


class TipAdapter(Spec):
    """The cache, the searches with and without learned keys, and five steps in between."""

    name = "tip_adapter"
    repository = "https://github.com/gaopengcuhk/Tip-Adapter"
    module = "main"
    trainer = "Tip-Adapter"
    cases = cases()
    optimiser = f"adamw, epsilon 1e-4; cosine over the {STEPS} steps of one epoch"

    def learned(self, case: Case) -> Mapping[str, Any]:
        """Nothing for the generic loop."""
        return {}

    def templates(self, case: Case) -> list[str]:
        """Of the published data set."""
        stem = MODULES.get(case.dataset, case.dataset.lower())
        module = importlib.import_module(f"datasets.{stem}")
        found: list[str] = (
            module.imagenet_templates if case.dataset == "ImageNet" else module.template
        )
        return found

    def notes(self, module: Any, case: Case) -> dict[str, Any]:
        """The prompt, where it is one."""
        templates = self.templates(case)
        return {"template": templates[0]} if len(templates) == 1 else {}

    def run(self, module: Any, case: Case, watch: Any, folder: Path) -> dict[str, Tensor]:
        """Its functions in the order of its `main`."""
        from clip.model import build_model

        weights = {key: value.clone() for key, value in random_clip(case.clip).items()}
        model = build_model(weights).to(watch.dtype)
        parts, options = pictures(case, watch.dtype), case.options
        cfg = {
            "cache_dir": str(folder),
            "load_cache": False,
            "load_pre_feat": False,
            "augment_epoch": options["AUGMENT_EPOCH"],
            "search_hp": True,
            "search_scale": options["SEARCH_SCALE"],
            "search_step": options["SEARCH_STEP"],
            "init_alpha": options["ALPHA"],
            "init_beta": options.get("BETA", 1.0),
            "shots": case.shots,
            "lr": case.lr,
            "train_epoch": 1,
        }
        text = module.clip_classifier(case.classnames, self.templates(case), model)
        keys, values = module.build_cache_model(cfg, model, parts["train"])
        result = {"text_features": text.T.clone(), "keys": keys.T.clone()}
        features = [
            tensor
            for part in ("val", "test")
            for tensor in module.pre_load_features(cfg, part, model, parts[part])
        ]
        published_search = module.search_hp
        record = Record(published_search)
        optimisers: list[Any] = []

        class Optimiser(torch.optim.AdamW):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                optimisers.append(self)
                self.gradients: list[Tensor] = []
                self.rates: list[float] = []

            def step(self, closure: Any = None) -> Any:
                (group,) = self.param_groups
                self.gradients.append(group["params"][0].grad.clone())
                self.rates.append(group["lr"])
                return super().step(closure)

        utils = sys.modules[published_search.__module__]
        with (
            # NumPy has stopped to make a number of an array [1]
            mock.patch.object(utils, "float", lambda array: array.item(), create=True),
            mock.patch.object(module, "search_hp", record.search),
            mock.patch.object(module, "cls_acc", record.accuracy(module.cls_acc)),
            mock.patch("torch.optim.AdamW", Optimiser),
        ):
            module.run_tip_adapter(cfg, keys, values, *features, text)
            # Called for: zero-shot and cache on validation; the same on test
            _, result["start/logits"], _, result["free/logits"] = record.logits
            result |= record.found("free")
            record.logits.clear()
            batches = [
                (case.images(step).to(watch.dtype), case.label(step)) for step in range(STEPS)
            ]
            watch.calls.clear()
            module.run_tip_adapter_F(cfg, keys, values, *features, text, model, batches)
            result["learned/logits"] = record.logits[-1]
            result |= record.found("learned")
        steps = [(args[0], loss) for f, args, loss in watch.calls if f is F.cross_entropy]
        (optimiser,) = optimisers
        return result | {
            "steps/logits": torch.stack([logits for logits, _ in steps]).detach(),
            "steps/loss": torch.stack([loss for _, loss in steps]).detach(),
            "steps/lr": torch.tensor(optimiser.rates, dtype=torch.float64),
            "grad/keys": optimiser.gradients[0],
            "final/keys": record.keys,
        }

    def options(self, case: Case) -> dict[str, Any]:
        """The case in our keys."""
        return dict(case.options)

    def run_ours(self, trainer: Any, case: Case) -> dict[str, Tensor]:
        """The published optimiser from outside; everything else is the trainer's."""
        model, learner = trainer.model, trainer.model.prompt_learner
        parts = pictures(case)
        model.clip.logit_scale.fill_(100.0)
        trainer.train_loader_x = SimpleNamespace(dataset=parts["train"])
        trainer.validation_features = lambda: trainer.pictures_features(parts["val"])
        val, test = parts["val"].view(0), parts["test"].view(0)

        def tested(name: str) -> dict[str, Tensor]:
            trainer.choose()
            trainer.set_model_mode("eval")
            with torch.no_grad():
                logits = model(test).logits
            trainer.set_model_mode("train")
            chosen = [model.chosen["beta"], model.chosen["alpha"]]
            return {f"{name}/chosen": torch.tensor(chosen), f"{name}/logits": logits}

        trainer.fill_cache()
        with torch.no_grad():
            result = {
                "keys": learner.keys.detach().clone(),
                "text_features": model.unit_text_features(),
                "start/logits": model(val).logits,
                **tested("free"),
            }
        optimiser = torch.optim.AdamW([learner.keys], case.lr, eps=1e-4)
        trainer._optims["prompt_learner"] = optimiser
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        trainer._scheds["prompt_learner"] = scheduler
        trainer.num_batches, trainer.batch_idx = 1, 0
        logits, losses, rates = [], [], []
        for step in range(STEPS):
            batch = {"img": case.images(step), "label": case.label(step)}
            with torch.no_grad():
                logits.append(model(batch["img"]).logits)
            rates.append(trainer.get_current_lr())
            losses.append(trainer.forward_backward(batch)["loss"])
            if step == 0:
                result["grad/keys"] = learner.keys.grad.clone()
        return {
            **result,
            **tested("learned"),
            "steps/logits": torch.stack(logits),
            "steps/loss": torch.tensor(losses),
            "steps/lr": torch.tensor(rates, dtype=torch.float64),
            "final/keys": learner.keys.detach().clone(),
        }


class Record:
    """What passes through the published functions."""

    def __init__(self, search: Any) -> None:
        self._search = search
        self.logits: list[Tensor] = []
        self.best = torch.zeros(2)
        self.keys = torch.zeros(0)

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """In place of `search_hp`: note its result, and the keys if they are learned."""
        if "adapter" in kwargs:
            self.keys = kwargs["adapter"].weight.detach().clone()
        best = self._search(*args, **kwargs)
        self.best = torch.tensor(best)
        return best

    def accuracy(self, published: Any) -> Any:
        """In place of the `cls_acc` of main.py: note the logits."""

        def noting(logits: Tensor, label: Tensor) -> Any:
            self.logits.append(logits.detach().clone())
            return published(logits, label)

        return noting

    def found(self, name: str) -> dict[str, Tensor]:
        """The last search."""
        return {f"{name}/chosen": self.best}


SPEC = TipAdapter()
