"""What a trainer does, told to a screen: by wrappers around its methods, on either engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from promptclip.progress.screen import Screen
from promptclip.progress.stretches import Test, Training, images_in


@contextlib.contextmanager
def watched(trainer: Any, screen: Screen | None) -> Iterator[None]:
    """Show what a trainer of Dassl does, until the end of the block.

    Args:
        trainer: ours or anybody's.
        screen: None shows nothing, and leaves the trainer alone.
    """
    if screen is None:
        yield
        return
    training = Training(trainer)

    def epoch(run: Callable[[], Any]) -> Any:
        training.begin_epoch()
        screen.begin(training)
        return run()

    def step(run: Callable[..., Any], *batches: Any) -> Any:
        metrics = run(*batches)
        training.add(metrics, images_in(batches[0]))
        screen.step()
        return metrics

    def test(run: Callable[..., Any], *args: Any, **named: Any) -> Any:
        stretch = Test(trainer, next(iter([*args, *named.values()]), None))

        def process(run: Callable[..., Any], output: Any, label: Any) -> Any:
            done = run(output, label)
            stretch.step(len(label))
            screen.step()
            return done

        with screen.during(stretch), around(trainer.evaluator, "process", process):
            return run(*args, **named)

    with (
        around(trainer, "run_epoch", epoch),
        around(trainer, "forward_backward", step),
        around(trainer, "test", test),
        screen.shown(),
    ):
        yield


@contextlib.contextmanager
def around(owner: Any, method: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Have calls of a method go through a wrapper, which gets the method before the arguments."""
    before = vars(owner).get(method)
    function = getattr(owner, method)
    setattr(owner, method, lambda *args, **kwargs: wrapper(function, *args, **kwargs))
    try:
        yield
    finally:
        delattr(owner, method)  # else it would hold itself in memory
        if before is not None:
            setattr(owner, method, before)
