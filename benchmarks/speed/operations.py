"""Floating-point operations that the towers' fast paths need, counted from sizes alone.

Products of matrices only, a multiplication and an addition each; what is computed again to save
memory does not count, nor do logits, losses and a method's own small layers. The weights are
frozen: a linear map costs as much backward as forward, a product of two activations twice as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

from torch import Tensor

from promptclip.clip.config import CLIPConfig
from promptclip.clip.model import FrozenCLIP
from promptclip.feature_cache import instead
from promptclip.prompts import TextTokens


def text_operations(
    config: CLIPConfig, prompts: TextTokens, *, images: int = 1, backward: bool
) -> int:
    """Of the text tower, for the features of all classes.

    Args:
        config: the sizes.
        prompts: the classes' token sequences.
        images: that have prompts of their own.
        backward: with the gradient of the vectors learned.
    """
    width, layers = config.text_width, config.text_layers
    shared = len(prompts.prefix_positions)
    lengths = [length for part in prompts.parts for length in part.lengths]
    classes, tokens = prompts.n_classes, sum(lengths)
    # Where the learned vectors stand: gradients go there, and each image has its own from there on
    in_prefix = len(prompts.prefix.slots) > 0
    in_own = any(len(part.rows.slots) for part in prompts.parts)
    linear = 2 if backward else 1  # times the cost of the forward pass

    total = linear * images * classes * width * config.embed_dim
    times, copies = (linear, images) if in_prefix else (1, 1)
    # Of the last block, keys and values only
    total += times * copies * shared * (12 * layers - 10) * width**2
    total += (2 * times - 1) * copies * (layers - 1) * 2 * shared**2 * width
    for layer in range(layers):
        plain, last = layer == 0 and not in_own, layer == layers - 1
        asked = classes if last else tokens
        pairs = width * sum(length * (1 if last else length) for length in lengths)
        to_prefix = width * images * asked * shared
        projections = (asked + 2 * tokens) * width**2
        total += linear * images * asked * 9 * width**2
        # Scores and weighted sums with the prefix, then among the own tokens
        behind_prefix = backward and in_prefix
        if plain:  # words alone: the same for all images, and with no gradient of their own
            total += projections + pairs + linear * images * pairs
            total += to_prefix * (1 + behind_prefix + linear + behind_prefix)
        else:
            total += linear * images * projections
            total += (2 * linear - 1) * 2 * images * pairs
            total += to_prefix * 2 * (linear + behind_prefix)
    return 2 * total


def image_operations(
    config: CLIPConfig, images: int, prompts: Sequence[int | None] = (), *, backward: bool = False
) -> int:
    """Of the image tower.

    Args:
        config: the sizes.
        images: in the batch.
        prompts: number of prompt tokens that enter each layer; None where those before stay.
        backward: with the gradient of the prompts.
    """
    width, layers = config.visual_width, config.visual_layers
    patches = (config.image_size // config.patch_size) ** 2
    entering = [*prompts, *[None] * (layers - len(prompts))]
    numbers = accumulate(entering, lambda old, new: old if new is None else new, initial=0)
    total = patches * 3 * config.patch_size**2 * width
    for layer, number in enumerate([*numbers][1:]):
        learned = backward and any(count is not None for count in entering[: layer + 1])
        linear, product = (2, 3) if learned else (1, 1)
        tokens = 1 + patches + (number or 0)
        asked = 1 if layer == layers - 1 else tokens
        total += linear * (10 * asked + 2 * tokens) * width**2
        total += product * 2 * asked * tokens * width
    total += (2 if backward else 1) * width * config.embed_dim
    return 2 * images * total


class Counter:
    """Operations of the towers since `total` was set to 0."""

    def __init__(self) -> None:
        self.total = 0

    @contextmanager
    def watching(self, clip: FrozenCLIP) -> Iterator[None]:
        """Count what a CLIP's towers are asked for inside."""
        encode_image, encode_text = clip.encode_image, clip.encode_text

        def image(pixels: Tensor, prompter: Any = None) -> Tensor:
            entered: list[int | None] = [None] * clip.config.visual_layers

            def watched(layer: int, tokens: Tensor) -> Tensor | None:
                found: Tensor | None = prompter(layer, tokens)
                entered[layer] = None if found is None else found.shape[-2]
                return found

            watched.before_norm = getattr(prompter, "before_norm", False)  # type: ignore[attr-defined]
            features = encode_image(pixels, watched if prompter is not None else None)
            backward = features.requires_grad
            self.total += image_operations(clip.config, len(pixels), entered, backward=backward)
            return features

        def text(prompts: TextTokens | Tensor, prompter: Any = None) -> Tensor:
            if isinstance(prompts, Tensor):
                prompts = TextTokens.from_numbers(clip, prompts)
            features = encode_text(prompts, prompter)
            self.total += text_operations(
                clip.config,
                prompts,
                images=len(features) if features.dim() == 3 else 1,
                backward=features.requires_grad,
            )
            return features

        with ExitStack() as stack:
            stack.enter_context(instead(clip, "encode_image", image))
            stack.enter_context(instead(clip, "encode_text", text))
            yield
