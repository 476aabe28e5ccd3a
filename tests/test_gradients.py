"""Linear solves with products alone, and scalars that bring their own gradient."""

from __future__ import annotations

import torch
from torch.func import grad_and_value, vmap

from mamlkit.gradients import conjugate_gradient, with_gradient
from mamlkit.tasks import Params

EIGENVALUES = torch.tensor([1.0, 3.0, 10.0, 40.0], dtype=torch.float64)
Q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()).Q
MATRIX = Q @ torch.diag(EIGENVALUES) @ Q.T
B = {"a": torch.tensor([1.0, -2.0]).double(), "b": torch.tensor([[0.5], [3.0]]).double()}


def flat(v: Params) -> torch.Tensor:
    return torch.cat([v["a"], v["b"].flatten()])


def solved(b: Params, steps: int, matrix: torch.Tensor = MATRIX) -> Params:
    """By conjugate gradient, with the matrix as a map of two named pieces of a vector."""

    def matvec(v: Params) -> Params:
        a, b = (matrix @ flat(v)).split([2, 2])
        return {"a": a, "b": b[:, None]}

    return conjugate_gradient(matvec, b, steps=steps)


def test_conjugate_gradient_keeps_its_bound_and_ends_after_as_many_steps_as_there_are_eigenvalues() -> None:
    exact = torch.linalg.solve(MATRIX, flat(B))
    root = (EIGENVALUES.max() / EIGENVALUES.min()).sqrt()

    def energy(error: torch.Tensor) -> torch.Tensor:
        return (error @ MATRIX @ error).sqrt()

    errors = [flat(solved(B, steps)) - exact for steps in range(1, 5)]
    assert errors[3].norm() < 1e-12 * exact.norm()
    assert errors[2].norm() > 1e-3 * exact.norm()
    for k, error in enumerate(errors[:3], 1):
        assert energy(error) <= 2 * ((root - 1) / (root + 1)) ** k * energy(exact)


def test_more_steps_than_needed_and_nothing_to_solve_stay_finite() -> None:
    zero = {name: torch.zeros_like(t) for name, t in B.items()}

    assert torch.equal(flat(solved(B, 9, torch.eye(4).double())), flat(B))
    assert torch.equal(flat(solved(zero, 3)), flat(zero))


def test_a_direction_without_curvature_ends_in_infinity_and_not_in_a_gradient_of_zero() -> None:
    saddle = torch.diag(torch.tensor([1.0, -1.0])).double()
    b = {"a": torch.ones(2, dtype=torch.float64)}

    stuck = conjugate_gradient(lambda v: {"a": saddle @ v["a"]}, b, steps=1)

    assert stuck["a"].isinf().all()


def test_conjugate_gradient_solves_many_systems_at_once() -> None:
    many = {name: torch.stack([t, 2 * t, 0 * t]) for name, t in B.items()}

    at_once = vmap(lambda b: solved(b, 4))(many)

    for name, t in solved(B, 4).items():
        assert torch.allclose(at_once[name], torch.stack([t, 2 * t, 0 * t]), rtol=1e-9)


def test_a_scalar_brings_the_gradient_it_was_given() -> None:
    given = {name: torch.randn_like(p) for name, p in B.items()}

    def loss(p: Params) -> torch.Tensor:
        return with_gradient((p["a"] ** 3).sum() + p["b"].sum(), p, given)

    gradients, value = grad_and_value(loss)(B)

    assert value == (B["a"] ** 3).sum() + B["b"].sum()
    assert all(torch.equal(gradients[name], given[name]) for name in B)
