"""CAVIA: a context that moves alone, from zero."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression
from torch.func import grad

from mamlkit.algorithms import cavia, maml
from mamlkit.algorithms.cavia import Context, Film
from mamlkit.meta import batch_loss, evaluate, meta_gradient, predict, query_loss
from mamlkit.models import adapted_module, conv4, initial_params, mlp
from mamlkit.tasks import Batch

close = partial(torch.allclose, rtol=1e-10, atol=1e-12)


def with_context(size: int = 3):
    _, _, tasks = regression()
    model = Context(mlp([2 + size, 8, 8, 1]), size).double()
    return model, initial_params(model), tasks


def test_it_is_maml_on_the_first_bias_preconditioned_by_the_contexts_weights() -> None:
    model, params, tasks = with_context()
    support, query = one(tasks)
    w, c = params["network.body.1.weight"].split([2, 3], 1)
    plain, bias = mlp([2, 8, 8, 1]).double(), "body.1.bias"
    phi = {name.removeprefix("network."): p for name, p in params.items()} | {"body.1.weight": w}
    for _ in range(4):
        slope = grad(lambda b, phi=phi: batch_loss(plain, phi | {bias: b}, support))(phi[bias])
        phi = phi | {bias: phi[bias] - 0.5 * c @ c.T @ slope}

    adapted = cavia.adapt(model, params, support, inner_lr=0.5, inner_steps=4)

    assert close(predict(model, adapted, query.x), predict(plain, phi, query.x))
    assert close(c @ adapted["context"], phi[bias] - params[f"network.{bias}"])
    assert (phi[bias] - params[f"network.{bias}"]).abs().max() > 0.01


@pytest.mark.parametrize("first_order", [False, True])
def test_it_is_maml_on_the_context_and_the_body_never_moves_but_learns(first_order: bool) -> None:
    model, params, tasks = with_context()
    settings = {"inner_lr": 0.5, "inner_steps": 3, "first_order": first_order}
    adapt = partial(cavia.adapt, model, **settings)
    begun = {**params, "context": torch.zeros(3).double()}

    adapted = adapt({**params, "context": torch.ones(3).double()}, one(tasks.support))
    value, gradients = meta_gradient(partial(query_loss, model, adapt), params, tasks)
    by_maml = partial(maml.adapt, model, only="context", **settings)
    expected, theirs = meta_gradient(partial(query_loss, model, by_maml), begun, tasks)

    assert alike({name: adapted[name] for name in params}, params, rtol=0, atol=0)
    assert torch.equal(adapted["context"], adapt(params, one(tasks.support))["context"])
    assert adapted["context"].abs().max() > 0.01
    assert close(value, expected)
    assert alike(gradients, {name: theirs[name] for name in params})
    assert all(g.abs().max() > 0 for g in gradients.values())
    each = torch.stack([query_loss(model, adapt, params, one(tasks, i)) for i in range(3)])
    assert close(evaluate(model, adapt, params, tasks), each)


def test_without_steps_the_context_is_zero_and_its_weights_change_nothing() -> None:
    model, params, tasks = with_context()
    x = tasks.query.x[0]
    adapted = cavia.adapt(model, params, one(tasks.support), inner_lr=0.5, inner_steps=0)
    changed = {**adapted, "network.body.1.weight": adapted["network.body.1.weight"].clone()}
    changed["network.body.1.weight"][:, 2:] = 7

    assert torch.equal(adapted["context"], torch.zeros(3).double())
    assert torch.equal(predict(model, changed, x), model(x))
    assert torch.equal(adapted_module(model, adapted)(x), model(x))
    # where no weight reads the context, none learns to: C = 0 must not be where meta-training starts
    changed["network.body.1.weight"][:, 2:] = 0
    adapt = partial(cavia.adapt, model, inner_lr=0.5, inner_steps=2)
    _, gradients = meta_gradient(partial(query_loss, model, adapt), changed, tasks)
    assert torch.equal(gradients["network.body.1.weight"][:, 2:], torch.zeros(8, 3).double())


def test_film_moves_the_maps_of_a_convolution_by_scale_and_shift() -> None:
    torch.manual_seed(0)
    model = conv4(3, channels=4, downsample="stride")
    x = torch.rand(6, 1, 28, 28)
    before = model(x)
    model.body.block3.insert(-1, Film(4, size=5))
    params = initial_params(model)

    adapted = cavia.adapt(model, params, Batch(x, torch.arange(6) % 3), inner_lr=1.0, inner_steps=1)

    layer, context, maps = model.body.block3[2], torch.rand(5), torch.rand(6, 4, 2, 2)
    gamma, beta = (layer.modulation.weight @ context).view(2, 4, 1, 1)
    assert torch.equal(model(x), before)
    assert {*adapted} - {*params} == {"body.block3.2.context"}
    assert adapted["body.block3.2.context"].abs().max() > 0
    assert torch.allclose(predict(layer, {"context": context}, maps), maps + gamma * maps + beta)
