"""MAML++: MAML with every part at its plain setting, and each part by itself."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression, slopes
from torch import nn

from mamlkit.algorithms import maml, mamlpp
from mamlkit.meta import batch_loss, evaluate, meta_gradient, predict, query_loss
from mamlkit.models import conv4, initial_params, mlp
from mamlkit.tasks import Batch, Task, part
from mamlkit.training import meta_train

draw = partial(torch.randn, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def normed():
    torch.manual_seed(0)
    model, tasks = mlp([2, 4, 3], batch_norm=True).double(), regression((2, 3, 3))[2]
    return model, initial_params(model), tasks


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("problem", "inner_steps"), [(regression, 0), (regression, 3), (normed, 1)])
def test_equal_rates_and_all_weight_on_the_last_step_are_maml(problem, inner_steps, learned, first_order):
    model, theta, tasks = problem()
    params = mamlpp.initial_params(
        model, inner_steps=max(inner_steps, 1), inner_lr=0.3 if learned else None, per_step_norm=False
    )
    settings = {"inner_steps": inner_steps, "first_order": first_order}
    fixed = {} if learned else {"inner_lr": 0.3}
    adapt = partial(mamlpp.adapt, model, **settings, **fixed)
    loss = partial(query_loss, model, adapt)
    if inner_steps:
        last = [0] * (inner_steps - 1) + [1]
        steps = partial(mamlpp.trajectory, model, **settings, **fixed)
        loss = partial(mamlpp.task_loss, model, steps, step_weights=last)
    mamls = partial(maml.adapt, model, inner_lr=0.3, **settings)

    value, gradients = meta_gradient(loss, params, tasks)
    expected, of_theta = meta_gradient(partial(query_loss, model, mamls), theta, tasks)

    assert alike(adapt(params, one(tasks.support)), mamls(theta, one(tasks.support)), rtol=0, atol=0)
    assert torch.allclose(value, expected, rtol=1e-12)
    assert alike(part(gradients, "model."), of_theta)


def test_uniform_weights_give_the_mean_of_the_gradients_after_one_to_k_steps() -> None:
    model, theta, tasks = regression()
    steps = partial(mamlpp.trajectory, model, inner_lr=0.3, inner_steps=3)
    loss = partial(mamlpp.task_loss, model, steps, step_weights=[1 / 3] * 3)

    _, gradients = meta_gradient(loss, {f"model.{n}": p for n, p in theta.items()}, tasks)

    each = [
        meta_gradient(partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.3, inner_steps=k)), theta, tasks)[1]
        for k in (1, 2, 3)
    ]  # fmt: skip
    assert alike(part(gradients, "model."), {name: sum(g[name] for g in each) / 3 for name in theta})


def test_each_step_takes_its_own_rates_and_batch_norm_which_no_step_moves() -> None:
    model, _, tasks = normed()
    params = mamlpp.initial_params(model, inner_steps=3, inner_lr=0.3)
    params = {name: p + 0.1 * draw(p.shape) for name, p in params.items()}
    theta, rates, own = (part(params, prefix) for prefix in ("model.", "rate.", "step."))
    support, phi = one(tasks.support), theta

    found = mamlpp.trajectory(model, params, support, inner_steps=3)

    assert own.keys() == {"body.2.weight", "body.2.bias"}
    assert alike(found[0], theta | {n: s[0] for n, s in own.items()}, rtol=0, atol=0)
    for k in range(3):
        norm = {name: s[k] for name, s in own.items()}
        slope = torch.func.grad(lambda at, norm=norm: batch_loss(model, at | norm, support))(phi)
        phi = {name: p - rates[name][k] * slope[name] for name, p in phi.items()}
        assert alike(found[k + 1], phi | norm)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 1.0), (0.2, 0.3, 0.5)])
def test_every_rate_and_norm_is_learned_and_a_stack_is_the_mean_of_its_tasks(weights) -> None:
    model, _, tasks = normed()
    params = mamlpp.initial_params(model, inner_steps=3, inner_lr=0.3)
    steps = partial(mamlpp.trajectory, model, inner_steps=3)
    loss = partial(mamlpp.task_loss, model, steps, step_weights=weights)

    (_, stacked), (_, alone) = (meta_gradient(loss, params, tasks, chunk_size=n) for n in (None, 1))

    assert alike(stacked, alone, rtol=1e-9, atol=1e-12)
    value = lambda params: meta_gradient(loss, params, tasks)[0]  # noqa: E731
    for prefix in ("rate.", "step."):
        assert torch.allclose(*slopes(value, params, stacked, step=1e-6, only=prefix), rtol=1e-5)
        learned = [g.flatten(1) for name, g in stacked.items() if name.startswith(prefix) and g.dim() > 1]
        assert all(of_step.any(1).all() for of_step in learned)


@pytest.mark.parametrize(
    ("epoch", "early", "last"), [(0, 0.2, 0.2), (5, 0.1, 0.6), (9, 0.02, 0.92), (10, 0.0, 1.0)]
)
def test_the_weights_of_early_steps_fall_from_equal_to_nothing(epoch, early, last) -> None:
    weights = mamlpp.annealed_weights(epoch, inner_steps=5, annealing_steps=10)

    assert weights == pytest.approx([early] * 4 + [last])
    assert mamlpp.annealed_weights(99, inner_steps=5, annealing_steps=100)[0] == pytest.approx(0.03 / 5)
    assert mamlpp.annealed_weights(epoch, inner_steps=1, annealing_steps=10) == (1.0,)


def test_statistics_of_one_batch_change_nothing_and_leave_no_query_in_anothers_answer() -> None:
    # One task whose support and query are one batch, and rates of 0: what is measured is what batch norm would take.
    torch.manual_seed(0)
    model = conv4(3, channels=4, downsample="stride", image_size=8).double()
    batch = Batch(draw(1, 60, 1, 8, 8), torch.arange(3).repeat(1, 20))
    tasks, params = Task(batch, batch), mamlpp.initial_params(model, inner_steps=2, inner_lr=0.0)
    steps, before = (
        partial(mamlpp.trajectory, model, inner_steps=2),
        {n: p.clone() for n, p in params.items()},
    )

    params |= (statistics := mamlpp.running_statistics(model, steps, params, tasks))
    fixed = mamlpp.with_running_statistics(model)
    adapt = partial(mamlpp.adapt, fixed, inner_steps=2)

    assert all(s.shape == (2, 4) for s in statistics.values())
    assert len(statistics) == 8
    assert alike({n: params[n] for n in before}, before, rtol=0, atol=0)
    assert not model.state_dict().keys() & {"body.block1.1.running_mean"}
    own, others = (evaluate(m, partial(mamlpp.adapt, m, inner_steps=2), p, tasks)
                   for m, p in ((fixed, params), (model, before)))  # fmt: skip
    assert torch.allclose(own, others, rtol=2e-2)  # a variance of n - 1 degrees for one of n
    adapted = adapt(params, one(batch))
    together, alone = (predict(fixed, adapted, x) for x in (batch.x[0], batch.x[0, :1]))
    assert torch.allclose(alone, together[:1], rtol=1e-10)


def test_statistics_are_means_over_tasks_of_the_support_before_and_the_query_after_a_step() -> None:
    def norm():
        return nn.BatchNorm1d(2, track_running_stats=False)

    model, tasks = nn.Sequential(norm(), nn.Linear(2, 2), norm()).double(), regression((2, 3, 2))[2]
    params = mamlpp.initial_params(model, inner_steps=2, inner_lr=0.0)
    params |= {name: draw(p.shape) for name, p in params.items() if name.startswith("step.")}

    found = mamlpp.running_statistics(
        model, partial(mamlpp.trajectory, model, inner_steps=2), params, list(map(one, [tasks] * 3, range(3)))
    )

    mean, variance = (
        sum(f(b.x).mean(0) for b in tasks) / 2 for f in (lambda x: x.mean(1), lambda x: x.var(1))
    )
    linear = params["step.0.bias"] @ params["model.1.weight"].T + params["model.1.bias"]
    assert torch.allclose(found["step.0.running_mean"], mean.expand(2, 2), rtol=1e-12)
    assert torch.allclose(found["step.0.running_var"], variance.expand(2, 2), rtol=1e-12)
    # what the batch norm of its own step lets through
    assert torch.allclose(found["step.2.running_mean"], linear, rtol=1e-12)


def test_the_weights_of_the_steps_may_change_where_a_run_is_left_and_the_rates_not(tmp_path) -> None:
    model, _, tasks = regression()
    params = mamlpp.initial_params(model, inner_steps=2, inner_lr=0.1)

    def train(meta_steps, weights, **settings):
        steps = partial(mamlpp.trajectory, model, inner_steps=2, **settings)
        return meta_train(
            partial(mamlpp.task_loss, model, steps, step_weights=weights), params, lambda generator: tasks, progress=False,
            meta_steps=meta_steps, meta_optimizer=partial(torch.optim.Adam, lr=1e-2),
            generator=torch.Generator().manual_seed(0), checkpoint=tmp_path / "run.pt",
        )  # fmt: skip

    train(3, mamlpp.annealed_weights(0, inner_steps=2, annealing_steps=2))
    trained = train(6, mamlpp.annealed_weights(2, inner_steps=2, annealing_steps=2))

    assert trained.losses[5] < trained.losses[3]
    with pytest.raises(ValueError, match="only None, here 'head'"):
        train(9, (0.0, 1.0), only="head")
