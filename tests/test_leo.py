"""LEO: codes of classes, and the head that they decode to."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import alike, one, slopes
from torch.distributions import Normal, kl_divergence
from torch.func import grad

from mamlkit.algorithms import leo
from mamlkit.meta import evaluate, meta_gradient, predict, query_loss
from mamlkit.models import mlp
from mamlkit.tasks import Batch, Task, part

close = partial(torch.allclose, rtol=1e-10, atol=1e-12)
STEPS = {"inner_lr": 0.7, "inner_steps": 2, "finetune_lr": 0.3, "finetune_steps": 2}


def problem(n_tasks: int = 3):
    """Three classes in an order that repeats none: 3, 2 and 1 examples, in 4 numbers; codes of 2."""
    torch.manual_seed(0)
    model = mlp([4, 6, 3]).double()
    drawn = leo.initial_params(model, latent=2)
    params = {name: p if name[:6] == "model." else 2 * p for name, p in drawn.items()}
    y = torch.tensor([2, 0, 1, 0, 1, 0]).expand(n_tasks, -1)
    return model, params, Task(*(Batch(torch.randn(n_tasks, 6, 4).double(), y) for _ in range(2)))


def test_without_noise_it_is_the_loop_written_out_pair_by_pair() -> None:
    model, params, tasks = problem()
    x, y = one(tasks.support)
    e = model.body(x)
    encoder, decoder = params["encoder.weight"], params["decoder.weight"][:6]
    r0, r1, r2 = (params[f"relation.{i}"] for i in range(3))
    relate = lambda i, j: r2 @ (r1 @ (r0 @ torch.cat([encoder @ e[i], encoder @ e[j]])).relu()).relu()  # noqa: E731
    members = [[i for i in range(6) if y[i] == n] for n in range(3)]
    pairs = [torch.stack([relate(i, j) for i in of_class for j in range(6)]) for of_class in members]
    z = torch.stack([p.mean(0)[:2] for p in pairs])
    for _ in range(2):
        z = z - 0.7 * grad(lambda z: F.cross_entropy(e @ (z @ decoder.T).T, y))(z)
    w = z @ decoder.T
    for _ in range(2):
        w = w - 0.3 * grad(lambda w: F.cross_entropy(e @ w.T, y))(w)

    adapted = leo.adapt(model, params, one(tasks.support), **STEPS)

    assert close(adapted["head.weight"], w)
    assert torch.equal(adapted["head.bias"], torch.zeros(3).double())
    assert all(torch.equal(adapted[name], p) for name, p in model.named_parameters() if name[:5] == "body.")


def test_steps_of_the_codes_are_steps_of_the_head_preconditioned_by_the_decoder() -> None:
    model, params, tasks = problem()
    x, y = one(tasks.support)
    e, decoder = model.body(x), params["decoder.weight"][:6]
    w = leo.adapt(model, params, one(tasks.support), inner_lr=0.7, inner_steps=0)["head.weight"]
    for _ in range(4):
        w = w - 0.7 * grad(lambda w: F.cross_entropy(e @ w.T, y))(w) @ decoder @ decoder.T

    adapted = leo.adapt(model, params, one(tasks.support), inner_lr=0.7, inner_steps=4)

    assert close(adapted["head.weight"], w)


@pytest.mark.parametrize("first_order", [False, True])
def test_all_that_is_learned_gets_a_gradient_under_vmap_as_one_by_one(first_order: bool) -> None:
    model, params, tasks = problem()
    penalties = {"kl_weight": 0.1, "encoder_weight": 0.2, "orthogonality_weight": 0.3}
    task_loss = partial(leo.task_loss, model, **STEPS, **penalties, first_order=first_order)

    (_, together), (_, alone) = (meta_gradient(task_loss, params, tasks, chunk_size=n) for n in (None, 1))

    assert alike(together, alone, rtol=1e-10)
    assert all(g.abs().max() > 0 for g in together.values())


def test_first_order_takes_the_ways_of_code_and_head_as_constants() -> None:
    model, params, tasks = problem(1)
    (x, y), query = one(tasks)
    adapt = partial(leo.adapt, model, **STEPS, first_order=True)
    _, codes = leo.adapt_with_codes(model, params, Batch(x, y), **STEPS)
    end = adapt(params, Batch(x, y))["head.weight"] - codes.adapted @ params["decoder.weight"][:6].T

    def by_hand(params) -> torch.Tensor:
        body = partial(predict, model.body, part(params, "model.body."))
        mean, _ = leo.encode(params, body(x), y, 3)
        w = (mean + (codes.adapted - codes.drawn).detach()) @ params["decoder.weight"][:6].T + end.detach()
        return F.cross_entropy(body(query.x) @ w.T, query.y)

    _, gradients = meta_gradient(partial(query_loss, model, adapt), params, tasks)

    assert alike(gradients, grad(by_hand)(params), rtol=1e-10, atol=1e-12)


def test_the_meta_gradient_is_the_finite_difference() -> None:
    model, params, tasks = problem(1)
    loss = partial(leo.task_loss, model, **STEPS, kl_weight=0.1, orthogonality_weight=0.2)
    _, gradients = meta_gradient(loss, params, tasks)

    at_task = lambda params: loss(params, one(tasks))  # noqa: E731
    assert torch.allclose(*slopes(at_task, params, gradients, step=1e-5), rtol=1e-6)


def test_without_weights_the_penalties_are_nothing_and_each_is_its_formula() -> None:
    model, params, tasks = problem()
    task, columns = one(tasks), params["decoder.weight"].T
    loss = partial(leo.task_loss, model, params, task, **STEPS)
    mean, log_std = leo.encode(params, model.body(task.support.x), task.support.y, 3)
    still = leo.adapt(model, params, task.support, inner_lr=0.7, inner_steps=0)
    moved = leo.adapt(model, params, task.support, inner_lr=0.7, inner_steps=2)
    way = torch.linalg.lstsq(params["decoder.weight"][:6], (moved["head.weight"] - still["head.weight"]).T)
    cosine = F.cosine_similarity(*columns, dim=0)

    plain = query_loss(model, partial(leo.adapt, model, **STEPS), params, task)

    kl = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert close(loss(), plain)
    assert close(loss(kl_weight=2.0) - plain, 2 * kl)
    assert close(loss(encoder_weight=2.0) - plain, 2 * (way.solution**2).sum(0).mean())
    assert close(loss(orthogonality_weight=2.0) - plain, cosine**2)
    # the encoder is drawn to where the steps end, and not that to the encoder
    pulled, free = (grad(partial(loss_of, model, task, weight))(params) for weight in (1.0, 0.0))
    assert torch.equal(pulled["decoder.weight"], free["decoder.weight"])
    assert not torch.equal(pulled["encoder.weight"], free["encoder.weight"])


def loss_of(model, task, weight, params):
    return leo.task_loss(model, params, task, **STEPS, encoder_weight=weight)


def test_noise_comes_from_the_generator_in_the_stated_sizes_and_each_task_has_its_own() -> None:
    model, params, tasks = problem()
    support, seeded = one(tasks.support), lambda: torch.Generator().manual_seed(3)
    mean, log_std = leo.encode(params, model.body(support.x), support.y, 3)
    draws = seeded()
    z = mean + log_std.exp() * torch.randn(3, 2, generator=draws, dtype=torch.float64)
    m, log_s = (z @ params["decoder.weight"].T).chunk(2, 1)
    w = m + math.sqrt(2 / 9) * log_s.exp() * torch.randn(3, 6, generator=draws, dtype=torch.float64)

    still = leo.adapt(model, params, support, inner_lr=0.7, inner_steps=0, generator=seeded())
    adapt = partial(leo.adapt, model, **STEPS, generator=seeded())
    same = Task(*(Batch(x[:1].expand(4, -1, -1), y[:1].expand(4, -1)) for x, y in tasks))
    losses = evaluate(model, adapt, params, same)

    assert close(still["head.weight"], w)
    assert len({*losses.tolist()}) == 4
