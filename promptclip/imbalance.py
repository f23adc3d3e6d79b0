"""Class imbalance: a few-shot sample, thinned until some classes are rare.

The custom of long-tailed CIFAR: classes in some order from frequent to rare, and a profile that
says what share of the most frequent class's pictures each may keep (Y. Cui et al., "Class-Balanced
Loss Based on Effective Number of Samples", CVPR 2019, arXiv 1901.05555; K. Cao et al., NeurIPS
2019, arXiv 1906.07413, code kaidic/LDAM-DRW 65e2597, imbalance_cifar.py). There the order is that
of the labels; here it is drawn, because labels are in the order of names, and a name should not
make a class rare.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptclip.few_shot import Picture

PROFILES = ("exponential", "step")
GROUPS = ("head", "medium", "tail")


def generator_of(benchmark: str, seed: int) -> random.Random:
    """A generator that depends on nothing but these two; unseeded for a negative seed."""
    return random.Random(f"imbalance of {benchmark}, seed {seed}" if seed >= 0 else None)


def class_order(labels: Iterable[int], generator: random.Random) -> list[int]:
    """Labels from the class that may stay frequent to the one that gets rarest, drawn."""
    order = sorted(set(labels))
    generator.shuffle(order)
    return order


def profile_counts(most: int, classes: int, ratio: float, profile: str) -> list[int]:
    """Pictures that each class may keep, from the most frequent one to the rarest.

    Args:
        most: pictures of the most frequent class.
        classes: C, their number.
        ratio: of the rarest class's pictures to the most frequent one's.
        profile: "exponential": ratio^(r / (C - 1)) of `most` for the class of rank r = 0 ... C - 1;
            "step": all of it for the first half of the classes (the larger one if C is odd),
            `ratio` of it for the others.

    Returns:
        Whole numbers, rounded down as in the source, but at least 1.
    """
    if profile == "step":
        shares = [1.0] * ((classes + 1) // 2) + [ratio] * (classes // 2)
    else:
        shares = [ratio ** (rank / max(classes - 1, 1)) for rank in range(classes)]
    # A power that is a whole number may come out a rounding error below it.
    return [max(1, math.floor(most * share + 1e-9)) for share in shares]


def thin(
    pictures: Sequence[Picture],
    orders: Sequence[Sequence[int]],
    *,
    ratio: float,
    profile: str,
    generator: random.Random,
) -> list[Picture]:
    """Take pictures away from a sample until its classes follow a profile.

    A class that has fewer pictures than it may keep gives all it has, so where classes are scarce
    the ratio is not exactly the one that was asked for. What is kept with a small ratio is a part
    of what is kept with a greater one.

    Args:
        pictures: the sample.
        orders: labels from frequent to rare; each list has a profile of its own.
        ratio: see `profile_counts`; 1 leaves the sample as it is.
        profile: one of `PROFILES`.
        generator: chooses which pictures are kept.

    Returns:
        Those that are kept, in the order of `pictures`.
    """
    if ratio == 1:
        return list(pictures)
    members: dict[int, list[int]] = {}
    for index, picture in enumerate(pictures):
        members.setdefault(picture.label, []).append(index)
    for label in sorted(members):
        generator.shuffle(members[label])
    kept: list[int] = []
    for order in orders:
        most = max((len(members[label]) for label in order), default=0)
        counts = profile_counts(most, len(order), ratio, profile)
        for label, count in zip(order, counts, strict=True):
            kept += members[label][:count]
    return [pictures[index] for index in sorted(kept)]


def groups(counts: Sequence[int], order: Sequence[int]) -> dict[str, list[int]]:
    """Labels of head, medium and tail, each a third of the classes.

    By the number of training pictures; equally frequent classes stand in the drawn order, so the
    groups of a balanced sample are those that its imbalanced versions have. Where the classes are
    no multiple of three, head and tail are equally large.

    Args:
        counts: training pictures by label.
        order: all labels, from frequent to rare.
    """
    ranked = sorted(order, key=lambda label: -counts[label])  # keeps the order of equals
    third = round(len(ranked) / 3)
    ends = (0, third, len(ranked) - third, len(ranked))
    return {name: sorted(ranked[ends[i] : ends[i + 1]]) for i, name in enumerate(GROUPS)}


def told(pictures: Sequence[Picture], whole: int) -> str:
    """One line about what was made of a sample of `whole` pictures."""
    counts = Counter(picture.label for picture in pictures).values()
    most, least = max(counts), min(counts)
    return (
        f"{len(pictures)} of {whole} training pictures are kept, {most} of the most frequent class "
        f"and {least} of the rarest, a ratio of {least / most:.3g}"
    )


def group_accuracies(
    per_class: Sequence[Mapping[str, Any]], counts: Sequence[int], order: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Accuracy of head, medium and tail.

    Args:
        per_class: `num_test` and `accuracy` in percent, by label.
        counts: training pictures by label.
        order: see `groups`.

    Returns:
        For each group: `accuracy`, in percent of its test pictures, None without any; `num_test`;
        `classes`, their labels; `num_train`, the fewest and the most training pictures of a class.
    """
    found = {}
    for name, labels in groups(counts, order).items():
        rows = [per_class[label] for label in labels]
        trained = [counts[label] for label in labels]
        total = sum(row["num_test"] for row in rows)
        hits = sum(row["num_test"] * row["accuracy"] for row in rows if row["num_test"])
        found[name] = {
            "accuracy": hits / total if total else None,
            "num_test": total,
            "num_train": [min(trained), max(trained)] if trained else None,
            "classes": labels,
        }
    return found


def listed(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each group, in the style of Dassl's results."""
    lines = []
    for name, group in groups.items():
        if group["accuracy"] is not None:
            low, high = group["num_train"]
            trained = f"{low}" if low == high else f"{low} to {high}"
            pictures = f"{trained} training picture{'s' if high > 1 else ''}"
            number = len(group["classes"])
            classes = f"{number} class{'es' if number > 1 else ''}"
            lines.append(f"* {name}: {group['accuracy']:.1f}% ({pictures} of each of {classes})")
    return "\n".join(lines)
