"""The ridge head: the normal equations, their gradients by hand, and digits at a small lambda."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from problems import alike, classification, one, slopes
from torch import nn
from torch.func import grad

from mamlkit.algorithms import ridge
from mamlkit.meta import meta_gradient, predict, query_loss
from mamlkit.models import Network
from mamlkit.tasks import Batch, part

SIZES = [(2, 9), (9, 4)]  # examples and features: fewer, more


def prepared(k_shot: int, features: int, **start: float):
    model, weights, tasks = classification((3, 6, features, 3), k_shot=k_shot)
    params = ridge.initial_params(model, **start)
    params |= {f"model.{name}": p for name, p in weights.items() if name.startswith("body.")}
    return model, params, tasks


@pytest.mark.parametrize(("k_shot", "features"), SIZES)
def test_the_head_solves_the_normal_equations(k_shot: int, features: int) -> None:
    model, params, tasks = prepared(k_shot, features, strength=0.3, scale=2.5)
    params["ridge.shift"] += 0.7
    theta, support = part(params, "model."), one(tasks.support)
    z, y = predict(model.body, part(theta, "body."), support.x), nn.functional.one_hot(support.y).double()

    adapted = ridge.adapt(model, params, support)
    w = adapted["head.weight"].T / 2.5

    assert torch.allclose(z.T @ (z @ w - y) + 0.3 * w, torch.zeros_like(w), atol=1e-10)
    assert torch.allclose(predict(model, adapted, support.x), 2.5 * z @ w + 0.7, rtol=1e-10, atol=1e-10)
    assert alike({name: p for name, p in adapted.items() if "body" in name}, theta, rtol=0, atol=0)


@pytest.mark.parametrize(("n", "features"), [(6, 9), (27, 4)])
def test_its_gradients_are_those_of_the_implicit_function(n: int, features: int) -> None:
    # q = <G, W>, V = (Z'Z + lambda)^-1 G:  dq/dZ = (Y - ZW) V' - Z V W',  dq/dY = Z V,  dq/dlambda = -<V, W>.
    torch.manual_seed(0)
    z, y, g = (torch.randn(*shape).double() for shape in ((n, features), (n, 2), (features, 2)))
    strength = torch.tensor(0.3).double()
    solve = partial(torch.linalg.solve, z.T @ z + strength * torch.eye(features))
    w, v = solve(z.T @ y), solve(g)

    found = grad(lambda *at: (g * ridge.solution(*at)).sum(), argnums=(0, 1, 2))(z, y, strength)

    for ours, by_hand in zip(found, ((y - z @ w) @ v.T - z @ v @ w.T, z @ v, -(v * w).sum()), strict=True):
        assert torch.allclose(ours, by_hand, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("k_shot", "features"), SIZES)
def test_body_lambda_and_scale_learn_and_cross_entropy_leaves_the_shift(k_shot, features) -> None:
    model, params, tasks = prepared(k_shot, features)
    loss = partial(query_loss, model, partial(ridge.adapt, model))

    (value, ours), (by_one, alone) = (
        meta_gradient(loss, params, tasks, chunk_size=chunk) for chunk in (None, 1)
    )
    at = lambda params: meta_gradient(loss, params, tasks)[0]  # noqa: E731

    assert torch.allclose(value, by_one, rtol=1e-12, atol=1e-12)
    assert alike(ours, alone, rtol=1e-10)
    assert torch.allclose(*slopes(at, params, ours, step=1e-5, only="ridge.log_strength"), rtol=1e-7)
    assert {name for name, g in ours.items() if g.abs().max() < 1e-12} == {"ridge.shift"}


def test_relabelling_the_classes_relabels_the_logits() -> None:
    model, params, tasks = prepared(2, 9)
    support, query, turn = *one(tasks), torch.tensor([2, 0, 1])
    before = predict(model, ridge.adapt(model, params, support), query.x)

    adapted = ridge.adapt(model, params, support._replace(y=turn[support.y]))

    assert torch.allclose(predict(model, adapted, query.x)[:, turn], before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n", "features"), [(5, 40), (100, 40)])
def test_a_small_lambda_costs_no_digits_in_float32(n: int, features: int) -> None:
    torch.manual_seed(0)
    z, y, strength = torch.randn(n, features), torch.randn(n, 2), torch.tensor(1e-6)
    exact = ridge.solution(z.double(), y.double(), strength.double())

    error = (ridge.solution(z, y, strength) - exact).abs().max() / exact.abs().max()

    assert error < 1e-5  # the other form's is above 1


def test_real_targets_are_regressed_on() -> None:
    x = torch.linspace(-2, 2, 5)[:, None]
    model = Network(nn.Identity(), nn.Linear(1, 1))
    params = ridge.initial_params(model, strength=2.0)

    adapted = ridge.adapt(model, params, Batch(x, 3 * x))

    assert math.isclose(adapted["head.weight"].item(), 3 * 10 / (10 + 2), rel_tol=1e-6)
