"""What `torch.compile` gives (COMPUTE.COMPILE), and what it costs before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from promptclip.clip.compiling import check_compiler
from speed.bench import Bench
from speed.measure import Piece
from speed.table import Row, times
from speed.work import Steps


def compiling(bench: Bench) -> Iterator[Row]:
    """Steps with the blocks compiled, against ours without.

    Raises:
        UserError: there is no compiler.
    """
    check_compiler(bench.device)
    classes = bench.sizes.classes[0]
    for method in bench.sizes.compiled:
        for precision in ("fp32", *bench.precisions):
            torch.compiler.reset()  # else the limit of variants is reached after some
            with bench.trainer(method, bench.small(classes), precision=precision) as trainer:
                work, clip = Steps(trainer), trainer.model.clip
                pieces = [
                    (compiled, Piece(work, partial(setattr, clip, "compile_blocks", compiled)))
                    for compiled in (False, True)
                ]
                plain, ours = bench.in_turn(pieces).values()
                yield times("compile", f"{method} step, {classes} classes, {precision}", ours,
                            plain, "not compiled",
                            more={"seconds of the first step": ours.each[0]})  # fmt: skip
