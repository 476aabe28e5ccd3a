"""What the page `empirical-bayes` says: when K steps from a start are a posterior mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mamlkit.algorithms import maml
from mamlkit.tasks import Batch

TAU, SIGMA = 0.7, 0.5


def orthogonal(n: int, d: int = 2) -> Tensor:
    """A design with X'X = nI."""
    generator = torch.Generator().manual_seed(n)
    return n**0.5 * torch.linalg.qr(torch.randn(n, d, generator=generator, dtype=torch.float64)).Q


def steps(X: Tensor, y: Tensor, theta: Tensor, rate: float, K: int) -> Tensor:
    model = nn.Linear(X.shape[1], 1, bias=False).double()
    support = Batch(X, y[:, None])
    return maml.adapt(model, {"weight": theta[None]}, support, inner_lr=rate, inner_steps=K)["weight"][0]


def posterior_mean(X: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    held = X.mT @ X + SIGMA**2 / TAU**2 * torch.eye(X.shape[1], dtype=torch.float64)
    return theta + torch.linalg.solve(held, X.mT @ (y - X @ theta))


def rate(n: int, K: int) -> float:
    return (1 - (1 + n * TAU**2 / SIGMA**2) ** (-1 / K)) / 2


@pytest.mark.parametrize("K", [1, 3, 10])
@pytest.mark.parametrize("n", [2, 6, 50])
def test_on_a_balanced_design_one_step_size_makes_the_inner_loop_the_posterior_mean(n, K):
    X, theta = orthogonal(n), torch.tensor([1.0, -2.0], dtype=torch.float64)
    y = torch.linspace(-1, 2, n, dtype=torch.float64)

    assert torch.allclose(steps(X, y, theta, rate(n, K), K), posterior_mean(X, y, theta), atol=1e-12)


def test_with_two_eigenvalues_no_step_size_fits_both():
    X, theta = orthogonal(6) * torch.tensor([1.0, 0.3]), torch.zeros(2, dtype=torch.float64)
    y = X.sum(1)
    due = posterior_mean(X, y, theta)

    misses = [(steps(X, y, theta, a, 3) - due).abs().max() for a in torch.linspace(0.01, 0.6, 60).tolist()]

    assert min(misses) > 0.05


def test_the_mean_loss_keeps_as_much_of_the_start_with_two_examples_as_with_fifty():
    theta = torch.ones(2, dtype=torch.float64)
    kept, due = [], []
    for n in (2, 50):
        X, y = orthogonal(n), torch.zeros(n, dtype=torch.float64)
        kept.append(steps(X, y, theta, rate(6, 3), 3))
        due.append(posterior_mean(X, y, theta))

    assert torch.allclose(*kept, atol=1e-12)
    assert (due[0] > 10 * due[1]).all()


@pytest.mark.parametrize("K", [1, 3, 10])
def test_without_overshooting_the_inner_loop_is_a_posterior_mean_under_some_prior_of_its_own(K):
    generator = torch.Generator().manual_seed(K)
    X, y, theta = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 3), (9,), (3,))
    )
    s, Q = torch.linalg.eigh(X.mT @ X)
    alpha = 0.4 * 9 / (2 * s.max().item())  # 2 * alpha * s / n stays below 1
    kept = (1 - 2 * alpha * s / 9) ** K
    prior_precision = Q @ torch.diag(s / SIGMA**2 * kept / (1 - kept)) @ Q.mT
    assert (torch.linalg.eigvalsh(prior_precision) > 0).all()

    held = X.mT @ X / SIGMA**2 + prior_precision
    mean = theta + torch.linalg.solve(held, X.mT @ (y - X @ theta) / SIGMA**2)

    assert torch.allclose(steps(X, y, theta, alpha, K), mean, atol=1e-12)
