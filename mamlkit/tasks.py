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
            n = operator.index(value)
        except TypeError:
            raise ValueError(f"{name}={value!r}, but it must be a whole number of at least {least}") from None
        if n < least or isinstance(value, bool):
            raise ValueError(f"{name}={value!r}, but it must be a whole number of at least {least}")


def n_tasks(tasks: Task) -> int:
    """The number of tasks in a stack.

    Raises:
        ValueError: the four tensors do not share a leading axis, the stack or a support or query set in it is empty, or inputs
            and targets differ in number or device.
    """
    tensors = {f"{part}.{name}": t for part, b in tasks._asdict().items() for name, t in b._asdict().items()}
    shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
    if any(t.dim() < 2 for t in tensors.values()):
        raise ValueError(
            f"a stack of tasks has axes (meta_batch_size, n, ...), got {shapes}; stack the tasks with torch.stack"
        )
    if len({t.shape[0] for t in tensors.values()}) > 1:
        raise ValueError(f"the tensors of a stack share their first axis, the tasks, got {shapes}")
    for part in ("support", "query"):
        x, y = tensors[f"{part}.x"], tensors[f"{part}.y"]
        if x.shape[1] != y.shape[1]:
            raise ValueError(
                f"{part} has {x.shape[1]} inputs but {y.shape[1]} targets per task; give each input one target"
            )
        if x.shape[1] == 0:
            raise ValueError(
                f"the {part} set is empty, shape {tuple(x.shape)}; draw at least one example per task"
            )
    if len({t.device for t in tensors.values()}) > 1:
        devices = ", ".join(f"{name} on {t.device}" for name, t in tensors.items())
        raise ValueError(f"a stack of tasks lives on one device, got {devices}; move it with .to(device)")
    if tasks.support.x.shape[0] == 0:
        raise ValueError("the stack holds 0 tasks; draw at least one")
    return tasks.support.x.shape[0]


def check_inner_loop(params: Params, support: Batch, *, inner_steps: int, only: str = "") -> None:
    """Nothing, if a task's inner loop can run.

    Raises:
        ValueError: `inner_steps` below 0, an empty support set, inputs and targets that differ in number, or `params` without a
            name that starts with `only`.
    """
    if inner_steps < 0:
        raise ValueError(
            f"inner_steps={inner_steps}, but a task takes 0 steps or more; 0 leaves the parameters as they are"
        )
    if support.x.shape[0] == 0:
        raise ValueError(
            f"the support set is empty, shape {tuple(support.x.shape)}; draw at least one example (k_shot >= 1)"
        )
    if support.x.shape[0] != support.y.shape[0]:
        raise ValueError(
            f"support has {support.x.shape[0]} inputs but {support.y.shape[0]} targets; give each input one target"
        )
    if not any(name.startswith(only) for name in params):
        raise ValueError(f"only={only!r} starts no parameter's name; the names are {', '.join(params)}")
