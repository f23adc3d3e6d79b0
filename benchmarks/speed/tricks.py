"""What each trick gives: the same work with it alone switched off.

Not here: that frozen weights get no gradients (they are buffers: nothing could compute any), that
few-shot pictures are decoded once (`overhead` measures the decoding), and the in-place form of the
blocks' MLPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from promptclip import prompts
from promptclip.clip import shared_prefix
from promptclip.clip.model import Block
from promptclip.clip.tokenizer import tokenize
from promptclip.feature_cache import instead
from promptclip.prompts import TextTokens, context_tokens
from speed.bench import Bench
from speed.measure import Measured, Piece
from speed.passes import passes
from speed.table import Row, times

N_CTX = 16
IMAGES = 4
SEVERAL = 3  # times ImageNet's classes, which are one part: there is nothing to keep or to part


def tricks(bench: Bench) -> Iterator[Row]:
    """Each trick, as how many times faster it makes its work."""
    few, many = bench.sizes.classes[0], SEVERAL * bench.sizes.classes[-1]
    with bench.trainer("CoOp", bench.small(few), "TRAINER.COOP.N_CTX", N_CTX) as trainer:
        clip, work = trainer.model.clip, _text(trainer)
        without = {
            "shared prefix": _text(trainer, _prefix_of_each_class(trainer)),
            "cut suffix": _text(trainer, _all_positions(trainer)),
            "last block for the read token": _inside(_whole_last_block, work),
        }
        if bench.device.type == "cuda":
            off = partial(instead, clip, "record_text", False)
            without["recorded as a CUDA graph"] = _inside(off, work)
        yield from _rows(bench, f"text tower, {few} classes", work, without)
        whole = partial(instead, Block, "forward", _whole_block(Block.forward))
        image = _image(trainer)
        without = {"last block for the class token": _inside(whole, image)}
        yield from _rows(bench, f"image tower, {IMAGES} images", image, without)
    with bench.trainer("CoOp", bench.small(many), "TRAINER.COOP.N_CTX", N_CTX) as trainer:
        clip, work = trainer.model.clip, _text(trainer)
        with instead(prompts, "TOKENS_AT_ONCE", 10**9):
            whole = _tokens(trainer)
        nothing_kept = partial(instead, clip, "memory_budget", 1)  # byte
        without = {
            "keep rather than recompute": _inside(nothing_kept, work),
            "parts of some thousand tokens": _text(trainer, (whole, trainer.model.text_prompter)),
        }
        yield from _rows(bench, f"text tower, {many} classes", work, without)
    found = passes(bench)
    cold = found.cold["fp32"]

    def at_every_batch(one: float, text: float) -> float:
        return one + (found.batches - 1) * text

    for name, on in (("cold", cold), ("cached images", found.cached)):
        off = on.scale(at_every_batch, found.text)
        yield _row(f"test pass, {name}: text features once", on, off)
    yield _row("test pass: cache of image features", found.cached, cold)


def _rows(
    bench: Bench, what: str, work: Callable[[], None], without: dict[str, Callable[[], None]]
) -> Iterator[Row]:
    """Some work in turn with the same work without each of the tricks."""
    plain, *others = bench.in_turn(
        [(name, Piece(one)) for name, one in {"": work, **without}.items()]
    ).values()
    for name, off in zip(without, others, strict=True):
        yield _row(f"{what}: {name}", plain, off)


def _inside(
    context: Callable[[], AbstractContextManager[None]], work: Callable[[], None]
) -> Callable[[], None]:
    def inside() -> None:
        with context():
            work()

    return inside


def _row(work: str, on: Measured, off: Measured) -> Row:
    return times("tricks", work, on, off, "without")


def _text(trainer: Any, variant: tuple[TextTokens, Any] | None = None) -> Callable[[], None]:
    """The text tower forward and backward, of other tokens and prompter if given."""
    model = trainer.model
    tokens, prompter = variant or (model.text_prompter.tokens, model.text_prompter)
    direction = torch.randn(trainer.num_classes, model.clip.config.embed_dim, device=trainer.device)

    def work() -> None:
        model.zero_grad()
        (model.clip.encode_text(tokens, prompter) * direction).sum().backward()

    return work


def _image(trainer: Any) -> Callable[[], None]:
    """The image tower forward, of some training pictures."""
    pixels = next(iter(trainer.train_loader_x))["img"][:IMAGES].to(trainer.device)

    @torch.no_grad()
    def work() -> None:
        trainer.model.clip.encode_image(pixels)

    return work


def _tokens(trainer: Any, *, csc: bool = False) -> TextTokens:
    model = trainer.model
    return context_tokens(model.clip, model.classnames, N_CTX, csc=csc)


def _prefix_of_each_class(trainer: Any) -> tuple[TextTokens, Any]:
    """Slots of their own for every class, filled alike: only the start of the text is shared."""
    context = trainer.model.prompt_learner.ctx

    def prompter(layer: int, tokens: Any) -> Tensor | None:
        return context.repeat(trainer.num_classes, 1) if layer == 0 else None

    return _tokens(trainer, csc=True), prompter


def _all_positions(trainer: Any) -> tuple[TextTokens, Any]:
    """Sequences padded to the tower's context.

    What is read is the last padding: other numbers at the same cost as a read of the end of text.
    """
    model, config = trainer.model, trainer.model.clip.config
    slots = list(range(config.vocab_size, config.vocab_size + N_CTX))
    names = [f"{name}." for name in model.classnames]
    rows = tokenize(names, config.context_length - N_CTX).tolist()
    sequences = [[row[0], *slots, *row[1:]] for row in rows]
    return TextTokens(model.clip, sequences), model.text_prompter


def _whole_last_block() -> AbstractContextManager[None]:
    block: Any = shared_prefix._block

    def whole(*arguments: Any) -> Tensor:
        *most, shared, groups, hidden, read = arguments
        if read is not None:
            lengths = [shared, *(length for _, length in groups)]
            hidden = [torch.ones(n, n, dtype=torch.bool, device=read.device).triu(1)
                      for n in lengths]  # fmt: skip
        x: Tensor = block(*most, shared, groups, hidden, None)
        return x if read is None else x[..., read, :]

    return instead(shared_prefix, "_block", whole)


def _whole_block(forward: Any) -> Any:
    def whole(self: Block, x: Tensor, *, causal: bool = False, read: Any = None) -> Tensor:
        found: Tensor = forward(self, x, causal=causal)
        return found if read is None else found[..., read, :]

    return whole
