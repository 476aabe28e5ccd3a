"""MAML's inner steps in their dual form: no task's adapted weights are ever written down.

A step of gradient descent moves the weights W of a linear layer by -alpha D' X: the rows of X, `(n, inputs)`, are what the n
support examples sent into the layer, those of D, `(n, outputs)`, the slopes of the loss with respect to what came out. So an
adapted layer needs only the two factors of each step k:

    W_K z = W z - alpha * sum over k of D_k' (X_k z)

It compares its input z with those of the support set, an inner product each, and adds up slopes with these as weights. That is
less work than a W_K for each task while a task has fewer queries than inputs * outputs / (inputs + outputs), as in a wide first
layer; each further step adds one more sum. And one product with the shared W serves all tasks of a meta-step, in the
meta-gradient too. The numbers are those of `mamlkit.algorithms.maml` but for rounding.

Irie, Csordás & Schmidhuber (ICML 2022, arXiv:2202.05798), after Aizerman, Braverman & Rozonoer (1964).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from mamlkit.calls import checked
from mamlkit.meta import batch_loss
from mamlkit.models import Network
from mamlkit.tasks import Batch, Params, Task, check_counts, check_names, n_tasks

Layers = list[tuple[str, nn.Module]]


@checked
def query_loss(model: nn.Module, params: Params, tasks: Task, *, inner_lr: float, inner_steps: int) -> Tensor:
    """The mean over a stack of tasks of the query loss after `inner_steps` steps of `maml.adapt` on the support loss, a scalar.

    Both losses are `batch_loss`. To `meta_gradient` and `meta_train` the stack is one task, so give them a stack of stacks,
    `(1, n_tasks, n, ...)`, and of several seeds one for each.

    Args:
        model: a network of `mamlkit.models.mlp`, with batch norm or without.
        params: theta, by name, all of the model's, as `initial_params` gives them where nothing is frozen or tied.
        tasks: a stack; `support.x` is `(n_tasks, n, ...)`.
        inner_lr: alpha, one for all parameters.
        inner_steps: K >= 0.

    Raises:
        TypeError: tasks that are no stack.
        ValueError: a model that is no plain chain of linear layers, batch norm without running statistics and layers without
            parameters; parameters that are missing or unknown; `inner_steps` below 0; malformed tasks.

    Irie et al. (2022). Derived in chapter `gpu-few-shot`.
    """
    check_counts(0, inner_steps=inner_steps)
    if isinstance(tasks, list):
        raise TypeError(
            "tasks is a list, but the dual form takes a stack; use maml.adapt for tasks of unequal sizes"
        )
    n_tasks(tasks)
    check_names(model, params)
    layers = _chain(model, params)
    each = partial(_task_loss, layers, inner_lr=inner_lr, inner_steps=inner_steps)
    return vmap(each, (None, 0), randomness="different")(params, tasks).mean()


def _chain(model: nn.Module, params: Params) -> Layers:
    if type(model) is not Network or type(model.body) is not nn.Sequential:
        raise ValueError(
            f"model is a {type(model).__name__}, but the dual form walks through a network of mamlkit.models.mlp; use maml.adapt"
        )
    layers: Layers = [
        (f"body.{name}", layer) for name, layer in model.body._modules.items() if layer is not None
    ]
    for name, layer in [*layers, ("head", model.head)]:
        own = [f"{name}.{p}" for p, _ in layer.named_parameters()]
        known = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.BatchNorm1d) and layer.running_mean is None
        )
        if not (known or (not own and not list(layer.children()) and not list(layer.buffers()))):
            raise ValueError(
                f"{name} is a {type(layer).__name__}, but the dual form knows Linear, BatchNorm1d with "
                f"track_running_stats=False, and layers without parameters; use maml.adapt"
            )
        if lacking := [p for p in own if p not in params]:
            raise ValueError(
                f"params lacks {lacking[0]}; the dual form takes all of the model's, none frozen and none tied"
            )
    return [*layers, ("head", model.head)]


def _task_loss(layers: Layers, params: Params, task: Task, *, inner_lr: float, inner_steps: int) -> Tensor:
    linear = {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)}
    W = {name: p for name, p in params.items() if name in linear}
    phi = {
        name: p for name, p in params.items() if name not in linear
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
                x = (x - mean) * torch.rsqrt(var + layer.eps) * phi.get(weight, 1.0) + bias
            else:
                x = layer(x)
        return batch_loss(nn.Identity(), {}, Batch(x, batch.y)), inputs

    n = len(task.support.y)
    nothing = {
        name: p.new_zeros(n, len(p)) for name, p in W.items()
    }  # added to a layer's output, its slope is D
    for _ in range(inner_steps):
        (D, slopes), X = grad(loss_of, argnums=(0, 1), has_aux=True)(nothing, phi, task.support)
        factors = [*factors, (X, D)]
        phi = {name: p - inner_lr * slopes[name] for name, p in phi.items()}
    return loss_of({}, phi, task.query)[0]
