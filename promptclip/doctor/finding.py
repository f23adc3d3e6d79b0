"""One line of the doctor's report."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"


class Finding(NamedTuple):
    """What was found, and what to do.

    Attributes:
        state: `OK`; `NOTE`, worth knowing; `PROBLEM`, something will not work.
        text: on one line.
        remedy: what to do; "" if nothing.
    """

    state: str
    text: str
    remedy: str = ""


GIB = 2**30


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
