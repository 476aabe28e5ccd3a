"""Meta-Curvature: MAML at identities, a Kronecker product elsewhere."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression, slopes

from mamlkit.algorithms import maml, meta_curvature
from mamlkit.algorithms.meta_curvature import transformed
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import conv4, initial_params
from mamlkit.tasks import Batch, Task, part

draw = partial(torch.randn, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def images():
    torch.manual_seed(0)
    model = conv4(3, channels=2, downsample="stride", image_size=8).double()
    y = torch.arange(3).repeat(2, 2)
    return model, initial_params(model), Task(*(Batch(draw(2, 6, 1, 8, 8), y) for _ in range(2)))


PROBLEMS = {"MLP": regression, "convolutions": images}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_identities_are_maml_and_so_is_the_meta_gradient_of_the_weights(problem, inner_steps, first_order):
    model, theta, tasks = PROBLEMS[problem]()
    settings = {"inner_lr": 0.3, "inner_steps": inner_steps, "first_order": first_order}
    ours, mamls = (partial(a.adapt, model, **settings) for a in (meta_curvature, maml))
    params = meta_curvature.initial_params(model)

    _, gradients = meta_gradient(partial(query_loss, model, ours), params, tasks)
    _, of_theta = meta_gradient(partial(query_loss, model, mamls), theta, tasks)

    assert alike(ours(params, one(tasks.support)), mamls(theta, one(tasks.support)))
    assert alike(part(gradients, "model."), of_theta, rtol=1e-10, atol=1e-12)
    matrices = [g for name, g in gradients.items() if not name.startswith("model.")]
    assert all(bool(g.any()) == (inner_steps > 0) for g in matrices)


def test_a_gradient_is_multiplied_by_the_kronecker_product_of_the_matrices() -> None:
    out, into, places, g = draw(3, 3), draw(2, 2), draw(6, 6), draw(3, 2, 2, 3)

    whole = torch.kron(torch.kron(out, into), places) @ g.flatten()

    assert torch.allclose(transformed(g, out, into, places).flatten(), whole, rtol=1e-12)
    assert torch.allclose(
        transformed(g[:, :, 0, 0], out, into, None), out @ g[:, :, 0, 0] @ into.T, rtol=1e-12
    )
    assert torch.equal(transformed(g[:, 0, 0, 0], out[0], None, None), out[0] * g[:, 0, 0, 0])
    assert torch.equal(transformed(g, None, None, None), g)


def test_the_inverse_hessian_of_a_linear_map_as_its_m_in_is_newtons_step() -> None:
    # mean (Wx - y)^2 over n examples and m outputs: the gradient is E X, of which X'X 2 / (n m) is the Hessian for each row of W.
    model, _, tasks = regression((3, 2), k_shot=8)
    x, y = support = one(tasks.support)
    newton = {"in.weight": torch.linalg.inv(2 * x.T @ x / y.numel())}
    params = meta_curvature.initial_params(model) | newton

    adapted = meta_curvature.adapt(model, params, support, inner_lr=1.0, inner_steps=1)

    assert torch.allclose(adapted["weight"].T, torch.linalg.lstsq(x, y).solution, rtol=1e-10)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_gradient_of_every_matrix_is_a_difference_and_a_stack_the_mean_of_its_tasks(problem) -> None:
    model, _, tasks = PROBLEMS[problem]()
    params = {name: p + 0.1 * draw(p.shape) for name, p in meta_curvature.initial_params(model).items()}
    task_loss = partial(query_loss, model, partial(meta_curvature.adapt, model, inner_lr=0.1, inner_steps=2))

    (_, stacked), (_, alone) = (meta_gradient(task_loss, params, tasks, chunk_size=n) for n in (None, 1))

    assert alike(stacked, alone, rtol=1e-9, atol=1e-12)
    value = lambda params: meta_gradient(task_loss, params, tasks)[0]  # noqa: E731
    for side in ("out.", "in.", "filter."):
        assert torch.allclose(*slopes(value, params, stacked, step=1e-5, only=side), rtol=1e-5, atol=1e-8)
