"""The networks and the regression tasks of the figures that adapt in the page."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import numpy as np
import torch

from mamlkit.calls import refuse
from mamlkit.page.widgets.figure import finite
from mamlkit.tasks import Params, Task


def packed(name: str, params: Params) -> dict[str, Any]:
    """The layers' sizes, and all numbers as float32 in base64."""
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


def columns(task: Task, wanted: str) -> list[np.ndarray]:
    """The inputs and targets of support and query of regression tasks, whose shapes must be as wanted, `(n, 1)` or so."""
    parts = [part.detach().cpu().double().numpy() for batch in task for part in batch]
    shapes = ", ".join(str(part.shape) for part in parts)
    fit = all(part.ndim == wanted.count(",") + 1 and part.shape[-1] == 1 and part.size for part in parts)
    alike = all(x.shape == y.shape for x, y in (parts[:2], parts[2:]))
    refuse({f"inputs and targets have shapes {shapes}; give {wanted} for each": not (fit and alike)})
    finite("inputs and targets", *parts)
    return parts
