"""One meta-gradient, step by step through its graph, with the edges to cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, finite, within

STEPS = 6  # support forward, inner backward, inner step, query forward, outer backward to φ and to θ


def double_backward(
    support: ArrayLike,
    query: ArrayLike,
    *,
    offset: float,
    weight: float,
    inner_lr: float,
    max_inner_lr: float = 4.0,
    step: int = 0,
    create_graph: bool = True,
    detach_gradient: bool = False,
    detach_phi: bool = False,
    first_order: bool = False,
    caption: str = "",
) -> Figure:
    """The graph of one meta-gradient of a logistic regression with one weight, drawn as it is computed.

    With θ the weight, g the slope of the support loss at θ and φ = θ - αg, the whole meta-gradient is (1 - αH) g', where H is
    the support loss's curvature at θ and g' the query loss's slope at φ. What cuts the bent road, through g, leaves g' alone;
    what cuts φ off leaves nothing. The page sets finite differences beside it. Derived in chapter `inner-loop` (Finn et al.
    2017).

    Args:
        support, query: examples `(n, 2)`, a row of x and its label, 0 or 1.
        offset: b, which stays: the model says that y is 1 with probability σ(θx + b).
        weight: θ at first, -3 to 3; the reader's is `figure.weight`.
        inner_lr: α at first, 0 to `max_inner_lr`; the reader's is `figure.inner_lr`.
        step: how far it is computed at first, 0 to 6: support forward, inner backward, inner step, query forward, outer
            backward to φ, and to θ. The reader's is `figure.step`.
        create_graph: whether the inner backward pass is recorded.
        detach_gradient: whether g enters the inner step detached.
        detach_phi: whether the query loss is taken at φ detached.
        first_order: whether the inner gradient is taken at a detached θ, as `maml.adapt(first_order=True)` does. The reader's
            switches are `figure.create_graph`, `detach_gradient`, `detach_phi` and `first_order`.

    >>> double_backward([(-1, 0), (1, 1)], [(2, 1)], offset=0.0, weight=-0.5, inner_lr=2.0).step
    0
    """
    parts = {name: np.asarray(given, dtype=float) for name, given in (("support", support), ("query", query))}
    finite("support, query and offset", *parts.values(), np.asarray(offset))
    for name, part in parts.items():
        fits = part.ndim == 2 and part.shape[1] == 2 and len(part) > 0
        cure = "give (n, 2), a row of x and its label for each example"
        refuse({f"{name} has shape {part.shape}; {cure}": not fits})
        refuse({f"{name} has labels that are neither 0 nor 1": not np.isin(part[:, 1], (0, 1)).all()})
    within("weight", weight, -3.0, 3.0)
    within("max_inner_lr", max_inner_lr, 0.1, 20.0)
    within("inner_lr", inner_lr, 0.0, max_inner_lr)
    within("step", step, 0, STEPS)
    return Figure(
        "double_backward.js",
        title="Backwards twice: one meta-gradient as a graph",
        alt=(
            "a graph with the nodes θ, support loss, inner gradient g, φ = θ − αg and query loss, computed "
            "one step after the other. Going back from the query loss, one road leads straight from φ to θ and one is bent and "
            "leads through g. Without create_graph, with g detached or at first order the bent road is gone, and the number "
            "that arrives is not the slope that finite differences measure; with φ detached nothing arrives."
        ),
        caption=caption,
        colours={"straight": COLOURS["blue"], "bent": COLOURS["vermillion"]},
        settings={
            **{name: part.tolist() for name, part in parts.items()},
            "offset": float(offset),
            "max_inner_lr": float(max_inner_lr),
        },
        state={
            "weight": float(weight),
            "inner_lr": float(inner_lr),
            "step": step,
            "create_graph": create_graph,
            "detach_gradient": detach_gradient,
            "detach_phi": detach_phi,
            "first_order": first_order,
        },
    )
