"""Class-aware visual prompts (CAVPT): tokens that depend on the image and on its likely classes.

Source: fanrena/DPT 11fef90, trainers/DPT.py; the paper's own equations were not at hand. All of it
computes in fp32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptclip.clip.model import FrozenCLIP
from promptclip.prompts import VisualTokens, normal

log = logging.getLogger(__name__)

_KEY_WIDTH = 32  # of the one attention head, lines 338 and 339


class CAVPT(nn.Module):
    """Prompts of one layer: the likely classes ask the image's tokens for what concerns them.

    With T the text features of the candidates, X the tokens that come into the layer, U the
    memory and sg a stopped gradient,

        Q = T W_p + b_p,    R = [sg(X); U],    A = softmax(Q W_q (R W_k)^T / sqrt(32)),
        O = (A R) W_v,      C = LN(O + Q).

    Args:
        clip: the frozen model.
        n_memory: rows of U that are learned here; 0 if the layer's own prompts take their place.
    """

    def __init__(self, clip: FrozenCLIP, n_memory: int) -> None:
        super().__init__()
        width = clip.config.visual_width
        self.embed = nn.Linear(clip.config.embed_dim, width)
        self.query = nn.Linear(width, _KEY_WIDTH, bias=False)
        self.key = nn.Linear(width, _KEY_WIDTH, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.memory = nn.Parameter(normal(clip, n_memory, width)) if n_memory else None

    def forward(
        self, candidates: Tensor, tokens: Tensor, prompts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What was found for each candidate, and the prompts made of it.

        Args:
            candidates: T, text features of the likely classes, not normalised, [B, K, embed_dim].
            tokens: X, class and patch tokens, [B, L, D].
            prompts: the layer's own prompts, read like X but with their gradient, [B, n, D].

        Returns:
            O and C, each [B, K, D].
        """
        asked, memory = self.embed(candidates), self._memory(tokens, prompts)
        attended = F.scaled_dot_product_attention(self.query(asked), self.key(memory), memory)
        found = self.value(attended)
        return found, self.norm(found + asked)

    def attention(self, candidates: Tensor, tokens: Tensor, prompts: Tensor | None) -> Tensor:
        """A: how much each candidate reads of every row of R, X first, [B, K, L + n]; to look at.

        Args:
            candidates: as of `forward`.
            tokens: as of `forward`.
            prompts: as of `forward`.
        """
        query, key = self.query(self.embed(candidates)), self.key(self._memory(tokens, prompts))
        weights: Tensor = (query @ key.mT / math.sqrt(_KEY_WIDTH)).softmax(-1)
        return weights

    def _memory(self, tokens: Tensor, prompts: Tensor | None) -> Tensor:
        """R, [B, L + n, D]."""
        read = [tokens.detach().float()]  # the layers below learn through the block alone
        if prompts is not None:
            read.append(prompts)
        if self.memory is not None:
            read.append(self.memory.expand(len(tokens), -1, -1))
        return torch.cat(read, 1)


class ClassAwareTokens(nn.Module):
    """Ordinary prompts in the lower layers of the image tower, class-aware ones in the upper.

    Args:
        clip: the frozen model.
        n_tokens: ordinary prompts of a layer.
        first: the first layer with class-aware prompts, from 0.
        n_memory: rows of each upper layer's U. With 0 the ordinary prompts go on in the upper
            layers: they enter the block beside the class-aware ones, and take U's place.
    """

    def __init__(self, clip: FrozenCLIP, n_tokens: int, first: int, n_memory: int) -> None:
        super().__init__()
        layers = clip.config.visual_layers
        depth = first if n_memory else layers
        self.prompts = VisualTokens(clip, n_tokens, depth=depth) if depth else None
        self.cavpt = nn.ModuleDict(
            {str(layer): CAVPT(clip, n_memory) for layer in range(first, layers)}
        )

    def forward(
        self, candidates: Callable[[], Tensor], found: list[Tensor], layer: int, tokens: Tensor
    ) -> Tensor | None:
        """Prompts of a layer, [B, n, D]. With its first two arguments bound it is a prompter.

        Args:
            candidates: gives the text features of the likely classes, not normalised,
                [B, K, embed_dim]; called in the upper layers only.
            found: to which each upper layer adds what it has found, O of `CAVPT`, [B, K, D].
            layer: number of the layer.
            tokens: class and patch tokens, [B, L, D].
        """
        own = None if self.prompts is None else self.prompts(layer, tokens)
        if str(layer) not in self.cavpt:
            return own
        of_layer, made = self.cavpt[str(layer)](candidates().float(), tokens, own)
        found.append(of_layer)
        return made if own is None else torch.cat([own, made], 1)


class ClassHeads(nn.Module):
    """Tells from what a layer found for a candidate which class it is; for training only.

    Args:
        clip: the frozen model.
        n_layers: layers with class-aware prompts.
        n_classes: C.
    """

    def __init__(self, clip: FrozenCLIP, n_layers: int, n_classes: int) -> None:
        super().__init__()
        width = clip.config.visual_width
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))
        self.classify = nn.ModuleList(
            nn.Linear(width, n_classes, bias=False) for _ in range(n_layers)
        )

    def forward(self, found: Sequence[Tensor]) -> Tensor:
        """O of each layer [B, K, D] -> H = LN(O) W_c of all of them, [B, layers, K, C]."""
        layers = zip(self.norm, self.classify, found, strict=True)
        return torch.stack([classify(norm(one)) for norm, classify, one in layers], 1)


def count_likely(wanted: int, n_classes: int) -> int:
    """How many classes of an image are taken for likely: `wanted`, or all if there are fewer."""
    if wanted > n_classes:
        log.info("only %d classes, not %d: all are likely for every image", n_classes, wanted)
    return min(wanted, n_classes)


def likely_classes(image_features: Tensor, text_features: Tensor, count: int) -> Tensor:
    """The classes whose text features are nearest to an image's, nearest first.

    Args:
        image_features: unit vectors, [B, D].
        text_features: unit vectors, [C, D].
        count: K.

    Returns:
        Their numbers, [B, K].
    """
    return (image_features @ text_features.T).topk(count).indices
