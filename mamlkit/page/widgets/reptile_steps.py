"""Reptile's inner steps on tasks that lines of parameters solve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, finite, look_colour, stored, within


def reptile_steps(
    normals: ArrayLike,
    offsets: ArrayLike,
    loudness: ArrayLike,
    *,
    inner_steps: int = 1,
    inner_lr: float = 0.2,
    caption: str = "",
) -> Figure:
    """Where Reptile with K inner steps rests on tasks of one example each, beside the joint optimum and the nearest point.

    Task i has the loss lᵢ² (nᵢ·θ - oᵢ)², which a whole line solves. K steps of size α go 1 - (1 - 2αlᵢ²)^K of the way to it,
    and Reptile rests where those moves add up to zero. Used in chapter `reptile` (Nichol et al. 2018).

    Args:
        normals: the nᵢ, `(n_tasks, 2)`, of length 1, in two directions at least.
        offsets: the oᵢ, `(n_tasks,)`.
        loudness: the lᵢ, `(n_tasks,)`, 0.2 to 1; the first task's is the reader's `figure.loudness`.
        inner_steps: K at first, 1 to 60; the reader's is `figure.inner_steps`.
        inner_lr: α at first, 0.05 to 0.45, with which no step overshoots; the reader's is `figure.inner_lr`.
    """
    n, o, loud = (np.asarray(given, dtype=float) for given in (normals, offsets, loudness))
    fits = n.ndim == 2 and n.shape[1:] == (2,) and len(n) >= 2 and o.shape == loud.shape == n.shape[:1]
    refuse(
        {
            f"normals, offsets and loudness have shapes {n.shape}, {o.shape} and {loud.shape}; give (n_tasks, 2), (n_tasks,) "
            "and (n_tasks,) for 2 tasks at least": not fits,
        }
    )
    finite("normals, offsets and loudness", n, o, loud)
    thinnest = np.linalg.svd(n, compute_uv=False)[-1]
    refuse(
        {
            "each of normals must have length 1; divide it by its norm": not np.allclose((n**2).sum(1), 1),
            "the normals lie on one line, so no single point is nearest; turn one of them": thinnest < 1e-3,
        }
    )
    for each in loud:
        within("loudness", float(each), 0.2, 1.0)
    within("inner_steps", inner_steps, 1, 60)
    within("inner_lr", inner_lr, 0.05, 0.45)
    return Figure(
        "quadratics.js",
        "reptile_steps.js",
        title="Inner steps against the resting point",
        alt=(
            "lines of solutions of a few tasks, one of them with a steep loss, and the point where Reptile "
            "rests. With one inner step that is the joint optimum, close to the steep task's line; with more it moves along a "
            "path to the point nearest to all lines, where steepness no longer counts."
        ),
        caption=caption,
        colours={
            "reptile": look_colour("reptile"),
            "joint": look_colour("joint"),
            "nearest": COLOURS["green"],
            "loud": COLOURS["ochre"],
        },
        settings={
            "normals": stored(n, 6),
            "offsets": stored(o, 6),
            "quiet": stored(loud[1:], 6),
            "max_steps": 60,
        },
        state={"inner_steps": inner_steps, "inner_lr": float(inner_lr), "loudness": float(loud[0])},
    )
