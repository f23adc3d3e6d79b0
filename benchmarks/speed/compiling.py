"""What COMPUTE.COMPILE gives, and on a GPU COMPUTE.CUDA_GRAPHS, and what they cost at first."""

from __future__ import annotations

from collections.abc import Iterator

from promptclip.clip.compiling import check_compiler
from speed.bench import Bench
from speed.measure import once
from speed.table import Row, times
from speed.work import Steps


def compiling(bench: Bench) -> Iterator[Row]:
    """Steps with these options, against ours without.

    Raises:
        UserError: there is no compiler.
    """
    check_compiler(bench.device)
    options = {"compile_blocks": "compiled"}
    if bench.device.type == "cuda":
        options = {"record_text": "text tower recorded", **options}
    classes = bench.sizes.classes[0]
    for method in bench.sizes.compiled:
        for precision in ("fp32", *bench.precisions):
            with bench.trainer(method, bench.small(classes), precision=precision) as trainer:
                work = Steps(trainer)
                plain = bench.measure(work)
                for option, name in options.items():
                    setattr(trainer.model.clip, option, True)
                    first = once(work, bench.device)
                    yield times("compile", f"{method} step, {classes} classes, {precision}, {name}",
                                bench.measure(work), plain, "without",
                                more={"seconds of the first step": first.seconds})  # fmt: skip
                    setattr(trainer.model.clip, option, False)
