"""The long loop: thousands of meta-steps with progress, checkpoints and exact resume.

`meta_train` repeats what `mamlkit.meta.meta_step` does once, on one device or, in a script that `torchrun` starts and that calls
`torch.distributed.init_process_group`, on many, whose number changes the result by rounding only. Everything that decides the
result, the parameters, the optimiser's state, the generator's state and the step, is in the checkpoint, so a run that was cut off
ends with the bits of one that was not.
Derived in chapters `outer-loop` and `sinusoids`.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map
from tqdm import tqdm

from mamlkit.meta import TaskLoss, meta_gradient
from mamlkit.tasks import Params, Task, n_tasks

Gradient = Callable[[Params, Task], tuple[Tensor, Params]]
_CURE = "the checkpoint is left as it was: lower inner_lr or the meta-optimiser's rate"


class Trained(NamedTuple):
    """What `meta_train` made: `params`, and the meta-loss before each step, `losses` of shape `(meta_steps,)`.

    With `n_seeds` both have the seeds as one more axis: the first of every parameter, the last of `losses`.
    """

    params: Params
    losses: Tensor


def stack_seeds(initial: Sequence[Params]) -> Params:
    """The parameters of several seeds as one: each tensor with the seeds as a leading axis, for `meta_train(n_seeds=...)`.

    Raises:
        ValueError: no seeds.
    """
    if not initial:
        raise ValueError("stack_seeds got 0 seeds; give the parameters of at least one")
    return {name: torch.stack([params[name] for params in initial]) for name in initial[0]}


def meta_train(
    task_loss: TaskLoss,
    params: Params,
    sample_tasks: Callable[[torch.Generator], Task],
    *,
    meta_steps: int,
    meta_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    generator: torch.Generator,
    chunk_size: int | None = None,
    n_seeds: int | None = None,
    compiled: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 120,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Trained:
    """The parameters after `meta_steps` steps of meta-training from `params`, which stay as they are, and the losses on the way.

    Args:
        task_loss: `(params, task) -> scalar`, as for `meta_gradient`.
        params: theta to start from; with `n_seeds`, made by `stack_seeds`.
        sample_tasks: `generator -> a stack of tasks`; with `n_seeds` the stack is shared out, an equal part to each seed, and
            each seed's part once more among the processes of `torchrun`.
        meta_steps: how many steps in all, those of an interrupted run included.
        meta_optimizer: a function of the list of tensors, `partial(torch.optim.Adam, lr=1e-3)` say.
        generator: the only source of randomness.
        chunk_size: as in `meta_gradient`.
        n_seeds: train so many runs at once as one more batch axis; each sees tasks of its own and no other run.
        compiled: run the meta-gradient through `torch.compile`: the same numbers but for rounding, many times faster for
            small networks, after some seconds of compiling. Where there is no compiler, a warning, and the plain path.
        checkpoint: a file to resume from if it is there and to write every `checkpoint_seconds` and at the end.
        config: what the run is, in values that JSON knows; a checkpoint made with another, or with another optimiser's settings,
            is refused.
        progress: show a bar; the environment variable TQDM_DISABLE=1 silences it too.

    Raises:
        ValueError: `meta_steps` below 0, seeds or processes that can't share the tasks, tasks that change their shape, or a
            checkpoint that is damaged or of another run; it is left untouched.
        FloatingPointError: a loss or a parameter that is not finite, with its step; the checkpoint is left as it was.
        OSError: the checkpoint's folder can't be written, said before the first step.
    """
    if meta_steps < 0:
        raise ValueError(f"meta_steps={meta_steps}, but a run has 0 steps or more")
    if n_seeds is not None and any(p.shape[:1] != (n_seeds,) for p in params.values()):
        raise ValueError(
            f"n_seeds={n_seeds}, but not every parameter has a leading axis of {n_seeds}; use stack_seeds"
        )
    rank, n_ranks = (
        (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    )
    if all(p.device.type == "cpu" for p in params.values()):
        _keep_large_blocks()
    params = {name: p.detach().clone() for name, p in params.items()}
    optimizer = meta_optimizer(list(params.values()))
    losses = torch.full((meta_steps, *([n_seeds] if n_seeds else [])), math.nan)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    settings = json.dumps({"config": dict(config or {}), "optimizer": groups}, sort_keys=True, default=str)
    path = None if checkpoint is None else Path(checkpoint)
    done = 0 if path is None else _resume(path, settings, params, optimizer, generator, losses)

    gradient: Gradient = partial(meta_gradient, task_loss, chunk_size=chunk_size)
    if n_seeds is not None:
        gradient = vmap(gradient)
    if compiled:
        gradient = _compile_or_warn(gradient)
    quiet = (
        {} if progress and rank == 0 else {"disable": True}
    )  # not disable=False, which would overrule TQDM_DISABLE
    saved = time.monotonic()
    with (
        tqdm(total=meta_steps, initial=done, unit="step", mininterval=0.5, **quiet) as bar,
        ExitStack() as stack,
    ):
        for step in range(done, meta_steps):
            tasks = sample_tasks(generator)
            if step == done:
                if n_tasks(tasks) % ((n_seeds or 1) * n_ranks):
                    raise ValueError(
                        f"sample_tasks draws {n_tasks(tasks)} tasks, which n_seeds={n_seeds} on {n_ranks} processes can't share; "
                        f"draw a multiple of {(n_seeds or 1) * n_ranks}"
                    )
                shapes = [t.shape for batch in tasks for t in batch]
            elif [t.shape for batch in tasks for t in batch] != shapes:
                raise ValueError(
                    f"the tasks of meta-step {step} have other shapes than the first ones; draw them all alike"
                )
            if n_seeds is not None:
                tasks = tree_map(lambda t: t.unflatten(0, (n_seeds, -1)), tasks)
            if (
                n_ranks > 1
            ):  # every process draws the whole stack and keeps its part, so their number changes no task
                tasks = tree_map(
                    lambda t: t.chunk(n_ranks, dim=0 if n_seeds is None else 1)[rank].contiguous(), tasks
                )
            loss, gradients = gradient(params, tasks)
            if n_ranks > 1:
                loss, gradients = _mean_over_ranks(loss, gradients, n_ranks)
            _check_finite(loss, step)
            for name, p in params.items():
                p.grad = gradients[name]
            optimizer.step()
            losses[step] = loss
            bar.update()
            if compiled and step == done:
                # Nothing that the compiled code depends on changes any more: spare each step the check, a tenth of its time.
                stack.enter_context(torch.compiler.set_stance(skip_guard_eval_unsafe=True))
            if bar.n % 100 == 0:
                bar.set_postfix(loss=f"{losses[max(0, step - 99) : step + 1].mean():.3f}", refresh=False)
            if (
                path is not None
                and rank == 0
                and (step + 1 == meta_steps or time.monotonic() - saved > checkpoint_seconds)
            ):
                _check_finite_params(params, step)
                _save(path, settings, step + 1, params, optimizer, generator, losses)
                saved = time.monotonic()
    _check_finite_params(params, meta_steps - 1)
    for p in params.values():
        p.grad = None
    return Trained(params, losses)


@cache
def _keep_large_blocks() -> None:
    # By default glibc hands every large block back to the system and asks for it again, page by page, in the next step: a fifth
    # of a meta-step of convolutions. Elsewhere (musl, macOS, Windows) there is no such switch and nothing happens.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 2**30)
        mallopt(m_trim_threshold, 2**31 - 1)


def _mean_over_ranks(loss: Tensor, gradients: Params, n_ranks: int) -> tuple[Tensor, Params]:
    # One message for everything: many small ones would each wait for the network.
    tensors = [loss, *gradients.values()]
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat / n_ranks, [t.numel() for t in tensors])
    loss, *rest = (part.view_as(t) for part, t in zip(parts, tensors, strict=True))
    return loss, dict(zip(gradients, rest, strict=True))


def _check_finite(loss: Tensor, step: int) -> None:
    values = loss.tolist()
    values = values if isinstance(values, list) else [values]
    for seed, value in enumerate(values):
        if not math.isfinite(value):
            where = f"meta-step {step}" + (f", seed {seed} of {len(values)}" if len(values) > 1 else "")
            raise FloatingPointError(f"the meta-loss is {value} at {where}; {_CURE}")


def _check_finite_params(params: Params, step: int) -> None:
    # The loss is looked at in every step; the gradient of a finite loss can still overflow, and one step later tells.
    for name, p in params.items():
        if not bool(torch.isfinite(p).all()):
            raise FloatingPointError(f"{name} is not finite after meta-step {step}; {_CURE}")


def _compile_or_warn(gradient: Gradient) -> Gradient:
    compiled = torch.compile(gradient, dynamic=False)
    works = True

    def run(params: Params, tasks: Task) -> tuple[Tensor, Params]:
        nonlocal works
        if works:
            try:
                return compiled(params, tasks)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as why:
                reason = str(why).strip().splitlines()[0]
                warnings.warn(
                    f"torch.compile has no working compiler here, so every step runs plainly: {reason}",
                    stacklevel=3,
                )
                works = False
        return gradient(params, tasks)

    return run


def _save(
    path: Path,
    settings: str,
    step: int,
    params: Params,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    losses: Tensor,
) -> None:
    state = {
        "settings": settings,
        "step": step,
        "params": params,
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "losses": losses[:step].clone(),
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # a reader sees the old checkpoint or the new one, never half of one
    finally:
        draft.unlink(missing_ok=True)


def _resume(
    path: Path,
    settings: str,
    params: Params,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    losses: Tensor,
) -> int:
    """The step to go on from, everything else restored in place; 0 where there is no checkpoint yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    probe.touch()
    probe.unlink()
    if not path.exists():
        return 0
    start_anew = "give another file, or move this one away to start anew; it is left as it is"
    try:
        state = torch.load(path, map_location=next(iter(params.values())).device, weights_only=True)
        saved_settings, step, saved = state["settings"], state["step"], state["params"]
    except Exception as why:
        raise ValueError(f"{path} is no readable checkpoint ({type(why).__name__}); {start_anew}") from why
    if saved_settings != settings:
        raise ValueError(
            f"{path} is of a run with other settings, {saved_settings}, than this one, {settings}; {start_anew}"
        )
    kinds = {name: (tuple(p.shape), p.dtype) for name, p in params.items()}
    if {name: (tuple(p.shape), p.dtype) for name, p in saved.items()} != kinds:
        raise ValueError(f"{path} holds parameters of another network than {kinds}; {start_anew}")
    if step > len(losses):
        raise ValueError(
            f"{path} is {step} steps on, but meta_steps={len(losses)}; ask for at least {step}, or {start_anew}"
        )
    for name, p in params.items():
        p.copy_(saved[name])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"].cpu())
    losses[:step] = state["losses"]
    return int(step)
