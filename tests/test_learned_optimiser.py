"""A learned optimiser: one LSTM for every coordinate."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from problems import alike, one, regression, slopes
from torch import nn

from mamlkit.algorithms import learned_optimiser
from mamlkit.meta import batch_loss, meta_gradient, query_loss
from mamlkit.tasks import part

STEPS = {"inner_lr": 0.1, "inner_steps": 4}

close = partial(torch.allclose, rtol=1e-10, atol=1e-12)


def problem():
    model, _, tasks = regression()
    return model, learned_optimiser.initial_params(model, hidden=5), tasks


def preprocessed(v: float) -> list[float]:
    return [math.log(abs(v)) / 10, math.copysign(1, v)] if abs(v) >= math.exp(-10) else [-1, math.exp(10) * v]


def test_a_coordinate_goes_through_torchs_lstm_from_step_to_step() -> None:
    _, params, _ = problem()
    lstm, cells, output = part(params, "lstm."), [nn.LSTMCell(2, 5), nn.LSTMCell(5, 5)], nn.Linear(5, 1)
    for k, cell in enumerate(cells):
        cell.double().load_state_dict({name: lstm[f"{name}_l{k}"] for name in cell.state_dict()})
    output.double().load_state_dict(part(lstm, "output."))
    zeros = torch.zeros(1, 5).double()
    ours, theirs = [(zeros, zeros)] * 2, [(zeros, zeros)] * 2

    for v in (0.3, -2.0, 1e-6, -math.exp(-10), 0.0):
        said, ours = learned_optimiser.update(lstm, torch.tensor([v], dtype=torch.float64), ours)
        x = torch.tensor([preprocessed(v)], dtype=torch.float64)
        for k, cell in enumerate(cells):
            theirs[k] = cell(x, theirs[k])
            x = theirs[k][0]
        assert close(said, output(x)[0])


def test_permuted_coordinates_have_permuted_updates() -> None:
    _, params, _ = problem()
    order, zeros = torch.randperm(7), torch.zeros(1, 5).double()
    state = permuted = [(zeros, zeros)] * 2
    for _ in range(3):
        v = torch.randn(7).double()
        said, state = learned_optimiser.update(part(params, "lstm."), v, state)
        again, permuted = learned_optimiser.update(part(params, "lstm."), v[order], permuted)
        assert close(again, said[order])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_open_gates_and_small_weights_it_is_gradient_descent_with_momentum(momentum: float) -> None:
    # Gradients below exp(-10) come linearly; then c <- momentum * c + tanh(tiny * exp(10) * v) is a velocity.
    model, _, tasks = regression()
    params = learned_optimiser.initial_params(model, hidden=1, layers=1)
    forget = math.log(momentum / (1 - momentum)) if momentum else -40.0
    tiny, small = 1e-6, lambda *given: 1e-6 * batch_loss(*given)
    lstm = {
        "weight_ih_l0": [[0, 0], [0, 0], [0, tiny], [0, 0]], "weight_hh_l0": [[0.0]] * 4,
        "bias_ih_l0": [40, forget, 0, 40], "bias_hh_l0": [0.0] * 4,
        "output.weight": [[-1 / (tiny * math.exp(10))]], "output.bias": [0.0],
    }  # fmt: skip
    params |= {f"lstm.{name}": torch.tensor(value, dtype=torch.float64) for name, value in lstm.items()}
    sgd = torch.optim.SGD(model.parameters(), lr=3e4, momentum=momentum)
    support = one(tasks.support)

    adapted = learned_optimiser.adapt(model, params, support, inner_lr=3e4, inner_steps=5, loss=small)

    for _ in range(5):
        sgd.zero_grad()
        (1e-6 * nn.functional.mse_loss(model(support.x), support.y)).backward()
        sgd.step()
    assert alike(adapted, dict(model.named_parameters()), rtol=1e-10)
    assert not torch.allclose(adapted["head.bias"], params["model.head.bias"], rtol=1e-2)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_follows_the_gradients_or_takes_them_as_constants(first_order: bool) -> None:
    model, params, tasks = problem()
    task, settings = one(tasks), STEPS if first_order else {**STEPS, "first_order": False}
    slope_at, zeros = torch.func.grad(partial(batch_loss, model)), torch.zeros(1, 5).double()
    fixed = [
        slope_at(phi, task.support) for phi in learned_optimiser.path(model, params, task.support, **settings)
    ]

    def by_hand(params) -> torch.Tensor:
        phi, state = part(params, "model."), [(zeros, zeros)] * 2
        for k in range(4):
            slope = fixed[k] if first_order else slope_at(phi, task.support)
            flat = torch.cat([slope[name].flatten() for name in phi])
            said, state = learned_optimiser.update(part(params, "lstm."), flat, state)
            ends = torch.tensor([p.numel() for p in phi.values()]).cumsum(0)
            phi = {name: p + 0.1 * said[end - p.numel() : end].view_as(p)
                   for (name, p), end in zip(phi.items(), ends.tolist())}  # fmt: skip
        return batch_loss(model, phi, task.query)

    task_loss = partial(query_loss, model, partial(learned_optimiser.adapt, model, **settings))
    ours, value = torch.func.grad_and_value(task_loss)(params, task)
    (_, together), (_, alone) = (meta_gradient(task_loss, params, tasks, chunk_size=n) for n in (None, 1))

    assert close(by_hand(params), value)
    assert torch.allclose(*slopes(by_hand, params, ours, step=1e-6), rtol=1e-6)
    assert alike(together, alone, rtol=1e-10)
    assert all(g.abs().max() > 0 for g in together.values())


def test_only_what_is_named_moves_and_without_steps_nothing_does() -> None:
    model, params, tasks = problem()
    weights, support = part(params, "model."), one(tasks.support)

    head = learned_optimiser.adapt(model, params, support, **STEPS, only="head")
    points = learned_optimiser.path(model, params, support, **STEPS)

    assert all(torch.equal(head[name], weights[name]) != name.startswith("head") for name in weights)
    assert len(points) == 5
    assert alike(points[0], weights, rtol=0, atol=0)
    assert alike(learned_optimiser.adapt(model, params, support, **STEPS), points[-1], rtol=0, atol=0)
