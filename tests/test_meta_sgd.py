"""Meta-SGD: MAML at equal rates, ANIL and BOIL at masked ones, the inverse of the curvature on quadratics."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import alike, one, regression
from torch import nn

from mamlkit.algorithms import maml, meta_sgd
from mamlkit.meta import batch_loss, evaluate, meta_gradient, meta_step, query_loss
from mamlkit.models import Network
from mamlkit.tasks import Batch, Task, part


def network():
    model, theta, tasks = regression()
    return model, theta, meta_sgd.initial_params(model, inner_lr=0.3), tasks


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_equal_rates_are_maml_and_so_is_the_meta_gradient_of_the_weights(inner_steps, first_order) -> None:
    model, theta, params, tasks = network()
    settings = {"inner_steps": inner_steps, "first_order": first_order}
    ours, mamls = (
        partial(meta_sgd.adapt, model, **settings),
        partial(maml.adapt, model, inner_lr=0.3, **settings),
    )

    loss, gradients = meta_gradient(partial(query_loss, model, ours), params, tasks)
    expected, of_theta = meta_gradient(partial(query_loss, model, mamls), theta, tasks)

    assert alike(ours(params, one(tasks.support)), mamls(theta, one(tasks.support)), rtol=0, atol=0)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert alike(part(gradients, "model."), of_theta)


def test_the_gradient_for_a_rate_is_minus_the_product_of_two_slopes() -> None:
    model, theta, params, tasks = network()
    task = one(tasks)
    adapt = partial(meta_sgd.adapt, model)

    _, gradients = meta_gradient(partial(query_loss, model, adapt), params, [task])

    support = torch.func.grad(partial(batch_loss, model))(theta, task.support)
    query = torch.func.grad(partial(batch_loss, model))(adapt(params, task.support), task.query)
    assert alike(part(gradients, "rate."), {name: -support[name] * query[name] for name in theta})


def test_rates_that_are_trained_on_quadratics_become_the_inverse_curvatures() -> None:
    # L = sum of a_j (w_j - c_j)^2 / 2, w = 0 and c_j = 1 or -1: a step leaves 1 - alpha_j a_j of the way, so the query loss is
    # F = sum of a_j (1 - alpha_j a_j)^2 / 2, and dF/dalpha_j = -a_j^2 (1 - alpha_j a_j).
    a, model = torch.tensor([0.5, 0.7, 1.0]).double(), nn.Linear(3, 1, bias=False).double()
    x = torch.diag((a * 3 / 2).sqrt()).expand(4, 3, 3)
    c = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, 1, -1], [-1, -1, 1]]).double()
    tasks = Task(*[Batch(x, x @ c[:, :, None])] * 2)
    params = meta_sgd.initial_params(model, inner_lr=0.1)
    params["model.weight"].zero_()
    task_loss = partial(query_loss, model, partial(meta_sgd.adapt, model))

    _, gradients = meta_gradient(task_loss, params, tasks)
    optimizer = torch.optim.SGD([params["rate.weight"]], lr=1.0)
    for _ in range(80):
        loss = meta_step(task_loss, params, tasks, optimizer)

    assert torch.allclose(gradients["rate.weight"][0], -(a**2) * (1 - 0.1 * a), rtol=1e-10)
    assert torch.allclose(params["rate.weight"][0] * a, torch.ones(3).double(), rtol=1e-4)
    assert loss < 1e-8


@pytest.mark.parametrize("moves", ["head", "body"])  # ANIL, BOIL
def test_anil_and_boil_are_rates_that_are_zero_elsewhere(moves: str) -> None:
    model, theta, params, tasks = network()
    masked = params | {
        n: 0 * r for n, r in params.items() if n.startswith("rate.") and f"rate.{moves}" not in n
    }
    losses = (
        partial(query_loss, model, partial(meta_sgd.adapt, model, inner_steps=3)),
        partial(query_loss, model, partial(meta_sgd.adapt, model, inner_steps=3, only=moves)),
        partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.3, inner_steps=3, only=moves)),
    )

    by_mask, by_name, mamls = (
        meta_gradient(loss, at, tasks)[1] for loss, at in zip(losses, (masked, params, theta), strict=True)
    )
    adapted = maml.adapt(model, theta, one(tasks.support), inner_lr=0.3, inner_steps=3, only=moves)

    assert alike(part(by_mask, "model."), mamls)
    assert alike(part(by_name, "model."), mamls)
    assert all(torch.equal(p, theta[name]) != name.startswith(moves) for name, p in adapted.items())


def test_one_step_of_a_zero_head_on_features_of_unit_length_classifies_as_nil_does() -> None:
    # NIL adapts nothing: a query goes to the class with the largest sum of cosines to its support features.
    class Unit(nn.Module):
        def forward(self, x):
            return F.normalize(x, dim=-1)

    model = Network(nn.Sequential(nn.Linear(4, 6), Unit()), nn.Linear(6, 3)).double()
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    support, x = Batch(draw(6, 4), torch.arange(3).repeat(2)), draw(20, 4)
    theta = {name: p.detach() * (not name.startswith("head")) for name, p in model.named_parameters()}

    def says(model, params, query):
        return torch.func.functional_call(model, params, query.x).argmax(-1)

    anil = partial(maml.adapt, model, inner_lr=0.5, inner_steps=1, only="head")
    found = evaluate(model, anil, theta, [Task(support, Batch(x, support.y.new_zeros(20)))], metric=says)[0]

    cosines = model.body(x) @ model.body(support.x).T
    assert torch.equal(found, (cosines @ F.one_hot(support.y).double()).argmax(-1))


def test_a_stack_is_the_mean_of_its_tasks() -> None:
    model, _, params, tasks = network()
    task_loss = partial(query_loss, model, partial(meta_sgd.adapt, model, inner_steps=2))

    (_, stacked), (_, alone) = (meta_gradient(task_loss, params, tasks, chunk_size=n) for n in (None, 1))

    assert alike(stacked, alone, rtol=1e-11)
