"""Where messages go: bare lines on the console, and in OUTPUT_DIR/log.txt.

Everything in this package logs below the logger `dassl`. That logger has one handler from the
start, which writes bare messages to whatever `sys.stdout` is at that moment, so that a script
which configures nothing shows what Dassl's users expect. `setup_logger` adds the file; it adds it
to the root logger, so that lines which trainers and libraries *log* are in log.txt too. Plain
`print` reaches the console alone: `sys.stdout` is never replaced.
"""

import logging
import sys
from pathlib import Path
from typing import TextIO

_LINE = logging.Formatter("%(message)s")


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current `sys.stdout`, also after somebody redirects it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_LINE)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class _LogFile(logging.FileHandler):
    """The one log.txt of this process: appended to, flushed line by line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8", errors="backslashreplace")
        self.setFormatter(_LINE)
        self.setLevel(logging.INFO)


def _attach_console() -> None:
    logger = logging.getLogger("dassl")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())


def setup_logger(output: str | None = None) -> None:
    """Write log lines to a file as well, appending when it exists.

    A second call moves on to another file: a process has one log file at a time.

    Args:
        output: a folder, which gets a `log.txt`; or a path ending in `.txt` or `.log`. None or ""
            changes nothing.
    """
    if not output:
        return
    path = Path(output)
    if path.suffix not in {".txt", ".log"}:
        path /= "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LogFile)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_LogFile(path))


_attach_console()
