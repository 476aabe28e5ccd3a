"""The long loop: thousands of meta-steps with progress, checkpoints and exact resume.

`meta_train` repeats what `mamlkit.meta.meta_step` does once, on one device or, in a script that `torchrun` starts and that calls
`torch.distributed.init_process_group`, on many, whose number changes the result by rounding only. Everything that decides the
result, the parameters, the optimiser's state, the generator's state and the step, is in the checkpoint, so a run that was cut off
ends with the bits of one that was not, if nothing but that generator and torch's own is drawn from: a task loss with noise takes
it, too.
Derived in chapters `outer-loop` and `sinusoids`; at full scale in `gpu-few-shot` and `scaling`.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from mamlkit import checkpoints
from mamlkit.calls import refuse
from mamlkit.checkpoints import Run
from mamlkit.compiling import Gradient, compile_or_warn, keep_large_blocks, sped_up
from mamlkit.meta import TaskLoss, all_zero, check_optimizer, check_reached, meta_gradient
from mamlkit.tasks import Params, Task, check_counts, n_tasks, one_by_one

_LOOK_EVERY = {"cpu": 1}
"""Meta-steps between two looks at the losses, elsewhere 100: on a GPU each look would make it wait for the host."""


class Trained(NamedTuple):
    """What `meta_train` made; with `n_seeds` every tensor has the seeds as one more axis.

    `params`: after the last step; NaN for a seed that was stopped. `losses`: the meta-loss before each step, `(meta_steps,)`;
    with seeds `(meta_steps, n_seeds)`. `validation`: what `validate` said, `(meta_steps // validate_every,)`, likewise.
    `best`: the parameters when `validate` was largest; `params` where it never gave a finite number. `seconds`: the time spent,
    that of earlier parts of a resumed run included.
    """

    params: Params
    losses: Tensor
    validation: Tensor
    best: Params
    seconds: float


def stack_seeds(initial: Sequence[Params]) -> Params:
    """The parameters of several seeds as one: each tensor with the seeds as a leading axis, for `meta_train(n_seeds=...)`.

    Raises:
        ValueError: no seeds, or one whose parameters have other names, shapes or types than the first's.
    """
    listed = isinstance(initial, Sequence) and all(isinstance(params, Mapping) for params in initial)
    seeds = initial if listed else ()
    kinds = [{name: (tuple(p.shape), p.dtype, p.device) for name, p in params.items()} for params in seeds]
    others = [f"seed {i} has the parameters {kind}" for i, kind in enumerate(kinds) if kind != kinds[0]]
    refuse(
        {
            "stack_seeds takes a list with the parameters of each seed, [initial_params(...), ...]": not listed,
            "stack_seeds got 0 seeds; give the parameters of at least one": not kinds,
            f"{', '.join(others[:1])}, but seed 0 has {dict(*kinds[:1])}; make them by the same function": others,
        }
    )
    return {name: torch.stack([params[name] for params in initial]) for name in initial[0]}


def meta_train(
    task_loss: TaskLoss,
    params: Params,
    sample_tasks: Callable[[torch.Generator], Task | list[Task]],
    *,
    meta_steps: int,
    meta_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    generator: torch.Generator,
    chunk_size: int | None = None,
    n_seeds: int | None = None,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
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
        sample_tasks: `generator -> a stack of tasks`, or a list of tasks of unequal sizes; with `n_seeds` they are shared out, an
            equal part to each seed, and each seed's part once more among the processes of `torchrun`.
        meta_steps: how many steps in all, those of an interrupted run included.
        meta_optimizer: a function of the list of tensors, `partial(torch.optim.Adam, lr=1e-3)` say. Tensors that the optimiser
            it makes does not hold stay as they are.
        generator: what the tasks are drawn from. Dropout draws from torch's own, whose state is in the checkpoint too.
        chunk_size: as in `meta_gradient`.
        n_seeds: train so many runs at once as one more batch axis, one after the other where `chunk_size` is 1 or the tasks come
            as a list; each sees tasks of its own and no other run. One whose loss or parameters are no longer finite is
            stopped, with a warning, and the others go on. An optimiser whose rule looks at a whole tensor is refused.
        clip: the largest norm that the meta-gradient may have, over all parameters and for each seed by itself.
        schedule: `step -> factor` on the rates of `meta_optimizer`, from step 0 on; a function of the step alone, so that a
            resumed run takes the same.
        compiled: run the meta-gradient through `torch.compile`: the same numbers but for rounding, many times faster for
            small networks, after some seconds, for long inner loops minutes, of compiling. A compiler that crashes takes the
            process along. On a GPU the whole step, sampling and optimiser included, is then
            also recorded once as a CUDA graph and replayed. The first meta-gradient is computed plainly too; where there is no
            compiler, or one whose numbers are off by more than 2 % in float32, 0.01 % in float64 (the fourth root of the type's
            rounding) or tenfold in anything coarser, a warning, and the plain path from that very step on.
        validate: `params -> accuracy`, or whatever is better when larger, a scalar, `(n_seeds,)` with seeds; called every
            `validate_every` steps, shown in the bar; `Trained.best` are the parameters where it was largest, seed by seed.
            It must draw nothing from `generator` and leave `params` as they are. What is not finite is never the best.
        checkpoint: a file to resume from if it is there and to write every `checkpoint_seconds` and at the end.
        max_seconds: stop after so long, with the checkpoint written, which must have been asked for; of several processes as
            soon as it is over for one, in the same step for all. When it is over from the start, one step is made.
        config: what the run is, in values that JSON knows. A checkpoint made with another `config`, with another optimiser's
            settings or with other settings in `task_loss` (those in a `partial` or a closure) is refused; but `first_order` and
            `step_weights` may change where steps are left, first order first say (Antoniou et al. 2019). The seed of
            `generator` is compared too; `params` and `sample_tasks` are not: put into `config` what tells them apart.
        progress: show a bar; the environment variable TQDM_DISABLE=1 silences it too.

    Raises:
        ValueError: an argument that can't be used, by its name; an optimiser that holds none of the tensors or mixes the seeds; a
            first step that moves nothing; seeds or processes that can't share the tasks, or processes that start differently;
            tasks that change their shape or run out; a `validate` that changes what it must not; a checkpoint that is damaged or
            of another run, which is left untouched.
        FloatingPointError: a loss or a parameter that is not finite, with its step, and no seed left to go on with; the
            checkpoint is left as it was.
        TimeoutError: `max_seconds` are over; the same call goes on from the checkpoint.
        OSError: the checkpoint can't be written, a folder that can't be said before the first step; the old one is left.
    """
    _check_call(locals())
    rank, n_ranks = _which_process()
    shape = (meta_steps, *([n_seeds] if n_seeds else []))
    run = _at_the_start(params, meta_optimizer, generator, shape, scheduled=schedule is not None)
    path, looks_every = None if checkpoint is None else Path(checkpoint), validate_every if validate else None
    recipe = checkpoints.settings(
        config,
        run.optimizer,
        looks_every,
        task_loss,
        {"clip": clip, "schedule": schedule, "generator.initial_seed": generator.initial_seed()},
    )
    if path is not None:
        checkpoints.resume(run, path, recipe, looks_every)
    if n_ranks > 1:
        _refuse_other_starts(run, n_ranks)
    if run.losses.device.type == "cpu":
        keep_large_blocks()
    clock = _Clock(run.seconds, max_seconds, math.inf if path is None else checkpoint_seconds)
    gradient = _gradient_of(task_loss, chunk_size, n_seeds, compiled)
    draw = partial(
        _drawn, run, sample_tasks, _share_of_tasks(run.losses.device, n_seeds, rank, n_ranks, compiled)
    )
    step: Callable[[], Tensor] = partial(_one_step, run, gradient, draw, clock, clip, schedule, n_ranks)
    watch = _Watch(run, clock, validate, validate_every, path, recipe, rank, n_ranks)

    with _bar(run, hidden=not progress or rank > 0) as bar, ExitStack() as stack:
        while run.step < meta_steps:
            run.losses[run.step] = step()
            run.step += 1
            bar.update()
            if run.step == 1:
                _refuse_to_stand_still(run, schedule)
            if compiled:
                step = sped_up(
                    step, run, run.step - watch.first, n_ranks, stack, scheduled=schedule is not None
                )
            if watch.is_time():
                watch.look(bar)
    return _trained(run)


def read_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> Trained:
    """What `meta_train` has written to a checkpoint so far; nothing in the file is run.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or no checkpoint.
    """
    saved = checkpoints.read(Path(path), torch.device(device))
    losses = saved["losses"]
    return _as_trained(saved["params"], losses, saved["validation"], saved["best"], saved["seconds"])


_FUNCTION = ", but it must be a function: "
_KINDS: dict[str, tuple[Any, str]] = {
    "task_loss": (Callable, _FUNCTION + "(params, task) -> scalar"),
    "sample_tasks": (Callable, _FUNCTION + "generator -> a stack of tasks"),
    "meta_optimizer": (
        Callable,
        _FUNCTION + "a list of tensors -> an optimiser, partial(torch.optim.Adam, lr=1e-3) say",
    ),
    "validate": (Callable | None, _FUNCTION + "params -> what is better when larger"),
    "schedule": (Callable | None, _FUNCTION + "step -> a factor on the rates"),
    "generator": (torch.Generator, "; use torch.Generator().manual_seed(0), tasks are drawn from it"),
    "checkpoint": (str | os.PathLike | None, ", but it must be the name of a file"),
}
"""What an argument of `meta_train` must be, and how the sentence goes on that says what it is."""


def _check_call(given: dict[str, Any]) -> None:
    for name, (kind, words) in _KINDS.items():
        if not isinstance(given[name], kind):
            raise ValueError(f"{name} is a {type(given[name]).__name__}{words}")
    check_counts(0, meta_steps=given["meta_steps"])
    for name in ("validate_every", "chunk_size", "n_seeds"):
        if given[name] is not None or name == "validate_every":
            check_counts(**{name: given[name]})
    params, n_seeds, to_save, to_stop = (
        given[name] for name in ("params", "n_seeds", "checkpoint_seconds", "max_seconds")
    )
    tensors = list(params.values()) if isinstance(params, Mapping) else []
    floating = [p for p in tensors if isinstance(p, Tensor) and p.is_floating_point()]
    devices = {str(p.device) for p in floating}
    refuse(
        {
            "params must be a dictionary of floating-point tensors, at least one, by name; use initial_params(model)": (
                not tensors or len(floating) < len(tensors)
            ),
            f"params are on {', '.join(sorted(devices))}, but they must be on one device that holds numbers": (
                len(devices) > 1 or "meta" in devices
            ),
            f"n_seeds={n_seeds}, but not every parameter has a leading axis of {n_seeds}; use stack_seeds": (
                n_seeds and any(p.shape[:1] != (n_seeds,) for p in floating)
            ),
            f"checkpoint_seconds={to_save!r}, but 0 already saves after every step, and math.inf at the end only": (
                not isinstance(to_save, Real) or math.isnan(to_save) or to_save < 0
            ),
            f"max_seconds={to_stop!r}, but it must be a number of seconds; math.inf is never": (
                not isinstance(to_stop, Real) or math.isnan(to_stop)
            ),
            f"clip={given['clip']!r}, but it must be a number above 0, the largest norm of a meta-gradient": (
                given["clip"] is not None
                and not (isinstance(given["clip"], int | float) and given["clip"] > 0)
            ),
            f"max_seconds={to_stop} without a checkpoint would lose the run; name a checkpoint": (
                given["checkpoint"] is None and to_stop != math.inf
            ),
        }
    )


def _which_process() -> tuple[int, int]:
    several = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if several else (0, 1)


def _at_the_start(
    params: Params,
    meta_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    generator: torch.Generator,
    shape: tuple[int, ...],
    *,
    scheduled: bool,
) -> Run:
    params = {name: p.detach().clone() for name, p in params.items()}
    optimizer = meta_optimizer(list(params.values()))
    check_optimizer(optimizer, params)
    for group in optimizer.param_groups if scheduled else ():
        group.setdefault("initial_lr", group["lr"])  # torch's own name for what a schedule starts from
    losses = torch.full(shape, math.nan, device=next(iter(params.values())).device)
    run = Run(params, optimizer, generator, losses, {name: p.clone() for name, p in params.items()})
    if run.n_seeds > 1:
        _refuse_mixed_seeds(run)
    return run


def _refuse_mixed_seeds(run: Run) -> None:
    # What happens to the other seeds must not change what a step makes of the first one.
    firsts = []
    for scale in (1.0, 100.0):
        optimizer, params = checkpoints.trial(run)
        for p in params.values():
            p.grad = torch.linspace(0.1, 1, p.numel(), device=p.device).view_as(p).to(p.dtype)
            p.grad[1:] *= scale
        type(optimizer).step(optimizer)
        firsts.append([p[0] for p in params.values()])
    if not all(torch.equal(a, b) for a, b in zip(*firsts, strict=True)):
        raise ValueError(
            f"meta_optimizer is {type(run.optimizer).__name__}, whose rule looks at a whole tensor, so the {run.n_seeds} seeds "
            f"would disturb each other; train them one by one, or take a rule for single numbers, Adam or SGD say"
        )


def _refuse_to_stand_still(run: Run, schedule: object) -> None:
    warming_up = schedule is not None or any("initial_lr" in group for group in run.optimizer.param_groups)
    if not warming_up and all(torch.equal(p, run.best[name]) for name, p in run.params.items()):
        flat = all_zero({name: p.grad for name, p in run.params.items() if p.grad is not None}, wait=True)
        raise ValueError(
            "the first meta-step moves none of params: "
            + ("the meta-gradient is exactly 0 there; start somewhere else" if flat else
               "the meta-optimiser's rate is 0, or too small for the type of params")
        )  # fmt: skip


def _gradient_of(
    task_loss: TaskLoss, chunk_size: int | None, n_seeds: int | None, compiled: bool
) -> Gradient:
    gradient: Gradient = partial(meta_gradient, task_loss, chunk_size=chunk_size)
    if n_seeds is not None:
        gradient = partial(_seed_by_seed, gradient, chunk_size == 1)
    return compile_or_warn(gradient) if compiled else gradient


def _seed_by_seed(gradient: Gradient, alone: bool, params: Params, tasks: Any) -> tuple[Tensor, Params]:
    if not (alone or isinstance(tasks, list)):
        together: tuple[Tensor, Params] = vmap(gradient, randomness="different")(params, tasks)
        return together
    each = [
        gradient({name: p[seed] for name, p in params.items()}, part)
        for seed, part in enumerate(one_by_one(tasks))
    ]
    stacked: tuple[Tensor, Params] = tree_map(lambda *of_seeds: torch.stack(of_seeds), *each)
    return stacked


def _drawn(run: Run, sample_tasks: Callable[[torch.Generator], Any], share: Callable[[Any], Any]) -> Any:
    try:
        return share(sample_tasks(run.generator))
    except StopIteration:
        raise ValueError(
            f"sample_tasks ran out at meta-step {run.step} of {len(run.losses)}; it must give tasks anew each time it is called: "
            f"cycle the loader"
        ) from None


def _one_step(
    run: Run,
    gradient: Gradient,
    draw: Callable[[], Any],
    clock: _Clock,
    clip: float | None,
    schedule: Callable[[int], float] | None,
    n_ranks: int,
) -> Tensor:
    tasks = draw()
    loss, gradients = gradient(run.params, tasks)
    if run.step == 0:
        check_reached(lambda at: gradient(at, tasks)[1], run.params, gradients, wait=True)
    if n_ranks > 1:
        # The clocks ride on the message: a process that left or saved at a step of its own would leave the others waiting.
        loss, gradients = _mean_over_ranks(loss, gradients | {"": clock.asks(loss)}, n_ranks)
        clock.asked = gradients.pop("")
    if clip is not None:
        gradients = _clipped(gradients, clip, per_seed=loss.dim() > 0)
    for name, p in run.params.items():
        p.grad = gradients[name]
    if schedule is not None:
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(run.step)
    run.optimizer.step()
    return loss


def _clipped(gradients: Params, clip: float, *, per_seed: bool) -> Params:
    axes = 1 if per_seed else 0
    squares = [g.square().flatten(axes).sum(-1) for g in gradients.values()]
    factor = (clip / torch.stack(squares).sum(0).sqrt()).clamp(max=1.0)
    return {
        name: g * factor.view(-1, *[1] * (g.dim() - 1)) if per_seed else g * factor
        for name, g in gradients.items()
    }


@dataclass
class _Watch:
    """Looks at a run from time to time: is it finite, is it better, must it be saved, is its time over?"""

    run: Run
    clock: _Clock
    validate: Callable[[Params], Tensor] | None
    validate_every: int
    path: Path | None
    recipe: str
    rank: int
    n_ranks: int
    shown: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = self.looked_at = self.run.step

    def _is_last(self) -> bool:
        return self.run.step == len(self.run.losses)

    def _validates(self) -> bool:
        return self.validate is not None and self.run.step % self.validate_every == 0

    def is_time(self) -> bool:
        """Whether to look after this step: a look makes a GPU wait."""
        every = _LOOK_EVERY.get(self.run.losses.device.type, 100)
        return self._is_last() or self._validates() or self.run.step % every == 0

    def look(self, bar: tqdm[Any]) -> None:
        """Stop what is not finite, validate, show, save."""
        run, last = self.run, self._is_last()
        over, due = self.clock.says()
        saving = last or over or due
        run.seconds = self.clock.seconds()
        _stop_what_is_not_finite(run, self.looked_at, params_too=saving)
        self.looked_at = run.step
        if self.validate is not None and self._validates():
            watched = run.step - self.first <= self.validate_every
            self.shown["accuracy"] = _keep_the_best(run, self.validate, watched=watched)
        if run.step % 100 == 0:
            self.shown["loss"] = f"{run.losses[max(0, run.step - 100) : run.step].nanmean():.3f}"
            bar.set_postfix(self.shown, refresh=False)
        if saving:
            self._save(leaving=last or over)
        if over and not last:
            raise TimeoutError(
                f"max_seconds={self.clock.max_seconds:.0f} are over at meta-step {run.step} of {len(run.losses)}; "
                f"{self.path} holds it, so the same call goes on from there"
            )

    def _save(self, *, leaving: bool) -> None:
        if self.path is not None and self.rank == 0:
            checkpoints.save(self.run, self.path, self.recipe)
        self.clock.saved_now()
        if self.n_ranks > 1 and leaving:
            dist.all_reduce(torch.zeros(1, device=self.run.losses.device))  # nobody leaves before it is saved


class _Clock:
    """When it is time to stop and to save."""

    def __init__(self, before: float, max_seconds: float, save_seconds: float) -> None:
        self.before, self.max_seconds, self.save_seconds = before, max_seconds, save_seconds
        self.began = self.saved = time.monotonic()
        self.asked: Tensor | None = None
        """What the processes asked for in the last step: positive where any of them did."""

    def _now(self) -> tuple[bool, bool]:
        now = time.monotonic()
        return now - self.began > self.max_seconds, now - self.saved > self.save_seconds

    def says(self) -> tuple[bool, bool]:
        """Whether the time is over, and whether a checkpoint is due: in the same step for all processes."""
        if self.asked is None:
            return self._now()
        over, due = (self.asked > 0).tolist()
        return over, due

    def asks(self, like: Tensor) -> Tensor:
        return torch.stack(
            [like.new_full((), float(wish)) for wish in self._now()]
        )  # no copy from the host: no wait

    def saved_now(self) -> None:
        self.saved = time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


def _bar(run: Run, *, hidden: bool) -> tqdm[Any]:
    quiet = {"disable": True} if hidden else {}  # not disable=False, which would overrule TQDM_DISABLE
    return tqdm(total=len(run.losses), initial=run.step, unit="step", mininterval=0.5, **quiet)


def _trained(run: Run) -> Trained:
    for p in run.params.values():
        p.grad = None
    return _as_trained(run.params, run.losses, run.validation, run.best, run.seconds)


def _as_trained(
    params: Params, losses: Tensor, values: list[Tensor], best: Params, seconds: float
) -> Trained:
    validation = torch.stack(values) if values else losses.new_zeros((0, *losses.shape[1:]))
    judged = validation.isfinite().any(0)
    best = {name: _where_seed(judged, best[name], p) for name, p in params.items()}
    return Trained(params, losses.cpu(), validation.cpu(), best, seconds)


def _where_seed(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (a.dim() - 1)) if which.dim() else which, a, b)


def _keep_the_best(run: Run, validate: Callable[[Params], Tensor], *, watched: bool) -> str:
    before = [t.clone() for t in (*run.params.values(), run.generator.get_state())] if watched else []
    value = validate(run.params)
    after = (*run.params.values(), run.generator.get_state()) if watched else ()
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)):
        raise ValueError(
            "validate changed params or drew from generator, so the run would not be the one without it; "
            "let it work on copies, with a generator of its own"
        )
    try:
        value = torch.as_tensor(value, dtype=run.losses.dtype, device=run.losses.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"validate gave a {type(value).__name__}, but a run needs a number a seed") from None
    if value.shape != run.losses.shape[1:]:
        raise ValueError(
            f"validate gave the shape {tuple(value.shape)}, but a run needs {tuple(run.losses.shape[1:])}: a number a seed"
        )
    run.validation.append(value)
    for seed, number in enumerate(value.reshape(-1).tolist()):
        if not math.isfinite(number) and seed not in run.stopped:
            which = f" for seed {seed} of {run.n_seeds}" if run.n_seeds > 1 else ""
            warnings.warn(f"validate gave {number}{which}, which is never the best", stacklevel=3)
    values = torch.stack(run.validation)
    values = torch.where(values.isfinite(), values, -math.inf)
    newest_is_best = values[-1] > values[:-1].amax(0) if len(values) > 1 else value.isfinite()
    for name, p in run.params.items():
        run.best[name] = _where_seed(newest_is_best, p, run.best[name])
    return f"{value.nanmean():.3f}"


def _stop_what_is_not_finite(run: Run, since: int, *, params_too: bool) -> None:
    # A run of one seed ends with an error; of several seeds, those whose losses or parameters are not finite are stopped.
    new = run.losses[since : run.step]
    if not params_too and bool(new.isfinite().all()):
        return
    n = run.n_seeds
    for seed, (problem, cause) in _not_finite(run, since).items():
        if seed in run.stopped:
            continue
        run.stopped.add(seed)
        which = problem + (f", seed {seed} of {n}" if n > 1 else "")
        if len(run.stopped) == n:
            raise FloatingPointError(f"{which}; the checkpoint is left as it was. {cause}")
        words = f"{which}: it is stopped, its parameters are NaN, the other seeds go on. {cause}"
        warnings.warn(words, stacklevel=4)
        for p in run.params.values():
            p[seed] = math.nan


def _not_finite(run: Run, since: int) -> dict[int, tuple[str, str]]:
    """For each seed of which anything is not finite: what and since when, and the likely causes."""
    n, found = run.n_seeds, {}
    for seed, losses in enumerate(run.losses[: run.step].reshape(-1, n).T.tolist()):
        names = [name for name, p in run.params.items() if not bool(p.reshape(n, -1)[seed].isfinite().all())]
        at = next((step for step in range(since, run.step) if not math.isfinite(losses[step])), None)
        if at is None and not names:
            continue
        if at is None:
            what = f"{names[0]} is not finite after meta-step {run.step - 1}"
        else:
            what = f"the meta-loss is {losses[at]} at meta-step {at}"
        before = f" (the loss was {losses[at - 1]:.3g} one step before)" if at else ""
        found[seed] = (
            what,
            f"A rate is too high, inner_lr or the meta-optimiser's{before}, or a derivative does not exist, of a root, norm or "
            f"standard deviation at 0, or a task holds a NaN; not finite by now: {', '.join(names) or 'nothing else'}",
        )
    return found


def _share_of_tasks(
    device: torch.device, n_seeds: int | None, rank: int, n_ranks: int, compiled: bool
) -> Callable[[Any], Any]:
    """The part of a stack or list of tasks that this process trains on, with the seeds as one more axis or level."""
    shapes: list[torch.Size] = []

    def share(tasks: Any) -> Any:
        if not shapes or isinstance(tasks, list):
            _check_tasks(tasks, device, n_seeds, n_ranks, compiled)
        if isinstance(tasks, list):
            size = len(tasks) // (n_seeds or 1)
            of_seeds = [tasks[i : i + size][rank::n_ranks] for i in range(0, len(tasks), size)]
            return of_seeds if n_seeds is not None else of_seeds[0]
        new = [t.shape for t in tree_leaves(tasks)]
        shapes[:] = shapes or new
        if new != shapes:
            raise ValueError(
                f"the tasks have other shapes, {new}, than the first ones, {shapes}; draw them all alike, or as a list of tasks"
            )
        if n_seeds is not None:
            tasks = tree_map(lambda t: t.unflatten(0, (n_seeds, -1)), tasks)
        if n_ranks == 1:
            return tasks
        # Every process draws the whole stack and keeps its part, so their number changes no task.
        axis = 0 if n_seeds is None else 1
        return tree_map(lambda t: t.chunk(n_ranks, axis)[rank].contiguous(), tasks)

    return share


def _check_tasks(tasks: Any, device: torch.device, n_seeds: int | None, n_ranks: int, compiled: bool) -> None:
    if not isinstance(tasks, Task | list):
        raise ValueError(
            f"sample_tasks gave a {type(tasks).__name__}, but it must give a Task, a stack of them, or a list of such"
        )
    n, parts, where = n_tasks(tasks), (n_seeds or 1) * n_ranks, tree_leaves(tasks)[0].device
    refuse(
        {
            f"sample_tasks draws {n} tasks, which n_seeds={n_seeds} on {n_ranks} processes can't share; "
            f"draw a multiple of {parts}": n % parts,
            f"the tasks are on {where} and params on {device}; draw them there, or move them with .to": (
                where != device
            ),
            "tasks of unequal sizes, in a list, can't be compiled; pass compiled=False, or stack them": (
                compiled and isinstance(tasks, list)
            ),
        }
    )


def _mean_over_ranks(loss: Tensor, gradients: Params, n_ranks: int) -> tuple[Tensor, Params]:
    # One message for everything: many small ones would each wait for the network.
    tensors = [loss, *gradients.values()]
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat / n_ranks, [t.numel() for t in tensors])
    loss, *rest = (part.view_as(t) for part, t in zip(parts, tensors, strict=True))
    return loss, dict(zip(gradients, rest, strict=True))


def _refuse_other_starts(run: Run, n_ranks: int) -> None:
    # Gradients of other parameters or of other tasks would be averaged, and nothing would show it.
    digest = sha256()
    for t in (run.generator.get_state(), *run.params.values()):
        digest.update(t.cpu().flatten().view(torch.uint8).numpy().tobytes())
    mine = torch.tensor([run.step, int.from_bytes(digest.digest()[:7])], device=run.losses.device)
    all_of_them = [torch.empty_like(mine) for _ in range(n_ranks)]
    dist.all_gather(all_of_them, mine)
    steps, digests = zip(*(t.tolist() for t in all_of_them), strict=True)
    refuse(
        {
            f"the processes would start at the meta-steps {', '.join(map(str, steps))}, but each reads the checkpoint by itself; "
            f"put it where all of them see the same file": len(set(steps)) > 1,
            "the processes start with other params or another generator; make both from the same seed in every process": (
                len(set(digests)) > 1
            ),
        }
    )
