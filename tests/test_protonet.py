"""Prototypes as a linear head, and Proto-MAML from there."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, classification, one, slopes
from torch import nn
from torch.func import grad, vmap

from mamlkit.algorithms import maml, protonet
from mamlkit.meta import evaluate, meta_gradient, predict, query_loss
from mamlkit.models import Network, initial_params
from mamlkit.tasks import Batch, Params, Task, part

model, params, tasks = classification()
task = one(tasks)


def features(params: Params, x: torch.Tensor) -> torch.Tensor:
    return predict(model.body, part(params, "body."), x)


def test_the_head_answers_like_the_nearest_prototype_and_the_body_stays() -> None:
    order = torch.tensor([3, 0, 5, 1, 4])  # one of class 1, two of the others
    shuffled = Batch(*(t[order] for t in task.support))
    z, query = features(params, shuffled.x), features(params, task.query.x)
    prototypes = torch.stack([z[shuffled.y == k].mean(0) for k in range(3)])
    nearness = -torch.stack([((query - c) ** 2).sum(1) for c in prototypes], dim=1)

    adapted = protonet.adapt(model, params, shuffled)
    logits = predict(model, adapted, task.query.x)

    assert torch.allclose(logits.softmax(-1), nearness.softmax(-1), rtol=1e-12, atol=1e-12)
    assert torch.equal(logits.argmax(-1), nearness.argmax(-1))
    assert torch.allclose((logits - nearness).std(1), torch.zeros(6).double(), atol=1e-12)
    assert all(torch.equal(adapted[name], p) for name, p in params.items() if name.startswith("body"))


@pytest.mark.parametrize("inner_steps", [0, 2])
def test_the_meta_gradient_goes_through_the_prototypes(inner_steps: int) -> None:
    # Proto-MAML; with 0 steps it is the prototypical network.
    def adapt(params: Params, support: Batch, after=dict) -> Params:
        start = after(protonet.adapt(model, params, support))
        return maml.adapt(model, start, support, inner_lr=0.1, inner_steps=inner_steps)

    def cut(start: Params) -> Params:
        return {name: p.detach() if name.startswith("head") else p for name, p in start.items()}

    loss = partial(query_loss, model, adapt)
    gradients = grad(loss)(params, task)
    detached = grad(partial(query_loss, model, partial(adapt, after=cut)))(params, task)

    at_task = lambda params: loss(params, task)  # noqa: E731
    assert torch.allclose(*slopes(at_task, params, gradients, step=1e-5), rtol=1e-7)
    weights = [name for name in params if name.startswith("body") and name.endswith("weight")]
    assert not any(torch.allclose(gradients[n], detached[n], rtol=0.1) for n in weights)
    assert not any(gradients[name].any() for name in ("head.weight", "head.bias"))
    if not inner_steps:
        assert alike(adapt(params, task.support), protonet.adapt(model, params, task.support), rtol=0, atol=0)


def test_under_vmap_all_is_as_task_by_task() -> None:
    loss = partial(query_loss, model, partial(protonet.adapt, model))

    together, alone = (meta_gradient(loss, params, tasks, chunk_size=chunk) for chunk in (None, 1))

    assert torch.allclose(together[0], alone[0], rtol=1e-12, atol=1e-12)
    assert alike(together[1], alone[1])


def test_a_body_trained_on_three_classes_is_tested_on_two() -> None:
    narrow = Network(model.body, nn.Linear(4, 2)).double()
    two = Task(*(Batch(b.x[:, :4], b.y[:, :4]) for b in tasks))

    losses, same = (
        evaluate(narrow, partial(protonet.adapt, narrow), p, two)
        for p in (params, initial_params(narrow) | {n: p for n, p in params.items() if "body" in n})
    )

    assert torch.equal(losses, same)


def test_a_class_without_examples_is_an_error_also_among_many_tasks_and_gives_no_nan_where_it_cannot_be_seen(
    monkeypatch,
) -> None:
    y = tasks.support.y.clone()
    y[1, y[1] == 2] = 0
    adapt = partial(protonet.adapt, model, params)
    with pytest.raises(ValueError, match=r"0 examples of a class, .* 3 classes"):
        adapt(Batch(tasks.support.x[1], y[1]))
    with pytest.raises(ValueError, match=r"0 examples of a class"):
        vmap(adapt)(Batch(tasks.support.x, y))

    monkeypatch.setattr(protonet, "_check_classes", lambda n: None)  # a GPU is not waited for

    assert all(p.isfinite().all() for p in adapt(Batch(tasks.support.x[1], y[1])).values())
