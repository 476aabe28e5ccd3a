"""The meta-gradient, against closed forms, finite differences and independent judges."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from judges import adjoint, plain_loop
from problems import alike, one, regression, slopes
from torch import nn

from mamlkit.algorithms import maml
from mamlkit.intervals import mean_ci95
from mamlkit.meta import (
    accuracy,
    evaluate,
    inductive_accuracy,
    meta_gradient,
    meta_step,
    nearest_neighbour,
    query_loss,
    share_right,
)
from mamlkit.models import conv4, initial_params
from mamlkit.tasks import Batch, Params, Task

INNER_LR = 0.1


def classification(downsample: str, n_tasks: int = 2) -> tuple[nn.Module, Params, Task]:
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(0)
    model = conv4(3, channels=4, downsample=downsample, image_size=16).double()
    params = initial_params(model)
    # Scales and shifts away from 1 and 0: an error in batch norm's own gradients must show.
    for name, p in params.items():
        if "body" in name and p.dim() == 1:
            params[name] = p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x = torch.rand(n_tasks, 9, 1, 16, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat(3).repeat(n_tasks, 1)
    return model, params, Task(Batch(x[:, :3], y[:, :3]), Batch(x[:, 3:], y[:, 3:]))


NETWORKS = {
    "mlp": regression,
    "conv, pooled": partial(classification, "pool"),
    "conv, strided": partial(classification, "stride"),
}


def objective(model: nn.Module, inner_steps: int, first_order: bool = False):
    adapt = partial(maml.adapt, model, inner_lr=INNER_LR, inner_steps=inner_steps, first_order=first_order)
    return partial(query_loss, model, adapt)


@pytest.mark.parametrize("inner_steps", [0, 3])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("judge", [plain_loop, adjoint])
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_equals_an_independent_judge(network, judge, first_order, inner_steps) -> None:
    model, params, tasks = NETWORKS[network]()
    loss_fn = F.mse_loss if network == "mlp" else F.cross_entropy
    settings = {"inner_lr": INNER_LR, "inner_steps": inner_steps, "first_order": first_order}
    theirs_loss, theirs = judge(model, loss_fn, params, tasks, **settings)

    loss, ours = meta_gradient(objective(model, inner_steps, first_order), params, tasks)

    assert loss.item() == pytest.approx(theirs_loss.item(), rel=1e-12)
    assert alike(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inner_steps", [0, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_is_the_slope_of_the_objective(network: str, inner_steps: int) -> None:
    model, params, tasks = NETWORKS[network]()
    task_loss = objective(model, inner_steps)

    _, gradients = meta_gradient(task_loss, params, tasks)

    value = lambda params: meta_gradient(task_loss, params, tasks)[0]  # noqa: E731
    # a small step, lest a ReLU or a max-pool switch between the two points
    assert torch.allclose(*slopes(value, params, gradients, step=1e-7), rtol=1e-6, atol=0)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_batching_of_tasks_never_changes_the_numbers(network, chunk_size, first_order) -> None:
    model, params, tasks = NETWORKS[network]()
    task_loss = objective(model, 2, first_order)

    loss, at_once = meta_gradient(task_loss, params, tasks)
    same_loss, in_chunks = meta_gradient(task_loss, params, tasks, chunk_size=chunk_size)

    assert loss.item() == pytest.approx(same_loss.item(), rel=1e-12)
    assert alike(in_chunks, at_once, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", range(5))
def test_meta_gradient_of_a_parabola_has_its_closed_form(inner_steps: int, first_order: bool) -> None:
    # L = (theta - w)^2 with one weight, and another w for the query than for the support.
    theta, w_support, w_query, x = 0.7, 2.0, 3.0, torch.ones(1, 1, 1, dtype=torch.float64)
    tasks = Task(Batch(x, w_support * x), Batch(x, w_query * x))
    task_loss = objective(nn.Linear(1, 1, bias=False).double(), inner_steps, first_order)

    _, gradients = meta_gradient(task_loss, {"weight": theta * x[0]}, tasks)

    shrink = (1 - 2 * INNER_LR) ** inner_steps
    slope = 2 * (w_support + shrink * (theta - w_support) - w_query)
    assert gradients["weight"].item() == pytest.approx(slope * (1 if first_order else shrink), rel=1e-12)


def test_meta_step_is_the_optimisers_step_along_the_meta_gradient() -> None:
    model, params, tasks = regression()
    loss, gradients = meta_gradient(objective(model, 1), params, tasks)
    there = {name: p - 0.5 * gradients[name] for name, p in params.items()}
    for p in params.values():
        p.grad = torch.ones_like(p)  # of a step before

    reported = meta_step(objective(model, 1), params, tasks, torch.optim.SGD(list(params.values()), lr=0.5))

    assert reported.item() == loss.item()
    assert alike(params, there, atol=0)


def zero_with_an_infinite_slope(params: Params, task: Task) -> torch.Tensor:
    return (params["head.bias"] * 0).sum().sqrt()


def infinite(params: Params, task: Task) -> torch.Tensor:
    return params["head.bias"].sum() * math.inf


@pytest.mark.parametrize(
    ("task_loss", "words"),
    [
        (zero_with_an_infinite_slope, "for head.bias; params are unchanged.*standard deviation at 0"),
        (infinite, "not finite; params are unchanged: lower inner_lr"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_leaves_everything_as_it_was(task_loss, words) -> None:
    _, params, tasks = regression()
    before = {name: p.clone() for name, p in params.items()}
    optimizer = torch.optim.Adam(list(params.values()))

    with pytest.raises(FloatingPointError, match=words):
        meta_step(task_loss, params, tasks, optimizer)

    assert all(torch.equal(p, before[name]) for name, p in params.items())
    assert not optimizer.state


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_gradient_that_is_zero_here_and_beside_is_refused_and_a_flat_point_is_not(chunk_size) -> None:
    model, params, tasks = regression()
    cut = lambda params, _: {name: p.detach() for name, p in params.items()}  # noqa: E731
    for task_loss in (lambda _, task: task.query.y.sum(), partial(query_loss, model, cut)):
        with pytest.raises(ValueError, match="exactly 0"):
            meta_gradient(task_loss, params, tasks, chunk_size=chunk_size)

    flat = {"w": torch.zeros(2)}
    _, gradients = meta_gradient(lambda p, _: (p["w"] ** 2).sum(), flat, tasks, chunk_size=chunk_size)
    assert not gradients["w"].any()


def test_task_by_task_differentiates_under_no_grad_too() -> None:
    model, params, tasks = regression()

    with torch.no_grad():
        _, gradients = meta_gradient(objective(model, 1), params, tasks, chunk_size=1)

    assert alike(gradients, meta_gradient(objective(model, 1), params, tasks)[1])


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("network", NETWORKS)
def test_evaluate_measures_each_task_as_if_it_were_alone(network: str, chunk_size: int | None) -> None:
    model, params, tasks = NETWORKS[network](n_tasks=3)
    adapt = partial(maml.adapt, model, inner_lr=INNER_LR, inner_steps=2)

    values = evaluate(model, adapt, params, tasks, chunk_size=chunk_size)

    alone = torch.stack([query_loss(model, adapt, params, one(tasks, i)) for i in range(3)])
    assert torch.allclose(values, alone, rtol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_query_never_sees_another_query(chunk_size: int | None) -> None:
    # A network that goes by the mean of its batch: a query that sees others is judged by them.
    model = nn.Sequential(nn.BatchNorm1d(1, track_running_stats=False), nn.Linear(1, 2, bias=False))
    params = initial_params(model) | {"1.weight": torch.tensor([[-1.0], [1.0]])}
    support = Batch(torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]]))
    # Alone each of them lies above the mean it is part of; together two lie below.
    tasks = Task(support, Batch(torch.tensor([[[0.5], [1.0], [9.0]]]), torch.tensor([[1, 1, 1]])))
    settings = (model, lambda params, _: params, params, tasks)

    assert inductive_accuracy(*settings, chunk_size=chunk_size).tolist() == [1.0]
    assert evaluate(*settings, metric=accuracy, chunk_size=chunk_size).item() == pytest.approx(1 / 3)


def test_an_accuracy_of_what_is_no_number_is_none() -> None:
    logits = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    images = torch.tensor([[[[0.0, math.nan]], [[1.0, 0.0]]], [[[0.0, 1.0]], [[1.0, 0.0]]]])
    batch = Batch(images, torch.tensor([[0, 1], [0, 1]]))

    assert share_right(logits, torch.tensor([1, 1])).isnan()
    assert torch.equal(nearest_neighbour(Task(batch, batch)).nan_to_num(-1), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (4, 3.182), (30, 2.045), (600, 1.964)])
def test_intervals_use_students_t(n: int, t: float) -> None:
    values = torch.linspace(-1, 1, n, dtype=torch.float64)

    mean, half_width = mean_ci95(values)

    assert mean == pytest.approx(0, abs=1e-12)
    assert half_width == pytest.approx(t * values.std().item() / n**0.5, rel=3e-4)


def test_the_nearest_neighbour_goes_by_the_angle_not_the_ink() -> None:
    bold, light = [[9.0, 0.0]], [[0.0, 1.0]]
    support = Batch(torch.tensor([[bold, light]]), torch.tensor([[1, 0]]))
    query = Batch(torch.tensor([[[[5.0, 1.0]], [[0.1, 0.2]], [[0.0, 9.0]]]]), torch.tensor([[1, 0, 1]]))

    assert torch.allclose(nearest_neighbour(Task(support, query)), torch.tensor([2 / 3]))


def test_the_nearest_neighbours_of_unequal_tasks_come_as_a_list() -> None:
    x = torch.eye(3)
    three = Task(Batch(x, torch.tensor([0, 1, 2])), Batch(x[:2], torch.tensor([0, 2])))
    one = Task(Batch(x[:1], torch.tensor([1])), Batch(x, torch.tensor([1, 1, 0])))

    assert nearest_neighbour([three, one]).tolist() == pytest.approx([1 / 2, 2 / 3])


@pytest.mark.parametrize("act", ["evaluate", "meta_gradient"])
def test_one_task_of_single_numbers_is_no_stack_of_its_examples(act: str) -> None:
    model = nn.Linear(1, 1)
    params = initial_params(model)
    task = Task(Batch(torch.rand(6, 1), torch.rand(6, 1)), Batch(torch.rand(6, 1), torch.rand(6, 1)))
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)
    loss = partial(query_loss, model, adapt)
    call = partial(evaluate, model, adapt) if act == "evaluate" else partial(meta_gradient, loss)

    with pytest.raises(ValueError, match=r"\(6, 1\) are one task and no stack; make a stack of one"):
        call(params, task)
