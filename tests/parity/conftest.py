"""One thread, and a table of the largest differences at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from parity import common
from torch import Tensor

Compare = Callable[[str, str, str, Mapping[str, Tensor]], None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The golden numbers were recorded with one thread, and small models gain nothing from two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Compare all golden tensors of a case with ours, and keep the differences for the table.

    The start and the token numbers are compared only where ours are given.
    """

    def compare(method: str, name: str, path: str, ours: Mapping[str, Tensor]) -> None:
        golden = common.golden_case(method, name)
        rounding = common.provenance(method)["cases"][name]["rounding"]
        differences, failures = {}, []
        for key in sorted(rounding.keys() | (golden.keys() & ours.keys())):
            difference = common.difference_of(key, ours, golden)
            differences[key] = difference
            limit = max(common.LIMIT, common.OWN_ROUNDING * rounding.get(key, 0.0))
            if not difference <= limit:
                failures.append(f"{key} differs by {difference:.1e}, allowed are {limit:.1e}")
        request.node.user_properties.append(("parity", [method, name, path, differences]))
        assert not failures, f"{method} {name}, {path}: " + "; ".join(failures)

    return compare


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
