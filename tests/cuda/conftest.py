"""Tests that need a GPU; without one they are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


def pytest_collection_modifyitems(items: list[Any]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "/cuda/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="PyTorch finds no CUDA GPU here"))


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of PyTorch's outlives a test."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.use_deterministic_algorithms(False)
