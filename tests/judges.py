"""Independent judges of the meta-gradient: the same quantity without `torch.func` and without a line of the kit's.

A judge is a function `(model, loss_fn, params, tasks, *, inner_lr, inner_steps, first_order) -> (loss, gradients)`, like
`mamlkit.meta.meta_gradient` with `maml.adapt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian, vhp
from torch.func import functional_call

from mamlkit.tasks import Batch, Params, Task

LossFn = Callable[[Tensor, Tensor], Tensor]


def each_task(tasks: Task) -> Iterator[Task]:
    for support_x, support_y, query_x, query_y in zip(*tasks.support, *tasks.query, strict=True):
        yield Task(Batch(support_x, support_y), Batch(query_x, query_y))


def plain_loop(
    model: nn.Module, loss_fn: LossFn, params: Params, tasks: Task, *, inner_lr, inner_steps, first_order
) -> tuple[Tensor, Params]:
    """`torch.autograd.grad(create_graph=True)` and one `backward`, task after task."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    total = torch.zeros((), dtype=next(iter(theta.values())).dtype)
    for support, query in each_task(tasks):
        phi = dict(theta)
        for _ in range(inner_steps):
            loss = loss_fn(functional_call(model, phi, (support.x,)), support.y)
            gradients = torch.autograd.grad(loss, list(phi.values()), create_graph=not first_order)
            phi = {name: p - inner_lr * g for (name, p), g in zip(phi.items(), gradients, strict=True)}
        loss = loss_fn(functional_call(model, phi, (query.x,)), query.y) / len(tasks.support.x)
        loss.backward()
        total = total + loss.detach()
    return total, {name: p.grad for name, p in theta.items()}


def adjoint(
    model: nn.Module, loss_fn: LossFn, params: Params, tasks: Task, *, inner_lr, inner_steps, first_order
) -> tuple[Tensor, Params]:
    """The recursion p <- p - alpha H(phi_k) p, backwards over the stored path, a task's alone, then their mean."""
    losses, gradients = [], []
    for support, query in each_task(tasks):

        def loss(*phi: Tensor, batch: Batch = support) -> Tensor:
            return loss_fn(functional_call(model, dict(zip(params, phi, strict=True)), (batch.x,)), batch.y)

        def query_loss(*phi: Tensor, loss=loss, query=query) -> Tensor:
            return loss(*phi, batch=query)

        path = [tuple(params.values())]
        for _ in range(inner_steps):
            step = zip(path[-1], jacobian(loss, path[-1]), strict=True)
            path.append(tuple(p - inner_lr * g for p, g in step))
        p = jacobian(query_loss, path[-1])
        for point in reversed(path[:-1]) if not first_order else []:
            p = tuple(v - inner_lr * h for v, h in zip(p, vhp(loss, point, p)[1], strict=True))
        losses.append(query_loss(*path[-1]))
        gradients.append(p)
    means = (torch.stack(g).mean(0) for g in zip(*gradients, strict=True))
    return torch.stack(losses).mean(), dict(zip(params, means, strict=True))
