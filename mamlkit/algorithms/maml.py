"""Model-agnostic meta-learning (Finn, Abbeel & Levine, ICML 2017, arXiv:1703.03400).

Inside a task, K steps of gradient descent on the support loss, starting at the shared initialisation (Algorithm 1, line 6):

    phi_0 = theta,    phi_{k+1} = phi_k - alpha * grad L_support(phi_k),    adapt(theta, support) = phi_K

Across tasks, `mamlkit.meta.meta_gradient` differentiates the query loss at phi_K through all K steps with respect to theta.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import grad

from mamlkit.calls import checked
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Batch, Params, check_inner_loop


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
    only: str | tuple[str, ...] = "",
) -> Params:
    """The parameters after `inner_steps` steps of gradient descent on the support loss; `params` stay as they are.

    Args:
        model: any module whose `forward` changes nothing of its own; its weights stand in for names that `params` lacks.
        params: theta, by name.
        support: the batch of one task, no stack: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or
            whatever `loss` takes.
        inner_lr: alpha, the step size, 0 < alpha < 2 / (largest curvature) for descent; a tensor if it is learned, a
            dictionary of tensors by name if each parameter has its own (Meta-SGD).
        inner_steps: K >= 0.
        loss: what the steps lower, `(model, params, support) -> scalar`; it asks `predict(model, params, ...)`, not `model(...)`.
        first_order: take the inner gradients as constants, which makes the meta-gradient FOMAML's (section 5.2).
        only: adapt just the parameters whose name starts so, or with one of several, `"head"` say; the others are shared by
            all tasks. The names are those of `initial_params`, where a tied weight has one.

    Where `params` require gradients, torch keeps the graph of all steps: to adapt for long in use, pass `initial_params(model)`
    or call under `torch.no_grad()`.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, an `only` that starts no parameter's name, or rates by name
            that lack one.

    Finn et al. (2017), Algorithm 1. Derived in chapter `inner-loop`.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> support = Batch(x=torch.tensor([[1.0]]), y=torch.tensor([[3.0]]))
    >>> adapt(model, {"weight": torch.tensor([[1.0]])}, support, inner_lr=0.25, inner_steps=1)  # 1 + 0.25 * 2 * (3 - 1)
    {'weight': tensor([[2.]])}
    """
    check_inner_loop(params, support, inner_lr=inner_lr, inner_steps=inner_steps, only=only)
    phi = {name: p for name, p in params.items() if name.startswith(only)}
    shared = {name: p for name, p in params.items() if name not in phi}
    rate = inner_lr if isinstance(inner_lr, dict) else dict.fromkeys(phi, inner_lr)

    def support_loss(phi: Params, shared: Params) -> Tensor:
        return loss(model, shared | phi, support)

    for _ in range(inner_steps):
        at = (constant(phi), constant(shared)) if first_order else (phi, shared)
        gradients = grad(support_loss)(*at)
        phi = {name: p - rate[name] * gradients[name] for name, p in phi.items()}
    return shared | phi


def constant(params: Params) -> Params:
    """The numbers of `params`, through which no gradient flows."""
    return {name: p.detach() for name, p in params.items()}
