"""How much of the curvature term is kept: from first order to MAML on quadratic tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import TASK_COLOURS, Figure, around, definite, finite, look_colour, within


def curvature_cut(
    optima: ArrayLike,
    curvatures: ArrayLike,
    *,
    inner_lr: float,
    kept: float = 0.0,
    start: ArrayLike = (0.0, 0.0),
    max_inner_lr: float = 0.35,
    meta_lr: float = 0.5,
    meta_steps: int = 150,
    names: Sequence[str] = ("task 1", "task 2"),
    caption: str = "",
) -> Figure:
    """Where the outer loop rests when a share c of the curvature term is kept, on two quadratic tasks in the plane.

    The rule follows the mean of (I - cαAᵢ) g'ᵢ, at c = 0 first order and at c = 1 MAML, and weights the wᵢ by
    Aᵢ (I - αAᵢ) (I - cαAᵢ). If the mean of these weights has a negative eigenvalue, it runs away. Derived in chapter
    `first-order`.

    Args:
        optima: the wᵢ, `(2, 2)`.
        curvatures: the Aᵢ, `(2, 2, 2)`, symmetric and positive definite.
        inner_lr: α at first, 0 to `max_inner_lr`; the reader's is `figure.inner_lr`.
        kept: c at first, 0 to 1; the reader's is `figure.kept`.
        start: θ before the first meta-step, `(2,)`; the reader's is `figure.start`.
        meta_lr, meta_steps: of the descent that is drawn.
        names: one per task.

    >>> curvature_cut([[-1, 0], [1, 0]], [[[3, 0], [0, 3]], [[1, 0], [0, 1]]], inner_lr=0.2).kept
    0.0
    """
    w, a, theta = (np.asarray(given, dtype=float) for given in (optima, curvatures, start))
    shaped = w.shape == (2, 2) and a.shape == (2, 2, 2) and theta.shape == (2,)
    refuse(
        {
            f"optima, curvatures and start have shapes {w.shape}, {a.shape} and {theta.shape}; give (2, 2), (2, 2, 2) and (2,)": (
                not shaped
            ),
            f"{len(names)} names for 2 tasks; give one each": len(names) != 2,
        }
    )
    finite("optima, curvatures and start", w, a, theta)
    definite("the curvatures", a)
    within("max_inner_lr", max_inner_lr, 0.01, 10.0)
    within("inner_lr", inner_lr, 0.0, max_inner_lr)
    within("kept", kept, 0.0, 1.0)
    within("meta_lr", meta_lr, 1e-4, 10.0)
    within("meta_steps", meta_steps, 1, 1000)
    return Figure(
        "quadratics.js",
        "curvature_cut.js",
        title="How much of the curvature is kept",
        alt=(
            "two quadratic tasks on a plane, a steep and a flat one, with the points where joint training, "
            "first order and MAML rest, and the path of the rule that keeps a share of the curvature term. As the share grows "
            "its resting point moves from first order's to MAML's. Where the inner step overshoots, first order runs away, and "
            "so does the rule until enough of the curvature is kept."
        ),
        caption=caption,
        colours={
            "task_0": TASK_COLOURS[0],
            "task_1": TASK_COLOURS[1],
            "joint": look_colour("joint"),
            "first": COLOURS["sky"],
            "maml": look_colour("maml"),
        },
        settings={
            "optima": w.tolist(),
            "curvatures": a.tolist(),
            "names": list(names),
            **around(w, theta, margin=1.0, share=0.7),
            "max_inner_lr": float(max_inner_lr),
            "meta_lr": float(meta_lr),
            "meta_steps": meta_steps,
        },
        state={"inner_lr": float(inner_lr), "kept": float(kept), "start": theta.tolist()},
    )
