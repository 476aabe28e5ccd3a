"""Across tasks: the loss after adaptation, its gradient, one step of meta-training, evaluation.

The objective (Finn et al. 2017, section 2.2) is the query loss at the adapted parameters, averaged over tasks:

    F(theta) = E_task [ L_query(phi) ],    phi = adapt(theta, support)

Any `adapt(params, support) -> params` fits. Derived in chapters `objective` and `outer-loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from mamlkit.calls import checked
from mamlkit.tasks import Batch, Params, Task, n_tasks

Adapt = Callable[[Params, Batch], Params]
TaskLoss = Callable[[Params, Task], Tensor]
Metric = Callable[[nn.Module, Params, Batch], Tensor]


@checked
def predict(model: nn.Module, params: Params, x: Tensor) -> Tensor:
    """What `model` would say of `x` if its parameters were `params`; the model's own stay as they are
    and stand in only for names that `params` lacks.

    Raises:
        ValueError: `params` has a name that the model has not.
    """
    known = dict(model.named_parameters())
    for name in params:
        if name not in known:
            raise ValueError(
                f"params has {name!r}, but the model's parameters are {', '.join(known)}; use those names"
            )
    predictions: Tensor = functional_call(model, params, (x,))
    return predictions


@checked
def batch_loss(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    """The mean loss of `model` with `params` on a batch, a scalar: cross-entropy for integer labels, else mean squared error.

    Finn et al. (2017), equations 2 and 3. Derived in chapter `inner-loop`.

    Raises:
        ValueError: predictions and real targets differ in shape, or integer targets are no labels.
    """
    predictions = predict(model, params, batch.x)
    if not batch.y.is_floating_point():
        if batch.y.dtype != torch.int64 or batch.y.dim() != 1:
            raise ValueError(
                f"integer y is labels, int64 of shape (n,), got {batch.y.dtype} {tuple(batch.y.shape)}; else use y.float()"
            )
        # By default torch leaves out labels of -100 without a word.
        # torch would leave out every label of -100; here none is
        return F.cross_entropy(predictions, batch.y, ignore_index=-(2**31))
    if predictions.shape != batch.y.shape:
        raise ValueError(
            f"the model predicts {tuple(predictions.shape)} but y is {tuple(batch.y.shape)}; give y the shape of the predictions"
        )
    return F.mse_loss(predictions, batch.y)


@checked
def accuracy(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    """The share of a batch, in [0, 1], whose largest logit is the label's; a metric for `evaluate`."""
    return share_right(predict(model, params, batch.x), batch.y)


def share_right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of labels `y`, `(n,)`, whose logit is the largest of its row of `(n, n_way)`; NaN, if a logit is."""
    logits.gather(-1, y[:, None])  # refuses what is no label of these logits
    right = (logits.argmax(-1) == y).float()
    return torch.where(logits.isnan().any(), math.nan, right.mean())


@checked
def query_loss(model: nn.Module, adapt: Adapt, params: Params, task: Task) -> Tensor:
    """The objective on one task, a scalar: adapt on the support set, then measure the loss on the query set.

    Finn et al. (2017), section 2.2, the meta-objective. Derived in chapter `objective`.
    """
    adapted = adapt(params, task.support)
    return batch_loss(model, adapted, task.query)


@checked
def meta_gradient(
    task_loss: TaskLoss, params: Params, tasks: Task, *, chunk_size: int | None = None
) -> tuple[Tensor, Params]:
    """The mean task loss, a scalar, and its gradient with respect to `params`.

    `chunk_size` says how many tasks are differentiated at once and changes the result by rounding only: `None` takes all in one
    `vmap`, the fastest for small networks and on a GPU; 1 goes task by task without `vmap`, the fastest for convolutions on a
    CPU, in the memory of one task.

    Differentiates inside and averages outside: `vmap(task_loss)(...).mean().backward()` is silently wrong at second order with
    affine batch norm (torch 2.13). Derived in chapter `outer-loop`.

    Raises:
        ValueError: a malformed or empty stack of tasks, or a `chunk_size` below 1.
    """
    n = n_tasks(tasks)
    if chunk_size == 1:
        each = [_task_gradient(task_loss, params, tree_map(lambda t, i=i: t[i], tasks)) for i in range(n)]
        gradients, losses = tree_map(lambda *of_tasks: torch.stack(of_tasks), *each)
    else:
        gradients, losses = vmap(grad_and_value(task_loss), (None, 0), chunk_size=chunk_size)(params, tasks)
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


@checked
def meta_step(
    task_loss: TaskLoss,
    params: Params,
    tasks: Task,
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
    if not all(torch.isfinite(t).all() for t in (loss, *gradients.values())):
        raise FloatingPointError(
            f"the meta-loss is {loss.item()}, and it or its gradient is not finite; params are unchanged: lower a rate"
        )
    for name, p in params.items():
        p.grad = gradients[name]
    meta_optimizer.step()
    return loss


@checked
def evaluate(
    model: nn.Module,
    adapt: Adapt,
    params: Params,
    tasks: Task,
    *,
    metric: Metric = batch_loss,
    chunk_size: int | None = None,
) -> Tensor:
    """`metric` on the query set of each task after adaptation, shape `(n_tasks,)`.

    `metric` is `batch_loss` or `accuracy` or any `(model, params, batch) -> tensor`, whose shape then follows `n_tasks`.
    `chunk_size` as in `meta_gradient`.

    Raises:
        ValueError: a malformed or empty stack of tasks, or a `chunk_size` below 1.
    """

    def task_metric(task: Task) -> Tensor:
        return metric(model, adapt(params, task.support), task.query)

    return _over_tasks(task_metric, tasks, chunk_size)


def _over_tasks(task_metric: Callable[[Task], Tensor], tasks: Task, chunk_size: int | None) -> Tensor:
    n = n_tasks(tasks)
    with torch.no_grad():
        if chunk_size == 1:
            return torch.stack([task_metric(tree_map(lambda t, i=i: t[i], tasks)) for i in range(n)])
        values: Tensor = vmap(task_metric, chunk_size=chunk_size)(tasks)
        return values


@checked
def inductive_accuracy(
    model: nn.Module, adapt: Adapt, params: Params, tasks: Task, *, chunk_size: int | None = None
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
        logits = vmap(lambda x: predict(model, adapted, torch.cat([task.support.x, x[None]]))[-1])(
            task.query.x
        )
        return share_right(logits, task.query.y)

    return _over_tasks(task_accuracy, tasks, chunk_size)


@checked
def nearest_neighbour(tasks: Task) -> Tensor:
    """The share of queries, `(n_tasks,)` in [0, 1], that the support drawing with the largest pixel cosine labels rightly.

    The floor under every few-shot learner, which looks at pixels and learns nothing. Derived in chapter `few-shot-images`.

    Args:
        tasks: a stack with x of shape `(n_tasks, n, ...)` and integer y.
    """
    n_tasks(tasks)
    support, query = (F.normalize(batch.x.flatten(2), dim=-1) for batch in tasks)
    cosines = query @ support.transpose(1, 2)
    right = (tasks.support.y.gather(1, cosines.argmax(-1)) == tasks.query.y).float().mean(1)
    return torch.where(cosines.isnan().flatten(1).any(1), math.nan, right)


class MeanCI(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval; prints as `mean ± half_width`."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


@checked
def mean_ci95(values: Tensor | Sequence[float]) -> MeanCI:
    """The mean of independent values `(n,)` and the half-width of its 95 % interval by Student's t with n - 1 degrees of freedom.

    The interval says how far the mean over *these* units (tasks or seeds) may be off; over tasks it says nothing of the spread
    over seeds.

    Raises:
        ValueError: fewer than 2 values, or one that is not finite.

    >>> print(mean_ci95(torch.tensor([1.0, 2.0, 3.0])))  # t = 4.303 at 2 degrees of freedom
    2.000 ± 2.484
    """
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"{int((~torch.isfinite(values)).sum())} of {n} values are not finite; drop or mend them first"
        )
    half_width = _student_t_975(n - 1) * values.std().item() / math.sqrt(n)
    return MeanCI(values.mean().item(), half_width)


@cache
def _student_t_975(df: int) -> float:
    # With t = sqrt(df) tan(u) Student's density becomes cos(u)^(df - 1) on (-pi/2, pi/2): integrate that, read off 97.5 %.
    u = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    density = u.cos() ** (df - 1)
    mass = torch.cumulative_trapezoid(density, u)
    at = int(torch.searchsorted(mass, 0.95 * mass[-1]))
    return math.sqrt(df) * math.tan(u[at + 1].item())
