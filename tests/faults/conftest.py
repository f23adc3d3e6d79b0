"""Every test here is slow, and says what it has done to the program how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.summary import KIND

Count = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Adds to the counts at the end of the run: `count("kills survived")`, once it is true."""

    def count(kind: str, number: int = 1) -> None:
        record_property(KIND + kind, number)

    return count
