"""Ten small worlds made for the book: each says what varies from task to task, and so has an answer that nobody can beat.

None of this is data. A world is a law of latents, one row a task, of inputs, and of the answer that both give; the targets are
that answer with normal noise, or a yes that is drawn with that chance. Whoever knows the law can weigh latents by how well they
fit a support set: the mean of their answers is the Bayes predictor. Used in chapter `many-small-worlds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from mamlkit.tasks import Batch, Task, check_counts


class World(NamedTuple):
    """The law of a family of tasks, with one real target."""

    latents: Callable[[int, Generator], Tensor]  #: `(n, l)`, what the tasks differ in
    inputs: Callable[[int, int, Generator], Tensor]  #: `(n, k, d)` for n tasks of k examples
    answer: Callable[
        [Tensor, Tensor], Tensor
    ]  #: of latents `(n, 1, l)` and inputs `(n, k, d)`: `(n, k)` without noise
    noise: (
        float | None
    )  #: standard deviation of the targets around the answer; None: they are 1 with that chance, else 0
    k_shot: int = 5  #: examples in a support set


def draw(world: World, n: int, *, k_query: int, generator: Generator) -> tuple[Task, Tensor]:
    """A stack of n tasks, x `(n, k, d)` and y `(n, k, 1)`, and the answers `(n, k_query, 1)` to the queries without noise.

    Raises:
        ValueError: a count below 1.

    >>> tasks, clean = draw(WORLDS["shops"], 3, k_query=7, generator=torch.Generator().manual_seed(0))
    >>> tasks.support.x.shape, clean.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 7, 1]))
    """
    check_counts(n=n, k_query=k_query)
    latents = world.latents(n, generator)[:, None]
    x = world.inputs(n, world.k_shot + k_query, generator)
    clean = world.answer(latents, x)
    if world.noise is None:
        y = (torch.rand(clean.shape, generator=generator) < clean).to(clean)
    else:
        y = clean + world.noise * torch.randn(clean.shape, generator=generator)
    parts = (slice(None, world.k_shot), slice(world.k_shot, None))
    support, query = (Batch(x[:, at], y[:, at, None]) for at in parts)
    return Task(support, query), clean[:, world.k_shot :, None]


def bayes(world: World, tasks: Task, *, n_draws: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The mean answer to the queries `(n, k_query, 1)` given the support set, and how many draws carry it, `(n,)`.

    Latents drawn from the world's law are weighted by the likelihood of the support set; where few of them fit, the second
    number, one over the sum of squared weights, is small, and the answer is no more than a rough one.

    Raises:
        ValueError: `n_draws` below 1.
    """
    check_counts(n_draws=n_draws)
    latents = world.latents(n_draws, generator)[:, None]
    answers, carried = [], []
    for x, y, asked in zip(tasks.support.x, tasks.support.y, tasks.query.x, strict=True):
        said = world.answer(latents, x[None])  # (n_draws, k_shot)
        if world.noise is None:
            chance = torch.where(y[:, 0] > 0.5, said, 1 - said)
            fits = chance.clamp(min=1e-12).log().sum(1)
        else:
            fits = -((y[:, 0] - said) / world.noise).square().sum(1) / 2
        weights = fits.softmax(0)
        answers.append((weights @ world.answer(latents, asked[None]))[:, None])
        carried.append(1 / weights.square().sum())
    return torch.stack(answers), torch.stack(carried)


def _normal(*size: int) -> Callable[[int, int, Generator], Tensor]:
    return lambda n, k, g: torch.randn(n, k, *size, generator=g)


def _square(*size: int) -> Callable[[int, int, Generator], Tensor]:
    return lambda n, k, g: 2 * torch.rand(n, k, *size, generator=g) - 1


def _between(*limits: tuple[float, float]) -> Callable[[int, Generator], Tensor]:
    low, high = torch.tensor(limits).T
    return lambda n, g: low + (high - low) * torch.rand(n, len(limits), generator=g)


def _around(mean: tuple[float, ...], spread: float) -> Callable[[int, Generator], Tensor]:
    return lambda n, g: torch.tensor(mean) + spread * torch.randn(n, len(mean), generator=g)


def _shop_hours(n: int, k: int, g: Generator) -> Tensor:
    hour, weekend = torch.rand(2, n, k, generator=g)
    return torch.stack([2 * hour - 1, (weekend < 2 / 7).float()], -1)


def _shop(z: Tensor, x: Tensor) -> Tensor:
    peak, size, level = z.unbind(-1)
    return 0.6 * level + (0.8 + 0.4 * size) * torch.cos(math.pi * (x[..., 0] - 2 * peak)) + 0.5 * x[..., 1]


def _film(z: Tensor, x: Tensor) -> Tensor:
    return z[..., 0] + (z[..., 1:] * x).sum(-1)


def _credit(z: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(_film(z, x))


def _voice(z: Tensor, x: Tensor) -> Tensor:
    shift, stretch = z.unbind(-1)
    return 1.2 * torch.tanh(1.5 * (stretch * x[..., 0] - shift)) + 0.3 * x[..., 1]


def _patches(n: int, k: int, g: Generator) -> Tensor:
    return normalize(torch.randn(n, k, 4, generator=g), dim=-1)


def _detect(z: Tensor, x: Tensor) -> Tensor:
    return torch.sigmoid(6 * (normalize(z, dim=-1) * x).sum(-1) - 2)


def _segment(z: Tensor, x: Tensor) -> Tensor:
    far = ((x - z[..., :2]) / z[..., 2:]).square().sum(-1)
    return torch.sigmoid(6 * (1 - far))


def _drive(z: Tensor, x: Tensor) -> Tensor:
    gain, slip, offset = z.unbind(-1)
    speed = (x[..., 0] + 1.2) / 2
    return 3 * gain * speed * (x[..., 1] + offset) / (1 + slip * speed**2)


def _robot(z: Tensor, x: Tensor) -> Tensor:
    load, inertia, friction = z.unbind(-1)
    return load * torch.cos(math.pi * x[..., 0]) + inertia * x[..., 2] + friction * torch.tanh(4 * x[..., 1])


def _regimes(n: int, g: Generator) -> Tensor:
    return 0.15 * (2.0 * torch.randint(2, (n, 1), generator=g) - 1)


def _modalities(n: int, k: int, g: Generator) -> Tensor:
    kind = torch.randint(2, (n, 1), generator=g).float().expand(n, k)
    u = 2 * torch.rand(n, k, generator=g) - 1
    return torch.stack([kind, (1 - kind) * u, kind * u], -1)


def _two(z: Tensor, x: Tensor) -> Tensor:
    height, phase, slope, level = z.unbind(-1)
    wave = height * torch.sin(math.pi * (x[..., 1] + phase))
    return torch.where(x[..., 0] > 0.5, slope * x[..., 2] + level, wave)


WORLDS = {
    "films": World(_around((0.3, 0.8, -0.5, 0.3, 0.0, 0.0), 0.5), _normal(5), _film, 0.5, 10),
    "shops": World(_between((0, 1), (0, 1), (0, 1)), _shop_hours, _shop, 0.3),
    "credit": World(_around((-1.0, 0.8, -0.6, 0.4, 0.3, 0.0), 0.15), _normal(5), _credit, None, 20),
    "voices": World(_between((-1, 1), (0.7, 1.3)), _normal(2), _voice, 0.1),
    "detection": World(_around((0.0,) * 4, 1.0), _patches, _detect, None, 20),
    "segmentation": World(
        _between((-0.6, 0.6), (-0.6, 0.6), (0.3, 0.8), (0.3, 0.8)), _square(2), _segment, None, 20
    ),
    "driving": World(_between((0.5, 1.5), (0, 4), (-0.4, 0.4)), _square(2), _drive, 0.1),
    "robots": World(_between((0.2, 1.8), (0.5, 1.5), (0.1, 0.9)), _square(3), _robot, 0.1),
    "prices": World(_regimes, _normal(3), lambda z, x: z[..., 0] * x[..., 0], 1.0, 20),
    "two modalities": World(_between((0.5, 1.5), (-1, 1), (-1.5, 1.5), (-1, 1)), _modalities, _two, 0.1),
}
"""The generated worlds by name. Films are the linear mixed model's own law; in prices the noise is nearly all there is."""
