"""Meta-SGD (Li, Zhou, Chen & Li 2017, arXiv:1707.09835).

MAML in which every weight has a rate of its own, learned together with the initialisation (section 3; `*` number by number):

    phi = theta - alpha * grad L_support(theta),    (theta, alpha) <- (theta, alpha) - beta * grad mean over tasks of L_query(phi)

After one step the meta-gradient for a rate is minus the product of two slopes, that of the support loss at theta and that of
the query loss at phi: a rate grows where the two agree over tasks, and shrinks, even below 0, where query sets contradict
support sets. A mask over the rates, zeros that are not learned, is what `only=` does: the head alone is ANIL (Raghu et al.
2020), all but the head BOIL (Oh et al. 2021). The rates ride in `params` as `rate.NAME` beside the weights `model.NAME`.

Differs from the paper: all rates start at one number that is given, and there may be more steps than one, which share the rates.
"""

from __future__ import annotations

import torch
from torch import nn

from mamlkit import models
from mamlkit.algorithms import maml
from mamlkit.calls import checked, refuse
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Batch, Params, part


@checked
def initial_params(model: nn.Module, *, inner_lr: float) -> Params:
    """The model's parameters as `model.NAME`, and beside each a rate of its shape, `rate.NAME`, whose numbers are `inner_lr`.

    Raises:
        ValueError: an `inner_lr` that is no finite number of at least 0, or nothing is left to learn.

    Li et al. (2017), section 3. Derived in chapter `learning-the-learning-rate`.
    """
    theta = models.initial_params(model)
    rates = {f"rate.{name}": torch.full_like(p, inner_lr) for name, p in theta.items()}
    return {f"model.{name}": p for name, p in theta.items()} | rates


@checked
def adapt(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_steps: int = 1,
    loss: Loss = batch_loss,
    first_order: bool = False,
    only: str | tuple[str, ...] = "",
) -> Params:
    """The model's parameters after `inner_steps` steps of gradient descent on the support loss, each number at its own rate.

    Args:
        params: as `initial_params` of this module makes them.
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or whatever `loss` takes.
        inner_steps: K >= 0; the paper's is 1.
        loss: what the steps lower, `(model, params, support) -> scalar`.
        first_order: take the inner gradients as constants; the rates are learned all the same.
        only: adapt just the parameters whose name starts so, or with one of several, as in `maml.adapt`.

    Raises:
        ValueError: `params` without weights or without the rate of one that is adapted, and what `maml.adapt` raises.

    Li et al. (2017), section 3 and Algorithm 1. Derived in chapter `learning-the-learning-rate`.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> support = Batch(x=torch.tensor([[1.0]]), y=torch.tensor([[3.0]]))
    >>> params = {"model.weight": torch.tensor([[1.0]]), "rate.weight": torch.tensor([[0.25]])}
    >>> adapt(model, params, support)  # 1 + 0.25 * 2 * (3 - 1)
    {'weight': tensor([[2.]])}
    """
    theta, rates = part(params, "model."), part(params, "rate.")
    lacking = [f"rate.{name}" for name in theta if name.startswith(only) and name not in rates]
    begin = "begin with meta_sgd.initial_params(model, inner_lr=...)"
    refuse(
        {
            f"params have no model.NAME; {begin}": not theta,
            f"params lack {', '.join(lacking)}; {begin}": lacking,
        }
    )
    return maml.adapt(
        model,
        theta,
        support,
        inner_lr=rates,
        inner_steps=inner_steps,
        loss=loss,
        first_order=first_order,
        only=only,
    )
