"""The rows: what is measured, and what it is meant to reach on ViT-B/16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from promptclip.plugins import methods
from speed.around import overhead, start
from speed.bench import FULL, Bench, Compared
from speed.compiling import compiling
from speed.measure import Measured
from speed.passes import passes, test
from speed.table import GIGABYTES, TIMES, Row, times
from speed.tricks import tricks

SHARE = 0.75  # of the machine's own speed in products of matrices

# At least so many times faster, by number of classes
TEXT = {100: 9.0, 1000: 9.0}
TEXT_MEMORY = 7.0
STEPS = {
    "CoOp": {100: 2.0, 1000: 6.0},
    "CoCoOp": {100: 7.0, 1000: 9.0},
    "DAPT": {100: 1.5, 1000: 4.0},
    "UPT": {100: 1.5, 1000: 4.0},
    "DPT": {100: 1.5, 1000: 4.0},
}
HALF = 2.0
MANY_BYTES, MANY_TIME = 24.0, 1.15  # GB at most, and time of a class at most


def text(bench: Bench) -> Iterator[Row]:
    """The text tower forward and backward."""
    for classes in bench.sizes.classes:
        found = bench.text(classes)
        work = f"text tower, {classes} classes"
        yield from _against_textbook("text", work, found, _target(bench, TEXT, classes))
        if found.textbook is not None:
            ours, other = found.ours, found.textbook
            least = TEXT_MEMORY if _target(bench, TEXT, classes) else None
            yield Row("text", f"{work}: memory", ours, other.bytes / max(ours.bytes, 1), TIMES,
                      "textbook", other, target=least)  # fmt: skip


def steps(method: str, bench: Bench) -> Iterator[Row]:
    """A method's training step."""
    for classes in bench.sizes.classes:
        yield from _against_textbook(
            method.lower(),
            f"{method} step, {classes} classes",
            bench.step(method, classes),
            _target(bench, STEPS[method], classes),
        )


def half(bench: Bench) -> Iterator[Row]:
    """Half precision against ours in fp32.

    With more classes than the first number, of those methods whose image tower does not learn: of
    the others the image tower's part is the same again.
    """
    for precision in bench.precisions:
        compare = partial(_against_fp32, bench, precision)
        for classes in bench.sizes.classes:
            work = f"text tower, {classes} classes"
            yield compare(work, bench.text(classes, precision), bench.text(classes))
            for method in STEPS:
                if classes == bench.sizes.classes[0] or not methods()[method].Model.prompts_image:
                    work = f"{method} step, {classes} classes"
                    yield compare(work, bench.step(method, classes, precision),
                                  bench.step(method, classes))  # fmt: skip


def half_test(bench: Bench) -> Iterator[Row]:
    """A test pass in half precision against ours in fp32."""
    target = HALF if bench.sizes.clip == FULL.clip else None
    for precision in bench.precisions:
        ours, fp32 = passes(bench, precision), passes(bench)
        yield times("half-test", f"test pass, cold, {precision}", ours.cold, fp32.cold,
                    "ours in fp32", target=target)  # fmt: skip


def scale(bench: Bench) -> Iterator[Row]:
    """CoOp with as many classes as ImageNet-21k."""
    many, few = bench.sizes.many_classes, bench.sizes.classes[-1]
    full = many == FULL.many_classes
    step, fewer = bench.step("CoOp", many), bench.step("CoOp", few)
    yield Row("scale", f"CoOp step, {many} classes: all memory of the process", step.ours,
              step.ours.peak / 1e9, GIGABYTES, target=MANY_BYTES if full else None, at_most=True,
              share=step.share)  # fmt: skip
    for what, found, other in (
        ("CoOp step", step, fewer),
        ("text tower alone", bench.text(many), bench.text(few)),
    ):
        ours, theirs = _of_one(found.ours, many), _of_one(other.ours, few)
        yield Row("scale", f"{what}, {many} classes: time of a class", ours,
                  ours.seconds / theirs.seconds, TIMES, f"{few} classes", theirs,
                  target=MANY_TIME if full else None, at_most=True, share=found.share)  # fmt: skip


def _target(bench: Bench, targets: dict[int, float], classes: int) -> float | None:
    """The targets are for ViT-B/16."""
    return targets.get(classes) if bench.sizes.clip == FULL.clip else None


def _against_textbook(row: str, work: str, found: Compared, target: float | None) -> Iterator[Row]:
    more = {f"difference of {name}": value for name, value in found.difference.items()}
    more["operations"] = found.operations
    if found.textbook is not None:
        yield times(row, work, found.ours, found.textbook, "textbook", target=target,
                    share=found.share, more=more)  # fmt: skip


def _against_fp32(bench: Bench, precision: str, work: str, ours: Compared, fp32: Compared) -> Row:
    target = HALF if bench.sizes.clip == FULL.clip else None
    return times("half", f"{work}, {precision}", ours.ours, fp32.ours, "ours in fp32",
                 target=target, share=ours.share)  # fmt: skip


def _of_one(whole: Measured, classes: int) -> Measured:
    return Measured(whole.seconds / classes, whole.bytes, whole.peak, whole.runs)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "text": text,
    **{method.lower(): partial(steps, method) for method in STEPS},
    "test": test,
    "half": half,
    "half-test": half_test,
    "compile": compiling,
    "scale": scale,
    "overhead": overhead,
    "start": start,
    "tricks": tricks,
}
