"""Across tasks: the loss after adaptation, its gradient, one step of meta-training, evaluation.

The objective (Finn et al. 2017, section 2.2) is the query loss at the adapted parameters, averaged over tasks:

    F(theta) = E_task [ L_query(phi) ],    phi = adapt(theta, support)

Any `adapt(params, support) -> params` fits. Derived in chapters `objective` and `outer-loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import debug_unwrap, functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from mamlkit.calls import checked
from mamlkit.tasks import Batch, Params, Task, check_examples, check_names, check_targets, n_tasks, one_by_one

Adapt = Callable[[Params, Any], Params]
TaskLoss = Callable[[Params, Task], Tensor]
Loss = Callable[[nn.Module, Params, Any], Tensor]
"""`(model, params, batch) -> scalar`, which asks `predict(model, params, ...)` and never `model(...)`: that would answer with the
model's own weights. It may differentiate in its inputs too, with `torch.func.grad`."""
Metric = Callable[[nn.Module, Params, Any], Any]


@checked
def predict(model: nn.Module, params: Params, x: Any) -> Any:
    """What `model` would say of `x` if its parameters were `params`; the model's own stay as they are
    and stand in only for names that `params` lacks.

    A dictionary is handed to the model by name, a tuple as several arguments. `params` may hold buffers too; instead of those
    that it lacks `forward` gets copies, so that it changes none of the model's own.

    Raises:
        ValueError: `params` has a name that the model has not, or the model writes to its parameters.
    """
    check_names(model, params)
    by_name = isinstance(x, Mapping)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return functional_call(model, buffers | params, () if by_name else x, x if by_name else {})


@checked
def batch_loss(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    """The mean loss of `model` with `params` on a batch, a scalar: cross-entropy for integer labels, else mean squared error.

    What every algorithm lowers unless another loss is given as `loss=`. Finn et al. (2017), equations 2 and 3. Derived in
    chapter `inner-loop`.

    Raises:
        TypeError: no `Batch`, or predictions or targets that are no single tensor.
        ValueError: real targets of another shape than the predictions, one-hot ones, or integer ones that are no labels.
    """
    check_examples(batch)
    predictions = predict(model, params, batch.x)
    check_targets(predictions, batch.y)
    if batch.y.is_floating_point():
        return F.mse_loss(predictions, batch.y)
    return F.cross_entropy(predictions, batch.y, ignore_index=-(2**31))  # torch would leave out -100


@checked
def accuracy(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    """The share of a batch, in [0, 1], whose largest logit is the label's; a metric for `evaluate`."""
    return share_right(predict(model, params, batch.x), batch.y)


def share_right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of labels `y`, `(n,)`, whose logit is the largest of its row of `(n, n_way)`; NaN, if a logit is.

    Raises:
        ValueError: `y` is no vector of integers, but one-hot labels say.
    """
    if y.dtype.is_floating_point or y.dtype == torch.bool or y.shape != logits.shape[:-1]:
        raise ValueError(
            f"y is {y.dtype} {tuple(y.shape)} beside logits {tuple(logits.shape)}, but accuracy needs integer labels, one a row; "
            f"for one-hot ones y.argmax(-1)"
        )
    logits.gather(-1, y[:, None])  # refuses what is no label of these logits
    right = (logits.argmax(-1) == y).float()
    return torch.where(logits.isnan().any(), math.nan, right.mean())


@checked
def query_loss(
    model: nn.Module, adapt: Adapt, params: Params, task: Task, *, loss: Loss = batch_loss
) -> Tensor:
    """The objective on one task, a scalar: adapt on the support set, then measure the loss on the query set.

    `loss` may be another one than `adapt` lowers. Finn et al. (2017), section 2.2, the meta-objective. Derived in chapter
    `objective`.
    """
    adapted = adapt(params, task.support)
    return loss(model, adapted, task.query)


@checked
def meta_gradient(
    task_loss: TaskLoss, params: Params, tasks: Task | list[Task], *, chunk_size: int | None = None
) -> tuple[Tensor, Params]:
    """The mean task loss, a scalar, and its gradient with respect to `params`.

    `chunk_size` says how many tasks are differentiated at once and changes the result by rounding only: `None` takes all in one
    `vmap`, the fastest for small networks and on a GPU; 1 goes task by task without `vmap`, the fastest for convolutions on a
    CPU, in the memory of one task. So do tasks of unequal sizes, which come as a list. The inner loop of the kit's algorithms
    uses `torch.func.grad` either way.

    Differentiates inside and averages outside: `vmap(task_loss)(...).mean().backward()` is silently wrong at second order with
    affine batch norm (torch 2.13). Derived in chapter `outer-loop`.

    Raises:
        ValueError: a malformed or empty stack of tasks, a `chunk_size` below 1, or a loss that `params` can't reach, so that
            its gradient is exactly zero (looked at on a CPU; `meta_train` looks everywhere).
    """
    n_tasks(tasks)
    if chunk_size == 1 or isinstance(tasks, list):
        one: Callable[..., tuple[Params, Tensor]] = partial(_task_gradient, task_loss)
        each = [one(params, task) for task in one_by_one(tasks)]
        gradients, losses = tree_map(lambda *of_tasks: torch.stack(of_tasks), *each)
    else:
        one = grad_and_value(task_loss)
        gradients, losses = vmap(one, (None, 0), chunk_size=chunk_size, randomness="different")(params, tasks)
    check_reached(lambda at: one(at, one_by_one(tasks)[0])[0], params, gradients)
    return losses.mean(), {name: g.mean(0) for name, g in gradients.items()}


def _task_gradient(task_loss: TaskLoss, params: Params, task: Task) -> tuple[Params, Tensor]:
    # What grad_and_value gives, by plain autograd: some percent faster for a single task of convolutions on a CPU.
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        loss = task_loss(leaves, task)
        if loss.dim():
            raise ValueError(
                f"task_loss gave a tensor of shape {tuple(loss.shape)}, but a loss is one scalar; take its mean"
            )
        if not loss.requires_grad:  # it does not depend on params
            return {name: torch.zeros_like(p) for name, p in params.items()}, loss
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True)), loss.detach()


def check_reached(
    gradient: Callable[[Params], Params], params: Params, gradients: Params, *, wait: bool = False
) -> None:
    """Nothing, if any of `gradients` differs from zero, or `gradient` does a little away from `params`.

    Args:
        wait: look also on a GPU, which the host then waits for.

    Raises:
        ValueError: no change of `params` is seen by the gradient; the message has the usual causes.
    """
    if torch.compiler.is_compiling() or not all_zero(gradients, wait=wait):
        return
    if all_zero(gradient({name: p + 0.1 for name, p in params.items()}), wait=wait):
        raise ValueError(
            "the meta-gradient is exactly 0 for all of params, here and beside: nothing would be learned. The loss calls "
            "model(x), not predict(model, params, x); or the model reaches its weights by another way than the names in params "
            "(a list, a tuple, a cache made before); or adapt or the loss cuts the graph (detach, item, NumPy, no_grad); or all "
            "units are dead"
        )


def all_zero(gradients: Params, *, wait: bool) -> bool:
    """Whether all are exactly zero; no, where that can't be told without waiting for a device."""
    return all((wait or g.is_cpu) and not bool(debug_unwrap(g).any()) for g in gradients.values())


def check_optimizer(meta_optimizer: torch.optim.Optimizer, params: Params) -> None:
    """Nothing, if `meta_optimizer` moves any of `params`; those that it does not hold stay as they are, which may be meant.

    Raises:
        ValueError: it is no optimiser, or holds none of `params` but copies or other tensors: nothing would be learned.
    """
    if not isinstance(meta_optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"meta_optimizer gives {meta_optimizer!r}, but it must be one of PyTorch's optimisers"
        )
    held = {id(p) for group in meta_optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in params.values()):
        raise ValueError(
            "meta_optimizer holds none of params; make it from these very tensors, list(params.values()), "
            "and for meta_train from the list that it is given"
        )


def check_finite(loss: Tensor, gradients: Params) -> None:
    """Nothing, if the meta-loss and its gradient are finite.

    Raises:
        FloatingPointError: they are not; the message has the usual causes, and where the loss is finite the tensors' names.
    """
    bad = [name for name, g in gradients.items() if not bool(g.isfinite().all())]
    if bad and bool(loss.isfinite()):
        raise FloatingPointError(
            f"the meta-loss is {loss.item():.4g}, but its gradient is not finite for {', '.join(bad)}; params are unchanged: a "
            f"derivative that does not exist, of a root, norm or standard deviation at 0 (add 1e-8 under the root); "
            f"or lower a rate"
        )
    if bad or not bool(loss.isfinite()):
        raise FloatingPointError(
            f"the meta-loss is {loss.item()}, not finite; params are unchanged: lower inner_lr or the meta-optimiser's "
            f"rate, or look for a NaN in the tasks themselves"
        )


@checked
def meta_step(
    task_loss: TaskLoss,
    params: Params,
    tasks: Task | list[Task],
    meta_optimizer: torch.optim.Optimizer,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """The mean task loss before the step, a scalar; `meta_optimizer`, which holds the tensors of `params`, moves them in place.

    Finn et al. (2017), equation 1 and Algorithm 1, line 8. Derived in chapter `outer-loop`.

    Raises:
        ValueError: what `meta_gradient` raises, or an optimiser that holds none of `params`.
        FloatingPointError: the loss or its gradient is not finite; `params` are then as they were.
    """
    check_optimizer(meta_optimizer, params)
    loss, gradients = meta_gradient(task_loss, params, tasks, chunk_size=chunk_size)
    check_finite(loss, gradients)
    for name, p in params.items():
        p.grad = gradients[name]
    meta_optimizer.step()
    return loss


@checked
def evaluate(
    model: nn.Module,
    adapt: Adapt,
    params: Params,
    tasks: Task | list[Task],
    *,
    metric: Metric = batch_loss,
    chunk_size: int | None = None,
) -> Any:
    """`metric` on the query set of each task after adaptation, shape `(n_tasks,)`.

    `metric` is `batch_loss` or `accuracy` or any `(model, params, batch) -> tensor`, or a dictionary of tensors, whose shapes
    then follow `n_tasks`. `chunk_size` as in `meta_gradient`; a model with forward hooks goes task by task, since what a hook
    keeps of all tasks at once is dead afterwards.

    Raises:
        ValueError: a malformed or empty stack of tasks, or a `chunk_size` below 1.
    """

    def task_metric(task: Task) -> Any:
        return metric(model, adapt(params, task.support), task.query)

    hooked = any(layer._forward_hooks for layer in model.modules())
    return _over_tasks(task_metric, tasks, 1 if hooked else chunk_size)


def _over_tasks(task_metric: Callable[[Task], Any], tasks: Task | list[Task], chunk_size: int | None) -> Any:
    n_tasks(tasks)
    with torch.no_grad():
        if chunk_size == 1 or isinstance(tasks, list):
            values = [task_metric(task) for task in one_by_one(tasks)]
            return tree_map(lambda *of_tasks: torch.stack(of_tasks), *values)
        return vmap(task_metric, chunk_size=chunk_size, randomness="different")(tasks)


@checked
def inductive_accuracy(
    model: nn.Module,
    adapt: Adapt,
    params: Params,
    tasks: Task | list[Task],
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """The share of queries, `(n_tasks,)` in [0, 1], that each task gets right when every query comes alone.

    Each query is normalised together with the support set and never with the other queries, so that batch norm lets nothing
    leak between them; `evaluate(metric=accuracy)` is the transductive number beside it. Nichol et al. (2018), section 6.1, has
    both. Derived in chapter `few-shot-images`.

    Raises:
        ValueError: what `evaluate` raises.
    """

    def task_accuracy(task: Task) -> Tensor:
        adapted = adapt(params, task.support)

        def alone(x: Any) -> Tensor:
            with_support = tree_map(lambda s, q: torch.cat([s, q[None]]), task.support.x, x)
            logits: Tensor = predict(model, adapted, with_support)[-1]
            return logits

        queries = task.query.x
        logits = torch.stack([*map(alone, one_by_one(queries))]) if chunk_size == 1 else vmap(alone)(queries)
        return share_right(logits, task.query.y)

    accuracies: Tensor = _over_tasks(task_accuracy, tasks, chunk_size)
    return accuracies


@checked
def nearest_neighbour(tasks: Task | list[Task]) -> Tensor:
    """The share of queries, `(n_tasks,)` in [0, 1], that the support drawing with the largest pixel cosine labels rightly.

    The floor under every few-shot learner, which looks at pixels, or at counts of words, and learns nothing. Derived in chapter
    `few-shot-images`.

    Args:
        tasks: a stack with x of shape `(n_tasks, n, ...)` and integer y, or a list of tasks of unequal sizes.
    """
    n_tasks(tasks)
    if isinstance(tasks, list):
        return torch.cat([nearest_neighbour(tree_map(lambda t: t[None], task)) for task in tasks])
    support, query = (F.normalize(batch.x.flatten(2), dim=-1) for batch in tasks)
    cosines = query @ support.transpose(1, 2)
    right = (tasks.support.y.gather(1, cosines.argmax(-1)) == tasks.query.y).float().mean(1)
    return torch.where(cosines.isnan().flatten(1).any(1), math.nan, right)
