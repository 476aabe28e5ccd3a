"""Ridge regression differentiable in closed form, R2-D2 (Bertinetto, Henriques, Torr & Vedaldi, ICLR 2019, arXiv:1805.08136).

Inside a task the head is the ridge regression from the support features Z, a row each, to the one-hot labels Y:

    W = argmin_W [ norm(Z W - Y)^2 + lambda * norm(W)^2 ] = (Z'Z + lambda)^-1 Z'Y = Z'(ZZ' + lambda)^-1 Y

The last form (Woodbury) solves a system of n examples instead of one of the many features. Logits are `scale * z W + shift`.
Across tasks the meta-gradient goes through the solution to the body, and to lambda, scale and shift, which ride in `params` as
`ridge.log_strength`, `ridge.scale` and `ridge.shift`, beside the body's `model.body...`; the head is never learned.

Differs from the paper: of the two forms we solve the one with the smaller system, as the authors' code does. At a small lambda
the larger one is nearly singular, and in float32 the solution through it keeps no digit. Lambda is learned through its
logarithm, which keeps it positive. That code appends a 1 to the features for a bias, held like the weights, and divides Z and Y
by the root of n, so that its lambda counts n-fold; here there is neither. Softmax doesn't see the shift: with cross-entropy its
gradient is rounding, and whatever it drifts to is harmless; it is for real targets, which are taken as Y. Batch norm sees
support and query apart, and any `Network` will do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mamlkit import models
from mamlkit.algorithms.protonet import embedded
from mamlkit.calls import checked
from mamlkit.tasks import Batch, Params, part


@checked
def initial_params(model: nn.Module, *, strength: float = 1.0, scale: float = 1.0) -> Params:
    """What is learned across tasks: the body, as `model.body...`, and scalars `ridge.log_strength`, `ridge.scale`, `ridge.shift`.

    Args:
        strength: lambda > 0, how hard the weights of the head are held near 0.
        scale: by how much the regression's answers, about 0 and 1, are multiplied before the softmax.

    Raises:
        ValueError: a `strength` that is not positive, or nothing is left to learn.

    Bertinetto et al. (2019), section 3. Derived in chapter `metric-learning`.
    """
    learned = models.initial_params(model)
    body = {f"model.{name}": p for name, p in learned.items() if not name.startswith("head.")}
    start = {"log_strength": math.log(strength), "scale": scale, "shift": 0.0}
    like = next(iter(learned.values()))
    return body | {f"ridge.{name}": like.new_tensor(value) for name, value in start.items()}


@checked
def adapt(model: nn.Module, params: Params, support: Batch) -> Params:
    """The model's parameters, body as it is and head solved for the support set.

    Args:
        model: a `Network` whose head is an `nn.Linear` with a bias.
        params: as `initial_params` of this module makes them.
        support: `x` of shape `(n, ...)`, `y` of shape `(n,)`, integer labels, or real of shape `(n, outputs)`.

    Raises:
        ValueError: another model, `params` without lambda, scale or shift, or targets of another shape.

    Bertinetto et al. (2019), section 3. Derived in chapter `metric-learning`.
    """
    theta, ridge = part(params, "model."), part(params, "ridge.")
    if lacking := {"log_strength", "scale", "shift"} - ridge.keys():
        raise ValueError(
            f"params lack {', '.join(f'ridge.{name}' for name in sorted(lacking))}; begin with ridge.initial_params(model)"
        )
    z, y = embedded(model, theta, support)
    weight = ridge["scale"] * solution(z, y, ridge["log_strength"].exp())
    return theta | {"head.weight": weight.T, "head.bias": ridge["shift"].repeat(y.shape[1])}


def solution(z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """The ridge regression from rows `z`, `(n, features)`, to rows `y`, `(n, outputs)`: its weights, `(features, outputs)`."""
    n, features = z.shape
    held = strength * torch.eye(min(n, features), dtype=z.dtype, device=z.device)
    if n <= features:
        return z.T @ _solve(z @ z.T + held, y)
    return _solve(z.T @ z + held, z.T @ y)


def _solve(a: Tensor, b: Tensor) -> Tensor:
    """`a^-1 b`; unlike `torch.linalg.solve` it doesn't wait for a GPU to say whether `a` is singular."""
    x: Tensor = torch.linalg.solve_ex(a, b).result
    return x
