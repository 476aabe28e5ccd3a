"""Linear solves with products alone, and scalars that bring their own gradient."""

from __future__ import annotations

import torch
from torch.func import grad_and_value, vmap

from mamlkit.gradients import conjugate_gradient, with_gradient
from mamlkit.tasks import Params

EIGENVALUES = torch.tensor([1.0, 3.0, 10.0, 40.0], dtype=torch.float64)


def rotation(n: int = 4) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()).Q


def product(matrix: torch.Tensor):
    """The matrix as a map of two named pieces of a vector."""

    def matvec(v: Params) -> Params:
        a, b = (matrix @ torch.cat([v["a"], v["b"].flatten()])).split([2, len(matrix) - 2])
        return {"a": a, "b": b[:, None]}

    return matvec


def flat(v: Params) -> torch.Tensor:
    return torch.cat([v["a"], v["b"].flatten()])


def problem() -> tuple[torch.Tensor, Params]:
    q = rotation()
    return q @ torch.diag(EIGENVALUES) @ q.T, {
        "a": torch.tensor([1.0, -2.0]).double(),
        "b": torch.tensor([[0.5], [3.0]]).double(),
    }


def test_conjugate_gradient_ends_after_as_many_steps_as_there_are_eigenvalues() -> None:
    matrix, b = problem()
    exact = torch.linalg.solve(matrix, flat(b))

    wrong = [
        (flat(conjugate_gradient(product(matrix), b, steps=k)) - exact).norm() / exact.norm()
        for k in range(1, 5)
    ]

    assert wrong[3] < 1e-12
    assert wrong[2] > 1e-3


def test_conjugate_gradient_keeps_its_bound() -> None:
    matrix, b = problem()
    exact = torch.linalg.solve(matrix, flat(b))
    root = (EIGENVALUES.max() / EIGENVALUES.min()).sqrt()

    def energy(error: torch.Tensor) -> torch.Tensor:
        return (error @ matrix @ error).sqrt()

    for k in range(1, 4):
        error = energy(flat(conjugate_gradient(product(matrix), b, steps=k)) - exact)
        assert error <= 2 * ((root - 1) / (root + 1)) ** k * energy(exact)


def test_more_steps_than_needed_and_nothing_to_solve_stay_finite() -> None:
    matrix, b = problem()
    identity = product(torch.eye(4).double())

    assert torch.equal(flat(conjugate_gradient(identity, b, steps=9)), flat(b))
    zero = {name: torch.zeros_like(t) for name, t in b.items()}
    assert torch.equal(flat(conjugate_gradient(product(matrix), zero, steps=3)), flat(zero))


def test_conjugate_gradient_solves_many_systems_at_once() -> None:
    matrix, b = problem()
    many = {name: torch.stack([t, 2 * t, 0 * t]) for name, t in b.items()}

    solved = vmap(lambda b: conjugate_gradient(product(matrix), b, steps=4))(many)

    one = conjugate_gradient(product(matrix), b, steps=4)
    for name, t in one.items():
        assert torch.allclose(solved[name], torch.stack([t, 2 * t, 0 * t]), rtol=1e-9)


def test_a_scalar_brings_the_gradient_it_was_given() -> None:
    _, params = problem()
    given = {name: torch.randn_like(p) for name, p in params.items()}

    def loss(p: Params) -> torch.Tensor:
        return with_gradient((p["a"] ** 3).sum() + p["b"].sum(), p, given)

    gradients, value = grad_and_value(loss)(params)

    assert value == (params["a"] ** 3).sum() + params["b"].sum()
    assert all(torch.equal(gradients[name], given[name]) for name in params)
