"""Reptile: what it collapses to, and where it goes on quadratic tasks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression
from torch import nn
from torch.func import grad

from mamlkit.algorithms import maml, reptile
from mamlkit.meta import batch_loss, meta_gradient, meta_step, query_loss
from mamlkit.models import conv4, initial_params
from mamlkit.tasks import Batch, Task


def task_loss(model: nn.Module, **settings):
    return partial(reptile.task_loss, model, partial(reptile.adapt, model, **settings))


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_the_gradient_is_the_way_back_and_the_value_the_query_loss(n_tasks: int) -> None:
    model, params, tasks = regression(n_tasks=n_tasks)
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=4)
    value = meta_gradient(partial(query_loss, model, adapt), params, tasks)[0]
    ends = [adapt(params, one(tasks.support, i)) for i in range(n_tasks)]
    mean = {name: torch.stack([phi[name] for phi in ends]).mean(0) for name in params}

    ours = task_loss(model, inner_lr=0.1, inner_steps=4)
    loss, gradients = meta_gradient(ours, params, tasks)

    assert torch.allclose(loss, value, rtol=1e-12)
    assert alike(gradients, {name: p - mean[name] for name, p in params.items()})
    meta_step(ours, params, tasks, torch.optim.SGD(params.values(), lr=1.0))
    assert alike(params, mean)  # a whole step lands where the tasks ended


def test_one_inner_step_is_joint_training_on_the_supports_and_no_query_moves_it() -> None:
    model, params, tasks = regression()
    other = Task(tasks.support, Batch(tasks.query.x + 1, tasks.query.y * 3))
    pooled = Batch(*(t.flatten(0, 1) for t in tasks.support))
    joint = {name: 0.1 * g for name, g in grad(lambda p: batch_loss(model, p, pooled))(params).items()}

    for stack in (tasks, other):
        gradients = meta_gradient(task_loss(model, inner_lr=0.1, inner_steps=1), params, stack)[1]
        assert alike(gradients, joint, rtol=1e-10)


def test_long_inner_loops_and_whole_steps_average_the_tasks_optima() -> None:
    # y = w x with the same x everywhere: quadratics of equal curvature, whose optima are the w.
    model, params, tasks = regression((2, 1), n_tasks=4, k_shot=8)
    x, w = tasks.support.x[:1].expand(4, -1, -1), tasks.query.x[:, :1].mT
    same = Batch(x, x @ w)

    loss_fn = task_loss(model, inner_lr=0.3, inner_steps=400)
    meta_step(loss_fn, params, Task(same, same), torch.optim.SGD(params.values(), lr=1.0))

    assert torch.allclose(params["weight"][0], w.mean(0)[:, 0], rtol=1e-10)


def test_parts_take_turns_and_share_every_class() -> None:
    model, params, tasks = regression(k_shot=6)
    support, phi = one(tasks.support), params
    for k in (0, 1, 2, 0):
        phi = maml.adapt(model, phi, Batch(*(t[[k, k + 3]] for t in support)), inner_lr=0.1, inner_steps=1)

    adapted = reptile.adapt(model, params, support, inner_lr=0.1, inner_steps=4, inner_batches=3)

    assert alike(adapted, phi)


def test_all_at_once_and_one_by_one_agree_with_batch_norm_too() -> None:
    torch.manual_seed(0)
    model = conv4(3, channels=4, downsample="stride", image_size=16).double()
    x, y = torch.randn(2, 6, 1, 16, 16).double(), torch.arange(3).repeat(2, 2)
    tasks, params = Task(Batch(x, y), Batch(x.flip(1), y.flip(1))), initial_params(model)
    loss = task_loss(model, inner_lr=0.1, inner_steps=2, inner_batches=2)

    at_once, one_by_one = (meta_gradient(loss, params, tasks, chunk_size=c)[1] for c in (None, 1))

    assert alike(at_once, one_by_one, rtol=1e-9, atol=1e-12)
