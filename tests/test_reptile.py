"""Reptile: what it collapses to, and where it goes on quadratic tasks."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.func import grad

from mamlkit.algorithms import maml, reptile
from mamlkit.meta import batch_loss, meta_gradient, meta_step, query_loss
from mamlkit.models import conv4, initial_params, mlp
from mamlkit.tasks import Batch, Params, Task


def problem(n_tasks: int = 3, n: int = 6) -> tuple[nn.Module, Params, Task]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = mlp([2, 5, 1]).double()
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    support = Batch(draw(n_tasks, n, 2), draw(n_tasks, n, 1))
    return model, initial_params(model), Task(support, Batch(draw(n_tasks, 4, 2), draw(n_tasks, 4, 1)))


def task_loss(model: nn.Module, **settings):
    return partial(reptile.task_loss, model, partial(reptile.adapt, model, **settings))


def test_the_gradient_is_the_way_back_and_the_value_the_query_loss() -> None:
    model, params, tasks = problem()
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=4)

    loss, gradients = meta_gradient(task_loss(model, inner_lr=0.1, inner_steps=4), params, tasks)

    assert torch.allclose(
        loss, meta_gradient(partial(query_loss, model, adapt), params, tasks)[0], rtol=1e-12
    )
    each = [adapt(params, Batch(x, y)) for x, y in zip(*tasks.support, strict=True)]
    for name, p in params.items():
        assert torch.allclose(gradients[name], p - torch.stack([phi[name] for phi in each]).mean(0))


def test_the_query_set_does_not_move_it() -> None:
    model, params, tasks = problem()
    other = Task(tasks.support, Batch(tasks.query.x + 1, tasks.query.y * 3))

    one, two = (
        meta_gradient(task_loss(model, inner_lr=0.1, inner_steps=3), params, t)[1] for t in (tasks, other)
    )

    assert all(torch.equal(one[name], two[name]) for name in params)


def test_one_inner_step_is_joint_training() -> None:
    model, params, tasks = problem()

    _, gradients = meta_gradient(task_loss(model, inner_lr=0.1, inner_steps=1), params, tasks)

    pooled = Batch(*(t.flatten(0, 1) for t in tasks.support))
    joint = grad(lambda p: batch_loss(model, p, pooled))(params)
    for name in params:
        assert torch.allclose(gradients[name], 0.1 * joint[name], rtol=1e-10, atol=1e-14)


def test_a_whole_step_after_one_task_lands_where_the_task_ended() -> None:
    model, params, tasks = problem(n_tasks=1)
    end = maml.adapt(
        model, params, Batch(tasks.support.x[0], tasks.support.y[0]), inner_lr=0.1, inner_steps=5
    )

    meta_step(
        task_loss(model, inner_lr=0.1, inner_steps=5),
        params,
        tasks,
        torch.optim.SGD(params.values(), lr=1.0),
    )

    assert all(torch.allclose(params[name], end[name], rtol=1e-12) for name in params)


def test_long_inner_loops_and_whole_steps_average_the_tasks_optima() -> None:
    # y = w x with the same x everywhere: quadratics of equal curvature, whose optima are the w.
    model = nn.Linear(2, 1, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64).expand(4, -1, -1)
    w = torch.randn(4, 2, 1, generator=generator, dtype=torch.float64)
    tasks = Task(Batch(x, x @ w), Batch(x, x @ w))
    params = initial_params(model)

    meta_step(
        task_loss(model, inner_lr=0.3, inner_steps=400),
        params,
        tasks,
        torch.optim.SGD(params.values(), lr=1.0),
    )

    assert torch.allclose(params["weight"][0], w.mean(0)[:, 0], rtol=1e-10)


def test_parts_take_turns_and_share_every_class() -> None:
    model, params, tasks = problem(n=6)
    support = Batch(tasks.support.x[0], tasks.support.y[0])
    phi = params
    for k in (0, 1, 2, 0):
        part = Batch(support.x[[k, k + 3]], support.y[[k, k + 3]])
        phi = maml.adapt(model, phi, part, inner_lr=0.1, inner_steps=1)

    adapted = reptile.adapt(model, params, support, inner_lr=0.1, inner_steps=4, inner_batches=3)

    assert all(torch.allclose(adapted[name], phi[name], rtol=1e-12) for name in params)


def test_all_at_once_and_one_by_one_agree_with_batch_norm_too() -> None:
    torch.manual_seed(0)
    model = conv4(3, channels=4, downsample="stride", image_size=16).double()
    x, y = torch.randn(2, 6, 1, 16, 16).double(), torch.arange(3).repeat(2, 2)
    tasks, params = Task(Batch(x, y), Batch(x.flip(1), y.flip(1))), initial_params(model)
    loss = task_loss(model, inner_lr=0.1, inner_steps=2, inner_batches=2)

    at_once, one_by_one = (meta_gradient(loss, params, tasks, chunk_size=c)[1] for c in (None, 1))

    for name in params:
        assert torch.allclose(at_once[name], one_by_one[name], rtol=1e-9, atol=1e-12)
