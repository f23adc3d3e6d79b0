"""What stands where: the columns of each protocol, their order and their names."""

from __future__ import annotations

from collections.abc import Iterable

from promptclip.tree import BALANCED, HALVES, PROTOCOLS, TARGETS, Place, of_shots

H_OF_MEANS = "H of means"
AVERAGE = "average"  # in the place of a data set, and above the mean over targets


def column(place: Place) -> str:
    """The column of a run: "base" or "new", "shots_<k>", "ratio_<r>", or the data set tested on."""
    return place.target or f"shots_{place.shots}"


def columns(protocol: str, dataset: str, seen: Iterable[str]) -> list[str]:
    """The columns of a group of rows in the order of the table."""
    if protocol == "base2new":
        return list(HALVES)
    found = sorted(set(seen))
    if protocol == "fewshot":
        return sorted(found, key=lambda name: int(name.removeprefix("shots_")))
    if protocol == "imbalance":
        return sorted(found, key=lambda name: -float(name.removeprefix("ratio_")))
    order = [dataset, *TARGETS[protocol].get(dataset, ())]
    return [name for name in order if name in found] + [n for n in found if n not in order]


def heading(column: str) -> str:
    """What stands above a column."""
    kind, _, number = column.partition("_")
    if kind == "shots":
        return of_shots(int(number))
    if kind == "ratio":
        return "balanced" if column == BALANCED else f"ratio {number}"
    return column


def named(dataset: str, shots: int) -> str:
    """Such as "emoji, 16 shots"; without shots where they are columns."""
    return f"{dataset}, {of_shots(shots)}" if shots else dataset


def title(
    protocol: str, dataset: str, shots: int, datasets: Iterable[str] = (), part: str = ""
) -> str:
    """What the rows of a group have in common.

    Args:
        protocol: one of `promptclip.tree.PROTOCOLS`.
        dataset: trained on.
        shots: of all cells, or 0.
        datasets: those of an average.
        part: the column that is taken apart.
    """
    if names := list(datasets):
        dataset = f"{AVERAGE} over {len(names)} data sets ({', '.join(names)})"
    source = "from " if protocol in TARGETS else ""
    whole = f"{source}{named(dataset, shots)}, {PROTOCOLS[protocol]}"
    return f"{whole}: {heading(part)}" if part else whole
