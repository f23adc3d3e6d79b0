"""The rows: what is measured, and what it is meant to reach on ViT-B/16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from speed.around import overhead, start
from speed.bench import FULL, TEXT, TEXTBOOK, Bench, Job, Way
from speed.compiling import compiling
from speed.passes import passes, test
from speed.products import products
from speed.table import GIGABYTES, TIMES, Row, times
from speed.tricks import tricks

SHARE = 0.75  # of the machine's own speed in products of matrices

# At least so many times faster, by number of classes
TEXT_TIMES = {100: 9.0, 1000: 9.0}
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
        target = _target(bench, TEXT_TIMES, classes)
        yield from _against_textbook(bench, "text", TEXT, classes, target)
        ours, other = (bench.family(TEXT)[TEXT, how, classes].took for how in ("fp32", TEXTBOOK))
        yield Row("text", f"{TEXT}, {classes} classes: memory", ours,
                  other.bytes / max(ours.bytes, 1), TIMES, TEXTBOOK, other,
                  target=TEXT_MEMORY if target else None)  # fmt: skip


def steps(method: str, bench: Bench) -> Iterator[Row]:
    """A method's training step."""
    for classes in bench.sizes.classes:
        target = _target(bench, STEPS[method], classes)
        yield from _against_textbook(bench, method.lower(), method, classes, target)


def half(bench: Bench) -> Iterator[Row]:
    """Half precision against ours in fp32."""
    target = HALF if bench.sizes.clip == FULL.clip else None
    for work in (TEXT, *STEPS):
        found = bench.family(work)
        for way, done in found.items():
            if way.how in bench.precisions:
                fp32 = found[way._replace(how="fp32")]
                yield times("half", f"{_named(work)}, {way.classes} classes, {way.how}", done.took,
                            fp32.took, "ours in fp32", target=target, share=done.share)  # fmt: skip


def half_test(bench: Bench) -> Iterator[Row]:
    """A test pass in half precision against ours in fp32."""
    target = HALF if bench.sizes.clip == FULL.clip else None
    found = passes(bench)
    for precision in bench.precisions:
        yield times("half-test", f"test pass, cold, {precision}", found.cold[precision],
                    found.cold["fp32"], "ours in fp32", target=target)  # fmt: skip


def scale(bench: Bench) -> Iterator[Row]:
    """CoOp with as many classes as ImageNet-21k."""
    many, few = bench.sizes.many_classes, bench.sizes.classes[-1]
    full = many == FULL.many_classes
    # The largest first, while no other trainer holds memory
    works = "CoOp", TEXT
    found = bench.compared([Job(work, classes) for classes in (many, few) for work in works])
    step = found[Way("CoOp", "fp32", many)]
    yield Row("scale", f"CoOp step, {many} classes: all memory of the process", step.took,
              step.took.peak / 1e9, GIGABYTES, target=MANY_BYTES if full else None, at_most=True,
              share=step.share)  # fmt: skip
    for work in works:
        of_many, of_few = (found[Way(work, "fp32", classes)] for classes in (many, few))
        ours, theirs = of_many.took.part(many), of_few.took.part(few)
        what, target = f"{_named(work)}, {many} classes: time of a class", MANY_TIME
        yield Row("scale", what, ours, theirs.times_faster(ours), TIMES, f"{few} classes", theirs,
                  target=target if full else None, at_most=True, share=of_many.share)  # fmt: skip


def _named(work: str) -> str:
    return work if work == TEXT else f"{work} step"


def _target(bench: Bench, targets: dict[int, float], classes: int) -> float | None:
    """The targets are for ViT-B/16."""
    return targets.get(classes) if bench.sizes.clip == FULL.clip else None


def _against_textbook(
    bench: Bench, row: str, work: str, classes: int, target: float | None
) -> Iterator[Row]:
    found = bench.family(work)
    ours, textbook = (found[Way(work, how, classes)] for how in ("fp32", TEXTBOOK))
    more = {f"difference of {name}": value for name, value in textbook.difference.items()}
    more["operations"] = ours.operations
    yield times(row, f"{_named(work)}, {classes} classes", ours.took, textbook.took, TEXTBOOK,
                target=target, share=ours.share, more=more)  # fmt: skip


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "text": text,
    **{method.lower(): partial(steps, method) for method in STEPS},
    "test": test,
    "half": half,
    "half-test": half_test,
    "compile": compiling,
    "products": products,
    "scale": scale,
    "overhead": overhead,
    "start": start,
    "tricks": tricks,
}
