"""What stands below a table: refusals, failures, and what else a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from promptclip.table import layout
from promptclip.table.found import Found, Key, difference


def notes(found: Mapping[Key, Found]) -> Iterator[str]:
    """Refusals and failures row by row, what was tuned, and what cannot be compared."""
    samples: dict[tuple[str, int, int], dict[str, str]] = {}
    tuned: dict[str, list[str]] = {}
    for row, outcomes in sorted(found.items()):
        origin = f", {row.origin}" if row.origin else ""
        name = (
            f"{layout.named(row.group.dataset, row.group.shots)}, {row.method} ({row.cfg}){origin}"
        )
        if why := difference(row.group.protocol, outcomes):
            yield f"{name} is not averaged: {why}"
        for spot, read in sorted(outcomes.items()):
            if read.detail:
                yield f"{name}, {spot.column} seed {spot.seed} {read.detail}"
            if read.accuracy is None:
                continue
            if read.pictures and (place := read.place):
                hashes = samples.setdefault((place.benchmark, place.shots, spot.seed), {})
                hashes.setdefault(read.pictures, row.method)
            if read.tuned_on not in ("none", ""):
                tuned.setdefault(read.tuned_on, []).append(f"{row.method} ({row.cfg})")
    for on, methods in tuned.items():
        names = ", ".join(dict.fromkeys(methods))
        yield f"{names}: hyper-parameters chosen on {on} pictures in each run"
    for (dataset, shots, seed), hashes in sorted(samples.items()):
        if len(hashes) > 1:
            yield (
                f"{layout.named(dataset, shots)}, seed {seed}: {' and '.join(hashes.values())} saw "
                "different pictures (split_hash), do not compare them"
            )
