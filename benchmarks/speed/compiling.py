"""What `torch.compile` gives (COMPUTE.COMPILE), and what it costs before the first step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from promptclip.clip.compiling import check_compiler
from speed.bench import Bench
from speed.measure import once
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
                work = Steps(trainer)
                plain = bench.measure(work)
                trainer.model.clip.compile_blocks = True
                first = once(work, bench.device)
                yield times("compile", f"{method} step, {classes} classes, {precision}",
                            bench.measure(work), plain, "not compiled",
                            more={"seconds of the first step": first.seconds})  # fmt: skip
