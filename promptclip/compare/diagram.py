"""The critical-difference diagram: in characters, and as a figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptclip.compare.inference import Ranking, dataset_means, rank
from promptclip.compare.pairing import Contest
from promptclip.errors import UserError
from promptclip.files import write_bytes

SUFFIXES = (".pdf", ".png", ".svg")
_WIDTH = 49


def lines(ranking: Ranking) -> Iterator[str]:
    """The methods on a line of ranks, and bars below those that are not told apart."""
    worst = len(ranking.ranks)
    longest = max(map(len, ranking.ranks))

    def at(rank: float) -> int:
        return round((rank - 1) / (worst - 1) * (_WIDTH - 1))

    axis = [" "] * (_WIDTH + len(str(worst)))
    for number in range(1, worst + 1):
        axis[at(number) : at(number) + len(str(number))] = str(number)
    yield f"{'':{longest}}  {'rank':>5}  {''.join(axis).rstrip()}"
    for name, mean in ranking.ranks.items():
        yield f"{name:{longest}}  {mean:5.2f}  {' ' * at(mean)}o"
    for group in ranking.groups:
        left, right = at(ranking.ranks[group[0]]), at(ranking.ranks[group[-1]])
        yield f"{'':{longest}}  {'':5}  {' ' * left}{'=' * (right - left + 1)}"


def plot(contests: Sequence[Contest], file: Path) -> None:
    """Draw the diagrams of contests below each other.

    Args:
        contests: of three methods or more, each with two data sets or more; others are left out.
        file: its suffix is one of `SUFFIXES`.

    Raises:
        UserError: for another suffix, without the libraries, or if nothing can be drawn.
    """
    if file.suffix not in SUFFIXES:
        raise UserError(f"a figure is a {', '.join(SUFFIXES)} file, got {file}")
    try:
        import pandas
        import scikit_posthocs
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name}; pip install 'promptclip[stats]'") from None
    drawn = [contest for contest in contests if len(contest.values) > 1]
    if not drawn or len(drawn[0].methods) < 3:
        raise UserError("a diagram needs three methods and two data sets that all of them have")
    height = 1.2 + 0.3 * len(drawn[0].methods)
    figure = Figure(figsize=(7, height * len(drawn)), layout="constrained")
    for contest, axes in zip(drawn, figure.subplots(len(drawn), squeeze=False)[:, 0], strict=True):
        ranking = rank(contest)
        scores = pandas.DataFrame(dataset_means(contest), columns=list(contest.methods))
        scikit_posthocs.critical_difference_diagram(
            ranking.ranks if ranking else {},
            scikit_posthocs.posthoc_nemenyi_friedman(scores),
            ax=axes,
        )
        axes.set_title(f"{contest.title} ({len(contest.values)} data sets)")
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix[1:])
    write_bytes(content.getvalue(), file)
