"""Pictures that say what they show: a stored PNG carries its figure's texts, the places of its marks, and a narrow twin.

Pixels can be compared only roughly, because two machines smooth edges differently; "better" and "worse" differ
by fewer pixels than that. So the picture brings its own words and numbers along, in a text chunk that no
viewer shows, and a second run compares those. In another such chunk it brings itself as it looks on a phone.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogFormatter, ScalarFormatter
from numpy.typing import NDArray

from mamlkit.page.narrow import narrow_picture

__all__ = ["KEYWORD", "NARROW", "content", "picture"]

KEYWORD = "drawn"  # of the PNG's text chunk
NARROW = b"naRw"  # the chunk with the narrow twin
POINTS = 50  # of a mark's points are kept, evenly by their number


def picture(figure: Figure) -> str:
    """The figure as a PNG in base64, with its `content` in a compressed text chunk and its narrow twin in another; the
    same figure gives the same bytes."""
    from IPython.core.pylabtools import print_figure

    png: bytes = print_figure(  # type: ignore[no-untyped-call]
        figure, "png", base64=False, bbox_inches=None, metadata={"Software": None}
    )
    text = json.dumps(content(figure), separators=(",", ":")).encode()  # ASCII, whatever the titles hold
    words = _chunk(b"zTXt", KEYWORD.encode() + b"\0\0" + zlib.compress(text, 9))
    twin = _chunk(NARROW, narrow) if (narrow := narrow_picture(figure)) else b""
    end = 33  # the signature and the header
    return base64.b64encode(png[:end] + words + twin + png[end:]).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))


def content(figure: Figure) -> dict[str, Any]:
    """What a figure that has been drawn shows: `texts`, and for each of its `axes` the limits and the marks.

    A mark has a name (its kind, label and colour) and its points as x, y, x, y, ... in shares of the axes, so
    that 0.003 is about a pixel whatever the scale. Numbers along an axis are left out unless they were written
    by hand: the limits say the same.
    """
    return {"texts": list(_texts(figure)), "axes": [_axes(ax) for ax in figure.axes]}


def _texts(figure: Figure) -> Iterator[str]:
    automatic = {
        id(text)
        for axis in figure.findobj(Axis)
        if isinstance(axis, Axis) and isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter))
        for text in [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True), axis.get_offset_text()]
    }
    for text in figure.findobj(Text):
        shown = isinstance(text, Text) and text.get_visible() and id(text) not in automatic
        if shown and text.get_text().strip():
            yield text.get_text().strip()


def _axes(ax: Axes) -> dict[str, Any]:
    limits = [float(f"{value:.4g}") for value in (*ax.get_xlim(), *ax.get_ylim())]
    marks = [mark for child in ax.get_children() if child.get_visible() for mark in _marks(ax, child)]
    return {"limits": limits, "scales": [ax.get_xscale(), ax.get_yscale()], "marks": marks}


def _marks(ax: Axes, child: Artist) -> Iterator[list[Any]]:
    """Name and points of what one child of the axes draws, nothing for frames, axes and legends."""
    name = f"{type(child).__name__} {child.get_label()}"
    if isinstance(child, Line2D):
        name += f" {_hex(child.get_color())} {child.get_linestyle()} {child.get_marker()}"
        yield [name, _points(ax, child.get_transform().transform(child.get_xydata()))]
    elif isinstance(child, AxesImage):
        shades = np.asarray(child.to_rgba(np.asarray(child.get_array()), norm=True), dtype=float)[
            ..., :3
        ].mean(-1)
        rows, columns = (np.linspace(0, n - 1, min(n, 7)).round().astype(int) for n in shades.shape)
        yield [name, shades[np.ix_(rows, columns)].round(2).ravel().tolist()]
    elif isinstance(child, Collection):
        name += "".join(f" {_hex(colour)}" for colour in child.get_facecolor()[:1])
        if isinstance(child, PathCollection):
            offsets = child.get_offset_transform().transform(np.ma.getdata(child.get_offsets()))
            yield [name, _points(ax, offsets)]
        else:
            paths = [child.get_transform().transform_path(path).vertices for path in child.get_paths()]
            corners = np.concatenate(paths) if paths else np.empty((0, 2))
            # How many corners a contour has depends on rounding; a band has two for every place.
            yield [name, _points(ax, corners if isinstance(child, PolyCollection) else _box(corners))]
    elif isinstance(child, Patch) and not isinstance(child, Spine) and child is not ax.patch:
        yield [f"{name} {_hex(child.get_facecolor())}", _points(ax, _patch(child))]
    elif isinstance(child, Text) and child.get_text() and child not in _titles(ax):
        box = child.get_window_extent()
        yield ["Text", _points(ax, [[box.x0, box.y0]])]
    if isinstance(child, Annotation) and child.arrow_patch is not None:
        yield ["Arrow", _points(ax, _patch(child.arrow_patch))]


def _titles(ax: Axes) -> tuple[Text, ...]:
    return ax.title, ax._left_title, ax._right_title  # type: ignore[attr-defined]


def _patch(patch: Patch) -> NDArray[np.float64]:
    return _box(np.asarray(patch.get_transform().transform_path(patch.get_path()).vertices))


def _hex(colour: Any) -> str:
    return to_hex(colour)


def _box(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    corners = corners[np.isfinite(corners).all(-1)]
    return np.stack([corners.min(0), corners.max(0)]) if len(corners) else corners


def _points(ax: Axes, places: Any) -> list[float | None]:
    """At most `POINTS` places on the screen as shares of the axes, `None` for what is not drawn."""
    places = np.asarray(places, dtype=float).reshape(-1, 2)
    kept = np.linspace(0, len(places) - 1, min(len(places), POINTS)).round().astype(int)
    shares = ax.transAxes.inverted().transform(places[kept]) if len(kept) else places
    shares = np.clip(shares, -9, 9).round(4) + 0.0  # no -0.0
    return [value if np.isfinite(value) else None for value in shares.ravel().tolist()]
