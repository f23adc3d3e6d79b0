"""Signals that ask a process to stop, put off from the middle of a step to its end."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

STOPS = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # not every system has all
)


class PutOff:
    """Inside the `with` block, stops wait for `deliver()` or the end of the block.

    What waits is the handlers that this process has set, ctrl-C's among them, whatever they do; a
    signal without one acts as the system has it. The same signal a second time acts at once: who
    presses ctrl-C twice does not want to wait. Outside the main thread, nothing is put off.

    Attributes:
        waiting: the signal that came; None if there was none.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> "PutOff":
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:  # not if a handler has set others
                signal.signal(number, handler)
        if error is None:
            self.deliver()

    def deliver(self) -> None:
        """Have the signal that waits do what it does, which mostly is to raise."""
        if self.waiting is not None:
            number, self.waiting = self.waiting, None
            self._handlers[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.waiting == number:
            self._handlers[number](number, frame)
        elif self.waiting is None:
            self.waiting = number
