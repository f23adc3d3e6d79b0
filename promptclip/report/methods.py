"""What is particular to a method's model, in its own terms; asked while it is loaded.

An entry of `EXTRAS` takes a trainer and the data set of its test pictures, and yields data that
sections draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

WORDS, PICTURES, CLASSES = 3, 4, 3


@dataclass(frozen=True)
class Words:
    """The vocabulary's nearest entries to each learned vector.

    Attributes:
        rows: for each vector the entries, nearest first, and their distances.
    """

    rows: Sequence[Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Attention:
    """Where class-aware prompts look.

    Attributes:
        path: of the picture.
        truth: its class.
        classnames: of the candidates.
        maps: of each candidate, the share of its attention by patch, [K, rows, columns].
        on_patches: the share that falls on patches at all, [K].
    """

    path: str
    truth: str
    classnames: Sequence[str]
    maps: Tensor
    on_patches: Tensor


Extra: TypeAlias = "Words | Attention"


def words(trainer: Any, pictures: Any) -> Iterator[Extra]:
    """The context of the text tower as words."""
    context = getattr(trainer.model.text_prompter, "ctx", None)
    if isinstance(context, Tensor) and context.dim() == 2:
        yield Words(nearest_words(context, trainer.model.clip.token_embedding))


def nearest_words(context: Tensor, vocabulary: Tensor) -> list[list[tuple[str, float]]]:
    """The entries at the smallest Euclidean distance from each vector, as CoOp's paper has them.

    Args:
        context: learned vectors, [n, D].
        vocabulary: one vector for each token, [V, D].
    """
    from promptclip.clip.tokenizer import decode

    # The faster way would lose small distances in rounding.
    distance = torch.cdist(
        context.detach().float().cpu(),
        vocabulary.float().cpu(),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    found = distance.topk(WORDS, largest=False)
    return [
        [(decode([token]).strip(), far) for token, far in zip(tokens, fars, strict=True)]
        for tokens, fars in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def attention(trainer: Any, pictures: Any) -> Iterator[Extra]:
    """DPT's class-aware prompts of the last layer: what of a picture its likely classes read."""
    from promptclip.cavpt import likely_classes

    yield from words(trainer, pictures)
    model = trainer.model
    layers = list(model.visual_learner.cavpt.values())
    if not layers:
        return
    heard: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(
        lambda module, given: heard.append(module.attention(*given))
    )
    try:
        count = len(pictures)
        for index in range(0, count, max(1, count // PICTURES))[:PICTURES]:
            item = pictures[index]
            image = item["img"][None].to(trainer.device)
            heard.clear()
            model(image)
            plain = model.frozen_image_features(image)
            likely = likely_classes(plain, model.template_features(), model.n_likely)[0]
            size = [side // model.clip.config.patch_size for side in image.shape[-2:]]
            patches = heard[0][0, :CLASSES, 1 : 1 + size[0] * size[1]].float().cpu()
            yield Attention(
                item["impath"],
                model.classnames[item["label"]],
                [model.classnames[label] for label in likely[:CLASSES].tolist()],
                patches.unflatten(-1, size),
                patches.sum(-1),
            )
    finally:
        hook.remove()


# By method; all others have the words of their context.
EXTRAS: dict[str, Callable[[Any, Any], Iterator[Extra]]] = {"DPT": attention}


def extras(trainer: Any, pictures: Any) -> tuple[Extra, ...]:
    """What is to be shown of a method.

    Args:
        trainer: with its model loaded.
        pictures: of its test, as a data set of items.
    """
    return tuple(EXTRAS.get(type(trainer).__name__, words)(trainer, pictures))
