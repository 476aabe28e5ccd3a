"""Networks that adapt in the page to a sinusoid."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mamlkit.calls import refuse
from mamlkit.page.widgets.figure import Figure, look_colour, within
from mamlkit.tasks import Params

LABELS = {
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "joint": "joint training",
    "scratch": "random initialisation",
}


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
    called = {**LABELS, **(labels or {})}
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
            "Interactive figure: a sinusoid, a few support points on it, and the curve of each network "
            "before and after gradient steps on those points. A meta-trained network bends to the sinusoid "
            "within a step or two, also where it has seen no point; a baseline hardly moves."
        ),
        caption=caption,
        colours={look: look_colour(look) for look in (*networks, "truth", "support")},
        settings={
            "networks": [
                {
                    "look": name,
                    "label": called.get(name, name.replace("_", " ")),
                    "inner_lr": float(rates[name]),
                    **packed(name, params),
                }
                for name, params in networks.items()
            ],
            "max_steps": max_steps,
            "max_shots": 20,
        },
        state=state,
    )


def packed(name: str, params: Params) -> dict[str, Any]:
    tensors = [tensor.detach().cpu() for tensor in params.values()]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    weights, biases = shapes[0::2], shapes[1::2]
    layers = (
        len(shapes) >= 2
        and len(weights) == len(biases)
        and all(len(weight) == 2 and bias == weight[:1] for weight, bias in zip(weights, biases))
        and all(left[0] == right[1] for left, right in itertools.pairwise(weights))
        and weights[0][1] == weights[-1][0] == 1
    )
    refuse(
        {
            f"the parameters of {name} have shapes {shapes}; give weight and bias of each linear layer in order, "
            "from 1 input to 1 output": not layers,
            f"the parameters of {name} are not all finite; check its training before showing it": not all(
                tensor.float().isfinite().all() for tensor in tensors
            ),
        }
    )
    flat = torch.cat([tensor.flatten() for tensor in tensors]).float()
    return {
        "sizes": [1, *(rows for rows, _ in weights)],
        "weights": base64.b64encode(flat.numpy().astype("<f4").tobytes()).decode(),
    }
