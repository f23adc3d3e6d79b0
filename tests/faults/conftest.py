"""Every test here is slow, and says what it has done to the program how often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.summary import KIND
from faults.zygote import Whole, Zygote, outcome, training

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


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Trains in processes that can be injured."""
    process = Zygote(tmp_path_factory.mktemp("zygote"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def whole(
    zygote: Zygote, mini: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Whole]:
    """Undisturbed runs, each made once: `whole(method, *overrides)`."""
    folder, made = tmp_path_factory.mktemp("whole"), dict[tuple[Any, ...], Whole]()

    def whole(*what: Any) -> Whole:
        if what not in made:
            output = folder / str(len(made))
            start = time.perf_counter()
            assert zygote(args=training(what[0], mini, output, *what[1:])) == 0, zygote.said
            made[what] = Whole(outcome(output), time.perf_counter() - start)
        return made[what]

    return whole
