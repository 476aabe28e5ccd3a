"""Draw your own alphabet: a meta-trained network adapts to one drawing of each symbol, beside the nearest neighbour."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, look_colour, within

SIDE = 28
"""Pixels across an image."""
FILLED = 0.6
"""The longer side of a drawing, as a part of the image: a drawing is centred and scaled before it is read."""
LARGEST_SCALE = 4.0
"""A dot is not blown up to a blot."""
PEN = 0.75
"""Half the width of the pen, in pixels."""
PARTS = 4
"""Places across a pixel where ink is looked for."""

Drawing = Sequence[Sequence[float]]
"""Strokes, each x, y, x, y, ... from the upper left corner (0, 0) to the lower right one (1, 1)."""


def pixels(drawing: Drawing) -> Tensor:
    """A drawing as the network of `draw_alphabet` sees it: centred, scaled, inked, `(1, 28, 28)` in [0, 1], 1 = ink.

    `pixels(figure.query)` is the reader's query. Nothing drawn gives an empty image.

    >>> pixels([[0.2, 0.5, 0.8, 0.5]]).shape
    torch.Size([1, 28, 28])
    """
    strokes = [np.asarray(stroke, dtype=float).reshape(-1, 2) for stroke in drawing]
    at = (np.arange(SIDE * PARTS) + 0.5) / PARTS
    nearest = np.full((len(at), len(at)), np.inf)
    if strokes:
        points = np.concatenate(strokes)
        low, high = points.min(axis=0), points.max(axis=0)
        scale = min(FILLED / max(float((high - low).max()), 1e-9), LARGEST_SCALE)
        for stroke in strokes:
            placed = ((stroke - (low + high) / 2) * scale + 0.5) * SIDE
            for start, end in zip(placed, placed[1:] if len(placed) > 1 else placed, strict=False):
                way = end - start
                along = (at[None, :] - start[0]) * way[0] + (at[:, None] - start[1]) * way[1]
                share = np.clip(along / max(float(way @ way), 1e-12), 0, 1)
                off = at[None, :] - start[0] - share * way[0], at[:, None] - start[1] - share * way[1]
                nearest = np.minimum(nearest, off[0] ** 2 + off[1] ** 2)
    inked = (nearest <= PEN**2).reshape(SIDE, PARTS, SIDE, PARTS).mean(axis=(1, 3))
    return torch.from_numpy(inked[None]).float()


def draw_alphabet(
    params: Mapping[str, Tensor],
    sets: Mapping[str, Sequence[Sequence[Drawing]]],
    *,
    inner_lr: float,
    caption: str = "",
) -> Figure:
    """One example of each symbol by the reader's own hand, one gradient step, and what a query is taken for before and after it.

    The query is normalised with the examples, as `meta.inductive_accuracy` does; beside the network stands the example with
    the largest pixel cosine. The reader's strokes are `figure.alphabet`, a drawing for each symbol, and `figure.query`;
    `pixels` makes images of them. Used in chapter `few-shot-images`.

    Args:
        params: of `conv4(n_way, channels=..., downsample="stride")`; the page holds them in half precision.
        sets: ready-made drawings by name: of every symbol one to learn from, then at least one to ask about.
        inner_lr: the step size α.
    """
    n_way, _ = _sizes(params)
    drawings = [drawing for symbols in sets.values() for symbol in symbols for drawing in symbol]
    fit = [len(symbols) == n_way and min(map(len, symbols)) >= 2 for symbols in sets.values()]
    refuse(
        {
            "no ready-made drawings; give at least one set, a name with its symbols": not sets,
            f"a set has not {n_way} symbols of at least two drawings, one to learn from and one to ask about": not all(
                fit
            ),
            "a drawing is not a list of strokes x, y, x, y, ... with numbers from 0 to 1": not all(
                map(_is_drawing, drawings)
            ),
        }
    )
    within("inner_lr", inner_lr, 0.0, 10.0)
    weights = np.concatenate([params[name].detach().cpu().half().flatten().numpy() for name in NAMES])
    ready = [
        {
            "name": name,
            "symbols": [[[[*map(float, s)] for s in drawing] for drawing in symbol] for symbol in kind],
        }
        for name, kind in sets.items()
    ]
    first = ready[0]["symbols"]
    return Figure(
        "conv4.js",
        "draw_alphabet.js",
        title="Draw your own alphabet",
        alt=(
            f"the reader draws one example of each of {n_way} symbols, then a query. A meta-trained network "
            "takes one gradient step on the examples and says which symbol the query is, with its confidence before and after "
            "the step, beside the nearest neighbour in pixels."
        ),
        caption=caption,
        colours={
            "maml": look_colour("maml"),
            "nearest": look_colour("nearest_neighbour"),
            "ink": COLOURS["blue"],
        },
        settings={
            "n_way": n_way,
            "channels": len(params["body.block1.1.weight"]),
            "weights": base64.b64encode(weights.astype("<f2").tobytes()).decode(),
            "inner_lr": float(inner_lr),
            "sets": ready,
            "pen": {"side": SIDE, "filled": FILLED, "largest": LARGEST_SCALE, "radius": PEN, "parts": PARTS},
        },
        state={"alphabet": [symbol[0] for symbol in first], "query": first[0][1]},
    )


LAYERS = [[f"body.block{i}.{part}" for part in ("0.weight", "1.weight", "1.bias")] for i in range(1, 5)]
NAMES = [*(name for layer in LAYERS for name in layer), "head.weight", "head.bias"]


def _sizes(params: Mapping[str, Tensor]) -> tuple[int, int]:
    """Symbols and channels."""
    shapes = {name: tuple(p.shape) for name, p in params.items()}
    channels, n_way = shapes.get(NAMES[1], (0,))[0], shapes.get("head.bias", (0,))[0]
    wanted = {"head.weight": (n_way, channels), "head.bias": (n_way,)}
    for i, (kernel, *norm) in enumerate(LAYERS):
        wanted |= {kernel: (channels, channels if i else 1, 3, 3), norm[0]: (channels,), norm[1]: (channels,)}
    refuse(
        {
            f"params has {sorted(shapes)} with other shapes than conv4's; "
            'give those of conv4(n_way, channels=..., downsample="stride")': (shapes != wanted),
        }
    )
    within("n_way", n_way, 2, 9)
    if not all(p.isfinite().all() for p in params.values()):
        raise ValueError("params are not all finite; nothing can be learned from them")
    return n_way, channels


def _is_drawing(drawing: Drawing) -> bool:
    return len(drawing) > 0 and all(
        len(stroke) > 0 and len(stroke) % 2 == 0 and all(0 <= value <= 1 for value in stroke)
        for stroke in drawing
    )
