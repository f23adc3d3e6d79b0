"""Stops that are asked for: ctrl-C, `kill`, a closed terminal, the end of a cluster job's time.

Each raises `Stopped`, which leaves every file whole. Training puts it off to the end of a step and
of the file from which it goes on (`dassl.engine.signals`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# All that a terminal, a cluster or a person sends to have a process stop in good order.
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):  # as KeyboardInterrupt, it is no error
    """A signal has asked this process to stop.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status that tells, as shells have it: 130 for ctrl-C, 143 for `kill`."""
        return 128 + self.number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Have these signals raise `Stopped`, but those that the process was started to ignore.

    Outside the main thread, which alone gets signals, nothing changes.
    """

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        numbers = [number for number in SIGNALS if signal.getsignal(number) in usual]
        before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The stop in the wake of which an error came up; None if it has other reasons.

    Where a stop comes while a library writes a file, the library's own tidying up may fail, and
    hide what has happened: `torch.save` then raises a RuntimeError about positions in an archive.
    """
    earlier: BaseException | None = error
    while earlier is not None and not isinstance(earlier, KeyboardInterrupt):
        earlier = earlier.__context__
    return earlier
