"""Linear probe: logistic regression on frozen image features.

A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv 2103.00020; the few-shot baseline of K. Zhou et al., "Learning to Prompt for
Vision-Language Models", IJCV 2022, arXiv 2109.01134. The text tower is not asked. Procedure and
constants follow the published code, KaiyangZhou/CoOp ff61507, lpclip/.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from promptclip import logistic
from promptclip.benchmark import PictureSet
from promptclip.classifier import LinearClassifier
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer, unit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearProbeOptions(MethodOptions):
    """How strong the penalty is."""

    search: str = "val"  # choose C on the validation pictures; "none" takes the following
    c: float = 0.316  # inverse strength of the penalty, that of the example in openai/CLIP's README
    search_step: int = 8  # rounds of halving after the coarse list

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("search", "val", "none")
        self.check("c", self.c > 0, "greater than 0")
        self.at_least(1, "search_step")


class LinearProbeModel(PromptModel):
    """A linear layer over the raw image features."""

    learns = frozenset()  # by gradient
    transfers = False
    fitted = True

    def build(self, options: LinearProbeOptions) -> None:
        """Fitted: weights [C, D] and bias [C]."""
        self.prompt_learner = nn.Linear(self.clip.config.embed_dim, len(self.classnames))
        nn.init.zeros_(self.prompt_learner.weight)
        nn.init.zeros_(self.prompt_learner.bias)

    def forward(self, image: Tensor) -> Output:
        """Logits of images [B, 3, H, W]; the text features are the template's, and not used."""
        features = self.image_features(image).float()
        logits = self.prompt_learner(features)
        return Output(logits, unit(features), self.template_features())

    def linear_classifier(self) -> LinearClassifier:
        """The layer itself, on features that are not normalised."""
        weight, bias = (p.detach() for p in self.prompt_learner.parameters())
        return LinearClassifier(weight, bias, scale=1.0, normalise=False)


@TRAINER_REGISTRY.register()
class LinearProbe(PromptTrainer):
    """Fitted at once, on one test view of each training picture."""

    Options = LinearProbeOptions
    Model = LinearProbeModel

    def fit(self) -> None:
        """L-BFGS for one C, or for each that the search asks about."""
        cfg, options, learner = self.cfg, self.options, self.model.prompt_learner
        # Apple's GPUs have no float64
        device = torch.device("cpu") if self.device.type == "mps" else self.device
        view = build_transform(cfg, is_train=False)
        pictures = PictureSet(cfg, self.dm.dataset.train_x, transform=view)
        train, label = (x.to(device) for x in self.pictures_features(pictures))

        @functools.cache
        def solve(c: float) -> tuple[Tensor, Tensor]:
            return logistic.fit(train, label, self.num_classes, c)

        c = options.c
        if options.search == "val":
            val, val_label = (x.to(device) for x in self.validation_features())

            def accuracy(exponent: float) -> float:
                weight, bias = solve(10**exponent)
                hits = (val.double() @ weight.T + bias).argmax(-1) == val_label
                log.info("C = 1e%+.3f: %.1f %% on validation", exponent, 100 * hits.double().mean())
                return hits.double().mean().item()

            c = 10 ** logistic.search(accuracy, options.search_step)
            self.model.chosen["c"] = c
        weight, bias = solve(c)
        with torch.no_grad():
            learner.weight.copy_(weight)
            learner.bias.copy_(bias)
