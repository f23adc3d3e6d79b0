"""The table of the largest differences at the end of a run.

It is `tests/conftest.py` that takes it in: where tests run in several processes, the one that
prints reads no conftest.py of a folder below.
"""

from __future__ import annotations

from typing import Any

from parity import common


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Methods compared with the published code, and the largest difference of each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    for report in reports:
        for label, value in getattr(report, "user_properties", ()):
            if label != "parity" or report.when != "call":
                continue
            method, name, path, differences = value
            row = found.setdefault((method, path), {"cases": set(), "tensors": 0, "worst": (-1.0,)})
            row["cases"].add(name)
            row["tensors"] += len(differences)
            for key, difference in differences.items():
                row["worst"] = max(row["worst"], (difference, f"{key} of {name}"))
    if not found:
        return
    terminalreporter.section("parity with the published code (fp32, max|a-b| / max|b|)")
    for (method, path), row in sorted(found.items()):
        source = common.provenance(method)
        repository = source["repository"].removeprefix("https://github.com/")
        worst, where = row["worst"]
        terminalreporter.write_line(
            f"{method:12} {path:8} {len(row['cases']):3} cases {row['tensors']:4} tensors  "
            f"largest {worst:.1e} ({where})  {repository} {source['commit'][:7]}"
        )
