"""A published trainer, and what of it corresponds to ours: one `Spec` in each `methods/<name>.py`.

The generator of the golden numbers calls what is under "published", the tests what is under
"ours"; no published code is imported here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from parity import common
from torch import Tensor
from torch.nn import functional as F

# A loss function of torch that the published code called: the function, its arguments, its result.
Call = tuple[Callable[..., Any], tuple[Any, ...], Tensor]
# The name of a learned tensor in the published model, and in ours. "name[0]" is its first row.
Pair = tuple[str, str]


class Spec:
    """One method. Names of tensors are those of the golden files.

    Attributes:
        name: stem of the golden files.
        ours: stem of our `trainers/<ours>.py`, if it is another.
        repository: address of the published code.
        module: its module.
        trainer: its class in that module, and the name under which Dassl knows it.
        cases: the situations to compare in.
        node: the published section of `cfg.TRAINER`.
        defaults: what the published train.py puts there.
        watched: functions whose calls are loss terms.
        keeps_start: whether the published start was recorded ("init/..."); else it is drawn.
        largest: elements of a tensor that is stored whole.
        optimiser: that of the steps, in words.
        signed: whether the sums over larger ones are signed, see `common.sketch`.
    """

    name: str
    ours: str = ""
    repository: str
    module: str
    trainer: str
    cases: Mapping[str, common.Case]
    node: str
    defaults: Mapping[str, Any] = {}
    watched: Sequence[Callable[..., Any]] = (F.cross_entropy,)
    keeps_start = False
    largest = common.LARGEST
    optimiser = (
        "sgd, momentum 0.9, weight decay 5e-4; one epoch of 1e-5, then cosine over the epochs of "
        "the case, stepped by Dassl's scheduler after each epoch"
    )
    signed = False

    def learned(self, case: common.Case) -> dict[str, Pair]:
        """By short name, every learned tensor."""
        raise NotImplementedError

    # ------------------------------------------------------------ published

    def configure(self, cfg: Any, case: common.Case) -> None:
        """Fill the published `cfg` in place."""
        from yacs.config import CfgNode

        case.configure(cfg)
        options = {**self.defaults, **case.options, "PREC": "fp32"}
        cfg.TRAINER[self.node] = CfgNode(options)

    def load_clip(self, module: Any, cfg: Any, weights: dict[str, Tensor]) -> Any:
        """Build the published CLIP from weights by OpenAI's names."""
        from clip.model import build_model

        return build_model(weights)

    def prepare(self, module: Any, case: common.Case, folder: Path) -> None:
        """Write the files that the published trainer reads."""

    def build(self, published: type, cfg: Any) -> Any:
        """Make the published trainer."""
        return published(cfg)

    def run(
        self, module: Any, case: common.Case, watch: Any, folder: Path
    ) -> dict[str, Tensor] | None:
        """Record a case of published code that is no Dassl trainer; else None."""
        return None

    def features(self, trainer: Any, images: Tensor) -> dict[str, Tensor]:
        """What the published towers make of the first batch, as unit vectors."""
        model = trainer.model
        image = model.image_encoder(images)
        text = model.text_encoder(model.prompt_learner(), model.tokenized_prompts)
        return {"image_features": unit(image), "text_features": unit(text)}

    def terms(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """Loss terms without their weight, of the watched calls in a step."""
        return {"ce": calls[-1][2]}

    def logits(self, calls: Sequence[Call]) -> Tensor:
        """Logits of a step."""
        return next(args[0] for function, args, _ in calls if function is F.cross_entropy)

    def notes(self, module: Any, case: common.Case) -> dict[str, Any]:
        """What else the tests must know of a case, for the file beside the numbers."""
        templates = getattr(module, "CUSTOM_TEMPLATES", None)
        return {} if templates is None else {"template": templates[case.dataset]}

    # ----------------------------------------------------------------- ours

    def options(self, case: common.Case) -> dict[str, Any]:
        """The case in our method's keys."""
        return dict(case.options)

    def run_ours(self, trainer: Any, case: common.Case) -> dict[str, Tensor] | None:
        """The counterpart of `run`."""
        return None

    def weights(self, options: Any) -> dict[str, float]:
        """Coefficients that our `losses` multiplies into its terms."""
        return {}

    def results(self, trainer: Any) -> dict[str, Tensor]:
        """Further tensors that were recorded, before the first step."""
        return {}

    def end_epoch(self, trainer: Any) -> None:
        """What our method does at the end of an epoch besides the schedule."""

    # ---------------------------------------------------------------- start

    def start(self, name: str, short: str, shape: Sequence[int]) -> Tensor:
        """Where a learned tensor starts in a case, on both sides."""
        if any(part in short for part in ("norm", "ln")) and short.endswith("weight"):
            return common.draw(f"{self.name}/{name}/{short}", tuple(shape), 0.1, 1.0)
        std = 0.02
        if short.endswith(("weight", "weight_")) and len(shape) == 2:
            std = shape[1] ** -0.5
        elif short.endswith("bias"):
            std = 0.1
        return common.draw(f"{self.name}/{name}/{short}", tuple(shape), std)


def unit(features: Tensor) -> Tensor:
    """Unit vectors, [N, D]."""
    return features / features.norm(dim=-1, keepdim=True)


class Learned:
    """A learned tensor, or one row of it, by its path in a module."""

    def __init__(self, module: torch.nn.Module, path: str) -> None:
        path, _, row = path.partition("[")
        self.parameter = module.get_parameter(path)
        self.row = int(row.removesuffix("]")) if row else None

    def part(self, tensor: Tensor) -> Tensor:
        """Of a tensor with the parameter's shape, what belongs to this one."""
        return tensor if self.row is None else tensor[self.row]

    @property
    def value(self) -> Tensor:
        """The numbers, to be read or written."""
        return self.part(self.parameter.data)

    @property
    def gradient(self) -> Tensor:
        """What the last backward pass left; zeros if it did not come here."""
        gradient = self.parameter.grad
        return self.part(torch.zeros_like(self.parameter) if gradient is None else gradient)


@cache
def specs() -> dict[str, Spec]:
    """All of `methods/`, by name."""
    import parity.methods as package

    modules = (
        importlib.import_module(f"parity.methods.{file.name}")
        for file in pkgutil.iter_modules(package.__path__)
    )
    return {module.SPEC.name: module.SPEC for module in modules}
