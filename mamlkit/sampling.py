"""Draw stacks of tasks, on any device, with no loop and no wait for the device.

Randomness enters as a `torch.Generator` that lives on the device where the tasks are wanted. Derived in chapter
`learning-to-learn`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mamlkit.calls import checked
from mamlkit.tasks import Batch, Task


@checked
def sinusoid(x: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    """`amplitude * sin(x - phase)`, the three broadcast together."""
    return amplitude * torch.sin(x - phase)


@checked
def draw_sinusoids(
    n: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Amplitudes in [0.1, 5] and phases in [0, pi] of `n` sinusoids, each of shape `(n, 1, 1)`.

    The family of Finn et al. (2017), section 5.1.
    """
    amplitude, phase = torch.rand(2, n, 1, 1, generator=generator, device=generator.device, dtype=dtype)
    return 0.1 + 4.9 * amplitude, math.pi * phase


@checked
def sinusoid_tasks(
    meta_batch_size: int,
    *,
    k_shot: int,
    k_query: int,
    generator: torch.Generator,
    support_range: tuple[float, float] = (-5.0, 5.0),
    dtype: torch.dtype = torch.float32,
) -> Task:
    """A stack of regression tasks, one sinusoid each: x of support `(meta_batch_size, k_shot, 1)` and query `(.., k_query, 1)`.

    Inputs are uniform in [-5, 5] (Finn et al. 2017, section 5.1), the support's in `support_range`.

    Raises:
        ValueError: a count below 1.

    >>> tasks = sinusoid_tasks(25, k_shot=10, k_query=10, generator=torch.Generator().manual_seed(0))
    >>> tasks.support.x.shape, tasks.query.y.shape
    (torch.Size([25, 10, 1]), torch.Size([25, 10, 1]))
    """
    amplitude, phase = draw_sinusoids(meta_batch_size, generator=generator, dtype=dtype)
    shape = (meta_batch_size, k_shot + k_query, 1)
    unit = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    low, high = support_range
    support_x = low + (high - low) * unit[:, :k_shot]
    query_x = -5 + 10 * unit[:, k_shot:]
    return Task(
        Batch(support_x, sinusoid(support_x, amplitude, phase)),
        Batch(query_x, sinusoid(query_x, amplitude, phase)),
    )


@checked
def class_tasks(
    images: Tensor, meta_batch_size: int, *, n_way: int, k_shot: int, k_query: int, generator: torch.Generator
) -> Task:
    """A stack of n-way classification tasks drawn from `images` of shape `(classes, per_class, channels, h, w)`.

    Each task draws `n_way` different classes in random order, labels them 0 to n_way - 1 (so no label means anything across
    tasks), and of each class `k_shot` support and `k_query` other query drawings. Support x is
    `(meta_batch_size, n_way * k_shot, channels, h, w)`, class after class; y holds the integer labels. Vinyals et al. (2016),
    section 4.

    Raises:
        ValueError: more classes or drawings asked for than there are, a count below 1, or a generator on another device.
    """
    if images.dim() != 5:
        raise ValueError(
            f"images has shape {tuple(images.shape)}, but needs the axes (classes, per_class, channels, h, w)"
        )
    classes, per_class = images.shape[:2]
    if n_way > classes:
        raise ValueError(f"n_way={n_way} but this split has {classes} classes; draw from a larger split")
    if k_shot + k_query > per_class:
        raise ValueError(
            f"k_shot + k_query = {k_shot} + {k_query} but each class has {per_class} drawings; ask for fewer per class"
        )
    if generator.device.type != images.device.type:
        raise ValueError(
            f"the generator is on {generator.device} but the images are on {images.device}; "
            f"use torch.Generator(device={str(images.device)!r})"
        )
    device = images.device
    # The ranks of random numbers are a random order: the first few of them are a draw without replacement.
    chosen = torch.rand(meta_batch_size, classes, generator=generator, device=device).topk(n_way).indices
    drawings = torch.rand(meta_batch_size, n_way, per_class, generator=generator, device=device)
    drawings = drawings.topk(k_shot + k_query).indices
    x = images[chosen[:, :, None], drawings]  # (meta_batch_size, n_way, k_shot + k_query, channels, h, w)
    labels = torch.arange(n_way, device=device)

    def batch(x: Tensor) -> Batch:
        k = x.shape[2]
        return Batch(x.flatten(1, 2), labels.repeat_interleave(k).repeat(meta_batch_size, 1))

    return Task(batch(x[:, :, :k_shot]), batch(x[:, :, k_shot:]))
