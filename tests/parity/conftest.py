"""One thread, and differences kept for the table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

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
