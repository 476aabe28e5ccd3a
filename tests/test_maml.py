"""The inner loop: gradient descent inside a task."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from functools import partial

import pytest
import torch
from problems import alike, one, regression
from torch import nn

from mamlkit.algorithms import maml
from mamlkit.meta import batch_loss, meta_gradient, query_loss
from mamlkit.models import initial_params
from mamlkit.tasks import Batch


@pytest.mark.parametrize(("inner_lr", "inner_steps", "rtol"), [(0.3, 4, 1e-12), (0.3, 0, 0), (0.0, 3, 0)])
def test_adapt_is_torchs_sgd_and_changes_nothing_it_was_given(inner_lr, inner_steps, rtol) -> None:
    model, params, tasks = regression()
    support, net, before = one(tasks.support), deepcopy(model), deepcopy(params)
    sgd = torch.optim.SGD(net.parameters(), lr=inner_lr)
    for _ in range(inner_steps):
        sgd.zero_grad()
        nn.functional.mse_loss(net(support.x), support.y).backward()
        sgd.step()

    adapted = maml.adapt(model, params, support, inner_lr=inner_lr, inner_steps=inner_steps)

    assert alike(adapted, dict(net.named_parameters()), rtol=rtol, atol=rtol)
    assert alike(params, before, rtol=0, atol=0)
    assert alike(dict(model.named_parameters()), before, rtol=0, atol=0)


def test_a_linear_model_follows_the_closed_form() -> None:
    # L = |Xw - y|^2 / n has the Hessian A = 2 X'X / n: w_K = w* + (I - alpha A)^K (w_0 - w*).
    model, params, tasks = regression((3, 1), k_shot=8)
    x, w0, w_star = tasks.support.x[0], params["weight"].T, torch.ones(3, 1).double()

    adapted = maml.adapt(model, params, Batch(x, x @ w_star), inner_lr=0.1, inner_steps=5)

    shrink = torch.linalg.matrix_power(torch.eye(3).double() - 0.1 * 2 * x.T @ x / 8, 5)
    assert torch.allclose(adapted["weight"].T, w_star + shrink @ (w0 - w_star), rtol=1e-12)


def test_first_order_takes_the_gradient_at_the_adapted_parameters_of_the_same_loss() -> None:
    model, params, tasks = regression(n_tasks=1)
    adapt = partial(maml.adapt, model, inner_lr=0.3, inner_steps=2)
    first, second = (partial(adapt, first_order=shortcut) for shortcut in (True, False))

    loss, ours = meta_gradient(partial(query_loss, model, first), params, tasks)
    whole, exact = meta_gradient(partial(query_loss, model, second), params, tasks)

    at_phi = torch.func.grad(partial(batch_loss, model))(first(params, one(tasks.support)), one(tasks.query))
    assert alike(ours, at_phi)
    assert torch.equal(loss, whole)
    assert not torch.allclose(ours["head.weight"], exact["head.weight"])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("only", ["head", ("head", "overhead.b")])
def test_only_what_starts_with_a_name_moves_and_all_get_a_meta_gradient(only, first_order: bool) -> None:
    model = nn.Sequential(OrderedDict(head=nn.Linear(2, 3), overhead=nn.Linear(3, 1))).double()
    params, tasks = initial_params(model), regression()[2]
    adapt = partial(maml.adapt, model, inner_lr=0.3, inner_steps=2, only=only, first_order=first_order)

    adapted = adapt(params, one(tasks.support))
    _, gradients = meta_gradient(partial(query_loss, model, adapt), params, tasks)

    assert all(torch.equal(adapted[name], params[name]) != name.startswith(only) for name in params)
    assert all(g.abs().max() > 0 for g in gradients.values())
