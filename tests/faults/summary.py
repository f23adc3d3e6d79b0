"""The counts at the end of a run: what was done to the program, and how often."""

from __future__ import annotations

from collections import Counter
from typing import Any

KIND = "fault: "


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Sums over all tests that passed, in whichever process they ran."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for key, value in report.user_properties:
            if key.startswith(KIND):
                counts[key.removeprefix(KIND)] += value
    if counts:
        terminalreporter.section("faults")
        for kind, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:>6,}  {kind}")
