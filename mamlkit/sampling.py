"""Draw stacks of tasks, on any device; sinusoids and classes with no loop and no wait for the device.

Randomness enters as a `torch.Generator` that lives on the device where the tasks are wanted. Derived in chapter
`learning-to-learn`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mamlkit.calls import checked
from mamlkit.tasks import Batch, Task, check_batch


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
    items: Any, meta_batch_size: int, *, n_way: int, k_shot: int, k_query: int, generator: torch.Generator
) -> Task:
    """A stack of n-way classification tasks drawn from `items` of shape `(classes, per_class, ...)`, images or token ids say, or
    a pytree of such tensors, ids and their mask.

    Each task draws `n_way` different classes in random order, labels them 0 to n_way - 1 (so no label means anything across
    tasks), and of each class `k_shot` support and `k_query` other query items. Support x is
    `(meta_batch_size, n_way * k_shot, ...)`, class after class; y holds the integer labels. Vinyals et al. (2016),
    section 4.

    Raises:
        ValueError: more classes or items asked for than there are, a count below 1, tensors that do not share classes, items
            and device, or a generator on another device.
    """
    leaves = tree_leaves(items)
    if not all(isinstance(t, Tensor) and t.dim() >= 2 and t.numel() for t in leaves) or not leaves:
        shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in leaves]
        raise ValueError(
            f"items has {shapes}, but needs tensors with the axes (classes, per_class, ...), none empty"
        )
    if len({(*t.shape[:2], t.device) for t in leaves}) > 1:
        shapes = [f"{tuple(t.shape)} on {t.device}" for t in leaves]
        raise ValueError(f"items has {shapes}, but all must have the same classes and items, on one device")
    classes, per_class = leaves[0].shape[:2]
    if n_way > classes:
        raise ValueError(f"n_way={n_way} but this split has {classes} classes; draw from a larger split")
    if k_shot + k_query > per_class:
        raise ValueError(
            f"k_shot + k_query = {k_shot} + {k_query} but each class has {per_class} items; ask for fewer per class"
        )
    _check_device("items", leaves[0], generator)
    device = leaves[0].device
    # The ranks of random numbers are a random order: the first few of them are a draw without replacement.
    chosen = torch.rand(meta_batch_size, classes, generator=generator, device=device).topk(n_way).indices
    picked = torch.rand(meta_batch_size, n_way, per_class, generator=generator, device=device)
    picked = picked.topk(k_shot + k_query).indices
    x = tree_map(
        lambda t: t[chosen[:, :, None], picked], items
    )  # (meta_batch_size, n_way, k_shot + k_query, ...)
    labels = torch.arange(n_way, device=device)

    def batch(first: int, last: int) -> Batch:
        y = labels.repeat_interleave(last - first).repeat(meta_batch_size, 1)
        return Batch(tree_map(lambda t: t[:, :, first:last].flatten(1, 2), x), y)

    return Task(batch(0, k_shot), batch(k_shot, k_shot + k_query))


def _check_device(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    if generator.device.type != tensor.device.type:
        raise ValueError(
            f"the generator is on {generator.device} but {name} on {tensor.device}; "
            f"use torch.Generator(device={str(tensor.device)!r})"
        )


@checked
def group_tasks(
    rows: Batch,
    group: Tensor,
    meta_batch_size: int,
    *,
    k_shot: int,
    k_query: int | None,
    generator: torch.Generator,
) -> Task | list[Task]:
    """Tasks drawn from the rows of a table, one group a task: a patient, a user, a shop.

    Each task draws a group, with equal chances and anew each time, and of its rows `k_shot` for the support and `k_query` others
    for the query set. With `k_query=None` the query set is all other rows, and the tasks, of unequal sizes then, come as a list.
    Rows are drawn without replacement within a task.

    Args:
        rows: inputs and targets, all with one row for each row of the table; x and y may be any pytrees.
        group: integers `(rows,)`; `numpy.unique(column, return_inverse=True)[1]` makes them of names.

    Raises:
        ValueError: a group with fewer rows than a task needs, by its number, or `group` of another length or type.

    >>> rows = Batch(x=torch.arange(6.0)[:, None], y=torch.arange(6.0)[:, None])
    >>> patient = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> tasks = group_tasks(rows, patient, 4, k_shot=2, k_query=1, generator=torch.Generator().manual_seed(0))
    >>> tasks.support.x.shape
    torch.Size([4, 2, 1])
    """
    check_batch("rows", rows)
    n = len(tree_leaves(rows)[0])
    if group.shape != (n,) or group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(
            f"group is {group.dtype} {tuple(group.shape)}, but must be integers of shape ({n},), one a row"
        )
    _check_device("group", group, generator)
    names, sizes = torch.unique(group, return_counts=True)
    least = k_shot + (1 if k_query is None else k_query)
    if bool((sizes < least).any()):
        small = names[sizes < least]
        raise ValueError(
            f"group {small[0]} has {sizes[sizes < least][0]} rows, {len(small)} of {len(names)} groups fewer than the {least} of "
            f"k_shot={k_shot} and k_query={k_query}; leave them out or ask for less"
        )
    table = torch.split(group.argsort(stable=True), sizes.tolist())  # the rows of each group
    chosen = torch.randint(len(table), (meta_batch_size,), generator=generator, device=group.device)
    tasks = []
    for rows_of_group in (table[i] for i in chosen.tolist()):
        order = torch.randperm(len(rows_of_group), generator=generator, device=group.device)
        mixed = rows_of_group[order if k_query is None else order[:least]]
        tasks.append(
            Task(*(tree_map(lambda t, at=at: t[at], rows) for at in (mixed[:k_shot], mixed[k_shot:])))
        )
    return tasks if k_query is None else tree_map(lambda *of_tasks: torch.stack(of_tasks), *tasks)
