"""One style sheet, and one colour and line style per algorithm, for the whole book.

The colours start from Okabe and Ito's palette (Color Universal Design, 2008), darkened where a thin line
would not reach a contrast of 3 : 1 on the card. Algorithms that share a hue belong together and differ in
line style. Figures keep their light card in dark mode, so one picture serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamlkit.calls import checked
from mamlkit.intervals import mean_ci95

__all__ = ["CARD", "COLOURS", "LOOK", "band", "label_line", "task_grid", "use"]

CARD = "#fbfbfd"
"""The background of every figure."""

INK = "#1f2328"
GREY = "#6b7280"

COLOURS = {
    "black": INK,
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#00865F",
    "purple": "#A03C8F",
    "ochre": "#664700",
    "sky": "#3587BA",
    "grey": GREY,
}
"""The palette by name."""


class _Looks(dict[str, dict[str, Any]]):
    def __missing__(self, name: str) -> dict[str, Any]:
        raise KeyError(f"no look is called {name!r}; there are {', '.join(sorted(self))}")


def _line(colour: str, linestyle: Any = "-", **more: Any) -> dict[str, Any]:
    return {"color": COLOURS[colour], "linestyle": linestyle, **more}


def _points(colour: str, marker: str, **more: Any) -> dict[str, Any]:
    return {"color": COLOURS[colour], "linestyle": "none", "marker": marker, **more}


_DASHES, _DOTS, _DASH_DOT = (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1.2, 2))

LOOK: dict[str, dict[str, Any]] = _Looks(
    # second order and its approximations
    maml=_line("blue", linewidth=2.4),
    fomaml=_line("sky", _DASHES),
    imaml=_line("sky", _DASH_DOT),
    hessian_free=_line("sky", _DOTS),
    reptile=_line("purple"),
    # part of the network, or more than an initialisation
    anil=_line("green"),
    boil=_line("green", _DASHES),
    cavia=_line("green", _DASH_DOT),
    meta_sgd=_line("blue", _DASHES),
    mamlpp=_line("blue", _DASH_DOT),
    leo=_line("purple", _DASH_DOT),
    # metric
    protonet=_line("ochre"),
    protomaml=_line("ochre", _DASH_DOT),
    nearest_neighbour=_line("ochre", _DOTS),
    # what they are compared with
    joint=_line("vermillion"),
    fine_tune=_line("vermillion", _DASHES),
    scratch=_line("grey", _DOTS),
    oracle=_line("black", _DASHES, linewidth=1.4),
    chance=_line("grey", _DASHES, linewidth=1.2),
    # inside one task
    truth=_line("black", linewidth=1.6),
    before=_line("grey"),
    after=_line("blue", linewidth=2.4),
    support=_points("vermillion", "^", markersize=8, markeredgecolor=CARD),
    query=_points("blue", "o", markersize=5, markerfacecolor=CARD),
)
"""Keyword arguments for `ax.plot` by the name of an algorithm, a baseline or a part of a task.

No two algorithms or baselines share a look; `before` and `after` are for the two sides of adaptation inside
one task.
"""

STYLE: dict[str, Any] = {
    "figure.figsize": (7.6, 3.6),  # inches; a page shows 760 pixels
    "figure.dpi": 144,
    "savefig.dpi": 144,
    "savefig.bbox": None,
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e6eb",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
    "axes.prop_cycle": cycler(
        color=[COLOURS[c] for c in ("blue", "vermillion", "green", "purple", "ochre", "grey")]
    ),
}


def use() -> None:
    """Activate the house style, whatever was set before; `notebook.setup` calls it.

    >>> use()
    >>> plt.rcParams["axes.spines.top"]
    False
    """
    plt.style.use(["default", STYLE])


@checked
def band(ax: Axes, x: Any, values: Any, *, look: str, label: str) -> None:
    """Draw the mean of `values` over its first axis with its 95 % interval as a band; n joins the label.

    The interval is of the mean, mean ± t · sd / √n with Student's t for n - 1 degrees of freedom, so that
    three seeds show as little certainty as three seeds give.

    Args:
        x: `(m,)`.
        values: `(n, m)`, one row per repeat (seed or task), n at least 2.
        look: a name in `LOOK`.

    Raises:
        ValueError: the shapes don't fit or there is only one repeat.
        KeyError: no such look.
    """
    x, values = _array(x), _array(values)
    n = len(values) if values.ndim == 2 and values.shape[1:] == x.shape else 0
    if n < 2 or not np.isfinite(x).all():
        raise ValueError(
            f"x has shape {x.shape} and values {values.shape}, but they must be (m,), finite, and (n, m) with n of at least 2; "
            "use ax.plot for a single run"
        )
    style = LOOK[look]
    mean, half = np.array([mean_ci95(torch.from_numpy(of_point)) for of_point in values.T]).T
    ax.plot(x, mean, label=f"{label} (n = {n})", **style)
    ax.fill_between(x, mean - half, mean + half, color=style["color"], alpha=0.18, linewidth=0)


@checked
def label_line(ax: Axes, text: str, *, look: str, x: float, y: float, **more: Any) -> None:
    """Write `text` at the data point (x, y) in the colour of `look`: a label beside its line, in place of a
    legend."""
    style = {"va": "center", "color": LOOK[look]["color"], "fontweight": "bold"}
    ax.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", **(style | more))


@checked
def task_grid(
    support: Any,
    query: Any,
    predictions: Any = None,
    *,
    per_class: int = 3,
    names: Sequence[str] | None = None,
) -> Figure:
    """A figure of one image task: a column per class, the support drawings above, the query drawings below.

    With predictions each query is framed: solid and ✓ where right; dashed, ✗ and the class it was taken for
    where wrong.

    Args:
        support: images `(n, 1, h, w)` or `(n, h, w)` and integer labels `(n,)`; a `Batch` fits.
        query: the same.
        predictions: predicted labels of the queries, `(n,)`.
        per_class: how many queries of each class are shown at most, the first ones.
        names: the classes' names, by label; the default is A, B, C, ...

    Raises:
        ValueError: images, labels, predictions and names do not fit each other.
    """
    parts = [(_images(b[0]), _array(b[1])) for b in (support, query)]
    guesses = None if predictions is None else _array(predictions)
    labelled = {"support": parts[0], "query": parts[1]}
    labelled |= {} if guesses is None else {"predictions": (parts[1][0], guesses)}
    for name, (images, labels) in labelled.items():
        if labels.shape != images.shape[:1] or len(labels) == 0:
            raise ValueError(
                f"{name} has labels of shape {labels.shape} for {len(images)} images; give each image one label"
            )
    classes = sorted(set(parts[0][1].tolist()))
    names = [chr(ord("A") + i) for i in range(max(classes) + 1)] if names is None else names
    asked = {*parts[1][1].tolist(), *([] if guesses is None else guesses.tolist())}
    if not asked <= set(classes) <= set(range(len(names))):
        raise ValueError(
            f"support has the labels {classes}, query and predictions {sorted(asked)}, and there are {len(names)} names; "
            "give one name to each label from 0, and ask only for classes of the support set"
        )
    above = [np.flatnonzero(parts[0][1] == c) for c in classes]
    below = [np.flatnonzero(parts[1][1] == c)[:per_class] for c in classes]
    n_above, n_below = (max(len(rows) for rows in columns) for columns in (above, below))
    side = min(1.2, 7.6 / len(classes))
    size = (7.6, side * (n_above + n_below) + 0.35 * n_below + 0.5)
    figure, axes = plt.subplots(n_above + n_below, len(classes), squeeze=False, figsize=size)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    for column, c in enumerate(classes):
        axes[0, column].set_title(names[c], loc="center", pad=6)
        for row, i in enumerate(above[column]):
            _picture(axes[row, column], parts[0][0][i], LOOK["support"]["color"], "-")
        for row, i in enumerate(below[column]):
            ax = axes[n_above + row, column]
            if guesses is None:
                _picture(ax, parts[1][0][i], GREY, "-")
                continue
            right = guesses[i] == c
            colour = COLOURS["green" if right else "purple"]
            _picture(ax, parts[1][0][i], colour, "-" if right else "--")
            verdict = "✓" if right else f"✗ taken for {names[int(guesses[i])]}"
            ax.set_xlabel(verdict, color=colour, fontsize=9, labelpad=3)
    axes[0, 0].set_ylabel("support", fontweight="bold")
    axes[n_above, 0].set_ylabel("query", fontweight="bold")
    return figure


def _picture(ax: Axes, image: np.ndarray, colour: str, linestyle: str) -> None:
    ax.imshow(image)
    ax.spines[:].set(visible=True, color=colour, linestyle=linestyle, linewidth=2)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _images(values: Any) -> np.ndarray:
    images = _array(values)
    return images.reshape(-1, *images.shape[-2:])
