"""MAML++ (Antoniou, Edwards & Storkey, "How to train your MAML", ICLR 2019, arXiv:1810.09502).

MAML with six repairs, each of which can be had alone. Step k has a learned rate for every layer, weights and biases of batch norm
of its own, s_k, and a share v_k of the meta-loss:

    phi_0 = theta,    phi_{k+1} = phi_k - alpha_k * grad L_support(phi_k, s_k)
    (theta, alpha, s) <- (theta, alpha, s) - beta * grad mean over tasks of [ sum over k of v_k * L_query(phi_{k+1}, s_k) ]

- *learned rates*: `initial_params(inner_lr=...)` puts them into `params` as `rate.NAME`; else `adapt(inner_lr=...)` holds.
- *batch norm by step*: `initial_params(per_step_norm=True)` puts `step.NAME` there, which the inner loop does not move.
- *statistics by step*: `running_statistics` measures them and `with_running_statistics` uses them; else it is the batch's own.
- *multi-step loss*: `task_loss` with `step_weights=annealed_weights(...)`; else `query_loss` of `adapt`.
- *derivative order*: `first_order=True` at first, in the paper for 50 epochs, then `False`.
- *cosine schedule*: torch's `CosineAnnealingLR(optimizer, T_max=meta_steps, eta_min=low * lr)` in a loop of `meta_step`, and for
  `meta_train` its formula, `schedule=lambda step: low + (1 - low) * (1 + math.cos(math.pi * step / meta_steps)) / 2`.

What changes on the way, weights and order, is changed between calls of `meta_train` that share a checkpoint:

    for epoch in range(100):
        weights = annealed_weights(epoch, inner_steps=5, annealing_steps=10)
        loss = partial(task_loss, model, partial(trajectory, model, inner_steps=5), step_weights=weights)
        trained = meta_train(loss, params, ..., meta_steps=500 * (epoch + 1), checkpoint="run.pt")

Differs from the paper, beside which the authors' code is read: a rate belongs to a tensor, weight or bias, as in that code, where
the text says layer. That code keeps averages of each step's statistics but always normalises by those of the batch, so they have
no effect; here they have one where they are asked for, and are plain means over tasks, taken after training. Its cosine falls
once an epoch, the one above at every meta-step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mamlkit import models
from mamlkit.algorithms import maml
from mamlkit.calls import checked, refuse
from mamlkit.meta import Loss, batch_loss, predict
from mamlkit.tasks import Batch, Params, Task, check_counts, check_inner_loop, n_tasks, one_by_one, part

Trajectory = Callable[[Params, Any], list[Params]]


@checked
def initial_params(
    model: nn.Module, *, inner_steps: int, inner_lr: float | None = None, per_step_norm: bool = True
) -> Params:
    """The model's parameters as `model.NAME`, and what each of `inner_steps` steps has of its own: `rate.NAME`, `step.NAME`.

    Args:
        inner_steps: K >= 1, the most steps that these parameters serve.
        inner_lr: where the rates, `(K,)` for each parameter that is adapted, start; `None` for none, so that none is learned.
        per_step_norm: give each step the weight and bias of every batch norm, as `step.NAME`, `(K, channels)`, instead of
            adapting one for all steps as `model.NAME`.

    Raises:
        ValueError: `inner_steps` below 1, an `inner_lr` that is no number of at least 0, or nothing is left to learn.

    Antoniou et al. (2019), section 4. Derived in chapter `learning-the-learning-rate`.
    """
    check_counts(inner_steps=inner_steps)
    theta = models.initial_params(model)
    norms = {f"{layer}.{end}" for layer in _batch_norms(model) for end in ("weight", "bias")}
    own = {name: p for name, p in theta.items() if per_step_norm and name in norms}
    theta = {name: p for name, p in theta.items() if name not in own}
    rates = (
        {} if inner_lr is None else {name: p.new_full((inner_steps,), inner_lr) for name, p in theta.items()}
    )
    return (
        {f"model.{name}": p for name, p in theta.items()}
        | {f"rate.{name}": r for name, r in rates.items()}
        | {f"step.{name}": torch.stack([p] * inner_steps) for name, p in own.items()}
    )


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


@checked
def trajectory(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_steps: int,
    inner_lr: float | Tensor | Params | None = None,
    loss: Loss = batch_loss,
    first_order: bool = False,
    only: str | tuple[str, ...] = "",
) -> list[Params]:
    """The model's parameters before and after each of `inner_steps` steps, K + 1 in all, with the batch norm of the step.

    The first have step 0's batch norm, those after step k its own.

    Args:
        params: as `initial_params` of this module makes them.
        support: `x` of shape `(n, ...)`, `y` of shape `(n, ...)` real or `(n,)` integer; or whatever `loss` takes.
        inner_steps: K >= 0, no more than `params` were made for.
        inner_lr: alpha for all steps, or one for each parameter by name, where `params` hold no rates.
        loss: what the steps lower, `(model, params, support) -> scalar`.
        first_order: take the inner gradients as constants; the rates are learned all the same.
        only: adapt just the parameters whose name starts so, or with one of several, as in `maml.adapt`.

    Raises:
        ValueError: `params` without weights, or made for fewer steps; no rates, neither in `params` nor as `inner_lr`, or both;
            and what `maml.adapt` raises.

    Antoniou et al. (2019), section 4. Derived in chapter `learning-the-learning-rate`.
    """
    theta, rates, own = (part(params, prefix) for prefix in ("model.", "rate.", "step."))
    _check_given(theta, rates, own, inner_steps, inner_lr)
    check_inner_loop(theta, support, inner_steps=inner_steps, only=only)
    moved = tuple(name for name in theta if name.startswith(only))
    phis = [theta | {name: p[0] for name, p in own.items()}]
    for k in range(inner_steps):
        start = phis[k] | {name: p[k] for name, p in own.items()}
        rate: Any = {name: r[k] for name, r in rates.items()} or inner_lr
        step = partial(maml.adapt, inner_lr=rate, inner_steps=1, loss=loss, first_order=first_order)
        phis.append(step(model, start, support, only=moved))
    return phis


def _check_given(theta: Params, rates: Params, own: Params, inner_steps: int, inner_lr: object) -> None:
    steps = min((len(p) for p in (rates | own).values()), default=inner_steps)
    begin = "mamlpp.initial_params(model, inner_steps=..., inner_lr=...)"
    refuse(
        {
            f"params have no model.NAME; begin with {begin}": not theta,
            f"inner_steps={inner_steps}, but params have the rates and batch norms of {steps} steps; take that many at most, or "
            f"begin with {begin}": steps < inner_steps,
            f"inner_lr={inner_lr!r}, but params have no rates either; give a number, or begin with {begin}": (
                inner_lr is None and not rates
            ),
            f"inner_lr={inner_lr!r} beside the rates in params, which are the ones that are learned; leave it out": (
                inner_lr is not None and rates
            ),
        }
    )


def adapt(model: nn.Module, params: Params, support: Batch, **settings: Any) -> Params:
    """The last of `trajectory`, which has the arguments and the errors: the model's parameters after `inner_steps` steps.

    Antoniou et al. (2019), section 4. Derived in chapter `learning-the-learning-rate`.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> support = Batch(x=torch.tensor([[1.0]]), y=torch.tensor([[3.0]]))
    >>> params = {"model.weight": torch.tensor([[1.0]]), "rate.weight": torch.tensor([0.25, 0.5])}
    >>> adapt(model, params, support, inner_steps=2)  # half the way to 3, then the rest
    {'weight': tensor([[3.]])}
    """
    return trajectory(model, params, support, **settings)[-1]


@checked
def task_loss(
    model: nn.Module,
    trajectory: Trajectory,
    params: Params,
    task: Task,
    *,
    step_weights: Sequence[float],
    loss: Loss = batch_loss,
) -> Tensor:
    """The multi-step loss, a scalar: the query loss after each step, weighed by `step_weights`, `(K,)`, and added up.

    Args:
        trajectory: `(params, support) -> [phi_0, ..., phi_K]`, a `partial` of this module's function say.
        step_weights: v, one for each step; what weighs 0 is not computed. (0, ..., 0, 1) is `query_loss`.
        loss: taken on the query set, `(model, params, query) -> scalar`.

    Raises:
        ValueError: not as many weights as steps, one that is no finite number, or nothing but zeros.

    Antoniou et al. (2019), section 4. Derived in chapter `learning-the-learning-rate`.
    """
    after = trajectory(params, task.support)[1:]
    if len(step_weights) != len(after) or not any(step_weights):
        raise ValueError(
            f"step_weights={step_weights!r} are {len(step_weights)} numbers for {len(after)} steps; give one a step, not all 0"
        )
    losses = [v * loss(model, phi, task.query) for v, phi in zip(step_weights, after, strict=True) if v]
    return torch.stack(losses).sum()


def annealed_weights(meta_step: int, *, inner_steps: int, annealing_steps: int) -> tuple[float, ...]:
    """The weights of the multi-step loss at `meta_step`, `(inner_steps,)`, which add up to 1.

    All are equal at step 0; then those of all steps but the last fall evenly, down to 3 % of that, the last gains what they lose,
    and from `annealing_steps` on it has all.

    Args:
        meta_step: counts from 0, in the unit of `annealing_steps`. The authors count epochs of 500 meta-steps.

    Raises:
        ValueError: a `meta_step` below 0, or one of the others below 1.

    Antoniou et al. (2019), section 4, in words; the numbers are their code's. Derived in chapter `learning-the-learning-rate`.

    >>> [annealed_weights(step, inner_steps=2, annealing_steps=4) for step in (0, 2, 4)]
    [(0.5, 0.5), (0.25, 0.75), (0.0, 1.0)]
    """
    check_counts(0, meta_step=meta_step)
    check_counts(inner_steps=inner_steps, annealing_steps=annealing_steps)
    falling = max(1 - meta_step / annealing_steps, 0.03) if meta_step < annealing_steps else 0.0
    early = (falling / inner_steps,) * (inner_steps - 1)
    return (*early, 1.0 - sum(early))


@checked
def running_statistics(
    model: nn.Module, trajectory: Trajectory, params: Params, tasks: Task | list[Task]
) -> Params:
    """What every batch norm sees at each step, its `step.LAYER.running_mean` and `step.LAYER.running_var`, `(K, channels)`.

    Step k's are the mean over tasks of two batches', that of the support set which the step looks at, and that of the query set
    after it; as in torch a variance is within its batch, of n - 1 degrees.

    Args:
        trajectory: `(params, support) -> [phi_0, ..., phi_K]`, K >= 1, that of the same model.
        params: as `initial_params` of this module makes them, trained.
        tasks: a stack or a list of training tasks, each with a `Batch` of each kind.

    To use them: `fixed = with_running_statistics(model)`, then `evaluate(fixed, partial(adapt, fixed, ...), params | statistics,
    ...)`. They are no parameters, and torch refuses to differentiate by them: a `task_loss` that is to train with them adds them
    itself.

    Raises:
        ValueError: a model without batch norm, a trajectory without a step, or a malformed or empty stack of tasks.

    Antoniou et al. (2019), section 4. Derived in chapter `learning-the-learning-rate`.
    """
    n_tasks(tasks)
    refuse({"model has no batch norm, of which there would be statistics": not _batch_norms(model)})
    own, of_tasks = part(params, "step."), []
    with torch.no_grad():
        for task in one_by_one(tasks):
            seen = []
            for before, after in pairwise(trajectory(params, task.support)):
                at = before | {name: after[name] for name in own}
                both = _moments(model, at, task.support.x), _moments(model, after, task.query.x)
                seen.append({name: (both[0][name] + both[1][name]) / 2 for name in both[0]})
            refuse({"trajectory takes 0 steps, but statistics are of each step; take 1 at least": not seen})
            of_tasks.append({name: torch.stack([m[name] for m in seen]) for name in seen[0]})
    return {f"step.{name}": torch.stack([m[name] for m in of_tasks]).mean(0) for name in of_tasks[0]}


def _moments(model: nn.Module, params: Params, x: Any) -> Params:
    moments: Params = {}

    def look(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [0, *range(2, inputs[0].dim())]
        moments[f"{name}.running_mean"] = inputs[0].mean(axes)
        moments[f"{name}.running_var"] = inputs[0].var(axes)

    hooks = [
        layer.register_forward_pre_hook(partial(look, name)) for name, layer in _batch_norms(model).items()
    ]
    try:
        predict(model, params, x)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


@checked
def with_running_statistics(model: nn.Module) -> nn.Module:
    """A copy of `model` whose batch norm normalises with `running_mean` and `running_var` from `params`, not the batch's own.

    So a prediction depends on no other query. Without any in `params` they are 0 and 1.

    >>> norm = nn.BatchNorm1d(1, track_running_stats=False)
    >>> statistics = {"running_mean": torch.tensor([3.0]), "running_var": torch.tensor([4.0])}
    >>> predict(with_running_statistics(norm), statistics, torch.tensor([[5.0], [1.0]])).detach().round(decimals=2)
    tensor([[ 1.],
            [-1.]])
    """
    copied = copy.deepcopy(model)
    for layer in _batch_norms(copied).values():
        like = next(copied.parameters())
        layer.running_mean = like.new_zeros(layer.num_features)
        layer.running_var = like.new_ones(layer.num_features)
        layer.eval()
    return copied
