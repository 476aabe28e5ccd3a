"""Steps against a prior: how wide a normal prior K gradient steps stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, around, finite, look_colour, stored, within


def prior_width(
    centre: ArrayLike,
    fit: ArrayLike,
    *,
    n: int,
    inner_lr: float = 0.1,
    inner_steps: int = 4,
    width: float = 0.7,
    unevenness: float = 0.5,
    turn: float = 0.5,
    caption: str = "",
) -> Figure:
    """K gradient steps on a linear model beside the posterior mean under a normal prior of one width, in the plane of weights.

    Along an eigenvector of X'X / n with the eigenvalue e the steps leave (1 - 2αe)^K of the centre, the posterior mean
    1 / (1 + n e τ²/σ²). Both are equal wherever the fit is if the two eigenvalues are one and the width is that of the steps.
    Derived in chapter `maml-is-a-prior` (Santos 1996; Grant et al. 2018).

    Args:
        centre: θ, `(2,)`, the start of the steps and the mean of the prior.
        fit: the least squares fit to the task's examples at first, `(2,)`; the reader's is `figure.fit`.
        n: the number of examples.
        inner_lr: α at first, 0.01 to 0.25; no step overshoots. The reader's is `figure.inner_lr`.
        inner_steps: K at first, 1 to 20; the reader's is `figure.inner_steps`.
        width: τ/σ at first, 0.01 to 3; the reader's is `figure.width`.
        unevenness: u at first, 0 to 0.9: X'X / n has the eigenvalues 1 + u and 1 - u. The reader's is `figure.unevenness`.
        turn: the angle from the first axis to the direction in which inputs vary most, in radians.

    >>> prior_width([1.0, -0.5], [2.0, 0.5], n=6).inner_steps
    4
    """
    places = [np.asarray(place, dtype=float) for place in (centre, fit)]
    shapes = " and ".join(str(place.shape) for place in places)
    flat = all(place.shape == (2,) for place in places)
    refuse({f"centre and fit have shapes {shapes}; give 2 coordinates each": not flat})
    finite("centre and fit", *places)
    within("n", n, 1, 1000)
    within("inner_lr", inner_lr, 0.01, 0.25)
    within("inner_steps", inner_steps, 1, 20)
    within("width", width, 0.01, 3.0)
    within("unevenness", unevenness, 0.0, 0.9)
    within("turn", turn, -np.pi, np.pi)
    return Figure(
        "prior_width.js",
        title="Steps against prior width",
        alt=(
            "a plane of weights with a centre, the fit to a task alone, the place where K gradient steps "
            "from the centre end, and the posterior mean under a normal prior around the centre. The prior that the steps "
            "stand for is drawn as an ellipse, the one that one dials as a circle. With uneven inputs no circle is the "
            "ellipse; with even ones a single width makes the two priors, and the two answers, one."
        ),
        caption=caption,
        colours={
            "maml": look_colour("maml"),
            "prior": look_colour("oracle"),
            "centre": COLOURS["green"],
            "fit": COLOURS["vermillion"],
        },
        settings={
            "centre": stored(places[0], 3),
            "n": n,
            "turn": float(turn),
            **around(*places, margin=0.8, share=0.6),
            "max_inner_lr": 0.25,
            "max_steps": 20,
            "max_width": 3.0,
        },
        state={
            "fit": stored(places[1], 3),
            "inner_lr": float(inner_lr),
            "inner_steps": inner_steps,
            "width": float(width),
            "unevenness": float(unevenness),
        },
    )
