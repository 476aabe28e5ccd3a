"""Meta-Curvature (Park & Oliva, NeurIPS 2019, arXiv:1902.03356).

MAML whose inner gradient is first multiplied by learned matrices, one for each side of a layer's weight. The gradient G of a
convolution, seen as (outputs, inputs, places of the filter), becomes

    MC(G)[o, i, f] = sum over p, q, r of M_out[o, p] * M_in[i, q] * M_filter[f, r] * G[p, q, r]

and that of a linear layer `M_out G M_in'`. Inside a task and across tasks, with all matrices begun at the identity,

    phi_{k+1} = phi_k - alpha * MC(grad L_support(phi_k))
    (theta, M) <- (theta, M) - beta * grad mean over tasks of L_query(phi_K)

All steps share the matrices. A step is preconditioned by their Kronecker product, which nobody has to form; unlike curvature
itself it need be neither symmetric nor positive. The matrices ride in `params` as `out.NAME`, `in.NAME` and `filter.NAME` beside
the weights `model.NAME`.

Differs from the paper, which speaks of weights: a vector, a bias or a scale of batch norm, has in the place of M_out a number for
each of its numbers, as in learn2learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import grad

from mamlkit import models
from mamlkit.algorithms.maml import constant
from mamlkit.calls import checked, refuse
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Batch, Params, check_inner_loop, part


@checked
def initial_params(model: nn.Module) -> Params:
    """The model's parameters as `model.NAME`, and beside each the identities that its gradient is multiplied by.

    Those of a weight `(outputs, inputs, ...)` are `out.NAME` `(outputs, outputs)`, `in.NAME` `(inputs, inputs)` and, where there
    are more axes, `filter.NAME`, square, of as many rows as the filter has places; of a vector `out.NAME`, ones of its shape.

    Raises:
        ValueError: nothing is left to learn.

    Park & Oliva (2019), section 3. Derived in chapter `learning-the-learning-rate`.
    """
    theta = models.initial_params(model)
    params = {f"model.{name}": p for name, p in theta.items()}
    for name, p in theta.items():
        sizes = (*p.shape[:2], *([p[0, 0].numel()] if p.dim() > 2 else []))
        for side, size in zip(("out", "in", "filter"), sizes, strict=False):
            identity = torch.eye(size, dtype=p.dtype, device=p.device)
            params[f"{side}.{name}"] = identity if p.dim() > 1 else torch.ones_like(p)
    return params


@checked
def adapt(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_lr: float | Tensor | Params,
    inner_steps: int,
    loss: Loss = batch_loss,
    first_order: bool = False,
) -> Params:
    """The model's parameters after `inner_steps` steps along the transformed gradients of the support loss.

    Args:
        params: as `initial_params` of this module makes them; what has no matrices moves along its plain gradient.
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or whatever `loss` takes.
        inner_lr: alpha, or one for each parameter by name; the matrices learn the scale.
        inner_steps: K >= 0.
        loss: what the steps lower, `(model, params, support) -> scalar`.
        first_order: take the inner gradients as constants; the matrices are learned all the same.

    Raises:
        ValueError: `params` without weights, `inner_steps` below 0, or an empty support set.

    Park & Oliva (2019), section 3. Derived in chapter `learning-the-learning-rate`.
    """
    phi, matrices = part(params, "model."), [part(params, side) for side in ("out.", "in.", "filter.")]
    refuse({"params have no model.NAME; begin with meta_curvature.initial_params(model)": not phi})
    check_inner_loop(phi, support, inner_lr=inner_lr, inner_steps=inner_steps)
    rate = inner_lr if isinstance(inner_lr, dict) else dict.fromkeys(phi, inner_lr)
    for _ in range(inner_steps):
        at = constant(phi) if first_order else phi
        gradients = grad(lambda at: loss(model, at, support))(at)
        steps = {name: transformed(g, *(m.get(name) for m in matrices)) for name, g in gradients.items()}
        phi = {name: p - rate[name] * steps[name] for name, p in phi.items()}
    return phi


def transformed(g: Tensor, out: Tensor | None, into: Tensor | None, places: Tensor | None) -> Tensor:
    """MC(G), of the shape of the gradient `g`, `(outputs, inputs, ...)` or a vector; `None` stands for the identity.

    Park & Oliva (2019), section 3, the products one after the other: `outputs * inputs * places` times the sum of the three.

    >>> g = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> transformed(g, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), None, None)  # the rows change places
    tensor([[3., 4.],
            [1., 2.]])
    """
    if g.dim() < 2:
        return g if out is None else out * g
    moved = g.flatten(2) if g.dim() > 2 else g[:, :, None]
    if out is not None:
        moved = (out @ moved.flatten(1)).view_as(moved)
    if into is not None:
        moved = into @ moved
    if places is not None:
        moved = moved @ places.mT
    return moved.view_as(g)
