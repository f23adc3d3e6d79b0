"""A real terminal, of which a test sees what was written to it and what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import threading
from collections.abc import Iterator

import pyte
import pytest


class Terminal:
    """What came to a terminal of some size.

    Attributes:
        written: all bytes as text.
        file: the end for a program.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.written, self._raw, self._hung_up = "", b"", False
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.file = os.fdopen(other, "w", encoding="utf-8")
        self._screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self._stream = pyte.ByteStream(self._screen)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last program has closed its end
            while not self._hung_up:
                if select.select([self._end], [], [], 0.02)[0]:
                    self._raw += os.read(self._end, 65536)
        os.close(self._end)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._end, text.encode())

    def hang_up(self) -> None:
        """Close the window."""
        self._hung_up = True
        self._reader.join(60)

    def so_far(self) -> str:
        """What has been written until now."""
        return self._raw.decode(errors="replace")

    def close(self) -> None:
        """Read to the end."""
        with contextlib.suppress(OSError):
            self.file.close()
        self._reader.join(60)
        self.written = self.so_far()
        self._stream.feed(self._raw)

    @property
    def lines(self) -> list[str]:
        """All lines that it shows or has shown above, without those that were drawn over."""
        history = ["".join(line[x].data for x in range(self._screen.columns)).rstrip()
                   for line in self._screen.history.top]  # fmt: skip
        return [*history, *(line.rstrip() for line in self._screen.display)]

    @property
    def cursor_is_shown(self) -> bool:
        """At the end."""
        return not self._screen.cursor.hidden


@contextlib.contextmanager
def output_to(terminal: Terminal, **environment: str) -> Iterator[Terminal]:
    """This process's output goes to the terminal, which is closed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", terminal.file)
        patch.setattr(sys, "stderr", terminal.file)
        yield terminal
    terminal.close()
