"""`promptclip cache`: the image features that runs share, listed and cleared."""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from typing import Any

log = logging.getLogger(__name__)

MIB = 2**20


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "cache",
        help="list or clear the image features that runs share",
        description="List the image features that runs share, the last used first.",
        epilog="The folder is that of PROMPTCLIP_FEATURE_CACHE, else in the user's cache folder. "
        "What is cleared is computed again when a run needs it. docs/performance.md tells more.",
    )
    command.set_defaults(command=_cache)
    command.add_argument("--clear", action="store_true", help="delete them")


def _cache(args: argparse.Namespace) -> int:
    from promptclip.feature_cache import open_cache

    cache = open_cache()
    if cache is None:
        log.info("The cache is off (PROMPTCLIP_FEATURE_CACHE)")
        return 0
    if args.clear:
        log.info("%.1f MiB are free again in %s", cache.clear() / MIB, cache.folder)
        return 0
    found = cache.sets()
    size = sum(one.size for one in found)
    log.info("%s: %d sets, %.1f MiB of at most %.0f",
             cache.folder, len(found), size / MIB, cache.limit / MIB)  # fmt: skip
    for one in found:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
        log.info("%s  %8.1f MiB  %s", used, one.size / MIB, _described(one.identity))
    return 0


def _described(identity: dict[str, Any]) -> str:
    """Such as "500 pictures of 224 pixels, weights 8f04a1b2, amp, torch 2.9.0"."""
    try:
        weights, size = identity["weights"][:8], identity["clip"]["image_size"]
        precision, torch = identity["computing"][0], identity["versions"]["torch"]
        number = identity["number"]
        return f"{number} pictures of {size} pixels, weights {weights}, {precision}, torch {torch}"
    except (KeyError, TypeError, IndexError):
        return "damaged, or of another version; computed again when it is needed"
