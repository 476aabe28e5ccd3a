"""A figure for a phone: drawn again half as wide, panels below one another, nothing smaller than can be read.

The second picture travels inside the first, in a chunk of the PNG that no viewer shows (`mamlkit.page.drawn` keeps the
figure's words in another). The site takes it out and lets the browser choose.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox
from PIL import Image

__all__ = ["lay_out", "narrow_picture"]

WIDTH = 3.8  # inches, of which a phone shows 342 pixels
DPI = 180
MANY = 6  # panels; more stand in two columns
EM = 0.1  # inches: a letter of a title
LETTER = 0.08  # inches: a letter of a tick's name
SMALLEST = 8.0  # points: 10 pixels on that phone


def narrow_picture(figure: Figure) -> bytes:
    """A copy of the figure, laid out for a phone, as a PNG of at most 256 colours; nothing (`b""`) where it can't be copied,
    as a figure with a function of the reader's own on an axis can't."""
    try:
        twin: Figure = pickle.loads(pickle.dumps(figure))  # the way that matplotlib offers; bytes of our own
    except (pickle.PicklingError, AttributeError, TypeError):
        return b""
    plt.close(twin)  # no figure of the notebook's; it loses its canvas, without which nothing is laid out
    FigureCanvasAgg(twin)
    lay_out(twin)
    whole, small = io.BytesIO(), io.BytesIO()
    twin.savefig(whole, format="png", dpi=DPI, metadata={"Software": None})
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
    rows, across = max(grids, default=(1, 1))
    bare = sum(not ax.axison or not (len(ax.get_xticks()) or len(ax.get_yticks())) for ax in panels)
    pictures = any(ax.images for ax in panels) and (bare > len(panels) / 2 or len(panels) == 1)
    if pictures:
        tall = 1.25 * height * WIDTH / width / rows
    else:
        if across > 1 and len(grids) == 1:
            across = 2 if len(panels) > MANY else 1
            _stack(figure, places, across)
        tall = 1.7 if across == 2 else max((1.2 if bare else 0.85) * height / rows, 2.2)
        rows = -(-len(panels) // across)
        tall = max([tall, *(0.17 * _name_lines(ax) + 0.7 for ax in panels)])
    for text in figure.findobj(Text):
        text.set_fontsize(max(SMALLEST, min(float(text.get_fontsize()), 10.5)))
    labels = [text for ax in figure.axes for text in ax.texts]
    for text in labels:
        text.set_text(wrapped(text.get_text(), 18))
        text.set_in_layout(len(text.get_text()) < 9)  # a long label may not push its axes together
        if (
            text.get_verticalalignment() == "baseline"
        ):  # of the first line: the others would fall on what it names
            text.set_verticalalignment("bottom")
    for ax in panels:
        if isinstance(ax.xaxis.get_major_locator(), FixedLocator):
            below = [text.get_text() for text in ax.get_xticklabels()]
            room = int(0.8 * WIDTH / across / max(len(below), 1) / LETTER)
            if any(len(name) > room and " " in name for name in below):
                ax.set_xticks(ax.get_xticks(), [wrapped(name, room) for name in below])
    lines = sum(
        _one_column(figure, legend, tall) for ax in figure.axes if (legend := ax.get_legend()) is not None
    )
    lines += sum(_one_column(figure, legend, tall) for legend in list(figure.legends))
    for ax in panels:
        ax.set_xlabel(wrapped(ax.get_xlabel(), 40 // across))
        ax.set_ylabel(wrapped(ax.get_ylabel(), max(14, int(11 * tall))))
        names = _names(ax)
        if isinstance(ax.yaxis.get_major_locator(), FixedLocator) and any("\n" in name for name in names):
            ax.set_yticks(ax.get_yticks(), names)
        if pictures and ax.get_ylabel():
            ax.yaxis.label.set(rotation="horizontal", ha="right", va="center")
    figure.set_size_inches(WIDTH, tall * rows + 0.19 * (lines + _wrap_titles(figure, panels, across)))
    figure.canvas.draw()
    _wrap_titles(figure, panels, across)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for ax in panels:
        _begin_left(ax, across)
    for text in labels:
        _keep_inside(text, figure)
    _part([text for text in labels if text.get_visible() and text.get_text().strip()], figure)


def _names(ax: Axes) -> list[str]:
    return [wrapped(text.get_text(), 18) for text in ax.get_yticklabels()]


def _name_lines(ax: Axes) -> int:
    """How many lines the names along a vertical axis take, if they are names: every row as many as the longest."""
    lines = [name.count("\n") + 1 for name in _names(ax)]
    return len(lines) * max(lines) if isinstance(ax.yaxis.get_major_locator(), FixedLocator) and lines else 0


def _one_column(figure: Figure, legend: Legend, tall: float) -> int:
    """Set a legend's entries one below the other, below its axes or the figure; how many lines they take."""
    drawn = [
        (handle, text.get_text())
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
        if handle is not None
    ]
    # what a legend drew of points with error bars is the bars alone
    whole = {name: one for ax in figure.axes for one, name in zip(*ax.get_legend_handles_labels())}
    handles: list[Any] = [
        one if isinstance(one := whole.get(name), ErrorbarContainer) else handle for handle, name in drawn
    ]
    labels = [wrapped(name, 38) for _, name in drawn]
    title, ax = legend.get_title().get_text(), getattr(legend, "axes", None)
    legend.remove()
    more: dict[str, Any] = {
        "title": title or None,
        "alignment": "left",
        "fontsize": 9.5,
        "title_fontsize": 9.5,
    }
    if ax is None:
        figure.legend(handles, labels, loc="outside lower left", **more)
    else:
        more_lines = max((text.get_text().count("\n") for text in ax.get_xticklabels()), default=0)
        more_lines += wrapped(ax.get_xlabel(), 40).count("\n") + bool(ax.get_xlabel())
        under = 0.35 + 0.17 * more_lines
        place = (0, -under / max(tall - 0.6, 1.0))
        ax.legend(handles, labels, loc="upper left", bbox_to_anchor=place, borderaxespad=0, **more)
    return 1 + bool(title) + sum(label.count("\n") + 1 for label in labels)


def _wrap_titles(figure: Figure, panels: list[Axes], across: int) -> int:
    """Wrap titles to the room there is; how many lines are more."""
    more = 0
    if figure._suptitle is not None:  # type: ignore[attr-defined]
        title = figure._suptitle  # type: ignore[attr-defined]
        title.set_text(wrapped(" ".join(title.get_text().split("\n")), 38))
        more += title.get_text().count("\n")
    for ax in panels:
        for place in (ax._left_title, ax.title):  # type: ignore[attr-defined]
            if text := " ".join(place.get_text().split("\n")):
                room = (_column(ax, across) + 1 / across - _start(ax, across)) * WIDTH
                place.set_text(wrapped(text, max(8, int(room / EM))))
                more += place.get_text().count("\n")
    return more


def _column(ax: Axes, across: int) -> float:
    return int(ax.get_position().x0 * across + 0.01) / across


def _start(ax: Axes, across: int) -> float:
    """Where a title begins: above its axes, or at the edge where the labels of the axis take much room."""
    x0, column = ax.get_position().x0, _column(ax, across)
    return x0 if (x0 - column) * WIDTH < 0.9 else column + 0.02


def _begin_left(ax: Axes, across: int) -> None:
    box = ax.get_position()
    if (start := _start(ax, across)) != box.x0:
        ax._left_title.set_x((start - box.x0) / box.width)  # type: ignore[attr-defined]


def _keep_inside(text: Text, figure: Figure) -> None:
    """Move a label that an edge of the figure would cut."""
    box, edge = text.get_window_extent(), figure.bbox.padded(-4)
    right = min(edge.x1 - box.x1, 0) or max(edge.x0 - box.x0, 0)
    up = min(edge.y1 - box.y1, 0) or max(edge.y0 - box.y0, 0)
    if (right or up) and text.get_text().strip():
        _move(text, right, up)


def _move(text: Text, right: float, up: float) -> None:
    """Move a label by so many pixels, if it stands where points or data say."""
    to_screen = text.get_transform()
    if isinstance(text, Annotation):
        if text.anncoords == "offset points":
            points = 72 / text.get_figure(root=True).dpi  # type: ignore[union-attr]
            text.xyann = (text.xyann[0] + right * points, text.xyann[1] + up * points)
        if text.anncoords != "data" or text.axes is None:
            return
        to_screen = text.axes.transData
    x, y = to_screen.transform(text.get_unitless_position())
    text.set_position(tuple(to_screen.inverted().transform((x + right, y + up))))


def _part(labels: list[Text], figure: Figure) -> None:
    """Move a label that lies on one before it off it, the shortest free way; one on a line by little more than its height."""
    taken: list[Bbox] = []
    for text in labels:
        box = _box(text)
        under = [other for other in taken if other.overlaps(box)]
        line = box.height / (text.get_text().count("\n") + 1)
        ways = [(0.0, share * line) for share in (0.0, 0.5, -0.5, 1.0, -1.0, 1.4, -1.4)]
        ways += [(0.0, o.y1 - box.y0 + 1) for o in under] + [(0.0, o.y0 - box.y1 - 1) for o in under]
        ways += [(o.x1 - box.x0 + 1, 0.0) for o in under] + [(o.x0 - box.x1 - 1, 0.0) for o in under]
        own = text.axes.bbox if text.axes is not None else figure.bbox
        within = own if all(own.contains(*corner) for corner in box.corners()) else figure.bbox
        free = [
            (max(map(abs, way)) + 1.5 * line * _is_crossed(text, there), way)
            for way, there in ((way, box.translated(*way)) for way in ways)
            if not any(other.overlaps(there) for other in taken)
            and all(within.contains(*corner) for corner in there.corners())
        ]
        if free and (best := min(free)[-1]) != (0.0, 0.0):
            _move(text, *best)
        taken.append(_box(text))


def _is_crossed(text: Text, box: Bbox) -> bool:
    """Whether a line of the label's axes goes through `box`; a label in a frame of its own may stand on one."""
    lines = [] if text.axes is None or text.get_bbox_patch() else text.axes.get_lines()
    return any(
        line.get_transform().transform_path(line.get_path()).intersects_bbox(box, filled=False)
        for line in lines
        if line.get_visible() and line.get_linestyle() not in ("None", "none", "")
    )


def _box(text: Text) -> Bbox:
    """Where a label's words are, without its arrow: some air beside them, less than a font has above and below."""
    text.get_window_extent()  # brings an annotation to its place
    box = Text.get_window_extent(text)
    return Bbox.from_extents(box.x0 - 4, box.y0 + 1.5, box.x1 + 4, box.y1 - 1.5)


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
