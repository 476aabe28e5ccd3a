"""Implicit MAML: closed forms on quadratics, the unrolled loop, and both ends of lambda."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression

from mamlkit.algorithms import imaml
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.tasks import Batch, Params, Task


def minimum(params: Params, support: Batch, *, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the held loss of a linear model is least, and its Hessian; the mean squared error's is 2 x'x / n."""
    x, y, n = *support, support.x.shape[-2]
    held = 2 * x.mT @ x / n + strength * torch.eye(x.shape[-1])
    return torch.linalg.solve(held, 2 * x.mT @ y / n + strength * params["weight"].T), held


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_a_step_goes_down_the_loss_and_back_along_the_spring(inner_steps: int) -> None:
    model, params, tasks = regression((3, 1))
    x, y = support = one(tasks.support)
    phi = theta = params["weight"].T
    for _ in range(inner_steps):
        phi = phi - 0.1 * (2 * x.T @ (x @ phi - y) / len(x) + 0.7 * (phi - theta))

    found = imaml.adapt(model, params, support, inner_lr=0.1, inner_steps=inner_steps, strength=0.7)

    assert torch.allclose(found["weight"].T, phi, rtol=1e-12)


@pytest.mark.parametrize("strength", [1e-6, 0.1, 1.0, 30.0, 1e9])
def test_on_quadratics_the_meta_gradient_is_the_closed_form(strength: float) -> None:
    model, params, (support, query) = regression((3, 1), k_shot=8)
    phi, held = minimum(params, support, strength=strength)
    slope = 2 * query.x.mT @ (query.x @ phi - query.y) / query.x.shape[1]
    expected = (strength * torch.linalg.solve(held, slope)).mean(0)

    def adapt(params: Params, support: Batch) -> Params:
        return {"weight": minimum(params, support, strength=strength)[0].T}

    loss = partial(imaml.task_loss, model, adapt, strength=strength, cg_steps=3)
    _, gradients = meta_gradient(loss, params, Task(support, query))

    # A very weak spring leaves the initialisation nothing to learn, a very strong one is joint training on the queries.
    assert torch.allclose(gradients["weight"].T, expected, rtol=1e-8, atol=1e-12)


def test_on_a_network_the_implicit_gradient_is_the_unrolled_one_at_the_minimum() -> None:
    model, params, _ = regression((1, 4, 1))
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[None, :, None]
    tasks = Task(Batch(x, x.sin()), Batch(x + 0.1, (x + 0.1).sin()))
    adapt = partial(imaml.adapt, model, inner_lr=0.2, inner_steps=80, strength=2.0)

    loss = partial(imaml.task_loss, model, adapt, strength=2.0, cg_steps=13)

    implicit, unrolled = (
        meta_gradient(f, params, tasks)[1] for f in (loss, partial(query_loss, model, adapt))
    )

    assert alike(implicit, unrolled, rtol=1e-6, atol=1e-9)
