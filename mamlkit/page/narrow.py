"""A figure for a phone: drawn again half as wide, panels below one another, nothing smaller than can be read.

The second picture travels inside the first, in a chunk of the PNG that no viewer shows (`mamlkit.page.drawn` keeps the
figure's words in another). The site takes it out and lets the browser choose.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.text import Annotation, Text
from PIL import Image

__all__ = ["lay_out", "narrow_picture"]

WIDTH = 3.8  # inches, of which a phone shows 342 pixels
DPI = 180
MANY = 6  # panels; more stand in two columns
SMALLEST = 8.0  # points: 10 pixels on that phone


def narrow_picture(figure: Figure) -> bytes:
    """The figure, laid out for a phone, as a PNG of at most 256 colours. The figure stays so."""
    lay_out(figure)
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=DPI, metadata={"Software": None})
    colours = Image.open(whole).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(small, format="png", optimize=True)
    return small.getvalue()


def lay_out(figure: Figure) -> None:
    """Make `figure` 3.8 inches wide: panels with axes stand below one another, texts wrap, legends go below the axes.

    More than six panels stand in two columns; grids of bare pictures keep their shape and shrink.
    """
    width, height = figure.get_size_inches()
    places = {ax: spec for ax in figure.axes if (spec := ax.get_subplotspec()) is not None}
    panels = list(places)
    grids = {spec.get_gridspec().get_geometry() for spec in places.values()}
    rows, columns = max(grids, default=(1, 1))
    bare = [ax for ax in panels if not ax.axison or not (len(ax.get_xticks()) or len(ax.get_yticks()))]
    stacked = columns > 1 and len(grids) == 1 and len(bare) < len(panels) / 2
    tall = height / rows if stacked or columns == 1 else height * WIDTH / width / rows
    tall = max(tall * (0.8 if stacked else 0.9), 2.2) if len(bare) < len(panels) / 2 else tall
    if stacked:
        across = 2 if len(panels) > MANY else 1
        _stack(figure, places, across)
        rows, tall = -(-len(panels) // across), tall if across == 1 else 1.7
    titles = sum(ax.get_title(loc).count(" ") > 3 for ax in panels for loc in ("left", "center"))
    legends = [legend for ax in figure.axes if (legend := ax.get_legend()) is not None]
    below = sum((0.2 * len(legend.get_texts()) + 0.1 for legend in legends), 0.0)
    for outer in figure.legends:
        outer.set_ncols(1)
        below += 0.2 * len(outer.get_texts())
    figure.set_size_inches(WIDTH, tall * rows + 0.2 * titles + below)
    for text in figure.findobj(Text):
        text.set_fontsize(max(SMALLEST, min(float(text.get_fontsize()), 10.5)))
    for ax in panels:
        _wrap_axes(ax, tall, beside=any(hasattr(other, "_colorbar") for other in figure.axes))
    if figure._suptitle is not None:  # type: ignore[attr-defined]
        figure._suptitle.set_text(wrapped(figure._suptitle.get_text(), 40))  # type: ignore[attr-defined]
    for legend in legends:
        _below(legend, tall)
    figure.canvas.draw()
    for text in (text for ax in figure.axes for text in ax.texts):
        _keep_inside(text, figure.bbox.x0 + 4, figure.bbox.x1 - 4, points=72 / figure.dpi)


def _keep_inside(text: Text, low: float, high: float, points: float) -> None:
    """Move a label that the edge would cut."""
    box = text.get_window_extent()
    shift = min(high - box.x1, 0) or max(low - box.x0, 0)
    if not shift or not text.get_text().strip():
        return
    if isinstance(text, Annotation) and text.anncoords == "offset points":
        text.xyann = (text.xyann[0] + shift * points, text.xyann[1])
    elif not isinstance(text, Annotation):
        to_screen = text.get_transform()
        x, y = to_screen.transform(text.get_unitless_position())
        left, up = to_screen.inverted().transform((x + shift, y))
        text.set_position((left, up))


def _stack(figure: Figure, specs: dict[Axes, SubplotSpec], across: int) -> None:
    """One column, or two; what a panel borrowed from its neighbours, ticks' numbers and labels, it gets itself."""
    by_place = {(spec.rowspan.start, spec.colspan.start): ax for ax, spec in specs.items()}
    last = max(row for row, _ in by_place)
    for (row, column), ax in by_place.items():
        left, under = by_place.get((row, 0)), by_place.get((last, column))
        if (
            left is not None
            and left is not ax
            and not ax.get_ylabel()
            and ax.get_shared_y_axes().joined(ax, left)
        ):
            ax.set_ylabel(left.get_ylabel())
        if under is not None and under is not ax and not ax.get_xlabel():
            ax.set_xlabel(under.get_xlabel())
        if ax.axison:
            ax.tick_params(labelleft=ax.yaxis.get_ticks_position() != "right", labelbottom=True)
    grid = figure.add_gridspec(-(-len(specs) // across), across)
    for i, place in enumerate(sorted(by_place)):
        by_place[place].set_subplotspec(grid[i // across, i % across])


def _wrap_axes(ax: Axes, tall: float, beside: bool) -> None:
    spec = ax.get_subplotspec()
    columns = spec.get_gridspec().ncols / len(spec.colspan) if spec is not None else 1
    for loc in ("left", "center", "right"):
        if text := ax.get_title(loc):
            ax.set_title(wrapped(text, int((26 if beside else 36) / columns)), loc=loc)
    ax.set_xlabel(wrapped(ax.get_xlabel(), int(40 / columns)))
    ax.set_ylabel(wrapped(ax.get_ylabel(), max(14, int(11 * tall))))


def _below(legend: object, tall: float) -> None:
    ax = legend.axes  # type: ignore[attr-defined]
    legend.set_loc("upper left")  # type: ignore[attr-defined]
    legend.set_ncols(1)  # type: ignore[attr-defined]
    under = 0.35 + 0.17 * (ax.get_xlabel().count("\n") + bool(ax.get_xlabel()))
    legend.set_bbox_to_anchor((0, -under / max(tall - 0.6, 1.0)), transform=ax.transAxes)  # type: ignore[attr-defined]


def wrapped(text: str, width: int) -> str:
    """`text` in lines of about `width` characters; formulas, between two $, stay whole.

    >>> wrapped("the loss at $\\\\theta - \\\\alpha g$ after one step", 20).split("\\n")
    ['the loss at $\\\\theta - \\\\alpha g$', 'after one step']
    """
    lines: list[str] = []
    for line in text.split("\n"):
        lines += _lines(line, width)
    return "\n".join(lines)


def _lines(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in re.findall(r"(?:\$[^$]*\$|[^\s$])+", text):
        if line and _length(f"{line} {word}") > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def _length(text: str) -> int:
    return len(re.sub(r"\\[a-zA-Z]+|[${}^_]", "m", re.sub(r"\$", "", text)))
