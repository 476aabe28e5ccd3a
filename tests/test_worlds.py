from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from mamlkit.data.worlds import WORLDS, World, bayes, draw
from mamlkit.tasks import Batch, Task

LINE = World(
    latents=lambda n, g: torch.randn(n, 1, generator=g, dtype=torch.float64),
    inputs=lambda n, k, g: torch.ones(n, k, 1, dtype=torch.float64),
    answer=lambda z, x: z[..., 0] * x[..., 0],
    noise=0.5,
    k_shot=3,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_draws_tasks_of_its_own_size(name):
    tasks, clean = draw(WORLDS[name], 4, k_query=6, generator=seeded())

    assert tasks.support.x.shape[:2] == (4, WORLDS[name].k_shot)
    assert tasks.query.y.shape == clean.shape == (4, 6, 1)
    assert all(torch.isfinite(t).all() for batch in tasks for t in batch)


@pytest.mark.parametrize("name", WORLDS)
def test_targets_scatter_around_the_answer_as_much_as_the_world_says(name):
    world = WORLDS[name]
    tasks, clean = draw(world, 400, k_query=50, generator=seeded())

    away = tasks.query.y - clean
    expected = (clean * (1 - clean)).mean() if world.noise is None else torch.tensor(world.noise**2)

    assert away.mean().abs() < 0.03
    assert away.square().mean().item() == pytest.approx(expected.item(), rel=0.1)


def test_the_same_generator_draws_the_same_world():
    one, other = (draw(WORLDS["robots"], 3, k_query=2, generator=seeded(5))[0] for _ in range(2))

    assert torch.equal(one.query.y, other.query.y)


def test_the_bayes_predictor_of_a_normal_mean_is_its_posterior_mean():
    tasks, _ = draw(LINE, 5, k_query=2, generator=seeded())

    answers, carried = bayes(LINE, tasks, n_draws=200_000, generator=seeded(1))
    posterior = tasks.support.y.sum(1) / (3 + 0.25)

    assert (answers[:, 0] - posterior).abs().max() < 0.01
    assert carried.min() > 1_000


def test_the_bayes_predictor_of_a_coin_follows_the_rule_of_succession():
    coin = LINE._replace(latents=lambda n, g: torch.rand(n, 1, generator=g, dtype=torch.float64), noise=None)
    x, y = (
        torch.ones(1, 3, 1, dtype=torch.float64),
        torch.tensor([[[1.0], [1.0], [0.0]]], dtype=torch.float64),
    )

    answers, _ = bayes(coin, Task(Batch(x, y), Batch(x, y)), n_draws=100_000, generator=seeded())

    assert answers[0, 0].item() == pytest.approx((2 + 1) / (3 + 2), abs=0.01)


def test_a_shop_is_busiest_at_its_own_hour():
    hours = torch.linspace(-1, 1, 201)
    x = torch.stack([hours, torch.zeros(201)], -1)[None]
    peak = torch.tensor([[[0.2, 0.5, 0.0]]])

    busiest = hours[WORLDS["shops"].answer(peak, x)[0].argmax()]

    assert math.isclose(busiest, 0.4, abs_tol=0.011)


def test_a_wave_ignores_the_line_and_a_line_the_wave():
    answer = partial(WORLDS["two modalities"].answer, torch.tensor([[[1.0, 0.0, 2.0, 0.5]]]))

    assert answer(torch.tensor([[[0.0, 0.5, 9.0]]])).item() == pytest.approx(1.0)
    assert answer(torch.tensor([[[1.0, 9.0, 0.5]]])).item() == pytest.approx(1.5)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="n_draws=0"):
        bayes(LINE, draw(LINE, 1, k_query=1, generator=seeded())[0], n_draws=0, generator=seeded())
