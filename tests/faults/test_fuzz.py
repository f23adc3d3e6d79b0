"""Files of others, altered again and again: read, or refused as unusable input."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.fuzz import SEEDS, corpus, fuzz, readers

READERS = readers()
TRIES = 300  # besides the seeds
ROOM = 2**30  # bytes of memory beyond what the process has already


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """No more than `ROOM`, as far as the system can see to it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore")  # of Pillow, zipfile and torch over what is damaged
@pytest.mark.parametrize("name", READERS)
def test_only_a_user_error_comes_out(name, count):
    seeds = corpus(name)
    with bounded_memory():
        result = fuzz(READERS[name], seeds, lambda tried: tried < len(seeds) + TRIES, seed=0)
    assert not result.failures, result.failures[:3]
    assert result.tried == len(seeds) + TRIES
    count("bad inputs tried", result.tried)


def test_the_seeds_are_small_and_each_has_a_reader():
    assert {folder.name for folder in SEEDS.iterdir()} == set(READERS)
    assert sum(file.stat().st_size for file in SEEDS.glob("*/*")) < 200_000
