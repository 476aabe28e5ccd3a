"""A policy on the plane that takes one REINFORCE step in the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, finite, look_colour, stored, within


def point_navigation(
    policy: Sequence[ArrayLike],
    goals: ArrayLike,
    *,
    inner_lr: float,
    horizon: int = 20,
    noise: float = 0.05,
    limit: float = 0.1,
    reach: float = 0.5,
    gains: Sequence[float] = (0.7, 1.0, 1.4, 2.0, 3.0),
    rollouts: int = 20,
    caption: str = "",
) -> Figure:
    """A policy a = sK + b on the plane that takes one REINFORCE step in the page, for a goal that the reader sets.

    The front end rolls out, with noise from a generator of its own, and computes the step and the costs in
    double precision. Used in chapter `reinforcement-learning` (Finn et al. 2017, section 5.3).

    Args:
        policy: K `(2, 2)` and b `(2,)`, stored to six decimals.
        goals: `(n, 2)`, the places to click; the first is the goal at first, the reader's is `figure.goal`.
        inner_lr: the size of the step.
        horizon, noise, limit: the steps of an episode, the standard deviation of the noise on an action, and
            the largest velocity in each coordinate.
        reach: goals lie within ± this in each coordinate.
        gains: the oracle is the cheapest K = −kI, b = k · goal of these k.
        rollouts: in the support set at first, 2 to 60; the reader's is `figure.rollouts`, drawn from
            `figure.seed`.

    >>> point_navigation(([[-1, 0], [0, -1]], [0, 0]), [[0.3, 0.4]], inner_lr=0.01).goal
    [0.3, 0.4]
    """
    K, b, places = (np.asarray(part, dtype=float) for part in (*policy, goals))
    fits = (
        K.shape == (2, 2)
        and b.shape == (2,)
        and places.ndim == 2
        and places.shape[1:] == (2,)
        and len(places) > 0
    )
    shapes = f"{K.shape}, {b.shape} and {places.shape}"
    refuse({f"policy and goals have shapes {shapes}; give (2, 2), (2,) and (n, 2)": not fits})
    finite("policy and goals", K, b, places)
    refuse({f"a goal lies outside ±{reach:g}; move it or widen reach": np.abs(places).max() > reach})
    within("inner_lr", inner_lr, 0.0, 10.0)
    within("horizon", horizon, 1, 100)
    within("noise", noise, 1e-6, 10.0)
    within("limit", limit, 1e-6, 10.0)
    within("rollouts", rollouts, 2, 60)
    return Figure(
        "point_navigation.js",
        title="One step towards a goal that only the cost tells",
        alt=(
            "a square of the plane with a goal that one clicks or drags. A policy rolls out "
            "from the origin, takes one REINFORCE step, and rolls out again; its cost before and after stands "
            "beside that of an oracle. Before the step the paths stay around the origin, after it they head "
            "for the goal, and how well depends on the luck of the rollouts, less so with more of them."
        ),
        caption=caption,
        colours={
            "before": COLOURS["grey"],
            "goal": COLOURS["vermillion"],
            **{k: look_colour(k) for k in ("maml", "oracle")},
        },
        settings={
            "policy": {"K": stored(K, 6), "b": stored(b, 6)},
            "world": {"horizon": horizon, "noise": noise, "limit": limit},
            "goals": stored(places, 3),
            "gains": list(gains),
            "inner_lr": float(inner_lr),
            "reach": float(reach),
        },
        state={"goal": stored(places[0], 3), "seed": 0, "rollouts": rollouts},
    )
