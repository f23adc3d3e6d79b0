"""What the products of matrices in a piece of work take alone, without anything between them.

That is the most that any way of doing the work can reach which consists of these products: a large
product runs at the machine's own speed, one of a few hundred rows does not, and half precision
speeds it up by less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speed.bench import TEXT, Bench, Job, Way
from speed.measure import Piece
from speed.operations import Counter
from speed.table import Row, times
from speed.work import Work

WORKS = TEXT, "CoCoOp"  # small products: those of a batch of pictures are large
_aten = torch.ops.aten
PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
}
ALONE = ": products alone"  # behind a precision


def products(bench: Bench) -> Iterator[Row]:
    """Products alone in turn with the work that they are of, in fp32 and in half precision.

    Not on a GPU, where the text tower is recorded, and nobody sees its operations again.
    """
    if bench.device.type == "cuda":
        return
    for work in WORKS:
        for classes in bench.sizes.classes:
            counters: dict[Way, Counter] = {}
            with ExitStack() as stack:
                took = bench.in_turn(_pieces(bench, work, classes, stack, counters))
            for way, counter in counters.items():
                alone = took[way._replace(how=way.how + ALONE)]
                what = f"{work if work == TEXT else f'{work} step'}, {classes} classes, {way.how}"
                share = alone.share(counter.total)
                yield times("products", what + ALONE, alone, took[way], "all of it", share=share)
                if way.how != "fp32":
                    in_fp32 = took[way._replace(how="fp32" + ALONE)]
                    yield times("products", what + ALONE, alone, in_fp32, "in fp32", share=share)


def _pieces(
    bench: Bench, work: str, classes: int, stack: ExitStack, counters: dict[Way, Counter]
) -> Iterator[tuple[Way, Piece]]:
    works: dict[Way, Work] = {}
    for precision in ("fp32", *bench.precisions):
        for way, piece in bench.pieces(Job(work, classes, precision), stack, works, counters):
            yield way, piece
            alone = way._replace(how=way.how + ALONE)
            yield alone, Piece(Products(works[way]), dtype=piece.dtype)


class Products(TorchDispatchMode):
    """The products that some work has asked for, to be done again on the same tensors."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        with self:
            work()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in PRODUCTS:
            kept = [one.detach() if isinstance(one, torch.Tensor) else one for one in args]
            self.calls.append((function, tuple(kept), kwargs))
        return function(*args, **kwargs)

    @torch.no_grad()
    def __call__(self) -> None:
        """All of them, one after the other."""
        for function, args, kwargs in self.calls:
            function(*args, **kwargs)
