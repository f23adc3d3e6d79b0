"""Figures: how they look, and the forms in which they are written.

Methods differ by colour, marker and line style, in this order of change, so that they are told
apart in grey as well. Every figure is as wide as a phone's screen, and its letters stay readable.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from promptclip.errors import UserError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, LINE = 5.0, 3.4, 0.22  # inches; LINE of a legend
LONGEST = 60  # letters of a name
COLUMNS = {14: 3, 24: 2, LONGEST + 1: 1}  # of a legend, by the letters of its longest name
FORMATS = ("pdf", "png", "svg")
# M. Okabe, K. Ito, "Color Universal Design", without the yellow that white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_LOOK: Any = {
    "text.parse_math": False,  # a "$" in a name is one
    "svg.hashsalt": "promptclip",  # the same bytes twice
    "font.size": 10,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
}


class Style(NamedTuple):
    """How a method is drawn: its arguments for matplotlib's `plot`."""

    color: str
    marker: str
    linestyle: Any
    markerfacecolor: str


@dataclass(frozen=True)
class Drawing:
    """A figure and what is said of it.

    Attributes:
        name: for its file, without a suffix; see `named`.
        title: what it shows, above it.
        alt: the same for who does not see it: what is drawn, and what can be read from it.
        figure: of matplotlib.
    """

    name: str
    title: str
    alt: str
    figure: Figure


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """One for each method, the same in every figure of a report.

    When all markers are taken they come again, hollow.
    """
    found = {}
    for i, method in enumerate(dict.fromkeys(methods)):
        colour = _COLOURS[i % len(_COLOURS)]
        hollow = i // len(_MARKERS) % 2
        found[method] = Style(
            colour,
            _MARKERS[i % len(_MARKERS)],
            _LINES[i % len(_LINES)],
            "white" if hollow else colour,
        )
    return found


@contextlib.contextmanager
def look() -> Iterator[None]:
    """Inside, figures look as those of a report do.

    Raises:
        UserError: without matplotlib.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name}; pip install 'promptclip[plots]'") from None
    with matplotlib.rc_context(_LOOK), warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def blank(height: float) -> Figure:
    """A new figure without axes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def axes(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A new figure and its axes."""
    figure = blank(height)
    return figure, figure.add_subplot()


def shown(name: str) -> str:
    """A name as it stands in a figure: not too long, and none that matplotlib keeps to itself."""
    name = printable(name)
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return f" {name}" if name.startswith("_") else name


def legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, for which the figure grows; it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = next(count for length, count in COLUMNS.items() if longest <= length)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE * -(-len(labels) // columns))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2,
        columnspacing=1.0,
    )  # fmt: skip


def star(on: Axes, x: float, y: float, name: str) -> None:
    """The point of zero-shot CLIP."""
    on.plot([x], [y], label=shown(name), color="black", marker="*", markersize=13,
            linestyle="none", zorder=5)  # fmt: skip


def band(on: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float],
         style: Style) -> None:  # fmt: skip
    """A band around a line; where it is one point, a bar."""
    if len(x) > 1:
        on.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)
    else:
        on.vlines(x, low, high, color=style.color, alpha=0.5)


def in_points(on: Axes, label: str, values: Iterable[float]) -> None:
    """Make the vertical axis logarithmic where all values allow it, with numbers as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found = list(values)
    on.set_ylabel(label)
    if not found or min(found) <= 0 or max(found) < 10 * min(found):
        return
    on.set_yscale("log")
    on.yaxis.set_major_locator(LogLocator(base=10, numticks=8))
    on.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    on.yaxis.set_minor_formatter(NullFormatter())


def whole_numbers(on: Axes) -> None:
    """Have no tick of the horizontal axis between two whole numbers."""
    from matplotlib.ticker import MaxNLocator

    on.xaxis.set_major_locator(MaxNLocator(integer=True))


def counted(on: Axes, shape: Sequence[int]) -> None:
    """Ticks of the rows and columns of a matrix, from 1; of many, some."""
    for axis, count in zip((on.yaxis, on.xaxis), shape, strict=True):
        numbers = range(0, count, 1 + count // 16)
        axis.set_ticks(list(numbers), [str(1 + number) for number in numbers])


def encoded(drawing: Drawing, format: str, **options: Any) -> bytes:
    """The bytes of a file of one of `FORMATS`, the same whenever they are made."""
    content = io.BytesIO()
    dates: Mapping[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with look():
        drawing.figure.savefig(content, format=format, metadata=dates.get(format), **options)
    return content.getvalue()


def named(drawings: Iterable[Drawing]) -> dict[str, Drawing]:
    """Drawings by names for their files, whatever letters the names of methods have."""
    found: dict[str, Drawing] = {}
    for drawing in drawings:
        name = re.sub(r"[^\w.+-]", "_", drawing.name)
        while name in found:
            name += "_"
        found[name] = drawing
    return found


def data_url(content: bytes, kind: str) -> str:
    """A picture as a part of the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
