"""Image features before and after, and learned contexts as words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from promptclip.report import figures, html
from promptclip.report.confusions import NOT_LOOKED
from promptclip.report.figures import Drawing
from promptclip.report.html import Markup, Part, Section, folded, paragraph, tag
from promptclip.report.looking import Look
from promptclip.report.methods import Words
from promptclip.report.source import Setting, Source

CLASSES = 8  # drawn of each look
PLANE = (
    "Image features of the test pictures of the classes with the most of them, in the plane of "
    "the two directions in which features without and with what was learned vary most together "
    "(principal components). Left without, right with. How much of the variation the plane shows "
    "stands below; what is close in it need not be close in the whole space. A method that leaves "
    "the image tower alone has the same picture twice, and is left out."
)
WORDS = (
    "The entries of CLIP's vocabulary nearest to each learned context vector, with their Euclidean "
    "distance, as in CoOp's paper. Entries may be parts of words. Far from every entry, the "
    "nearest one says little."
)


def section(source: Source) -> Section:
    """Planes of methods that move image features, and words of those that have a context."""
    title, anchor = "Features and words", "features"
    if not source.looked:
        return Section(anchor, title, empty=NOT_LOOKED)
    drawings = list(_planes(source))
    words = list(_words(source))
    parts: list[Part] = []
    if drawings:
        parts += [tag("h3", "Features before and after"), paragraph(PLANE), *drawings]
    if words:
        parts += [tag("h3", "Learned contexts as words"), paragraph(WORDS), *words]
    why = "No method that was looked at moves image features or has a context for texts."
    return Section(anchor, title, parts, empty="" if parts else why)


def principal(features: Tensor) -> tuple[Tensor, float]:
    """Coordinates [N, 2] in the plane of most variation, and its share of the whole variation."""
    centred = features.double() - features.double().mean(0)
    _, size, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes[:2].abs().argmax(-1, keepdim=True)
    axes = axes[:2] * axes[:2].gather(-1, largest).sign()  # the same way round everywhere
    shares = size.square() / size.square().sum()
    return centred @ axes.T, float(shares[:2].sum())


def _planes(source: Source) -> Iterator[Drawing]:
    for (setting, label), look in source.looks.items():
        moved = not torch.allclose(look.before, look.after, atol=1e-4)
        if moved and bool(look.after.isfinite().all()) and len(look.paths) > 2:
            yield _plane(setting, label, look)


def _plane(setting: Setting, label: str, look: Look) -> Drawing:
    often = Counter(look.label.tolist())
    classes = sorted(often, key=lambda one: (-often[one], one))[:CLASSES]
    chosen = torch.isin(look.label, torch.tensor(classes))
    kept = look.label[chosen]
    both = torch.cat([look.before[chosen], look.after[chosen]])
    coordinates, share = principal(both)
    with figures.look():
        figure = figures.blank(height=3.0)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, points, title in zip(
            panels, coordinates.split(len(kept)), ("without", "with"), strict=True
        ):
            looks = figures.styles(map(str, classes))  # several may have one name
            for one, style in zip(classes, looks.values(), strict=True):
                x, y = points[kept == one].T.tolist()
                name = figures.shown(look.classnames[one]) if title == "with" else None
                axes.plot(x, y, label=name, markersize=4, **{**style._asdict(), "linestyle": ""})
            axes.set_title(title, fontsize=10)
            axes.tick_params(labelbottom=False, labelleft=False)
        figures.legend(figure, panels[1])
    alt = (
        f"Image features of {len(classes)} classes without and with {label}, {setting}; the plane "
        f"shows {100 * share:.0f} % of their variation."
    )
    name = f"features-{setting.slug}-{label}"
    return Drawing(name, f"{label}, {setting} ({100 * share:.0f} % of the variation)", alt, figure)


def _words(source: Source) -> Iterator[Markup]:
    for (setting, label), look in source.looks.items():
        for extra in look.extras:
            if isinstance(extra, Words) and setting.target in ("", "base"):
                rows = (
                    (number, *(f"{word} ({far:.2f})" for word, far in row))
                    for number, row in enumerate(extra.rows, 1)
                )
                headings = ("vector", "nearest", "second", "third")
                caption = f"{label}, {setting}"
                yield folded(caption, html.table(caption, headings, rows))
