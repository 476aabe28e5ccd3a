"""The vocabulary: a batch, a task, the parameters.

A *task* is what few-shot learning is about: a few labelled examples to learn from, the **support** set, and examples of the same
problem to be judged on, the **query** set (the words of Vinyals et al. 2016 and Snell et al. 2017).

A *stack of tasks* is the same `Task` whose four tensors all have one more leading axis, `(meta_batch_size, ...)`.
"""

from __future__ import annotations

import operator
from typing import NamedTuple, SupportsIndex

from torch import Tensor

Params = dict[str, Tensor]
"""Parameters by name, as `dict(model.named_parameters())` gives them: theta before adaptation, phi after it."""


class Batch(NamedTuple):
    """Inputs and targets of `n` examples: `x` is `(n, ...)`, `y` is `(n, ...)` real or `(n,)` integer labels from 0."""

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """A task: a `support` batch to adapt on and a `query` batch to be judged on. Derived in chapter `learning-to-learn`."""

    support: Batch
    query: Batch


def check_counts(least: int = 1, **counts: SupportsIndex) -> None:
    """Nothing, if every count is a whole number of at least `least`.

    Raises:
        ValueError: one that is not, by its name, with its value and the limit.
    """
    for name, value in counts.items():
        try:
            n = least - 1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            n = least - 1
        if n < least:
            raise ValueError(f"{name}={value!r}, but it must be a whole number of at least {least}")


def check_batch(name: str, batch: Batch, *, axes: int = 1) -> None:
    """Nothing, if a batch is a pair of tensors on one device that share their first `axes` axes, none of them empty.

    Raises:
        TypeError: no such pair.
        ValueError: another shape or device; the message has both shapes.
    """
    parts = batch if isinstance(batch, tuple) else (batch,)
    if len(parts) != 2 or not all(isinstance(t, Tensor) for t in parts):
        kinds = " and ".join(type(t).__name__ for t in parts)
        raise TypeError(f"{name} is {kinds}; give Batch(x, y) of two tensors, torch.as_tensor(...) makes one")
    x, y = batch
    shared = x.shape[:axes]
    if shared != y.shape[:axes] or len(shared) < axes or 0 in shared or x.device != y.device:
        kind = (
            "a stack of tasks has axes (meta_batch_size, n, ...)"
            if axes == 2
            else "a batch has axes (n, ...)"
        )
        raise ValueError(
            f"{name} has x {tuple(x.shape)} on {x.device} and y {tuple(y.shape)} on {y.device}, but {kind}, at least one "
            f"example and as many targets as inputs{'; stack the tasks with torch.stack' if axes == 2 else ''}"
        )


def n_tasks(tasks: Task) -> int:
    """The number of tasks in a stack.

    Raises:
        TypeError: no `Task` of two batches of tensors.
        ValueError: the four tensors do not share a leading axis, the stack or a support or query set in it is empty, or inputs
            and targets differ in number or device.
    """
    if not isinstance(tasks, tuple) or len(tasks) != 2:
        raise TypeError(
            f"tasks is a {type(tasks).__name__}; give Task(Batch(x, y), Batch(x, y)) of stacked tensors"
        )
    for name, batch in zip(("support", "query"), tasks, strict=True):
        check_batch(name, batch, axes=2)
    (x, _), (query_x, _) = tasks
    if len(x) != len(query_x) or x.device != query_x.device:
        raise ValueError(
            f"support has {len(x)} tasks on {x.device} but query {len(query_x)} on {query_x.device}; draw both together"
        )
    return len(x)


def check_inner_loop(params: Params, support: Batch, *, inner_steps: int, only: str = "") -> None:
    """Nothing, if a task's inner loop can run.

    Raises:
        TypeError: `support` is no batch.
        ValueError: `inner_steps` below 0, an empty support set, inputs and targets that differ in number, or `params` without a
            name that starts with `only`.
    """
    check_counts(0, inner_steps=inner_steps)
    check_batch("support", support)
    if not any(name.startswith(only) for name in params):
        raise ValueError(f"only={only!r} starts no parameter's name; the names are {', '.join(params)}")
