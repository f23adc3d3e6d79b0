"""Where learned vectors stand in the text, and which tokens are put into the image tower."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from promptclip.clip.graphs import Recorded
from promptclip.clip.model import FrozenCLIP
from promptclip.clip.shared_prefix import TOKENS_AT_ONCE, encode
from promptclip.clip.tokenizer import tokenize
from promptclip.errors import UserError

log = logging.getLogger(__name__)

POSITIONS = ("end", "middle", "front")
_NORMAL = partial(nn.init.normal_, std=0.02)  # the field's start of prompts


class Rows(nn.Module):
    """Token vectors by number, where the numbers behind the vocabulary are learned vectors.

    Number `vocab_size + m` stands for row m of what a prompter returns. Only the words that occur
    are kept, so a model with 49,408 words costs no more than one with 100.
    """

    fixed: Tensor
    index: Tensor
    slots: Tensor
    numbers: Tensor

    def __init__(self, clip: FrozenCLIP, numbers: Tensor) -> None:
        super().__init__()
        vocabulary = clip.config.vocab_size
        is_learned = numbers >= vocabulary
        words, index = torch.unique(numbers.masked_fill(is_learned, 0), return_inverse=True)
        index = torch.where(is_learned, numbers - vocabulary + len(words), index)
        device = clip.device
        self.register_buffer("fixed", clip.token_embedding[words.to(device)], persistent=False)
        self.register_buffer("index", index.to(device), persistent=False)
        slots = is_learned.nonzero()[:, 0]
        self.register_buffer("slots", slots.to(device), persistent=False)
        learned = numbers[slots] - vocabulary
        self.register_buffer("numbers", learned.to(device), persistent=False)

    def embed(self, learned: Tensor | None) -> Tensor:
        """Vectors [L, D], or [B, L, D] if there are slots and `learned` is [B, M, D]."""
        if not len(self.slots):
            return self.fixed[self.index]
        if learned is None:
            raise ValueError("these prompts have slots for learned vectors: give a prompter")
        learned = learned.to(self.fixed.dtype)
        fixed = self.fixed.expand(*learned.shape[:-2], -1, -1)
        return torch.cat([fixed, learned], -2)[..., self.index, :]

    def replace(self, x: Tensor, learned: Tensor | None, first: int = 0) -> Tensor:
        """Slots filled anew.

        Args:
            x: [..., L, D], in which these are the rows from `first`.
            learned: the vectors, [M, D] or [B, M, D].
            first: number of a row.

        Returns:
            As `x`; `x` itself if there is nothing to fill.
        """
        if learned is None or not len(self.slots):
            return x
        return x.index_copy(-2, self.slots + first, learned.to(x.dtype)[..., self.numbers, :])


def group_cost(device: torch.device, dtype: torch.dtype) -> int:
    """What a group of classes costs more than its tokens, as a number of tokens.

    A GPU is asked for some eighty operations for each group and block, each of which takes longer
    to ask for than to compute. A CPU computes some tokens in that time in half precision, few in
    fp32.
    """
    if device.type == "cuda":
        return 2048
    return 0 if dtype == torch.float32 else 16


def group_lengths(lengths: Sequence[int], cost: int) -> list[int]:
    """To how many tokens each sequence is padded, so that groups and padding cost least together.

    Args:
        lengths: of the sequences, ascending.
        cost: of a group, in tokens; with 0 nothing is padded.
    """
    counts = sorted(Counter(lengths).items())
    best: list[tuple[int, list[int]]] = [(0, [])]  # by number of lengths: cost, ends of the groups
    for last in range(1, len(counts) + 1):
        longest = counts[last - 1][0]
        best.append(
            min(
                (best[first][0] + cost + longest * sum(n for _, n in counts[first:last]),
                 [*best[first][1], longest])
                for first in range(last)
            )
        )  # fmt: skip
    ends = best[-1][1]
    return [ends[bisect_left(ends, length)] for length in lengths]


class OwnTokens(nn.Module):
    """What some classes' sequences have behind the tokens that all begin with.

    Args:
        clip: the model whose words they are.
        sequences: token numbers of each class to end-of-text, sorted by length.
        first: position of their first token.

    Attributes:
        groups: (classes, tokens of each) of the runs of classes with equally many tokens, padding
            among them.
        lengths: of the sequences, without padding.
        positions: of the tokens in the text, [T].
        first: position of the first, and how many stand before them.
        ends: where the classes' end-of-text tokens are, counted from the text's start, [C].
        causal: what no token may see of the tokens of its class, or of those before, [L, L] for
            the longest.
        behind: what an end-of-text token may not see of them, [C, 1, L]; None without padding.
    """

    positions: Tensor
    ends: Tensor
    causal: Tensor
    behind: Tensor | None

    def __init__(self, clip: FrozenCLIP, sequences: Sequence[Sequence[int]], first: int) -> None:
        super().__init__()
        self.first = first
        self.lengths = lengths = [len(sequence) for sequence in sequences]
        padded = group_lengths(lengths, group_cost(clip.device, clip.dtype))
        self.groups = [(count, length) for length, count in sorted(Counter(padded).items())]
        filled = [[*row, *[0] * (n - len(row))] for row, n in zip(sequences, padded, strict=True)]
        self.rows = Rows(clip, torch.tensor([*chain.from_iterable(filled)]))
        own, longest = torch.arange(padded[-1]), torch.arange(max(padded[-1], first))
        last = torch.tensor(lengths) - 1
        behind = (own > last[:, None])[:, None] if padded != lengths else None
        for name, numbers in {
            "positions": torch.tensor([first + i for length in padded for i in range(length)]),
            "ends": first + torch.tensor([0, *padded[:-1]]).cumsum(0) + last,
            "causal": longest > longest[:, None],
            "behind": behind,
        }.items():
            on_device = None if numbers is None else numbers.to(clip.device)
            self.register_buffer(name, on_device, persistent=False)

    def hidden(self, *, ends: bool) -> list[Tensor | None]:
        """What tokens may not see of their class's: those before, which are one, and each group.

        Masks [L, L]; with `ends`, of what end-of-text tokens may not see, [C, 1, L] or None.
        """
        lengths = [self.first, *(length for _, length in self.groups)]
        if not ends:
            return [self.causal[:length, :length] for length in lengths]
        if self.behind is None:
            return [None for _ in lengths]
        masks = self.behind.split([classes for classes, _ in self.groups])
        return [
            None,
            *(mask[..., :length] for mask, length in zip(masks, lengths[1:], strict=True)),
        ]


def _parts(sequences: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
    """Runs of sequences that have about `TOKENS_AT_ONCE` tokens together."""
    first = tokens = 0
    for last, sequence in enumerate(sequences):
        if tokens and tokens + len(sequence) > TOKENS_AT_ONCE:
            yield sequences[first:last]
            first, tokens = last, 0
        tokens += len(sequence)
    yield sequences[first:]


class TextTokens(nn.Module):
    """The token sequences of all classes, taken apart for both paths through the text tower.

    Args:
        clip: the model whose words they are.
        sequences: for each class the token numbers from start-of-text to end-of-text;
            `vocab_size + m` is a slot for the learned vector m.
        classnames: for error messages.

    Raises:
        UserError: a sequence is longer than the tower's context.
    """

    full_ends: Tensor
    prefix_positions: Tensor
    in_class_order: Tensor
    parts: Any  # a ModuleList forgets that its items are `OwnTokens`

    def __init__(
        self, clip: FrozenCLIP, sequences: Sequence[Sequence[int]], classnames: Sequence[str] = ()
    ) -> None:
        super().__init__()
        context = clip.config.context_length
        lengths = [len(sequence) for sequence in sequences]
        if max(lengths) > context:
            longest = lengths.index(max(lengths))
            name = f" of class {classnames[longest]!r}" if classnames else ""
            learned = sum(number >= clip.config.vocab_size for number in sequences[longest])
            raise UserError(
                f"the prompt{name} has {lengths[longest]} tokens, {learned} of them learned, but "
                f"this text tower reads {context}: take fewer context tokens or a shorter name"
            )
        self.n_classes = len(sequences)
        self._recorded: Recorded | None = None
        # Textbook: every sequence padded to the whole context.
        padded = [list(sequence) + [0] * (context - len(sequence)) for sequence in sequences]
        if clip.textbook:
            self.full = Rows(clip, torch.tensor(padded).flatten())
        ends = torch.arange(self.n_classes) * context + torch.tensor(lengths) - 1
        # Fast: what all sequences begin with, then every sequence's own tokens, sorted by length.
        shared = 0
        while shared < min(lengths) - 1 and len({row[shared] for row in sequences}) == 1:
            shared += 1
        order = sorted(range(self.n_classes), key=lengths.__getitem__)
        self.prefix = Rows(clip, torch.tensor(sequences[0][:shared], dtype=torch.long))
        parts = _parts([sequences[c][shared:] for c in order])
        self.parts = nn.ModuleList(OwnTokens(clip, part, shared) for part in parts)
        for name, numbers in {
            "full_ends": ends,
            "prefix_positions": torch.arange(shared),
            "in_class_order": torch.tensor(order).argsort(),
        }.items():
            self.register_buffer(name, numbers.to(clip.device), persistent=False)

    def recorded(self, clip: FrozenCLIP) -> Recorded:
        """The way of these sequences through the text tower, recorded once."""
        if self._recorded is None:
            self._recorded = Recorded(partial(encode, clip, self))
        return self._recorded

    @classmethod
    def from_numbers(cls, clip: FrozenCLIP, numbers: Tensor) -> TextTokens:
        """From token numbers [C, 77]; end-of-text is the largest number of each row."""
        ends = numbers.argmax(-1).tolist()
        return cls(clip, [row[: end + 1] for row, end in zip(numbers.tolist(), ends, strict=True)])


class TextContext(nn.Module):
    """Learned context vectors around every class name (CoOp, Eq. 2 and 3).

    The state dict holds `ctx`, with `depth` above 1 also `deep`, and nothing else, so a checkpoint
    loads strictly into other classes. It is a prompter for `tokens`.

    Args:
        clip: the frozen model.
        classnames: names, "_" read as a space, [C].
        n_ctx: number of context vectors.
        ctx_init: words to start from; their number then replaces `n_ctx`. Else N(0, 0.02^2).
        keep_rest: learn only the first `n_ctx` tokens of `ctx_init`; the others stay words.
        csc: vectors of their own for each class, which cannot be used for other classes.
        position: of the class name: "end", "middle" or "front".
        depth: number of layers, from the first, that get vectors of their own.

    Raises:
        UserError: `ctx_init` has fewer tokens than are to be learned.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classnames: Sequence[str],
        *,
        n_ctx: int = 16,
        ctx_init: str = "",
        keep_rest: bool = False,
        csc: bool = False,
        position: str = "end",
        depth: int = 1,
    ) -> None:
        super().__init__()
        rest: list[int] = []
        if ctx_init:
            ctx = word_vectors(clip, ctx_init)
            if keep_rest:
                if len(ctx) < n_ctx:
                    raise UserError(
                        f"CTX_INIT must be empty, for a random start, or have a token for each of "
                        f"the {n_ctx} context vectors; {ctx_init!r} has {len(ctx)}"
                    )
                ctx = ctx[:n_ctx]
                rest = _own_tokens(ctx_init.replace("_", " "))[n_ctx:-1]
            n_ctx = len(ctx)
            log.info("context starts from %r: %d tokens", ctx_init, n_ctx)
            ctx = ctx.expand(len(classnames), -1, -1) if csc else ctx
        else:
            own = (len(classnames), n_ctx) if csc else (n_ctx,)
            ctx = normal(clip, *own, clip.config.text_width)
        self.ctx = nn.Parameter(ctx.clone().contiguous())
        if depth > 1:
            self.deep = nn.Parameter(normal(clip, depth - 1, *ctx.shape))
        self.depth = depth
        self.tokens = context_tokens(
            clip, classnames, n_ctx, csc=csc, position=position, words=rest
        )

    def forward(self, layer: int, tokens: Tensor | None) -> Tensor | None:
        """Vectors of this layer, [n_ctx, D]; class-specific ones one class after the other."""
        if layer >= self.depth:
            return None
        ctx = self.deep[layer - 1] if layer else self.ctx
        return ctx.flatten(0, -2)


def context_tokens(
    clip: FrozenCLIP,
    classnames: Sequence[str],
    n_ctx: int,
    *,
    csc: bool = False,
    position: str = "end",
    words: Sequence[int] = (),
) -> TextTokens:
    """Token sequences of all classes with `n_ctx` slots around every name, and a full stop.

    Args:
        clip: the frozen model.
        classnames: names, "_" read as a space, [C].
        n_ctx: slots of each class.
        csc: slots of their own for each class: the vectors m of class c have number c * n_ctx + m.
        position: of the class name: "end", "middle" or "front".
        words: tokens that stand before every name and stay what they are.

    Raises:
        UserError: a prompt is longer than the tower's context.
    """
    start = int(tokenize([""])[0, 0])
    sequences = []
    for c, name in enumerate(name.replace("_", " ") for name in classnames):
        first = clip.config.vocab_size + (c * n_ctx if csc else 0)
        slots = list(range(first, first + n_ctx))
        own = [*words, *_own_tokens(f"{name}.")]
        named = len(words) + len(_own_tokens(name)) - 1
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        sequences.append([start, *slots[:before], *own[:named], *slots[before:], *own[named:]])
    return TextTokens(clip, sequences, classnames)


def word_vectors(clip: FrozenCLIP, text: str) -> Tensor:
    """Vectors of the tokens of some words, "_" read as a space, in fp32, [n, D].

    Raises:
        UserError: if there are none.
    """
    words = _own_tokens(text.replace("_", " "))[:-1]
    if not words:
        raise UserError(f"{text!r} has no word to start from; give some, such as a_photo_of_a")
    return clip.token_embedding[torch.tensor(words, device=clip.device)].float()


def normal(clip: FrozenCLIP, *shape: int) -> Tensor:
    """Random vectors from N(0, 0.02^2), the field's start, on the device of `clip`.

    Drawn on the CPU, so that a seed means the same start on a GPU.
    """
    random: Tensor = _NORMAL(torch.empty(shape)).to(clip.device)
    return random


def _own_tokens(text: str) -> list[int]:
    """Token numbers of a text without start-of-text, with end-of-text."""
    row = tokenize([text])[0]
    numbers: list[int] = row[1 : int(row.argmax()) + 1].tolist()
    return numbers


class VisualTokens(nn.Module):
    """Learned tokens behind the patch tokens (VPT): at the first layer, or at `depth` layers.

    Args:
        clip: the frozen model.
        n_tokens: tokens for each prompted layer.
        depth: number of prompted layers, from the first.
        init: a function that fills a tensor [depth, n_tokens, D] in place; default N(0, 0.02^2).
        dropout: probability of dropping an element of an image's tokens while training.
        before_norm: the first layer's tokens enter before `ln_pre`.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        n_tokens: int,
        *,
        depth: int = 1,
        init: Any = _NORMAL,
        dropout: float = 0.0,
        before_norm: bool = False,
    ) -> None:
        super().__init__()
        ctx = torch.empty(depth, n_tokens, clip.config.visual_width)
        self.ctx = nn.Parameter(init(ctx).to(clip.device))
        self.dropout = nn.Dropout(dropout)
        self.before_norm = before_norm

    def forward(self, layer: int, tokens: Tensor) -> Tensor | None:
        """The tokens of this layer, [B, n_tokens, D]."""
        if layer >= len(self.ctx):
            return None
        own: Tensor = self.dropout(self.ctx[layer].expand(len(tokens), -1, -1))
        return own


class LayerTokens:
    """A prompter of tokens that were computed elsewhere.

    Args:
        tokens: of the first layers, each [n, D], or [B, n, D] where every image has its own.
        before_norm: in the image tower, the first layer's tokens enter before `ln_pre`.
    """

    def __init__(self, tokens: Sequence[Tensor], *, before_norm: bool = False) -> None:
        self.tokens, self.before_norm = tokens, before_norm

    def __call__(self, layer: int, tokens: Any) -> Tensor | None:
        """The tokens of this layer."""
        return self.tokens[layer] if layer < len(self.tokens) else None


class IndependentPrompts(nn.Module):
    """Deep prompts of both towers, each tower's learned for itself (IVLP).

    Args:
        clip: the frozen model.
        classnames: of the classes to tell apart, [C].
        options: of a method, with fields `n_ctx_text`, `ctx_init`, `prompt_depth_text`,
            `n_ctx_vision` and `prompt_depth_vision`, and with `check`.

    Attributes:
        text: context vectors; where `ctx_init` has more tokens, its further ones stay words.
        visual: tokens that enter before `ln_pre`, or None where the options ask for 0.

    Raises:
        UserError: an option is out of range for this CLIP.
    """

    visual: VisualTokens | None

    def __init__(self, clip: FrozenCLIP, classnames: Sequence[str], options: Any) -> None:
        super().__init__()
        for name, least in (("n_ctx_text", 1), ("n_ctx_vision", 0)):
            options.check(name, getattr(options, name) >= least, f"at least {least}")
        for name, least, layers in (
            ("prompt_depth_text", 1, clip.config.text_layers),
            ("prompt_depth_vision", 0, clip.config.visual_layers),
        ):
            expected = f"{least} to {layers}, the layers of this tower"
            options.check(name, least <= getattr(options, name) <= layers, expected)
        self.text = TextContext(
            clip,
            classnames,
            n_ctx=options.n_ctx_text,
            ctx_init=options.ctx_init,
            keep_rest=True,
            depth=options.prompt_depth_text,
        )
        n_tokens, depth = options.n_ctx_vision, options.prompt_depth_vision
        wanted = n_tokens and depth
        self.visual = (
            VisualTokens(clip, n_tokens, depth=depth, before_norm=True) if wanted else None
        )
