"""Implicit MAML: closed forms on quadratics, the unrolled loop, and both ends of lambda."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import grad

from mamlkit.algorithms import imaml
from mamlkit.meta import batch_loss, meta_gradient, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.tasks import Batch, Params, Task


def linear_tasks(n_tasks: int = 3) -> tuple[nn.Module, Params, Task]:
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    return (
        model,
        initial_params(model),
        Task(
            Batch(draw(n_tasks, 6, 3), draw(n_tasks, 6, 1)), Batch(draw(n_tasks, 5, 3), draw(n_tasks, 5, 1))
        ),
    )


def minimum(params: Params, support: Batch, *, strength: float) -> Params:
    """Where the held loss of a linear model is least; the mean squared error's Hessian is 2 x'x / n."""
    x, y = support
    held = 2 * x.T @ x / len(x) + strength * torch.eye(3)
    return {"weight": torch.linalg.solve(held, 2 * x.T @ y / len(x) + strength * params["weight"].T).T}


def objective(model: nn.Module, *, strength: float, cg_steps: int, adapt=None):
    adapt = adapt or partial(minimum, strength=strength)
    return partial(imaml.task_loss, model, adapt, strength=strength, cg_steps=cg_steps)


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_a_step_goes_down_the_loss_and_back_along_the_spring(inner_steps: int) -> None:
    model, params, tasks = linear_tasks()
    x, y = (t[0] for t in tasks.support)
    phi = theta = params["weight"].T
    for _ in range(inner_steps):
        phi = phi - 0.1 * (2 * x.T @ (x @ phi - y) / len(x) + 0.7 * (phi - theta))

    found = imaml.adapt(model, params, Batch(x, y), inner_lr=0.1, inner_steps=inner_steps, strength=0.7)

    assert torch.allclose(found["weight"].T, phi, rtol=1e-12)


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_on_quadratics_the_meta_gradient_is_the_closed_form(strength: float) -> None:
    model, params, tasks = linear_tasks()
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        support, (xq, yq) = (Batch(*(t[i] for t in batch)) for batch in tasks)
        held = 2 * support.x.T @ support.x / len(support.x) + strength * torch.eye(3)
        slope = 2 * xq.T @ (xq @ minimum(params, support, strength=strength)["weight"].T - yq) / len(xq)
        expected += (torch.linalg.solve(held, strength * slope) / 3).squeeze()

    _, gradients = meta_gradient(objective(model, strength=strength, cg_steps=3), params, tasks)

    assert torch.allclose(gradients["weight"][0], expected, rtol=1e-8)


def test_on_a_network_the_implicit_gradient_is_the_unrolled_one_at_the_minimum() -> None:
    torch.manual_seed(0)
    model = mlp([1, 4, 1]).double()
    params = initial_params(model)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[None, :, None]
    tasks = Task(Batch(x, x.sin()), Batch(x + 0.1, (x + 0.1).sin()))
    adapt = partial(imaml.adapt, model, inner_lr=0.2, inner_steps=80, strength=2.0)

    _, implicit = meta_gradient(objective(model, cg_steps=13, strength=2.0, adapt=adapt), params, tasks)
    _, unrolled = meta_gradient(partial(query_loss, model, adapt), params, tasks)

    for name in params:
        assert torch.allclose(implicit[name], unrolled[name], rtol=1e-6, atol=1e-9)


def test_a_very_strong_spring_is_joint_training_on_the_queries() -> None:
    model, params, tasks = linear_tasks()

    _, gradients = meta_gradient(objective(model, strength=1e9, cg_steps=2), params, tasks)

    pooled = Batch(*(t.flatten(0, 1) for t in tasks.query))
    joint = grad(lambda p: batch_loss(model, p, pooled))(params)
    assert torch.allclose(gradients["weight"], joint["weight"], rtol=1e-6)


def test_a_very_weak_spring_leaves_the_initialisation_nothing_to_learn() -> None:
    model, params, tasks = linear_tasks()

    _, gradients = meta_gradient(objective(model, strength=1e-6, cg_steps=3), params, tasks)

    assert gradients["weight"].norm() < 1e-3
