"""What can befall a file: torn, flipped, zeroed, replaced."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damages(content: bytes, others: bytes, *, flips: int = 4, seed: int = 0) -> dict[str, bytes]:
    """Contents by what has befallen them; all differ from the whole one.

    Args:
        content: of the whole file.
        others: of the same file of another run.
        flips: how many have one bit that is another, at random places.
        seed: of those places.
    """
    found = dict(_damages(content, others, flips, random.Random(f"{seed} {len(content)}")))
    return {how: damaged for how, damaged in found.items() if damaged != content}


def _damages(
    content: bytes, others: bytes, flips: int, generator: random.Random
) -> Iterator[tuple[str, bytes]]:
    size = len(content)
    for share in (0.0, 0.3, 0.9):
        yield f"cut at {share}", content[: int(share * size)]
    yield "last byte lost", content[:-1]
    yield "zeros", bytes(size)
    yield "zeros behind the middle", content[: size // 2] + bytes(size - size // 2)
    yield "garbage", generator.randbytes(max(1, size))
    yield "another's", others
    yield "deep JSON", b"[" * 100_000
    yield "other JSON", b"[0, {}]"
    for number in range(flips):
        place, bit = generator.randrange(max(1, size)), 1 << generator.randrange(8)
        flipped = bytearray(content)
        flipped[place : place + 1] = bytes(byte ^ bit for byte in flipped[place : place + 1])
        yield f"flip {number} at {place}", bytes(flipped)


def says(error: BaseException, *words: str) -> None:
    """A message can be printed, and has one of several words."""
    message = str(error)
    message.encode()
    assert any(word in message for word in words), message
