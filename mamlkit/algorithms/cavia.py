"""Fast context adaptation, CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson, ICML 2019, arXiv:1810.03642).

The network gets a context c beside its input. Inside a task, K steps of gradient descent move c alone, which every task starts at
zero; the network's own parameters theta are shared by all tasks and learned across them (section 3.1):

    c_0 = 0,    c_{k+1} = c_k - alpha * grad_c L_support(c_k, theta),    adapt(theta, support) = (theta, c_K)
    theta <- theta - beta * grad_theta mean over tasks of L_query(c_K, theta)

So it is MAML with `only=` the context, begun at zero. Read by the first layer, as W x + C c + b, it is MAML on the bias b alone,
the gradient multiplied by C C'; at C = 0 nothing moves and C has no gradient, so C must not start there.

Differs from the paper: `Film` scales by 1 + gamma instead of gamma and has no bias, since the batch norm before it has one; so a
zero context leaves every network as it was. Each `Film` has a context of its own, where the authors' code has one for all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mamlkit.algorithms import maml
from mamlkit.calls import checked
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Batch, Params, check_counts


class Context(nn.Module):
    """`network` on its input, flattened to `(n, features)`, beside `context`, `(size,)`: it reads `features + size` numbers.

    The context is a buffer, so that `initial_params` has the network's parameters and nothing else. Convolutions take `Film`
    instead: batch norm subtracts again what is the same for all examples.

    Raises:
        ValueError: `size` below 1.

    >>> from mamlkit.models import mlp
    >>> Context(mlp([1 + 4, 40, 40, 1]), size=4)(torch.zeros(10, 1)).shape
    torch.Size([10, 1])
    """

    context: Tensor

    def __init__(self, network: nn.Module, size: int):
        check_counts(size=size)
        super().__init__()
        self.network = network
        self.register_buffer("context", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        beside = self.context.expand(len(x), -1)
        out: Tensor = self.network(torch.cat([x.flatten(1), beside], 1))
        return out


class Film(nn.Module):
    """Feature maps `(n, channels, ...)` scaled by `1 + gamma` and shifted by `beta`, both linear in a `context`, `(size,)`.

    A layer to put between batch norm and ReLU: `conv4(5).body.block3.insert(-1, Film(64, size=100))`. Zintgraf et al. (2019),
    section 3; feature-wise linear modulation is Perez et al.'s (2018).

    Raises:
        ValueError: `channels` or `size` below 1.
    """

    context: Tensor

    def __init__(self, channels: int, size: int):
        check_counts(channels=channels, size=size)
        super().__init__()
        self.modulation = nn.Linear(size, 2 * channels, bias=False)
        self.register_buffer("context", torch.zeros(size))

    def forward(self, maps: Tensor) -> Tensor:
        gamma, beta = self.modulation(self.context).unflatten(0, (2, -1, *[1] * (maps.dim() - 2)))
        modulated: Tensor = (1 + gamma) * maps + beta
        return modulated


@checked
def adapt(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_lr: float | Tensor,
    inner_steps: int,
    loss: Loss = batch_loss,
    first_order: bool = False,
) -> Params:
    """`params` and, beside them, each context of the model after `inner_steps` steps from zero on the support loss.

    Args:
        model: `Context(network, size)`, or any module with buffers that are called `context`.
        params: theta, `initial_params(model)`; contexts in it are begun anew.
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or whatever `loss` takes.
        inner_lr: alpha, the step size; the paper's is 1, since C learns the scale.
        inner_steps: K >= 0.
        loss: what the steps lower, `(model, params, support) -> scalar`.
        first_order: take the inner gradients as constants.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, or a model without a context.

    Zintgraf et al. (2019), section 3.1. Derived in chapter `context-and-latent`.
    """
    like = next(iter(params.values()))
    contexts = {
        name: like.new_zeros(c.shape) for name, c in model.named_buffers() if name.split(".")[-1] == "context"
    }
    if not contexts:
        raise ValueError(
            "model has no buffer called context; make it Context(network, size) or give it a Film"
        )
    start, only = params | contexts, tuple(contexts)
    return maml.adapt(
        model,
        start,
        support,
        inner_lr=inner_lr,
        inner_steps=inner_steps,
        loss=loss,
        first_order=first_order,
        only=only,
    )
