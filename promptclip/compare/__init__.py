"""Which method is better: paired differences, intervals, tests, and what they cannot say."""

from __future__ import annotations

from promptclip.compare.diagram import plot
from promptclip.compare.inference import Ranking, Versus, rank, versus
from promptclip.compare.pairing import Contest, contests
from promptclip.compare.report import as_json, as_text

__all__ = [
    "Contest", "Ranking", "Versus", "as_json", "as_text", "contests", "plot", "rank", "versus",
]  # fmt: skip
