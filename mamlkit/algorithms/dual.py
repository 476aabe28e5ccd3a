"""MAML's inner steps in their dual form: no task's adapted weights are ever written down.

A step of gradient descent moves the weights W of a linear layer by -alpha D' X: the rows of X, `(n, inputs)`, are what the n
support examples sent into the layer, those of D, `(n, outputs)`, the slopes of the loss with respect to what came out. So an
adapted layer needs only the two factors of each step k:

    W_K z = W z - alpha * sum over k of D_k' (X_k z)

It compares its input z with those of the support set, an inner product each, and adds up slopes with these as weights. With fewer
examples than inputs and outputs that is less work than a W_K for each task, and one product with the shared W serves all tasks of
a meta-step, in the meta-gradient too. The numbers are those of `mamlkit.algorithms.maml` but for rounding.

Irie, Csordás & Schmidhuber (ICML 2022, arXiv:2202.05798), section 3.2, after Aizerman, Braverman & Rozonoer (1964).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from mamlkit.calls import checked
from mamlkit.models import Network
from mamlkit.tasks import Batch, Params, Task, check_counts, n_tasks

Layers = list[tuple[str, nn.Module]]


@checked
def query_loss(
    model: Network,
    params: Params,
    tasks: Task,
    *,
    inner_lr: float,
    inner_steps: int,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """The mean over a stack of tasks of the query loss after `inner_steps` steps of `maml.adapt` on the support loss, a scalar.

    To `meta_gradient` and `meta_train` the stack is one task, so give them a stack of stacks, one for each seed.

    Args:
        model: a network of `mamlkit.models.mlp`.
        params: theta, by name, all of the model's.
        tasks: a stack; `support.x` is `(n_tasks, n, ...)`.
        inner_lr: alpha, one for all parameters.
        inner_steps: K >= 0.
        loss: of predictions `(n, outputs)` and targets `y`.

    Raises:
        ValueError: a layer with parameters that is neither linear nor batch norm (a convolution has more places than weights and
            would gain nothing), parameters that are missing, `inner_steps` below 0, or malformed tasks.

    Irie et al. (2022), section 3.2. Derived in chapter `gpu-few-shot`.
    """
    check_counts(0, inner_steps=inner_steps)
    n_tasks(tasks)
    layers = _layers(model, params)
    each = partial(_task_loss, layers, inner_lr=inner_lr, inner_steps=inner_steps, loss=loss)
    return vmap(each, (None, 0), randomness="different")(params, tasks).mean()


def _layers(model: Network, params: Params) -> Layers:
    layers = [(name, layer) for name, layer in model.named_modules() if not list(layer.children())]
    for name, layer in layers:
        own = [f"{name}.{p}" for p, _ in layer.named_parameters()]
        if own and not isinstance(layer, nn.Linear | nn.BatchNorm1d):
            raise ValueError(
                f"{name} is a {type(layer).__name__}, but the dual form knows Linear and BatchNorm1d; use maml.adapt"
            )
        if lacking := [name for name in own if name not in params]:
            raise ValueError(f"params lacks {lacking[0]}; give all of the model's, as initial_params does")
    return layers


def _task_loss(
    layers: Layers,
    params: Params,
    task: Task,
    *,
    inner_lr: float,
    inner_steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    weights = {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)}
    W = {name: p for name, p in params.items() if name in weights}
    phi = {
        name: p for name, p in params.items() if name not in weights
    }  # biases and norms move as they always do
    factors: list[tuple[Params, Params]] = []  # X_k and D_k of each layer

    def loss_of(added: Params, phi: Params, batch: Batch) -> tuple[Tensor, Params]:
        x, inputs = batch.x, {}
        for name, layer in layers:
            weight, bias = f"{name}.weight", phi.get(f"{name}.bias", 0.0)
            if isinstance(layer, nn.Linear):
                inputs[weight], z = x, x
                x = z @ W[weight].T + bias + added.get(weight, 0.0)
                for X, D in factors:
                    x = x - inner_lr * (z @ X[weight].T) @ D[weight]
            elif isinstance(layer, nn.BatchNorm1d):
                # Written out: torch's own has a wrong second derivative here, where the mean over tasks is taken inside.
                var, mean = torch.var_mean(x, 0, correction=0)
                x = (x - mean) * torch.rsqrt(var + layer.eps) * phi[weight] + bias
            else:
                x = layer(x)
        return loss(x, batch.y), inputs

    n = len(task.support.y)
    nothing = {
        name: p.new_zeros(n, len(p)) for name, p in W.items()
    }  # added to a layer's output, its slope is D
    for _ in range(inner_steps):
        (D, slopes), X = grad(loss_of, argnums=(0, 1), has_aux=True)(nothing, phi, task.support)
        factors = [*factors, (X, D)]
        phi = {name: p - inner_lr * slopes[name] for name, p in phi.items()}
    return loss_of({}, phi, task.query)[0]
