"""The inner loop: gradient descent inside a task."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

from mamlkit.algorithms import maml
from mamlkit.meta import batch_loss, meta_gradient, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.tasks import Batch, Task


def problem():
    torch.manual_seed(0)
    model = mlp([2, 6, 3]).double()
    support = Batch(torch.randn(7, 2).double(), torch.randint(0, 3, (7,)))
    return model, initial_params(model), support


def test_adapt_is_torchs_sgd() -> None:
    model, params, support = problem()
    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(4):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(support.x), support.y).backward()
        sgd.step()

    adapted = maml.adapt(model, params, support, inner_lr=0.3, inner_steps=4)

    for name, p in model.named_parameters():
        assert torch.allclose(adapted[name], p, rtol=1e-12)


def test_adapt_changes_nothing_it_was_given() -> None:
    model, params, support = problem()
    before = {name: p.clone() for name, p in params.items()}

    maml.adapt(model, params, support, inner_lr=0.3, inner_steps=3)

    assert all(torch.equal(params[name], before[name]) for name in params)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_zero_steps_and_a_zero_rate_adapt_nothing() -> None:
    model, params, support = problem()

    for settings in ({"inner_lr": 0.3, "inner_steps": 0}, {"inner_lr": 0.0, "inner_steps": 3}):
        adapted = maml.adapt(model, params, support, **settings)
        assert all(torch.equal(adapted[name], params[name]) for name in params)


def test_k_steps_are_one_step_k_times() -> None:
    model, params, support = problem()
    step = partial(maml.adapt, model, inner_lr=0.3, inner_steps=1)

    assert torch.equal(
        step(step(params, support), support)["head.weight"],
        maml.adapt(model, params, support, inner_lr=0.3, inner_steps=2)["head.weight"],
    )


def test_a_linear_model_follows_the_closed_form() -> None:
    # L = |Xw - y|^2 / n has the Hessian A = 2 X'X / n: w_K = w* + (I - alpha A)^K (w_0 - w*).
    torch.manual_seed(0)
    x, w_star, w0 = torch.randn(8, 3).double(), torch.randn(3, 1).double(), torch.randn(1, 3).double()
    model = nn.Linear(3, 1, bias=False).double()

    adapted = maml.adapt(model, {"weight": w0}, Batch(x, x @ w_star), inner_lr=0.1, inner_steps=5)

    shrink = torch.linalg.matrix_power(torch.eye(3).double() - 0.1 * 2 * x.T @ x / 8, 5)
    assert torch.allclose(adapted["weight"].T, w_star + shrink @ (w0.T - w_star), rtol=1e-12)


def test_first_order_changes_the_gradient_but_not_the_adapted_parameters() -> None:
    model, params, support = problem()
    task = Task(*(Batch(b.x[None], b.y[None]) for b in (support, support)))
    losses, gradients = [], []
    for first_order in (False, True):
        adapt = partial(maml.adapt, model, inner_lr=0.3, inner_steps=2, first_order=first_order)
        loss, gradient = meta_gradient(partial(query_loss, model, adapt), params, task)
        losses.append(loss)
        gradients.append(gradient)

    assert torch.equal(*losses)
    assert not torch.allclose(gradients[0]["head.weight"], gradients[1]["head.weight"])


def test_first_order_meta_gradient_is_the_gradient_at_the_adapted_parameters() -> None:
    model, params, support = problem()
    adapt = partial(maml.adapt, model, inner_lr=0.3, inner_steps=2, first_order=True)
    task = Task(*(Batch(b.x[None], b.y[None]) for b in (support, support)))

    _, ours = meta_gradient(partial(query_loss, model, adapt), params, task)

    at_phi = torch.func.grad(partial(batch_loss, model))(adapt(params, support), support)
    assert all(torch.allclose(ours[name], at_phi[name], rtol=1e-12) for name in ours)


@pytest.mark.parametrize("first_order", [False, True])
def test_only_the_named_part_moves_and_all_get_a_meta_gradient(first_order: bool) -> None:
    model, params, support = problem()
    adapt = partial(maml.adapt, model, inner_lr=0.3, inner_steps=2, only="head", first_order=first_order)

    adapted = adapt(params, support)

    assert all(torch.equal(adapted[name], params[name]) != name.startswith("head") for name in params)
    task = Task(*(Batch(b.x[None], b.y[None]) for b in (support, support)))
    _, gradients = meta_gradient(partial(query_loss, model, adapt), params, task)
    assert all(g.abs().max() > 0 for g in gradients.values())


def test_only_asks_how_a_name_starts() -> None:
    _, _, support = problem()
    model = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), after_first=nn.Linear(3, 3))).double()
    params = initial_params(model)

    adapted = maml.adapt(model, params, support, inner_lr=0.3, inner_steps=1, only="first")

    assert {name for name in params if not torch.equal(adapted[name], params[name])} == {
        "first.weight",
        "first.bias",
    }
