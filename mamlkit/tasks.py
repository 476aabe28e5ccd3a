"""The vocabulary: a batch, a task, the parameters.

A *task* is what few-shot learning is about: a few labelled examples to learn from, the **support** set, and examples of the same
problem to be judged on, the **query** set (the words of Vinyals et al. 2016 and Snell et al. 2017).

A *stack of tasks* is the same `Task` whose tensors all have one more leading axis, `(meta_batch_size, ...)`. Tasks of unequal
sizes come as a list of `Task`, one by one.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsIndex
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

Params = dict[str, Tensor]
"""Parameters by name, as `dict(model.named_parameters())` gives them: theta before adaptation, phi after it. What is learned
beside them, a rate or a context, rides along under a prefix of its own and is taken out by `part`."""


class Batch(NamedTuple):
    """Inputs and targets of `n` examples: `x` is `(n, ...)`, `y` is `(n, ...)` real or `(n,)` integer labels from 0.

    Each may be a pytree of tensors, a dictionary of ids and mask say, all of which begin with the axis of the examples.
    """

    x: Any
    y: Any


class Task(NamedTuple):
    """A task: a `support` batch to adapt on and a `query` batch to be judged on. Derived in chapter `learning-to-learn`.

    With a loss of your own either may be any pytree of tensors, the noise and the goal of an episode say.
    """

    support: Any
    query: Any


def part(params: Params, prefix: str) -> Params:
    """The entries of `params` whose name starts with `prefix`, named without it.

    >>> import torch
    >>> part({"model.weight": torch.ones(1), "rate.weight": torch.zeros(1)}, "rate.")
    {'weight': tensor([0.])}
    """
    return {name.removeprefix(prefix): p for name, p in params.items() if name.startswith(prefix)}


def one_by_one(tasks: Any) -> list[Any]:
    """The tasks of a stack, or of a list, each by itself; likewise the examples of a batch."""
    if isinstance(tasks, list):
        return tasks
    return [tree_map(lambda t, i=i: t[i], tasks) for i in range(len(tree_leaves(tasks)[0]))]


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


def check_batch(name: str, batch: Any, *, axes: int = 1) -> None:
    """Nothing, if all in `batch` are tensors on one device that share their first axes, none of them empty.

    Of a `Batch` these are `axes` axes; any other pytree has no axis of examples and shares one less.

    Raises:
        TypeError: something else than tensors.
        ValueError: another shape or device; the message has all shapes.
    """
    leaves = tree_leaves(batch)
    if not leaves or not all(isinstance(t, Tensor) for t in leaves):
        kinds = " and ".join(sorted({type(t).__name__ for t in leaves})) or "empty"
        raise TypeError(
            f"{name} is {kinds}; give Batch(x, y) of tensors, torch.as_tensor(...) makes one; with a loss of "
            f"your own it may be any pytree of tensors"
        )
    shared = axes - (not isinstance(batch, Batch))
    shape, device = leaves[0].shape[:shared], leaves[0].device
    if (
        len(shape) < shared
        or 0 in shape
        or any(t.shape[:shared] != shape or t.device != device for t in leaves)
    ):
        kind = {
            (True, 1): "a batch has axes (n, ...), at least one example and as many targets as inputs",
            (
                True,
                2,
            ): "a stack of tasks has axes (meta_batch_size, n, ...), at least one example and as many targets as inputs; "
            "stack the tasks with torch.stack",
            (False, 1): "they must be on one device",
            (False, 2): "in a stack of tasks all begin with the axis of the tasks, and are on one device",
        }[isinstance(batch, Batch), axes]
        named = tree_flatten_with_path(batch)[0]
        shapes = " and ".join(
            f"{keystr(path).lstrip('.')} {tuple(t.shape)} on {t.device}".lstrip() for path, t in named
        )
        raise ValueError(f"{name} has {shapes}, but {kind}")


def check_examples(batch: Any) -> None:
    """Nothing, if `batch` is what `batch_loss` takes.

    Raises:
        TypeError: no `Batch`, or something else than tensors in it.
        ValueError: no examples, or not as many targets as inputs.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            f"batch is a {type(batch).__name__}, but batch_loss takes Batch(x, y); give adapt, and query_loss, the loss= that "
            f"takes yours"
        )
    check_batch("batch", batch)


def n_tasks(tasks: Task | list[Task]) -> int:
    """The number of tasks in a stack or a list.

    Raises:
        TypeError: no `Task` of two batches of tensors.
        ValueError: the tensors do not share a leading axis, the stack or a support or query set in it is empty, inputs and
            targets differ in number or device, or all are single numbers in columns `(n, 1)`, as those of one task are.
    """
    if isinstance(tasks, list):
        check_counts(**{"len(tasks)": len(tasks)})
        for i, task in enumerate(tasks):
            _check_task(f"tasks[{i}]", task, axes=1)
        return len(tasks)
    _check_task("tasks", tasks, axes=2)
    _refuse_one_task(tasks)
    support, query = (tree_leaves(batch)[0] for batch in tasks)
    if len(support) != len(query) or support.device != query.device:
        raise ValueError(
            f"support has {len(support)} tasks on {support.device} but query {len(query)} on {query.device}; draw both together"
        )
    return len(support)


def _refuse_one_task(tasks: Task) -> None:
    """One task of single inputs and outputs has the axes of a stack, whose tasks would be its examples."""
    parts = [t for batch in tasks if isinstance(batch, Batch) for t in batch]
    if len(parts) == 4 and all(
        isinstance(t, Tensor) and t.is_floating_point() and t.dim() == 2 and t.shape[1] == 1 for t in parts
    ):
        raise ValueError(
            f"support x {tuple(parts[0].shape)} and y {tuple(parts[1].shape)} are one task and no stack; make a stack of one, "
            f"tree_map(lambda t: t[None], task), or give each task's single number an axis of its own, x[..., None]"
        )


def _check_task(name: str, task: object, *, axes: int) -> None:
    if not isinstance(task, tuple) or len(task) != 2:
        raise TypeError(
            f"{name} is a {type(task).__name__}; give Task(Batch(x, y), Batch(x, y)) of "
            f"{'stacked tensors, or a list of tasks' if axes == 2 else 'tensors'}"
        )
    for side, batch in zip(("support", "query"), task, strict=True):
        check_batch(side if axes == 2 else f"{name}.{side}", batch, axes=axes)


def check_inner_loop(
    params: Params,
    support: Any,
    *,
    inner_steps: int,
    inner_lr: float | Tensor | Params = 0.0,
    only: str | tuple[str, ...] = "",
) -> None:
    """Nothing, if a task's inner loop can run.

    Raises:
        TypeError: `support` holds something else than tensors.
        ValueError: `inner_steps` below 0, an empty support set, inputs and targets that differ in number, `params` without a
            name that starts with `only`, or an `inner_lr` by name that lacks one of those.
    """
    check_counts(0, inner_steps=inner_steps)
    check_batch("support", support)
    adapted = [name for name in params if name.startswith(only)]
    if not adapted:
        raise ValueError(f"only={only!r} starts no parameter's name; the names are {', '.join(params)}")
    if isinstance(inner_lr, Mapping) and (lacking := [name for name in adapted if name not in inner_lr]):
        raise ValueError(
            f"inner_lr has the names {', '.join(inner_lr)}, but lacks {', '.join(lacking)}; give each adapted parameter a rate"
        )


_NAMES: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def check_names(model: nn.Module, params: Params) -> None:
    """Nothing, if `model` has all names in `params`, and no layer of it writes to its own weight.

    Raises:
        ValueError: another name, or an embedding with `max_norm`, which rescales its rows in place.
    """
    if torch.compiler.is_compiling() or params.keys() <= _NAMES.get(model, set()):
        return
    known = [name for kind in (nn.Module.named_parameters, nn.Module.named_buffers)
             for name, _ in kind(model, remove_duplicate=False)]  # fmt: skip
    if unknown := [name for name in params if name not in known]:
        raise ValueError(
            f"params has {unknown[0]!r}, but the model's parameters are {', '.join(known)}; use those names, and take what is "
            f"learned beside them out with part(params, prefix)"
        )
    for name, layer in model.named_modules():
        if getattr(layer, "max_norm", None) is not None:
            raise ValueError(
                f"{name or 'the model'} has max_norm={layer.max_norm}, so each forward pass would rescale params in place; "
                f"leave max_norm out and divide by the norm in forward"
            )
    _NAMES[model] = set(known)


def check_targets(predictions: Any, y: Any) -> None:
    """Nothing, if cross-entropy or the squared error of `predictions` is what targets `y` mean.

    Integer `y` is labels `(n,)`; real `y` has the shape of the predictions, and is not shares of classes, one-hot or smoothed,
    for which targets of two columns or more are looked at: a GPU waits for that.

    Raises:
        TypeError: predictions or targets are no single tensor.
        ValueError: other targets; they need a loss of their own.
    """
    own = "pass the loss that you mean as loss="
    for name, value in (("the model's prediction", predictions), ("y", y)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, of which no loss is known here; {own}")
    if not y.is_floating_point():
        if y.dtype != torch.int64 or y.dim() != 1:
            raise ValueError(
                f"integer y is labels, int64 of shape (n,), got {y.dtype} {tuple(y.shape)}; for other targets {own}, "
                f"binary cross-entropy for yes and no say"
            )
    elif predictions.shape != y.shape:
        raise ValueError(
            f"the model predicts {tuple(predictions.shape)} but y is {tuple(y.shape)}; give y the shape of the predictions"
        )
    elif _looks_like_shares(y):
        raise ValueError(
            f"y of shape {tuple(y.shape)} looks like one-hot labels, for which squared error is hardly meant; give integer "
            f"labels, y.argmax(-1), or {own}"
        )


def _looks_like_shares(y: Tensor) -> bool:
    if y.dim() < 2 or y.shape[-1] < 2 or torch.compiler.is_compiling():
        return False
    values = torch.func.debug_unwrap(y).detach()
    if values.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return bool((values >= 0).all() & ((values.sum(-1) - 1).abs() < 1e-4).all())
