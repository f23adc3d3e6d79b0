"""Tip-Adapter: a cache of the training pictures beside CLIP's classifier.

R. Zhang, W. Zhang, R. Fang, P. Gao, K. Li, J. Dai, Y. Qiao, H. Li, "Tip-Adapter: Training-free
Adaption of CLIP for Few-shot Classification", ECCV 2022, arXiv 2207.09519. The features of the
training pictures are keys, their labels are values; Tip-Adapter-F goes on to learn the keys.
Details follow the published code, gaopengcuhk/Tip-Adapter d0e2d6f, but nothing here is chosen on
test pictures.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from promptclip.cache import Cache, search
from promptclip.templates import IMAGENET, IMAGENET_SELECT
from promptclip.trainer import MethodOptions, Output, PromptModel, PromptTrainer, unit

log = logging.getLogger(__name__)
ENSEMBLES = {"benchmark": (), "select": IMAGENET_SELECT, "imagenet": IMAGENET}


@dataclass(frozen=True)
class TipAdapterOptions(MethodOptions):
    """Defaults of the published configs/imagenet.yaml; each benchmark has its own in the yaml."""

    finetune: bool = True  # Tip-Adapter-F
    alpha: float = 1.17  # weight of the cache, in training and if not searched
    beta: float = 1.0  # sharpness, likewise
    augment_epoch: int = 10  # random views of a picture, of whose features a key is the mean
    search: str = "val"  # choose alpha and beta on the validation pictures; or "none"
    search_scale: tuple[float, float] = (7.0, 3.0)  # ends of the grid of beta and of alpha
    search_step: tuple[int, int] = (200, 20)  # numbers of its values
    templates: str = "benchmark"  # or "select", CoOp's seven; or "imagenet", OpenAI's 80

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "alpha", "beta")
        self.at_least(1, "augment_epoch")
        self.one_of("search", "val", "none")
        for name in ("search_scale", "search_step"):
            pair = getattr(self, name)
            self.check(name, len(pair) == 2 and min(pair) > 0, "two numbers greater than 0")
        self.one_of("templates", *ENSEMBLES)


class TipAdapterModel(PromptModel):
    """The cache, and a hand-written prompt's classifier."""

    learns = frozenset({"logits"})
    transfers = False

    def build(self, options: TipAdapterOptions) -> None:
        """Learned, or computed at once: the keys, [N, D]."""
        self.options, self.fitted = options, not options.finetune
        width, n_classes = self.clip.config.embed_dim, len(self.classnames)
        self.prompt_learner = Cache(self.label, width, n_classes, learned=options.finetune)

    def text_features(self) -> Tensor:
        """Means of unit vectors, as unit vectors, [C, D]."""
        return self.template_features(*ENSEMBLES[self.options.templates])

    def forward(self, image: Tensor) -> Output:
        """Logits s f W^T + alpha exp(-beta (1 - f K^T)) V of images [B, 3, H, W]."""
        options, features = self.options, self.frozen_image_features(image)
        # What was chosen is for tests: training goes on with what it began with
        chosen = {} if self.prompt_learner.training else self.chosen
        near = self.prompt_learner(features, chosen.get("beta", options.beta))
        text = self.unit_text_features()
        known = self.clip.logit_scale * features @ text.T
        return Output(known + chosen.get("alpha", options.alpha) * near, features, text)


@TRAINER_REGISTRY.register()
class TipAdapter(PromptTrainer):
    """Cross-entropy of the keys in Tip-Adapter-F; nothing is trained in Tip-Adapter."""

    Options = TipAdapterOptions
    Model = TipAdapterModel

    def fit(self) -> None:
        """All of the training-free variant."""
        self.fill_cache()
        self.choose()

    def before_train(self) -> None:
        """Where the keys start; a resumed run then finds its own."""
        self.fill_cache()
        super().before_train()

    def after_epoch(self) -> None:
        """Choose before the model is validated and saved."""
        self.choose()
        super().after_epoch()

    def fill_cache(self) -> None:
        """Keys: unit means of the raw features of random training views."""
        if self.options.search == "val":  # first, as it may be refused
            features, label = self.validation_features()
            self.validation = unit(features).to(self.device), label.to(self.device)
        if not self.cfg.MODEL.INIT_WEIGHTS:  # which bring their own
            pictures, views = self.train_loader_x.dataset, self.options.augment_epoch
            features, _ = self.pictures_features(pictures, views)
            self.model.prompt_learner.keys.data.copy_(unit(features))

    def choose(self) -> None:
        """Take the alpha and beta that are best on the validation pictures."""
        options, model = self.options, self.model
        if options.search == "val":
            features, label = self.validation
            known = model.clip.logit_scale * features @ model.unit_text_features().T
            grid = options.search_scale, options.search_step
            beta, alpha, accuracy = search(model.prompt_learner, features, label, known, *grid)
            log.info("beta %.3f, alpha %.3f: %.1f %% on validation", beta, alpha, accuracy)
            model.chosen.update(beta=beta, alpha=alpha)
