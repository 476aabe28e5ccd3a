"""Learning to learn by gradient descent by gradient descent (Andrychowicz et al., NeurIPS 2016, arXiv:1606.04474).

Inside a task, K steps whose updates come from a small recurrent network m with weights psi, which carries a state h from step to
step. It sees one coordinate at a time, so that the same psi serves every coordinate of every network, each with a state of its
own (section 2):

    phi_0 = theta,    h_0 = 0,    (g_k, h_{k+1}) = m(grad L_support(phi_k), h_k; psi),    phi_{k+1} = phi_k + alpha * g_k

m is an LSTM of two layers and a linear output; i, f, o are gates, s the sigmoid:

    (i, f, c', o) = W x + U h + b,    c <- s(f) * c + s(i) * tanh(c'),    h <- s(o) * tanh(c)

A gradient v comes to it as two numbers (appendix A, p = 10), for gradients differ by orders of magnitude:

    (log(abs v) / p, sign v)  where abs v >= exp(-p),    (-1, exp(p) * v)  elsewhere

Like the paper, `first_order=True` takes the gradients as constants: their own dependence on psi is left out of the meta-gradient,
and with it every second derivative.

Differs from the paper: with `query_loss` the loss after the last step alone is lowered, on the query set; the paper sums the
loss over all steps (`path` has them). Every step reads the gradient of the whole support set, where the paper draws a mini-batch
anew. The start theta is one for all tasks and may be learned too, where the paper draws one for each run. All K steps are
differentiated, where the paper cuts the graph every 20; and all gradients are preprocessed, where the paper leaves those of its
quadratics as they are. One m moves all layers; for convolutional networks the paper has a second one for their linear layers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from mamlkit import models
from mamlkit.algorithms.maml import constant
from mamlkit.calls import checked
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Batch, Params, check_inner_loop, part

P = 10.0
"""p of the preprocessing: gradients below exp(-10) come linearly, larger ones by their logarithm."""


@checked
def initial_params(model: nn.Module, *, hidden: int = 20, layers: int = 2) -> Params:
    """The model's parameters under `model.` and an LSTM's, drawn as torch draws them, under `lstm.`.

    Give the meta-optimiser only those under `lstm.` to leave the start as it is; the paper draws it anew for each run.

    Raises:
        ValueError: `hidden` or `layers` below 1, or a model without parameters.

    Andrychowicz et al. (2016), section 3: two layers of 20 units. Derived in chapter `learned-optimisers`.
    """
    weights = models.initial_params(model)
    rule = nn.ModuleDict({"lstm": nn.LSTM(2, hidden, layers), "output": nn.Linear(hidden, 1)})
    drawn = rule.to(next(iter(weights.values()))).named_parameters()
    learned = {f"lstm.{name.removeprefix('lstm.')}": p.detach() for name, p in drawn}
    return {f"model.{name}": p for name, p in weights.items()} | learned


State = list[tuple[Tensor, Tensor]]
"""Of each layer h and c, both `(n, hidden)`; at the start zeros that broadcast to it."""


@checked
def update(lstm: Params, gradient: Tensor, state: State) -> tuple[Tensor, State]:
    """What the LSTM says of each of n coordinates, `(n,)`, and its new state.

    Args:
        lstm: its weights, named as in `torch.nn.LSTM`, and the `output.` layer's.
        gradient: `(n,)`.

    Andrychowicz et al. (2016), section 2.1 and appendix A. Derived in chapter `learned-optimisers`.
    """
    size = gradient.abs().clamp(min=math.exp(-P)).log() / P
    x, after = torch.stack([size, (gradient * math.exp(P)).clamp(-1, 1)], -1), []
    for k, (h, c) in enumerate(state):
        w, u, b, d = (lstm[f"{name}_l{k}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        i, f, new, o = (x @ w.T + b + h @ u.T + d).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * new.tanh()
        x = o.sigmoid() * c.tanh()
        after.append((x, c))
    return (x @ lstm["output.weight"].T + lstm["output.bias"])[:, 0], after


@checked
def path(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_lr: float | Tensor,
    inner_steps: int,
    loss: Loss = batch_loss,
    first_order: bool = True,
    only: str | tuple[str, ...] = "",
) -> list[Params]:
    """The model's parameters at the start and after each of `inner_steps` steps, `inner_steps + 1` in all.

    The paper's objective is the loss summed over them: `sum(batch_loss(model, phi, batch) for phi in path(...))`.

    Args:
        params: as `initial_params` of this module makes them.
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or whatever `loss` takes.
        inner_lr: alpha, what the LSTM's output is multiplied by; small, 0.01 in the authors' code.
        inner_steps: K >= 0.
        loss: whose gradient the LSTM reads, `(model, params, support) -> scalar`.
        first_order: take the gradients as constants, as the paper does; unlike elsewhere in the kit this is the default.
        only: move just the parameters whose name starts so, or with one of several, `"head"` say.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, an `only` that starts no parameter's name, or `params` without
            the names under `model.` or `lstm.`.

    Andrychowicz et al. (2016), section 2, equation 3. Derived in chapter `learned-optimisers`.
    """
    weights, lstm = part(params, "model."), part(params, "lstm.")
    if not weights or not lstm:
        raise ValueError(
            f"params has the names {', '.join(params)}, but needs some under model. and lstm.; "
            f"make it with learned_optimiser.initial_params(model)"
        )
    check_inner_loop(weights, support, inner_lr=inner_lr, inner_steps=inner_steps, only=only)
    phi = {name: p for name, p in weights.items() if name.startswith(only)}
    shared = {name: p for name, p in weights.items() if name not in phi}
    layers = sum(name.startswith("weight_hh") for name in lstm)
    zeros = lstm["output.weight"].new_zeros(1, lstm["output.weight"].shape[-1])
    state, points = [(zeros, zeros)] * layers, [shared | phi]

    def support_loss(phi: Params, shared: Params) -> Tensor:
        return loss(model, shared | phi, support)

    for _ in range(inner_steps):
        at = (constant(phi), constant(shared)) if first_order else (phi, shared)
        gradients = grad(support_loss)(*at)
        flat = torch.cat([gradients[name].flatten() for name in phi])
        steps, state = update(lstm, flat, state)
        pieces = torch.split(steps, [p.numel() for p in phi.values()])
        phi = {name: p + inner_lr * g.view_as(p) for (name, p), g in zip(phi.items(), pieces)}
        points.append(shared | phi)
    return points


def adapt(model: nn.Module, params: Params, support: Batch, **settings: Any) -> Params:
    """The model's parameters after `inner_steps` steps of the LSTM, the last of `path`, which has the arguments and the errors.

    Andrychowicz et al. (2016), section 2. Derived in chapter `learned-optimisers`.
    """
    return path(model, params, support, **settings)[-1]
