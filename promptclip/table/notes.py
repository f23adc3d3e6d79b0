"""What stands below a table: refusals, failures, and what else a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from promptclip.errors import printable
from promptclip.table import layout
from promptclip.table.found import Found, Key, difference

_Split: TypeAlias = "tuple[str | None, str | None]"  # origin and hash
# Origins of a split that need no word; None is of results from before it was noted.
_USUAL_SPLITS = ("coop", "data set", "built-in", "own", None)


def notes(found: Mapping[Key, Found]) -> Iterator[str]:
    """Refusals and failures row by row, what was tuned, and what cannot be compared."""
    samples: dict[tuple[str, int, int, float], dict[str, str]] = {}
    tuned: dict[str, list[str]] = {}
    whole: dict[str, dict[_Split, list[str]]] = {}  # by data set, whose runs had which split
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
            if (sample_hash := read.result.get("split_hash")) and (place := read.place):
                sample = (place.benchmark, place.shots, spot.seed, place.ratio or 1.0)
                hashes = samples.setdefault(sample, {})
                hashes.setdefault(sample_hash, row.method)
                split = (read.result.get("split_origin"), read.result.get("split_file_hash"))
                whose = whole.setdefault(place.benchmark, {}).setdefault(split, [])
                whose.append(f"{row.method} ({row.cfg}) seed {spot.seed}")
            if read.tuned_on not in ("none", ""):
                tuned.setdefault(read.tuned_on, []).append(f"{row.method} ({row.cfg})")
    for on, methods in tuned.items():
        names = ", ".join(dict.fromkeys(methods))
        yield f"{names}: hyper-parameters chosen on {on} pictures in each run"
    yield from _skip_notes(found)
    for dataset, splits in sorted(whole.items()):
        yield from _split_notes(dataset, splits)
    for (dataset, shots, seed, ratio), hashes in sorted(samples.items()):
        if len(hashes) > 1:
            of_ratio = "" if ratio == 1 else f", ratio {ratio:g}"
            yield (
                f"{layout.named(dataset, shots)}{of_ratio}, seed {seed}: "
                f"{' and '.join(hashes.values())} saw different pictures (split_hash), do not "
                "compare them"
            )


def _skip_notes(found: Mapping[Key, Found]) -> Iterator[str]:
    """Which runs had fewer pictures than others, as some could not be read."""
    runs: dict[tuple[str, str], list[str]] = {}
    for row, outcomes in sorted(found.items()):
        for spot, read in sorted(outcomes.items()):
            skipped = read.result.get("skipped", {})
            counts = [f"{x['number']} {part}" for part, x in skipped.items() if x["number"]]
            if counts and read.place:
                first = next(x["first"][0] for x in skipped.values() if x["number"])
                what = f"{', '.join(counts)} pictures, such as {printable(first)}"
                whose = f"{row.method} ({row.cfg}) {spot.column} seed {spot.seed}"
                runs.setdefault((read.place.benchmark, what), []).append(whose)
    for (dataset, what), names in runs.items():
        yield (
            f"{dataset}: {what}, could not be read and were left out (DATASET.BAD_IMAGES skip) of "
            f"{', '.join(names)}"
        )


def _split_notes(dataset: str, splits: Mapping[_Split, Sequence[str]]) -> Iterator[str]:
    """What a reader must know of the splits that runs on a data set had."""
    for origin, file_hash in splits:
        if origin not in _USUAL_SPLITS:
            short = str(file_hash)[:12]
            yield f'{dataset}: the split is "{origin}" (hash {short}), not from a publication'
    known = {split: names for split, names in splits.items() if split != (None, None)}
    if len(known) > 1:
        whose = "; ".join(
            f"{', '.join(dict.fromkeys(names))} had {origin or 'an unknown one'} "
            f"(hash {str(file_hash)[:12]})"
            for (origin, file_hash), names in known.items()
        )
        yield f"{dataset}: runs had different splits, do not compare them: {whose}"
