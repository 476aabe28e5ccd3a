"""Federated averaging and SCAFFOLD: what they collapse to, and where they rest on quadratic clients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression
from torch import Tensor
from torch.func import grad

from mamlkit.algorithms import fedavg, maml, reptile, scaffold
from mamlkit.meta import batch_loss, meta_gradient, meta_step, query_loss
from mamlkit.tasks import Batch, Params, Task, one_by_one

SIZES = torch.tensor([30, 10, 60])
SHARES = SIZES.double() / 100
RATE = 0.2


def valleys() -> tuple[torch.nn.Module, Params, Batch, Tensor, Tensor]:
    """A linear model and three clients of two examples with the loss (theta - w)' A (theta - w) / 2: A and w come last."""
    model, params, tasks = regression((2, 1), k_shot=2)
    x = torch.tensor([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 1.5]], [[2.0, 0.0], [0.0, 1.0]]]).double()
    w = tasks.query.y[:, :2, 0]
    return model, params, Batch(x, x @ w[..., None]), x.mT @ x, w


def rest(shares: Tensor, pulls: Tensor, w: Tensor) -> Tensor:
    """Where sum_i p_i M_i (theta - w_i) = 0."""
    weights = shares[:, None, None] * pulls
    return torch.linalg.solve(weights.sum(0), (weights @ w[..., None]).sum(0))[:, 0]


def local(model, inner_steps: int, **more):
    return partial(maml.adapt, model, inner_lr=RATE, inner_steps=inner_steps, **more)


def fedavg_round(model, params, clients, inner_steps, **more):
    return fedavg.server_round(local(model, inner_steps), params, clients, weights=SIZES, **more)


def scaffold_rounds(model, params, clients, inner_steps, n, **more):
    controls = scaffold.initial_controls(params, 3)
    for _ in range(n):
        settings = {"weights": SIZES, "inner_lr": RATE, "inner_steps": inner_steps, **more}
        params, controls = scaffold.server_round(model, params, controls, clients, **settings)
    return params, controls


@pytest.mark.parametrize("server_lr", [1.0, 0.4])
def test_one_local_step_is_gradient_descent_on_the_loss_of_all_examples(server_lr: float) -> None:
    model, params, tasks = regression()
    clients = [Batch(*(t[i, :n] for t in tasks.support)) for i, n in enumerate((3, 1, 5))]
    pooled = Batch(*(torch.cat(parts) for parts in zip(*clients)))
    slope = grad(lambda p: batch_loss(model, p, pooled))(params)

    sizes = torch.tensor([3, 1, 5])
    ours = fedavg.server_round(local(model, 1), params, clients, weights=sizes, server_lr=server_lr)
    settings = {"weights": sizes, "inner_lr": RATE, "inner_steps": 1, "server_lr": server_lr}
    controls = scaffold.initial_controls(params, 3)
    theirs, controls = scaffold.server_round(model, params, controls, clients, **settings)

    descended = {name: p - server_lr * RATE * slope[name] for name, p in params.items()}
    assert alike(ours, descended, rtol=1e-10)
    assert alike(theirs, descended, rtol=1e-10)
    for client, control in zip(clients, one_by_one(controls)):  # the guess is the gradient at theta
        assert alike(control, grad(lambda p, c=client: batch_loss(model, p, c))(params), rtol=1e-9)


@pytest.mark.parametrize(
    ("inner_steps", "server_lr", "n"),
    [(1, 1.0, 90), (2, 1.0, 50), (2, 0.5, 120), (10, 0.5, 50), (100, 1.0, 4)],
)
def test_fedavg_rests_at_the_mean_of_the_optima_weighted_by_how_far_clients_go(
    inner_steps, server_lr, n
) -> None:
    model, params, clients, a, w = valleys()
    eye = torch.eye(2).to(a)
    pulls = eye - torch.linalg.matrix_power(eye - RATE * a, inner_steps)

    for _ in range(n):
        params = fedavg_round(model, params, clients, inner_steps, server_lr=server_lr)

    assert torch.allclose(params["weight"][0], rest(SHARES, pulls, w), rtol=0, atol=1e-10)
    at_optimum = torch.allclose(params["weight"][0], rest(SHARES, a, w), rtol=0, atol=1e-3)
    assert at_optimum == (inner_steps == 1)


@pytest.mark.parametrize(("inner_steps", "n"), [(1, 70), (2, 40), (10, 100)])
def test_scaffold_rests_at_the_joint_optimum_with_each_clients_own_gradient_in_hand(inner_steps, n) -> None:
    model, params, clients, a, w = valleys()

    end, controls = scaffold_rounds(model, params, clients, inner_steps, n)

    joint = rest(SHARES, a, w)
    assert torch.allclose(end["weight"][0], joint, rtol=0, atol=1e-9)
    assert torch.allclose(controls["weight"][:, 0, :, None], a @ (joint - w)[..., None], atol=1e-8)


def test_scaffold_is_the_loop_of_its_algorithm_with_a_server_rate_of_its_own() -> None:
    model, params, clients, a, w = valleys()
    theta, c = params["weight"][0], torch.zeros(3, 2).to(w)

    for _ in range(4):
        common, ends = SHARES @ c, []
        for i in range(3):
            phi = theta
            for _ in range(5):
                phi = phi - RATE * (a[i] @ (phi - w[i]) - c[i] + common)
            ends.append(phi)
        phi = torch.stack(ends)
        c = c - common + (theta - phi) / (5 * RATE)
        theta = theta + 0.7 * SHARES @ (phi - theta)

    ours, controls = scaffold_rounds(model, params, clients, 5, 4, server_lr=0.7)
    assert torch.allclose(ours["weight"][0], theta, rtol=1e-12)
    assert torch.allclose(controls["weight"][:, 0], c, rtol=1e-10)


def test_a_first_round_of_scaffold_is_one_of_fedavg_and_clients_of_one_curvature_never_drift() -> None:
    model, params, clients, _, w = valleys()
    first, _ = scaffold_rounds(model, params, clients, 7, 1)
    assert alike(first, fedavg_round(model, params, clients, 7))

    x = clients.x[:1].expand(3, -1, -1)
    same = Batch(x, x @ w[..., None])
    for _ in range(60):
        params = fedavg_round(model, params, same, 7)
    assert torch.allclose(params["weight"][0], SHARES @ w, rtol=1e-10)


@pytest.mark.parametrize("inner_batches", [1, 5])
def test_with_equal_weights_a_round_is_a_step_of_batched_reptile(inner_batches: int) -> None:
    model, params, tasks = regression()
    adapt = partial(reptile.adapt, model, inner_lr=0.1, inner_steps=4, inner_batches=inner_batches)

    ours = fedavg.server_round(adapt, params, tasks.support, weights=torch.ones(3), server_lr=0.3)

    loss = partial(reptile.task_loss, model, adapt)
    meta_step(loss, params, tasks, torch.optim.SGD(params.values(), lr=0.3))
    assert alike(ours, params)


def test_one_local_step_on_the_loss_after_a_step_is_gradient_descent_on_mamls_objective() -> None:
    model, params, tasks = regression()
    inner = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)
    same = Task(tasks.support, tasks.support)
    slope = meta_gradient(partial(query_loss, model, inner), params, same)[1]

    def personal(model, params, client):
        return query_loss(model, inner, params, Task(client, client))

    adapt = local(model, 1, loss=personal)
    ours = fedavg.server_round(adapt, params, tasks.support, weights=torch.ones(3))

    assert alike(ours, {name: p - RATE * slope[name] for name, p in params.items()}, rtol=1e-10)


def test_a_stack_at_once_and_a_list_one_by_one_agree_and_nothing_given_is_changed() -> None:
    model, params, tasks = regression()
    before = {name: p.clone() for name, p in params.items()}
    grown = {name: p.clone().requires_grad_() for name, p in params.items()}

    for clients in (tasks.support, one_by_one(tasks.support)):
        ours = fedavg_round(model, grown, clients, 3)
        moved, controls = scaffold_rounds(model, grown, clients, 3, 2)
        assert alike(ours, fedavg_round(model, params, tasks.support, 3))
        assert alike(moved, scaffold_rounds(model, params, tasks.support, 3, 2)[0])
        assert not any(t.requires_grad for part in (ours, moved, controls) for t in part.values())

    assert alike(params, before, rtol=0, atol=0)


def test_only_the_ratios_of_the_weights_count_and_a_client_without_weight_does_not() -> None:
    model, params, tasks = regression()
    two = [one(tasks.support, i) for i in range(2)]
    adapt = local(model, 3)

    ours = fedavg.server_round(adapt, params, two, weights=torch.tensor([3.0, 1.0]))

    more = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    assert alike(fedavg.server_round(adapt, params, tasks.support, weights=more), ours)
