"""Reptile (Nichol, Achiam & Schulman 2018, arXiv:1803.02999).

Walk K steps of gradient descent into a task, then move the initialisation a part of the way after (Algorithms 1 and 2):

    phi_0 = theta,    phi_{k+1} = phi_k - alpha * grad L_k(phi_k)
    theta <- theta + epsilon * (mean over tasks of phi_K - theta)

No query set and no second derivative. `task_loss` has `theta - phi_K` as its gradient, so `meta_step` with plain gradient descent
at rate epsilon is the line above, and any other optimiser fits too.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mamlkit.algorithms import maml
from mamlkit.calls import checked
from mamlkit.gradients import axpy, with_gradient
from mamlkit.meta import Adapt, Loss, batch_loss
from mamlkit.tasks import Batch, Params, Task, check_inner_loop


@checked
def adapt(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_lr: float | Tensor | Params,
    inner_steps: int,
    inner_batches: int = 1,
    loss: Loss = batch_loss,
) -> Params:
    """The parameters after `inner_steps` steps of gradient descent, each on one of `inner_batches` parts of the support set.

    Step k sees every `inner_batches`-th example from the k-th on, then it starts over; a support set that comes class after class
    so gives each part the same share of every class. With one part all steps see everything, and the values are those of
    `maml.adapt`. No step can be differentiated.

    Args:
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer, n a multiple of `inner_batches`.
        inner_lr: alpha, the step size, or one for each parameter by name.
        inner_steps: K >= 0.
        loss: what the steps lower, `(model, params, support) -> scalar`.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, or one that can't be cut into `inner_batches` equal parts.

    Nichol et al. (2018), Algorithm 1. Derived in chapter `reptile`.
    """
    check_inner_loop(params, support, inner_lr=inner_lr, inner_steps=inner_steps)
    n = len(tree_leaves(support)[0])
    if inner_batches < 1 or n % inner_batches:
        raise ValueError(
            f"inner_batches={inner_batches} does not cut {n} support examples into equal parts; use a divisor of {n}"
        )
    phi = params
    for k in range(inner_steps):
        part = tree_map(lambda t, k=k: t[k % inner_batches :: inner_batches], support)
        phi = maml.adapt(model, phi, part, inner_lr=inner_lr, inner_steps=1, loss=loss, first_order=True)
    return phi


@checked
def task_loss(
    model: nn.Module, adapt: Adapt, params: Params, task: Task, *, loss: Loss = batch_loss
) -> Tensor:
    """The query loss after adaptation, a scalar, whose gradient with respect to `params` is `params - adapted`.

    The query set is looked at for the value only. Nichol et al. (2018), Algorithm 2. Derived in chapter `reptile`.
    """
    adapted = adapt({name: p.detach() for name, p in params.items()}, task.support)
    return with_gradient(loss(model, adapted, task.query), params, axpy(-1, adapted, params))
