"""The long loop: thousands of meta-steps with progress, checkpoints and exact resume.

`meta_train` repeats what `mamlkit.meta.meta_step` does once, on one device or, in a script that `torchrun` starts and that calls
`torch.distributed.init_process_group`, on many, whose number changes the result by rounding only. Everything that decides the
result, the parameters, the optimiser's state, the generator's state and the step, is in the checkpoint, so a run that was cut off
ends with the bits of one that was not.
Derived in chapters `outer-loop` and `sinusoids`; at full scale in `gpu-few-shot` and `scaling`.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
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
_LOOK_EVERY = {"cpu": 1}
"""Meta-steps between two looks at the losses, elsewhere 100: on a GPU each look would make it wait for the host."""
_WARM_UP = 3
"""Meta-steps that run plainly before a GPU's step is recorded."""


_IN_CHECKPOINT = (
    *("settings", "step", "seconds", "params", "optimizer", "generator"),
    *("losses", "validation", "best", "stopped"),
)


class Trained(NamedTuple):
    """What `meta_train` made; with `n_seeds` every tensor has the seeds as one more axis.

    `params`: after the last step; NaN for a seed that was stopped. `losses`: the meta-loss before each step, `(meta_steps,)`;
    with seeds `(meta_steps, n_seeds)`. `validation`: what `validate` said, `(meta_steps // validate_every,)`, likewise.
    `best`: the parameters when `validate` was largest; `params` where there was no validation. `seconds`: the time spent, that of
    earlier parts of a resumed run included.
    """

    params: Params
    losses: Tensor
    validation: Tensor
    best: Params
    seconds: float


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
    validate: Callable[[Params], Tensor] | None = None,
    validate_every: int = 1000,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 120,
    max_seconds: float = math.inf,
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
        n_seeds: train so many runs at once as one more batch axis; each sees tasks of its own and no other run. One whose loss
            or parameters are no longer finite is stopped, with a warning, and the others go on.
        compiled: run the meta-gradient through `torch.compile`: the same numbers but for rounding, many times faster for
            small networks, after some seconds of compiling. On a GPU the whole step, sampling and optimiser included, is then
            also recorded once as a CUDA graph and replayed. Where there is no compiler, a warning, and the plain path.
        validate: `params -> accuracy`, or whatever is better when larger, a scalar, `(n_seeds,)` with seeds; called every
            `validate_every` steps, shown in the bar; `Trained.best` are the parameters where it was largest, seed by seed.
            It must draw nothing from `generator`.
        checkpoint: a file to resume from if it is there and to write every `checkpoint_seconds` and at the end.
        max_seconds: stop after so long, with the checkpoint written, which must have been asked for.
        config: what the run is, in values that JSON knows; a checkpoint made with another, or with another optimiser's settings,
            is refused.
        progress: show a bar; the environment variable TQDM_DISABLE=1 silences it too.

    Raises:
        ValueError: `meta_steps` below 0, `validate_every` below 1, `max_seconds` without a checkpoint, seeds or processes
            that can't share the tasks, tasks that change their shape, or a checkpoint that is damaged or of another run; it
            is left untouched.
        FloatingPointError: a loss or a parameter that is not finite, with its step, and no seed left to go on with; the
            checkpoint is left as it was.
        TimeoutError: `max_seconds` are over; the same call goes on from the checkpoint.
        OSError: the checkpoint can't be written, a folder that can't be said before the first step; the old one is left.
    """
    if meta_steps < 0:
        raise ValueError(f"meta_steps={meta_steps}, but a run has 0 steps or more")
    if validate_every < 1:
        raise ValueError(f"validate_every={validate_every}, but there is at least 1 step between two looks")
    if checkpoint is None and max_seconds < math.inf:
        raise ValueError(
            f"max_seconds={max_seconds} without a checkpoint would lose the run; name a checkpoint"
        )
    if n_seeds is not None and any(p.shape[:1] != (n_seeds,) for p in params.values()):
        raise ValueError(
            f"n_seeds={n_seeds}, but not every parameter has a leading axis of {n_seeds}; use stack_seeds"
        )
    rank, n_ranks = (
        (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    )
    device = next(iter(params.values())).device
    if device.type == "cpu":
        _keep_large_blocks()
    params = {name: p.detach().clone() for name, p in params.items()}
    optimizer = meta_optimizer(list(params.values()))
    losses = torch.full((meta_steps, *([n_seeds] if n_seeds else [])), math.nan, device=device)
    run = _Run(params, optimizer, generator, losses, {name: p.clone() for name, p in params.items()})
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    about: dict[str, Any] = {"config": dict(config or {}), "optimizer": groups}
    if validate is not None:
        about["validate_every"] = validate_every
    settings = json.dumps(about, sort_keys=True, default=str)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        _resume(run, path, settings)

    gradient: Gradient = partial(meta_gradient, task_loss, chunk_size=chunk_size)
    if n_seeds is not None:
        gradient = vmap(gradient)
    if compiled:
        gradient = _compile_or_warn(gradient)
    share = _share_of_tasks(n_seeds, rank, n_ranks)

    def one_step() -> Tensor:
        loss, gradients = gradient(params, share(sample_tasks(generator)))
        if n_ranks > 1:
            loss, gradients = _mean_over_ranks(loss, gradients, n_ranks)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
        return loss

    step: Callable[[], Tensor] = one_step
    quiet = (
        {} if progress and rank == 0 else {"disable": True}
    )  # not disable=False, which would overrule TQDM_DISABLE
    shown: dict[str, str] = {}
    look_every, looked_at, first = _LOOK_EVERY.get(device.type, 100), run.step, run.step
    began = saved = time.monotonic()
    before = run.seconds
    with (
        tqdm(total=meta_steps, initial=first, unit="step", mininterval=0.5, **quiet) as bar,
        ExitStack() as stack,
    ):
        while run.step < meta_steps:
            losses[run.step] = step()
            run.step += 1
            bar.update()
            if compiled and run.step == first + 1 and device.type == "cpu":
                # Nothing that the compiled code depends on changes any more: spare each step the check, a tenth of its time.
                stack.enter_context(torch.compiler.set_stance(skip_guard_eval_unsafe=True))
            if compiled and run.step == first + _WARM_UP and device.type == "cuda" and n_ranks == 1:
                step = _recorded(one_step, optimizer, generator)
            validating = validate is not None and run.step % validate_every == 0
            if run.step % look_every and not validating and run.step < meta_steps:
                continue
            now = time.monotonic()
            last, over = run.step == meta_steps, now - began > max_seconds
            saving = last or over or (path is not None and now - saved > checkpoint_seconds)
            run.seconds = before + now - began
            run.stop_what_is_not_finite(looked_at, params_too=saving)
            looked_at = run.step
            if validate is not None and validating:
                shown["accuracy"] = run.keep_the_best(validate(params))
            if run.step % 100 == 0:
                shown["loss"] = run.recent_loss()
                bar.set_postfix(shown, refresh=False)
            if saving:
                if path is not None and rank == 0:
                    _save(run, path, settings)
                saved = time.monotonic()
            if over and not last:
                raise TimeoutError(
                    f"max_seconds={max_seconds:.0f} are over at meta-step {run.step} of {meta_steps}; "
                    f"{path} holds it, so the same call goes on from there"
                )
    for p in params.values():
        p.grad = None
    validation = torch.stack(run.validation) if run.validation else losses.new_zeros((0, *losses.shape[1:]))
    return Trained(
        params, losses.cpu(), validation.cpu(), run.best if run.validation else params, run.seconds
    )


@dataclass
class _Run:
    """All that decides how a run ends: what a checkpoint holds."""

    params: Params
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    losses: Tensor
    best: Params
    validation: list[Tensor] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    stopped: set[int] = field(default_factory=set)

    def recent_loss(self) -> str:
        return f"{self.losses[max(0, self.step - 100) : self.step].nanmean():.3f}"

    def keep_the_best(self, value: Tensor) -> str:
        value = torch.as_tensor(value, dtype=self.losses.dtype, device=self.losses.device)
        if value.shape != self.losses.shape[1:]:
            raise ValueError(
                f"validate gave the shape {tuple(value.shape)}, but a run needs {tuple(self.losses.shape[1:])}: a number a seed"
            )
        self.validation.append(value)
        so_far = torch.stack(self.validation).nan_to_num(-math.inf)
        newest_is_best = so_far[-1] > so_far[:-1].amax(0) if len(so_far) > 1 else value.isfinite()
        for name, p in self.params.items():
            better = newest_is_best.view(-1, *[1] * (p.dim() - 1)) if value.dim() else newest_is_best
            self.best[name] = torch.where(better, p, self.best[name])
        return f"{value.nanmean():.3f}"

    def stop_what_is_not_finite(self, since: int, *, params_too: bool) -> None:
        # A run of one seed ends with an error; of several seeds, those whose losses or parameters are not finite are stopped.
        new = self.losses[since : self.step]
        if not params_too and bool(new.isfinite().all()):
            return
        n = self.losses.shape[1] if self.losses.dim() > 1 else 1
        problems: dict[int, str] = {}
        for seed, values in enumerate(new.reshape(-1, n).T.tolist()):
            for step, value in enumerate(values, since):
                if not math.isfinite(value):
                    problems.setdefault(seed, f"the meta-loss is {value} at meta-step {step}")
        if params_too:
            # The losses are looked at all the time; the gradient of a finite loss can still overflow, one step later tells.
            for name, p in self.params.items():
                for seed, finite in enumerate(p.isfinite().reshape(n, -1).all(1).tolist()):
                    if not finite:
                        problems.setdefault(seed, f"{name} is not finite after meta-step {self.step - 1}")
        for seed in sorted(problems.keys() - self.stopped):
            self.stopped.add(seed)
            which = problems[seed] + (f", seed {seed} of {n}" if n > 1 else "")
            if len(self.stopped) == n:
                raise FloatingPointError(
                    f"{which}; the checkpoint is left as it was: lower inner_lr or the meta-optimiser's rate"
                )
            warnings.warn(
                f"{which}: it is stopped, its parameters are NaN, the other seeds go on", stacklevel=3
            )
            for p in self.params.values():
                p[seed] = math.nan


def _share_of_tasks(n_seeds: int | None, rank: int, n_ranks: int) -> Callable[[Task], Task]:
    shapes: list[torch.Size] = []

    def share(tasks: Task) -> Task:
        new = [t.shape for batch in tasks for t in batch]
        shapes[:] = shapes or new
        if new != shapes:
            raise ValueError(
                f"the tasks have other shapes, {new}, than the first ones, {shapes}; draw them all alike"
            )
        parts = (n_seeds or 1) * n_ranks
        if n_tasks(tasks) % parts:
            raise ValueError(
                f"sample_tasks draws {n_tasks(tasks)} tasks, which n_seeds={n_seeds} on {n_ranks} processes can't share; "
                f"draw a multiple of {parts}"
            )
        if n_seeds is not None:
            tasks = tree_map(lambda t: t.unflatten(0, (n_seeds, -1)), tasks)
        if n_ranks == 1:
            return tasks
        # Every process draws the whole stack and keeps its part, so their number changes no task.
        axis = 0 if n_seeds is None else 1
        mine: Task = tree_map(lambda t: t.chunk(n_ranks, axis)[rank].contiguous(), tasks)
        return mine

    return share


def _recorded(
    step: Callable[[], Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> Callable[[], Tensor]:
    # A CUDA graph: the kernels of one step, sent to the GPU as a whole, with no Python between them.
    for group in optimizer.param_groups:
        group["capturable"] = True
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(generator.device)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


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


def _save(run: _Run, path: Path, settings: str) -> None:
    state = {
        "settings": settings,
        "step": run.step,
        "params": run.params,
        "optimizer": run.optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "losses": run.losses[: run.step].clone(),
        "best": run.best,
        "validation": run.validation,
        "stopped": sorted(run.stopped),
        "seconds": run.seconds,
    }
    memory = io.BytesIO()
    torch.save(state, memory)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)  # a reader sees the old checkpoint or the new one, never half of one
    except OSError as why:
        raise OSError(
            why.errno,
            f"the checkpoint of meta-step {run.step} can't be written ({why.strerror}), the one before is left as it was; "
            f"make room or give another folder, and start the run again",
            str(path),
        ) from why
    finally:
        draft.unlink(missing_ok=True)


def _resume(run: _Run, path: Path, settings: str) -> None:
    # Everything in place, so that the optimiser goes on holding the same tensors; nothing where there is no checkpoint yet.
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as why:
        raise OSError(
            why.errno, f"no checkpoint can be written here ({why.strerror}); give another folder", str(path)
        ) from why
    if not path.exists():
        return
    start_anew = "give another file, or move this one away to start anew; it is left as it is"
    try:
        state = torch.load(path, map_location=run.losses.device, weights_only=True)
        saved = {name: state[name] for name in _IN_CHECKPOINT}
    except Exception as why:
        raise ValueError(f"{path} is no readable checkpoint ({type(why).__name__}); {start_anew}") from why
    if saved["settings"] != settings:
        raise ValueError(
            f"{path} is of a run with other settings, {saved['settings']}, than this one, {settings}; {start_anew}"
        )
    kinds = {name: (tuple(p.shape), p.dtype) for name, p in run.params.items()}
    if {name: (tuple(p.shape), p.dtype) for name, p in saved["params"].items()} != kinds:
        raise ValueError(f"{path} holds parameters of another network than {kinds}; {start_anew}")
    if saved["step"] > len(run.losses):
        raise ValueError(
            f"{path} is {saved['step']} steps on, but meta_steps={len(run.losses)}; "
            f"ask for at least {saved['step']}, or {start_anew}"
        )
    run.step = int(saved["step"])
    run.losses[: run.step] = saved["losses"]
    run.optimizer.load_state_dict(saved["optimizer"])
    run.generator.set_state(saved["generator"].cpu())
    run.validation, run.stopped, run.seconds = (
        list(saved["validation"]),
        set(saved["stopped"]),
        saved["seconds"],
    )
    for name, p in run.params.items():
        p.copy_(saved["params"][name])
        run.best[name].copy_(saved["best"][name])
