"""Implicit MAML (Rajeswaran, Finn, Kakade & Levine, NeurIPS 2019, arXiv:1909.04630).

Inside a task, go all the way to the minimum of the support loss, held near the initialisation by a spring of strength lambda:

    phi_star = argmin_phi [ L_support(phi) + lambda / 2 * norm(phi - theta)^2 ]

At that minimum the implicit function theorem gives the meta-gradient, whatever way led there:

    (I + H / lambda) x = grad L_query(phi_star),    H the Hessian of the support loss at phi_star

so nothing of the inner loop is kept in memory, and conjugate gradient finds x from products with H.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import grad, grad_and_value

from mamlkit.calls import checked
from mamlkit.gradients import axpy, conjugate_gradient, dot, hvp, with_gradient
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
    strength: float,
    loss: Loss = batch_loss,
) -> Params:
    """The parameters after `inner_steps` steps of gradient descent on the support loss and `strength / 2 * norm(phi - params)^2`.

    Args:
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer.
        inner_lr: alpha, or one for each parameter by name; 0 < alpha < 2 / (largest curvature + strength) for descent.
        inner_steps: K >= 0; the implicit gradient assumes enough of them to reach the minimum.
        strength: lambda > 0, how hard the spring pulls.
        loss: what the steps lower beside the spring, `(model, params, support) -> scalar`.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, or a `strength` that is not positive.

    Rajeswaran et al. (2019), section 2.2. Derived in chapter `implicit-maml`.
    """
    check_inner_loop(params, support, inner_lr=inner_lr, inner_steps=inner_steps)
    rate = inner_lr if isinstance(inner_lr, dict) else dict.fromkeys(params, inner_lr)

    def held_loss(phi: Params) -> Tensor:
        away = axpy(-1, params, phi)
        return loss(model, phi, support) + strength / 2 * dot(away, away)

    phi = params
    for _ in range(inner_steps):
        gradients = grad(held_loss)(phi)
        phi = {name: p - rate[name] * gradients[name] for name, p in phi.items()}
    return phi


@checked
def task_loss(
    model: nn.Module,
    adapt: Adapt,
    params: Params,
    task: Task,
    *,
    strength: float,
    cg_steps: int,
    loss: Loss = batch_loss,
) -> Tensor:
    """The query loss at the adapted parameters, a scalar, whose gradient with respect to `params` is the implicit one.

    Args:
        adapt: ends near the minimum of the support loss held by the same `strength`.
        strength: lambda > 0. Where the support loss curves downwards more than that, `I + H / lambda` is not positive
            definite and conjugate gradient has no guarantee.
        cg_steps: steps of conjugate gradient; each costs one Hessian-vector product.
        loss: the one that `adapt` lowers, taken on the query set too.

    Raises:
        ValueError: a `strength` that is not positive, or `cg_steps` below 1.

    Rajeswaran et al. (2019), Lemma 1 and Algorithm 2. Derived in chapter `implicit-maml`.
    """
    phi = adapt({name: p.detach() for name, p in params.items()}, task.support)
    gradient, value = grad_and_value(lambda at: loss(model, at, task.query))(phi)

    def matvec(v: Params) -> Params:
        return axpy(1 / strength, hvp(lambda at: loss(model, at, task.support), phi, v), v)

    return with_gradient(value, params, conjugate_gradient(matvec, gradient, steps=cg_steps))
