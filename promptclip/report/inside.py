"""What methods are about, in their own terms: before and after, or as they have it."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from promptclip import pictures, prompt_file
from promptclip.collapse import METRICS, class_means
from promptclip.errors import UserError
from promptclip.losses import inter_dispersion
from promptclip.pictures import UnreadableError
from promptclip.report import figures, html, training
from promptclip.report.figures import Drawing
from promptclip.report.html import Part, Section, paragraph, tag
from promptclip.report.methods import Attention
from promptclip.report.source import Run, Setting, Source

NUMBERED = 8  # columns up to which each cosine stands in its field

DISPERSION = (
    "What DAPT (arXiv 2309.03406) sets out to change, measured for every method that looked at its "
    "test pictures again. Within classes: the mean squared distance of an image feature to the "
    "mean of its class. Between classes: the mean over pairs of classes of exp(-2 d²), d the "
    "distance of their text features; 1 if all coincide. Smaller is better for both. Before: "
    "CLIP without what was learned, with the benchmark's hand-written prompt."
)
COLLAPSE = (
    "What NPT sets out to bring about (Papyan, Han, Donoho, PNAS 2020): at collapse every measure "
    "but the effective rank is 0. Of the test pictures, means over seeds: at the end of runs with "
    "TEST.COLLAPSE_METRICS True, and by epoch (0: before the first step) of those with "
    "TEST.COLLAPSE_EVERY 1."
)
HALVES = (
    "UPT learns one prompt whose first part goes to the text tower and the rest to the image "
    "tower. Cosines of the vectors of the two parts, before the layer that mixes them: near 0 "
    "they have little in common."
)
ATTENTION = (
    "DPT's class-aware prompts of the last layer. On the left a picture with its class, then how "
    "much each of its likely classes reads of every patch; darker is more. The number is the share "
    "of the attention that falls on patches at all; the rest is on the class token and on learned "
    "memory."
)


def section(source: Source) -> Section:
    """As much of it as runs have kept or looks have seen."""
    title, anchor = "What methods are about", "methods"
    parts: list[Part] = [
        *_dispersions(source),
        *_collapse(source),
        *_halves(source),
        *_attention(source),
    ]
    why = (
        "Nothing of this is in the results. Runs with TEST.COLLAPSE_METRICS True have measures "
        "of neural collapse; `promptclip report --look METHOD,...` loads models for the rest."
    )
    return Section(anchor, title, parts, empty="" if parts else why)


def within(features: Tensor, label: Tensor) -> float:
    """Mean squared distance of features [N, D] to the mean of their class."""
    _, row = label.unique(return_inverse=True)
    return float((features.double() - class_means(features, row)[row]).square().sum(-1).mean())


def _dispersions(source: Source) -> Iterator[Part]:
    rows: dict[Setting, list[tuple[str, ...]]] = {}
    for (setting, label), look in source.looks.items():
        numbers = [
            within(look.before, look.label),
            within(look.after, look.label),
            float(inter_dispersion(look.text_before)),
            math.nan if look.text_after is None else float(inter_dispersion(look.text_after)),
        ]
        shown = ("n/a" if math.isnan(number) else f"{number:.3f}" for number in numbers)
        rows.setdefault(setting, []).append((label, *shown))
    if rows:
        yield tag("h3", "Dispersion within and between classes")
        yield paragraph(DISPERSION)
    headings = ("method", "within, before", "after", "between, before", "after")
    for setting, its in rows.items():
        yield html.table(setting, headings, its)


def _collapse(source: Source) -> Iterator[Part]:
    parts: list[Part] = []
    for setting, runs in source.by_setting().items():
        rows = []
        for label, its in source.by_label(runs).items():
            found = [run.result["collapse"] for run in its if run.result.get("collapse")]
            if found:
                rows.append((label, *(_mean(found, name) for name in METRICS)))
        if rows:
            headings = ("method", *(name.replace("_", " ") for name in METRICS))
            parts.append(html.table(setting, headings, rows))
    for setting, runs in source.by_setting(source.runs).items():
        parts += training.drawn(source, setting, runs, training.COLLAPSE)
    if parts:
        yield tag("h3", "Neural collapse")
        yield paragraph(COLLAPSE)
    yield from parts


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """Over the seeds that have a number."""
    values = [one[name] for one in found if isinstance(one.get(name), int | float)]
    return f"{sum(values) / len(values):.3g}" if values else "not defined"


def _halves(source: Source) -> Iterator[Part]:
    drawings = []
    for setting, runs in source.by_setting().items():
        for label, its in source.by_label(runs).items():
            if (cosines := halves(its[0])) is not None:
                drawings.append(_heat(setting, label, cosines))
    if drawings:
        yield tag("h3", "Likeness of UPT's two parts")
        yield paragraph(HALVES)
    yield from drawings


def halves(run: Run) -> Tensor | None:
    """Cosines of the text part's and the image part's vectors of U; None if there are none."""
    if run.place.method != "UPT":
        return None
    try:
        tensors, _ = prompt_file.read(run.folder / prompt_file.NAME)
    except UserError:
        return None
    unified = tensors.get("prompt_learner.ctx")
    count = run.result["config"].get("TRAINER", {}).get("UPT", {}).get("N_CTX", 0)
    if unified is None or not 0 < count < unified.shape[:-1].numel():
        return None
    unified = F.normalize(unified.flatten(0, -2).float(), dim=-1)
    return unified[:count] @ unified[count:].T


def _heat(setting: Setting, label: str, cosines: Tensor) -> Drawing:
    with figures.look():
        figure, axes = figures.axes(height=2.8)
        axes.grid(visible=False)
        image = axes.imshow(cosines.numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto")
        figures.counted(axes, cosines.shape)
        for (row, column), value in np.ndenumerate(cosines.numpy()):
            if cosines.shape[1] <= NUMBERED:
                colour = "black" if value > 0.2 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
        axes.set_xlabel("vector of the image part")
        axes.set_ylabel("vector of the text part")
        figure.colorbar(image, label="cosine")
    alt = (
        f"Cosines between the two parts of {label}, {setting}: mean {cosines.mean():.2f}, "
        f"from {cosines.min():.2f} to {cosines.max():.2f}."
    )
    return Drawing(f"halves-{setting.slug}-{label}", str(setting), alt, figure)


def _attention(source: Source) -> Iterator[Part]:
    drawings = [
        _maps(setting, label, maps)
        for (setting, label), look in source.looks.items()
        if (maps := [extra for extra in look.extras if isinstance(extra, Attention)])
    ]
    if drawings:
        yield tag("h3", "Where DPT's class-aware prompts look")
        yield paragraph(ATTENTION)
    yield from drawings


def _maps(setting: Setting, label: str, maps: Sequence[Attention]) -> Drawing:
    """A row for each picture: itself, then what its likely classes read."""
    columns = 1 + max(len(one.classnames) for one in maps)
    with figures.look():
        figure = figures.blank(height=1.5 * len(maps))
        grid = figure.subplots(len(maps), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for (first, *others), one in zip(grid, maps, strict=True):
            with contextlib.suppress(UnreadableError, OSError), pictures.quiet():
                first.imshow(pictures.rgb(one.path))
            first.set_title(textwrap.fill(one.truth, 16), fontsize=8)
            for axes, name, values, share in zip(
                others, one.classnames, one.maps, one.on_patches.tolist(), strict=False
            ):
                axes.imshow(values.numpy(), cmap="Greys", vmin=0)
                axes.set_title(f"{textwrap.fill(name, 16)}\n{share:.2f}", fontsize=8)
    told = "; ".join(f"for a picture of {one.truth}: {', '.join(one.classnames)}" for one in maps)
    alt = f"Attention of {label}'s likely classes over patches, {setting}, {told}."
    name = f"attention-{setting.slug}-{label}"
    return Drawing(name, f"{label}, {setting}", alt, figure)
