"""Implicit MAML's spring: where the inner optimum lies, and how many conjugate gradient steps the meta-gradient needs."""

from __future__ import annotations

from mamlkit.page.widgets.figure import Figure, look_colour, stored, within
from mamlkit.page.widgets.mlp import columns, packed
from mamlkit.tasks import Params, Task


def spring_strength(
    params: Params,
    task: Task,
    *,
    weakest: float = 3.0,
    strongest: float = 100.0,
    strength: float = 20.0,
    cg_steps: int = 2,
    caption: str = "",
) -> Figure:
    """The inner optimum of a network on its spring, and the error of its implicit gradient after k conjugate gradient steps.

    The front end finds the minimum of the held loss by Newton's method, from the strongest spring to weaker ones, and solves
    (I + H/λ) x = ∇L_Q with exact Hessian-vector products; the error is the distance to the solution over the solution's length.
    Used in chapter `implicit-maml` (Rajeswaran et al. 2019).

    Args:
        params: of a network with tanh between its `Linear` layers, from 1 input to 1 output, in order.
        task: support and query of one regression task, inputs and targets `(n, 1)`.
        weakest, strongest: the ends of λ; on the whole way the held loss must curve upwards at its minimum.
        strength: λ at first; the reader's is `figure.strength`.
        cg_steps: k at first, 1 to 15; the reader's is `figure.cg_steps`.
    """
    parts = columns(task, "(n, 1)")
    within("weakest", weakest, 0.01, 1e3)
    within("strongest", strongest, 2 * weakest, 1e4)
    within("strength", strength, weakest, strongest)
    within("cg_steps", cg_steps, 1, 15)
    return Figure(
        "spring_strength.js",
        title="The spring and the price of its gradient",
        alt=(
            "the error of the implicit meta-gradient against the strength of the spring, after a number of "
            "conjugate gradient steps, and the function of the network at the inner optimum. A strong spring holds the "
            "function where it starts and needs a step or two; a weak one lets it come to the support points, and needs many."
        ),
        caption=caption,
        colours={
            "settled": look_colour("imaml"),
            "start": look_colour("before"),
            "truth": look_colour("truth"),
            "support": look_colour("support"),
        },
        settings={
            **packed("params", params),
            "task": [stored(part[:, 0], 4) for part in parts],
            "weakest": float(weakest),
            "strongest": float(strongest),
            "max_steps": 15,
        },
        state={"strength": float(strength), "cg_steps": cg_steps},
    )
