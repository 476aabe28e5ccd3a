"""The meta-gradient, against closed forms, finite differences and independent judges."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from judges import JUDGES
from torch import nn

from mamlkit.algorithms import maml
from mamlkit.meta import (
    accuracy,
    evaluate,
    inductive_accuracy,
    mean_ci95,
    meta_gradient,
    meta_step,
    nearest_neighbour,
    query_loss,
    share_right,
)
from mamlkit.models import Network, conv4, initial_params, mlp
from mamlkit.tasks import Batch, Params, Task

INNER_LR = 0.1


def regression(n_tasks: int = 3) -> tuple[nn.Module, Params, Task]:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = mlp([2, 8, 8, 1]).double()
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    tasks = Task(
        Batch(draw(n_tasks, 5, 2), draw(n_tasks, 5, 1)), Batch(draw(n_tasks, 4, 2), draw(n_tasks, 4, 1))
    )
    return model, initial_params(model), tasks


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


def relative_error(ours: Params, theirs: Params) -> float:
    difference = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs])
    return (difference.norm() / torch.cat([g.flatten() for g in theirs.values()]).norm()).item()


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("judge", ["plain loop", "adjoint"])
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_equals_an_independent_judge(
    network: str, judge: str, first_order: bool, inner_steps: int
) -> None:
    model, params, tasks = NETWORKS[network]()
    loss_fn = F.mse_loss if network == "mlp" else F.cross_entropy
    theirs_loss, theirs = JUDGES[judge](
        model, loss_fn, params, tasks, inner_lr=INNER_LR, inner_steps=inner_steps, first_order=first_order
    )

    loss, ours = meta_gradient(objective(model, inner_steps, first_order), params, tasks)

    assert loss.item() == pytest.approx(theirs_loss.item(), rel=1e-6)
    assert relative_error(ours, theirs) < 1e-10


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_is_the_slope_of_the_objective(network: str, inner_steps: int) -> None:
    model, params, tasks = NETWORKS[network]()
    task_loss = objective(model, inner_steps)
    generator = torch.Generator().manual_seed(3)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}

    def loss_at(step: float) -> float:
        return meta_gradient(
            task_loss, {name: p + step * direction[name] for name, p in params.items()}, tasks
        )[0].item()

    _, gradients = meta_gradient(task_loss, params, tasks)
    slope = sum((gradients[name] * direction[name]).sum().item() for name in params)
    step = 1e-7  # small, lest a ReLU or a max-pool switch between the two points
    assert slope == pytest.approx((loss_at(step) - loss_at(-step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_batching_of_tasks_never_changes_the_numbers(
    network: str, chunk_size: int, first_order: bool
) -> None:
    model, params, tasks = NETWORKS[network]()
    task_loss = objective(model, 2, first_order)

    at_once = meta_gradient(task_loss, params, tasks)
    in_chunks = meta_gradient(task_loss, params, tasks, chunk_size=chunk_size)

    assert at_once[0].item() == pytest.approx(in_chunks[0].item(), rel=1e-12)
    assert relative_error(in_chunks[1], at_once[1]) < 1e-12


def test_meta_gradient_of_zero_steps_is_the_joint_gradient() -> None:
    model, params, tasks = regression()

    _, gradients = meta_gradient(objective(model, 0), params, tasks)

    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    x, y = tasks.query.x.flatten(0, 1), tasks.query.y.flatten(0, 1)
    F.mse_loss(torch.func.functional_call(model, leaves, (x,)), y).backward()
    assert relative_error(gradients, {name: p.grad for name, p in leaves.items()}) < 1e-12


def quadratic(inner_steps: int, first_order: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """theta, the meta-gradient of kit and closed form for L = (theta - w)^2 / n, one weight, support and query at different w."""
    model = nn.Linear(1, 1, bias=False).double()
    theta = torch.tensor([[0.7]], dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    w_support, w_query = 2.0, 3.0
    tasks = Task(Batch(one, w_support * one), Batch(one, w_query * one))
    _, gradients = meta_gradient(objective(model, inner_steps, first_order), {"weight": theta}, tasks)
    shrink = (1 - 2 * INNER_LR) ** inner_steps
    phi = w_support + shrink * (theta - w_support)
    factor = 1.0 if first_order else shrink
    return theta, gradients["weight"], factor * 2 * (phi - w_query)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", range(5))
def test_meta_gradient_of_a_parabola_has_its_closed_form(inner_steps: int, first_order: bool) -> None:
    _, ours, closed_form = quadratic(inner_steps, first_order)

    assert ours.item() == pytest.approx(closed_form.item(), rel=1e-12)


def test_tasks_do_not_see_each_other() -> None:
    model, params, tasks = classification("pool", n_tasks=3)
    adapt = partial(maml.adapt, model, inner_lr=INNER_LR, inner_steps=2)

    together = evaluate(model, adapt, params, tasks)

    backwards = Task(*(Batch(b.x.flip(0), b.y.flip(0)) for b in tasks))
    assert torch.allclose(evaluate(model, adapt, params, backwards).flip(0), together, rtol=1e-12)
    assert torch.allclose(evaluate(model, adapt, params, tasks, chunk_size=1), together, rtol=1e-12)


def test_meta_step_is_the_optimisers_step_along_the_meta_gradient() -> None:
    model, params, tasks = regression()
    before = {name: p.clone() for name, p in params.items()}
    loss, gradients = meta_gradient(objective(model, 1), params, tasks)

    reported = meta_step(objective(model, 1), params, tasks, torch.optim.SGD(list(params.values()), lr=0.5))

    assert reported.item() == loss.item()
    for name, p in params.items():
        assert torch.allclose(p, before[name] - 0.5 * gradients[name], rtol=1e-12, atol=0)


def infinite_slope(params: Params, _: Task) -> torch.Tensor:
    return sum((p * 0).sum() for p in params.values()).sqrt()


@pytest.mark.parametrize(
    "task_loss", [infinite_slope, lambda params, _: params["head.bias"].sum() * math.inf]
)
def test_a_loss_or_gradient_that_is_not_finite_leaves_everything_as_it_was(task_loss) -> None:
    _, params, tasks = regression()
    before = {name: p.clone() for name, p in params.items()}
    optimizer = torch.optim.Adam(list(params.values()))

    with pytest.raises(FloatingPointError, match=r"gradient is not finite; params are unchanged"):
        meta_step(task_loss, params, tasks, optimizer)

    assert all(torch.equal(p, before[name]) for name, p in params.items())
    assert not optimizer.state


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_loss_that_does_not_depend_on_params_has_no_slope(chunk_size: int | None) -> None:
    _, params, tasks = regression()

    loss, gradients = meta_gradient(lambda _, task: task.query.y.sum(), params, tasks, chunk_size=chunk_size)

    assert loss.item() == pytest.approx(tasks.query.y.sum().item() / 3)
    assert all(not g.any() and g.shape == params[name].shape for name, g in gradients.items())


def test_task_by_task_differentiates_under_no_grad_too() -> None:
    model, params, tasks = regression()
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))

    with torch.no_grad():
        _, gradients = meta_gradient(task_loss, params, tasks, chunk_size=1)

    expected = meta_gradient(task_loss, params, tasks)[1]
    assert all(torch.allclose(gradients[name], expected[name], rtol=1e-6) for name in params)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_evaluate_adapts_on_the_support_and_measures_on_the_query(chunk_size: int | None) -> None:
    model, params, tasks = regression()
    adapt = partial(maml.adapt, model, inner_lr=INNER_LR, inner_steps=2)

    values = evaluate(model, adapt, params, tasks, chunk_size=chunk_size)

    for i in range(3):
        for name, p in model.named_parameters():
            p.data.copy_(params[name])
        sgd = torch.optim.SGD(model.parameters(), lr=INNER_LR)
        for _ in range(2):
            sgd.zero_grad()
            F.mse_loss(model(tasks.support.x[i]), tasks.support.y[i]).backward()
            sgd.step()
        expected = F.mse_loss(model(tasks.query.x[i]), tasks.query.y[i])
        assert values[i].item() == pytest.approx(expected.item(), rel=1e-12)


class Centred(nn.Module):
    """What its batch's mean is taken from: a query that sees others is judged by them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        away = self.scale * (x - x.mean(0))
        return torch.cat([-away, away], -1)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_query_never_sees_another_query(chunk_size: int | None) -> None:
    model = Centred()
    support = Batch(torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]]))
    # Alone each of them lies above the mean it is part of; together two lie below.
    tasks = Task(support, Batch(torch.tensor([[[0.5], [1.0], [9.0]]]), torch.tensor([[1, 1, 1]])))
    settings = (model, lambda params, _: params, initial_params(model), tasks)

    assert inductive_accuracy(*settings, chunk_size=chunk_size).tolist() == [1.0]
    assert evaluate(*settings, metric=accuracy, chunk_size=chunk_size).item() == pytest.approx(1 / 3)


def test_an_accuracy_of_what_is_no_number_is_none() -> None:
    logits = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    images = torch.tensor([[[[0.0, math.nan]], [[1.0, 0.0]]], [[[0.0, 1.0]], [[1.0, 0.0]]]])

    assert share_right(logits, torch.tensor([1, 1])).isnan()
    batch = Batch(images, torch.tensor([[0, 1], [0, 1]]))
    assert torch.equal(nearest_neighbour(Task(batch, batch)).nan_to_num(-1), torch.tensor([-1.0, 1.0]))


def test_accuracy_counts_the_largest_logit() -> None:
    model = Network(nn.Identity(), nn.Linear(2, 2, bias=False)).double()
    params = {"head.weight": torch.eye(2, dtype=torch.float64)}
    batch = Batch(
        torch.tensor([[2.0, 1.0], [1.0, 2.0], [3.0, 0.0], [3.0, 0.0]]).double(), torch.tensor([0, 1, 0, 1])
    )

    assert accuracy(model, params, batch).item() == 0.75


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
