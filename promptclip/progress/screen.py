"""The last lines of a terminal, drawn anew in place; what is printed meanwhile goes above them.

Nothing here has a thread of its own: lines are drawn when a step is done, seldom enough to cost
nothing (`_PERIOD`, `_SHARE`). So a loader worker, which is a copy of this process, never finds a
lock held. The cursor is not hidden: however a process ends, there is nothing to put back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from promptclip.errors import printable
from promptclip.progress.amount import is_terminal
from promptclip.progress.stretches import Stretch
from promptclip.stopping import SIGNALS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PERIOD = 0.1  # seconds between two drawings, at least
_SHARE = 0.01  # of the time that drawing may take
_BAR = 50  # characters
_ECHO = 2  # ... and what a terminal writes at the end of the last line for ctrl-C, on the same line

# What both engines say of a batch, which the lines below show already.
_BATCH = re.compile(r"epoch \[\d+/\d+\] batch \[\d+/\d+\] ")

log = logging.getLogger(__name__)

_live: list[Screen] = []  # the one that is shown, if any
_titles: list[str] = []

T = TypeVar("T")


class Screen:
    """What is shown on a terminal.

    Args:
        terminal: standard output.
        title: the first line.
    """

    def __init__(self, terminal: TextIO, title: str) -> None:
        from rich.live import Live

        self._title, self._console = title, _console(terminal)
        self._stretches: list[Stretch] = []
        self._next = 0.0
        self._process = os.getpid()
        self.gone = False  # the terminal, so that nothing can be written to it any more
        self._lines: list[_Lines] = []
        self._drawing = Live(
            get_renderable=self._shown,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @property
    def live(self) -> bool:
        """Whether it is shown, and by this process, which loader workers are copies of."""
        return self in _live and os.getpid() == self._process

    @contextlib.contextmanager
    def behind_output(self) -> Iterator[None]:
        """Have what goes to the terminal pass through here."""
        with contextlib.ExitStack() as stack:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if is_terminal(stream):
                    self._lines.append(_Lines(self, stream))
                    redirect = getattr(contextlib, f"redirect_{name}")
                    stack.enter_context(redirect(self._lines[-1]))
            yield

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show it, until the end of the block."""
        _live.append(self)
        try:
            with self._safely():
                self._drawing.start()
            yield
        finally:
            with self._safely():
                self._drawing.stop()
            self._close()

    def begin(self, stretch: Stretch) -> None:
        """Show a stretch of work, below those that are shown already."""
        if stretch not in self._stretches:
            self._stretches.append(stretch)
        self.draw()

    @contextlib.contextmanager
    def during(self, stretch: Stretch) -> Iterator[None]:
        """Show a stretch of work until the end of the block."""
        self.begin(stretch)
        try:
            yield
        finally:
            self._stretches.remove(stretch)

    def step(self) -> None:
        """Draw if it is time to."""
        if time.perf_counter() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw what is known now."""
        if not self.live:
            return
        start = time.perf_counter()
        with self._safely():
            self._drawing.refresh()
        end = time.perf_counter()
        self._next = end + max(_PERIOD, (end - start) / _SHARE)

    def say(self, lines: Iterable[str]) -> None:
        """Print lines above, but those of batches."""
        last = (line.rstrip("\r").rpartition("\r")[2] for line in lines)  # as a terminal shows it
        kept = [printable(line.expandtabs()) for line in last if not _BATCH.match(line)]
        if kept:
            from rich.text import Text

            with self._safely():
                self._console.print(Text("\n".join(kept)), soft_wrap=True)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        """No run is stopped by what is shown of it, whatever terminal or trainer it is.

        A signal waits until all is drawn, so that what is on the screen is known and can be erased.
        """
        try:
            with _undisturbed():
                yield
        except OSError:
            self.gone = True
            self._close()
        except Exception as error:
            with contextlib.suppress(Exception):
                self._drawing.stop()  # which tidies up
            self._close()
            log.warning("How far the run is cannot be shown (%s: %s)", type(error).__name__, error)

    def _close(self) -> None:
        if self in _live:
            _live.remove(self)
        for lines in self._lines:
            lines.release()

    def _shown(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        width = self._console.width - _ECHO
        parts: list[RenderableType] = [_line(self._title, "bold")] if self._title else []
        for stretch in self._stretches:
            parts.append(_bar(stretch.share, width))
            parts += map(_line, _packed(stretch.facts(), width))
            parts += map(_line, _packed(stretch.numbers(), width))
        return Group(*parts or [Text()])


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Lines:
    """Stands in for a stream to the terminal, and is like it while nothing is shown."""

    def __init__(self, screen: Screen, stream: TextIO) -> None:
        self._screen, self._stream = screen, stream
        self._rest = ""  # of a line that has not ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """No terminal while something is shown: others, such as tqdm, shall draw nothing."""
        return not self._screen.live and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write, above what is shown."""
        if not self._screen.live:
            return len(text) if self._screen.gone else self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._screen.say(lines)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what was held back, but the beginning of a line above what is shown."""
        if not self._screen.live and not self._screen.gone:
            self._stream.flush()

    def release(self) -> None:
        """Write the beginning of a line that has not ended."""
        rest, self._rest = self._rest, ""
        if rest:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(rest)


@contextlib.contextmanager
def titled(title: str) -> Iterator[None]:
    """What the runs inside are called where they are shown."""
    _titles.append(title)
    try:
        yield
    finally:
        _titles.pop()


@contextlib.contextmanager
def prepared(title: str) -> Iterator[Screen | None]:
    """A screen that all output passes, to be shown later; None where there is no terminal.

    Args:
        title: where `titled` does not say another.
    """
    terminal = getattr(sys.stdout, "terminal", sys.stdout)
    if not is_terminal(terminal) or not _console(terminal).is_interactive:
        yield None
        return
    screen = Screen(terminal, _titles[-1] if _titles else title)
    with screen.behind_output():
        yield screen


def counted(
    items: Iterable[T], name: str, total: int, size: Callable[[T], int] = lambda item: 1
) -> Iterator[T]:
    """Give the items one by one, and show how far they are: on the screen, or with tqdm.

    Args:
        items: of some work.
        name: what is done with them.
        total: number of images in all.
        size: number of images in an item.
    """
    if not _live:
        from tqdm import tqdm

        yield from tqdm(items, disable=None)
        return
    screen, stretch = _live[-1], Stretch(name, total)
    with screen.during(stretch):
        for item in items:
            yield item
            stretch.step(size(item))
            screen.step()


def _console(terminal: TextIO) -> Console:
    from rich.console import Console

    class CursorShown(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return CursorShown(file=terminal, highlight=False, markup=False, emoji=False)


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _bar(share: float, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=1, completed=share, width=max(1, min(_BAR, width - 6))), f"{share:.0%}"
    )
    return line


def _packed(parts: Iterable[str], width: int) -> list[str]:
    """As few lines as have room for all parts, two spaces between them."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines
