"""Networks that adapt in the page to a sinusoid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mamlkit.page.widgets.figure import Figure, look_colour, named, within
from mamlkit.page.widgets.mlp import packed
from mamlkit.tasks import Params


def sinusoid_adaptation(
    networks: Mapping[str, Params],
    *,
    inner_lr: float | Mapping[str, float],
    k_shot: int = 5,
    inner_steps: int = 1,
    max_steps: int = 10,
    amplitude: float = 3.0,
    phase: float = 1.0,
    labels: Mapping[str, str] | None = None,
    caption: str = "",
) -> Figure:
    """Networks that adapt in the page to a sinusoid, from support points that the reader draws.

    The front end runs the forward and the backward pass itself, on the given float32 numbers and in double
    precision: `inner_steps` steps down the mean squared error over the support points. Used in chapter
    `sinusoids` (Finn et al. 2017, section 5.1: amplitude within 0.1 and 5, phase within 0 and π, inputs
    within ±5).

    Args:
        networks: the parameters of each network under its name in `figures.LOOK`, such as `{"maml": params,
            "joint": baseline}`. A network is `Linear` layers from 1 input to 1 output with ReLU between
            them, its tensors in order: weight `(rows, columns)`, then bias `(rows,)`, of each layer.
        inner_lr: α, one for all or one per name.
        k_shot: how many support points there are at first, 1 to 20; the reader's are `figure.support`,
            pairs of x and the height above the sinusoid.
        inner_steps: K at first; the reader's is `figure.inner_steps`, up to `max_steps`.
        amplitude, phase: of y = amplitude · sin(x − phase) at first; the reader's are `figure.amplitude`
            and `figure.phase`.
        labels: what the page calls each network, by name.
    """
    if not networks:
        raise ValueError("there are no networks to adapt; give at least one, such as {'maml': params}")
    within("k_shot", k_shot, 1, 20)
    within("max_steps", max_steps, 1, 50)
    within("inner_steps", inner_steps, 0, max_steps)
    within("amplitude", amplitude, 0.1, 5.0)
    within("phase", phase, 0.0, np.pi)
    rates = dict(inner_lr) if isinstance(inner_lr, Mapping) else dict.fromkeys(networks, inner_lr)
    if missing := sorted(set(networks) - set(rates)):
        raise ValueError(f"inner_lr has no rate for {', '.join(missing)}; give one to each network")
    for name, rate in rates.items():
        within(f"inner_lr of {name}", rate, 0.0, 10.0)
    state = {
        "amplitude": float(amplitude),
        "phase": float(phase),
        "inner_steps": inner_steps,
        "half_range": False,
        # spread over the range by the golden ratio: any k_shot of them lie well apart
        "support": [[round(-5 + 10 * ((0.3 + i * 0.6180339887) % 1), 3), 0.0] for i in range(k_shot)],
    }
    return Figure(
        "mlp.js",
        "sinusoid_adaptation.js",
        title="Adapt to a new sinusoid",
        alt=(
            "a sinusoid, a few support points on it, and the curve of each network "
            "before and after gradient steps on those points. A meta-trained network bends to the sinusoid "
            "within a step or two, also where it has seen no point; a baseline hardly moves."
        ),
        caption=caption,
        colours={look: look_colour(look) for look in (*networks, "truth", "support")},
        settings={
            "networks": [
                {**named(name, labels), "inner_lr": float(rates[name]), **packed(name, params)}
                for name, params in networks.items()
            ],
            "max_steps": max_steps,
            "max_shots": 20,
        },
        state=state,
    )
