"""Losses that any method can take on by configuration.

A regulariser is a dataclass of options with a method `terms`, registered by `@regularizer`. The
key `TRAINER.REGULARIZERS` names those that a run takes on, and a field `w` of the regulariser
"kgcoop" is the key `REGULARIZER.KGCOOP.W`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from promptclip.errors import UserError
from promptclip.losses import (
    ISOMORPHISM_FORMS,
    LANGUAGE_FORMS,
    inter_dispersion,
    intra_dispersion,
    knowledge_distance,
    language_modality_collapse,
    multi_modality_isomorphism,
)

if TYPE_CHECKING:
    from torch import Tensor

    from promptclip.trainer import Output, PromptTrainer

log = logging.getLogger(__name__)

_REGISTRY: dict[str, type[Regularizer]] = {}
_Class = TypeVar("_Class", bound="type[Regularizer]")


@dataclass
class Regularizer:
    """Options of a regulariser, and its terms.

    Attributes:
        name: in the configuration.
        acts_on: "text" and "image" features; a method must learn one of them.
    """

    name: ClassVar[str]
    acts_on: ClassVar[frozenset[str]]

    def check(self, field: str, ok: bool, expected: str) -> None:
        """Refuse the value of a field unless `ok`."""
        if not ok:
            key = f"REGULARIZER.{self.name.upper()}.{field.upper()}"
            raise UserError(f"{key} must be {expected}, got {getattr(self, field)!r}")

    def prepare(self, trainer: PromptTrainer) -> None:
        """Compute what the terms need, before the first epoch and after the model is built."""

    def terms(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """Named, already weighted terms, added to the method's own."""
        raise NotImplementedError


def regularizer(cls: _Class) -> _Class:
    """Register a class under its `name`."""
    _REGISTRY[cls.name] = cls
    return cls


def defaults() -> dict[str, dict[str, Any]]:
    """The options of every regulariser, as configuration keys."""
    return {
        name.upper(): {key.upper(): value for key, value in asdict(cls()).items()}
        for name, cls in _REGISTRY.items()
    }


def build(cfg: Any) -> list[Regularizer]:
    """Those that a configuration names.

    Raises:
        UserError: one is unknown, named twice, has an option out of range, or acts on nothing that
            the method learns.
    """
    from promptclip import plugins

    wanted = [str(name).lower() for name in cfg.TRAINER.REGULARIZERS]
    learned = plugins.methods()[cfg.TRAINER.NAME].Model.learns
    for name in wanted:
        if name not in _REGISTRY or wanted.count(name) > 1:
            raise UserError(
                f"TRAINER.REGULARIZERS must name some of {', '.join(sorted(_REGISTRY))}, each "
                f"once; got {', '.join(wanted)}"
            )
        acts_on = _REGISTRY[name].acts_on
        if not acts_on & learned:
            raise UserError(
                f"the regulariser {name!r} acts on {' and '.join(sorted(acts_on))} features, but "
                f"{cfg.TRAINER.NAME} learns neither; leave it out of TRAINER.REGULARIZERS"
                if len(acts_on) > 1
                else f"the regulariser {name!r} acts on {min(acts_on)} features, but "
                f"{cfg.TRAINER.NAME} does not learn them; leave it out of TRAINER.REGULARIZERS"
            )
    nodes = {name: cfg.REGULARIZER[name.upper()] for name in wanted}
    return [
        _REGISTRY[name](**{key.lower(): value for key, value in node.items()})
        for name, node in nodes.items()
    ]


@regularizer
@dataclass
class KnowledgeDistance(Regularizer):
    """KgCoOp's distance between the text features and those of a hand-written prompt."""

    name: ClassVar[str] = "kgcoop"
    acts_on: ClassVar[frozenset[str]] = frozenset({"text"})
    w: float = 8.0  # lambda
    template: str = ""  # the prompt, with {} for the class name; "" is the benchmark's

    def __post_init__(self) -> None:
        self.check("w", self.w >= 0, "at least 0")
        self.check("template", not self.template or "{}" in self.template, 'text with "{}"')

    def prepare(self, trainer: PromptTrainer) -> None:
        """The features of the hand-written prompt."""
        self.known = trainer.model.template_features(self.template)

    def terms(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """One term."""
        return {"kgcoop": self.w * knowledge_distance(output.text_features, self.known)}


@regularizer
@dataclass
class Dispersion(Regularizer):
    """DAPT's two losses, each where the method learns the features that it is a loss of."""

    name: ClassVar[str] = "dapt"
    acts_on: ClassVar[frozenset[str]] = frozenset({"text", "image"})
    vis_beta: float = 0.1  # beta_v, weight of the intra-dispersion of image features
    txt_beta: float = 0.1  # beta_t, weight of the inter-dispersion of text features
    txt_rbf_t: float = 2.0  # t of the Gaussian kernel

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            self.check(name, value >= 0, "at least 0")

    def prepare(self, trainer: PromptTrainer) -> None:
        """The prototypes."""
        self.learned = trainer.model.learns
        if "image" in self.learned:
            self.prototypes = trainer.class_means()

    def terms(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """One or two terms."""
        terms = {}
        if "image" in self.learned:
            intra = intra_dispersion(output.image_features, self.prototypes, label)
            terms["dapt_intra"] = self.vis_beta * intra
        if "text" in self.learned:
            inter = inter_dispersion(output.text_features, self.txt_rbf_t)
            terms["dapt_inter"] = self.txt_beta * inter
        return terms


@regularizer
@dataclass
class NeuralCollapse(Regularizer):
    """NPT-style losses, forms and weights chosen here: `docs/methods/npt.md` says what is known."""

    name: ClassVar[str] = "npt"
    acts_on: ClassVar[frozenset[str]] = frozenset({"text", "image"})
    lc: str = "target"  # form of the language-modality collapse
    mi: str = "means"  # form of the multi-modality isomorphism
    lc_weight: float = 0.1  # lambda_1
    mi_weight: float = 0.1  # lambda_2

    def __post_init__(self) -> None:
        self.check("lc", self.lc in LANGUAGE_FORMS, f"one of {', '.join(LANGUAGE_FORMS)}")
        self.check("mi", self.mi in ISOMORPHISM_FORMS, f"one of {', '.join(ISOMORPHISM_FORMS)}")
        for name in ("lc_weight", "mi_weight"):
            self.check(name, getattr(self, name) >= 0, "at least 0")

    def prepare(self, trainer: PromptTrainer) -> None:
        """Find out what the method learns."""
        log.info("regulariser npt is NPT-style: its forms and weights are not the paper's")
        self.learned = trainer.model.learns

    def terms(self, output: Output, label: Tensor) -> dict[str, Tensor]:
        """The isomorphism, and the collapse where text features are learned."""
        image, text = output.image_features, output.text_features
        isomorphism = multi_modality_isomorphism(image, text, label, self.mi)
        terms = {"npt_mi": self.mi_weight * isomorphism}
        if "text" in self.learned:
            terms["npt_lc"] = self.lc_weight * language_modality_collapse(text, self.lc)
        return terms
