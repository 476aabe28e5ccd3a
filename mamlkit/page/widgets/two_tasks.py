"""Quadratic tasks on a plane: an initialisation to drag, and where joint training and MAML end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.widgets.figure import TASK_COLOURS, Figure, around, definite, finite, look_colour


def two_tasks(
    optima: ArrayLike,
    curvatures: ArrayLike,
    *,
    inner_lr: float,
    theta: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    caption: str = "",
) -> Figure:
    """Quadratic tasks Lᵢ(θ) = ½ (θ − wᵢ)ᵀ Aᵢ (θ − wᵢ) on a plane: drag θ and the optima wᵢ, slide α.

    Joint training ends at the mean of the wᵢ weighted by Aᵢ, MAML at their mean weighted by Aᵢ (I − αAᵢ)²,
    which is the same point at α = 0. Derived in chapter `objective`.

    Args:
        optima: the wᵢ, `(n_tasks, 2)`; the reader's are `figure.optima`.
        curvatures: the Aᵢ, `(n_tasks, 2, 2)`, symmetric and positive definite.
        inner_lr: α at first, not negative; the reader's is `figure.inner_lr`. The slider ends at 0.95
            divided by the largest curvature, or at `inner_lr` if that is more.
        theta: θ at first, `(2,)`; the reader's is `figure.theta`. By default the mean of the optima.
        names: one per task, `task 1` and so on by default.

    >>> two_tasks([[-2, 0], [2, 1]], [[[1, 0], [0, 4]], [[3, 0], [0, 1]]], inner_lr=0.1).theta
    [0.0, 0.5]
    """
    w, a = np.asarray(optima, dtype=float), np.asarray(curvatures, dtype=float)
    n = len(w) if w.ndim == 2 and w.shape[1] == 2 and a.shape == (len(w), 2, 2) else 0
    if not 1 <= n <= len(TASK_COLOURS):
        raise ValueError(
            f"optima has shape {w.shape} and curvatures has shape {a.shape}; give (n, 2) and (n, 2, 2), a row of 2 coordinates "
            f"and a 2 × 2 matrix for each of 1 to {len(TASK_COLOURS)} tasks"
        )
    start = w.mean(axis=0) if theta is None else np.asarray(theta, dtype=float)
    names = [f"task {i + 1}" for i in range(n)] if names is None else list(names)
    finite("optima and curvatures", w, a)
    definite("the curvatures", a)
    on_plane = start.shape == (2,) and np.isfinite(start).all()
    is_step = 0 <= inner_lr < np.inf
    refuse(
        {
            f"theta is {start.tolist()}; give 2 finite coordinates": not on_plane,
            f"inner_lr={inner_lr} is not a step size; it must be finite and at least 0": not is_step,
            f"{len(names)} names for {n} tasks; give one each": len(names) != n,
        }
    )
    return Figure(
        "quadratics.js",
        "two_tasks.js",
        title=f"{['One', 'Two', 'Three', 'Four', 'Five'][n - 1]} quadratic task{'s' * (n > 1)}, one initialisation",
        alt=(
            "ellipses of equal loss of quadratic tasks on a plane, an initialisation θ "
            "that one drags, and an arrow for each task's inner step. The optimum of joint training and "
            "the optimum of MAML coincide at step size 0 and part as it grows, because MAML leaves the "
            "steep directions to the inner step."
        ),
        caption=caption,
        colours={
            **{f"task_{i}": TASK_COLOURS[i] for i in range(n)},
            **{look: look_colour(look) for look in ("joint", "maml")},
        },
        settings={
            "curvatures": a.tolist(),
            **around(w, start, margin=1.5, share=0.6, flatter=0.75),
            "names": names,
            "max_inner_lr": max(float(inner_lr), round(0.95 / float(np.linalg.eigvalsh(a).max()), 4)),
        },
        state={"optima": w.tolist(), "theta": start.tolist(), "inner_lr": float(inner_lr)},
    )
