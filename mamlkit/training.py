"""The long loop: thousands of meta-steps with progress, checkpoints and exact resume.

`meta_train` repeats what `mamlkit.meta.meta_step` does once, on one device or, in a script that `torchrun` starts and that calls
`torch.distributed.init_process_group`, on many, whose number changes the result by rounding only. Everything that decides the
result, the parameters, the optimiser's state, the generator's state and the step, is in the checkpoint, so a run that was cut off
ends with the bits of one that was not.
Derived in chapters `outer-loop` and `sinusoids`; at full scale in `gpu-few-shot` and `scaling`.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from hashlib import sha256
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from mamlkit.calls import refuse
from mamlkit.checkpoints import Run, resume, save, settings
from mamlkit.meta import TaskLoss, check_optimizer, meta_gradient
from mamlkit.tasks import Params, Task, check_counts, n_tasks

Gradient = Callable[[Params, Task], tuple[Tensor, Params]]
_LOOK_EVERY = {"cpu": 1}
"""Meta-steps between two looks at the losses, elsewhere 100: on a GPU each look would make it wait for the host."""
_WARM_UP = 3
"""Meta-steps that run plainly before a GPU's step is recorded."""


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
        meta_optimizer: a function of the list of tensors, `partial(torch.optim.Adam, lr=1e-3)` say. Tensors that the optimiser
            it makes does not hold stay as they are.
        generator: the only source of randomness.
        chunk_size: as in `meta_gradient`.
        n_seeds: train so many runs at once as one more batch axis; each sees tasks of its own and no other run. One whose loss
            or parameters are no longer finite is stopped, with a warning, and the others go on.
        compiled: run the meta-gradient through `torch.compile`: the same numbers but for rounding, many times faster for
            small networks, after some seconds of compiling. On a GPU the whole step, sampling and optimiser included, is then
            also recorded once as a CUDA graph and replayed. The first meta-gradient is computed plainly too; where there is no
            compiler, or one whose numbers are off by more than 2 % in float32, 0.01 % in float64 (the fourth root of the type's
            rounding) or tenfold in anything coarser, a warning, and the plain path from that very step on.
        validate: `params -> accuracy`, or whatever is better when larger, a scalar, `(n_seeds,)` with seeds; called every
            `validate_every` steps, shown in the bar; `Trained.best` are the parameters where it was largest, seed by seed.
            It must draw nothing from `generator` and leave `params` as they are. What is not finite is never the best.
        checkpoint: a file to resume from if it is there and to write every `checkpoint_seconds` and at the end.
        max_seconds: stop after so long, with the checkpoint written, which must have been asked for; of several processes as
            soon as it is over for one, in the same step for all. When it is over from the start, one step is made.
        config: what the run is, in values that JSON knows; a checkpoint made with another, or with another optimiser's settings,
            is refused.
        progress: show a bar; the environment variable TQDM_DISABLE=1 silences it too.

    Raises:
        ValueError: an argument that can't be used, by its name; an optimiser that holds none of the tensors; seeds or processes
            that can't share the tasks, or processes that start differently; tasks that change their shape; a `validate` that
            changes what it must not; a checkpoint that is damaged or of another run, which is left untouched.
        FloatingPointError: a loss or a parameter that is not finite, with its step, and no seed left to go on with; the
            checkpoint is left as it was.
        TimeoutError: `max_seconds` are over; the same call goes on from the checkpoint.
        OSError: the checkpoint can't be written, a folder that can't be said before the first step; the old one is left.
    """
    _check_call(locals())
    rank, n_ranks = _which_process()
    run = _at_the_start(params, meta_optimizer, generator, (meta_steps, *([n_seeds] if n_seeds else [])))
    path, looks_every = None if checkpoint is None else Path(checkpoint), validate_every if validate else None
    what_it_is = settings(config, run.optimizer, looks_every)
    if path is not None:
        resume(run, path, what_it_is, looks_every)
    if n_ranks > 1:
        _refuse_other_starts(run, n_ranks)
    clock = _Clock(run.seconds, max_seconds, math.inf if path is None else checkpoint_seconds)
    gradient = _gradient_of(task_loss, chunk_size, n_seeds, compiled)
    share = _share_of_tasks(run.losses.device, n_seeds, rank, n_ranks)
    step = _one_step(run, gradient, lambda: share(sample_tasks(generator)), clock, n_ranks)

    first = looked_at = run.step
    shown: dict[str, str] = {}
    with _bar(run, hidden=not progress or rank > 0) as bar, ExitStack() as stack:
        while run.step < meta_steps:
            run.losses[run.step] = step()
            run.step += 1
            bar.update()
            if compiled:
                step = _sped_up(step, run, run.step - first, n_ranks, stack)
            last = run.step == meta_steps
            validating = validate is not None and run.step % validate_every == 0
            if not (last or validating or run.step % _LOOK_EVERY.get(run.losses.device.type, 100) == 0):
                continue

            over, due = clock.says()
            saving = last or over or due
            run.seconds = clock.seconds()
            _stop_what_is_not_finite(run, looked_at, params_too=saving)
            looked_at = run.step
            if validate is not None and validating:
                shown["accuracy"] = _keep_the_best(run, validate, watched=run.step - first <= validate_every)
            if run.step % 100 == 0:
                shown["loss"] = f"{run.losses[max(0, run.step - 100) : run.step].nanmean():.3f}"
                bar.set_postfix(shown, refresh=False)
            if saving:
                if path is not None and rank == 0:
                    save(run, path, what_it_is)
                clock.saved_now()
            if n_ranks > 1 and (last or over):
                dist.all_reduce(torch.zeros(1, device=run.losses.device))  # nobody leaves before it is saved
            if over and not last:
                raise TimeoutError(
                    f"max_seconds={max_seconds:.0f} are over at meta-step {run.step} of {meta_steps}; "
                    f"{path} holds it, so the same call goes on from there"
                )
    return _trained(run)


_FUNCTION = ", but it must be a function: "
_KINDS: dict[str, tuple[Any, str]] = {
    "task_loss": (Callable, _FUNCTION + "(params, task) -> scalar"),
    "sample_tasks": (Callable, _FUNCTION + "generator -> a stack of tasks"),
    "meta_optimizer": (
        Callable,
        _FUNCTION + "a list of tensors -> an optimiser, partial(torch.optim.Adam, lr=1e-3) say",
    ),
    "validate": (Callable | None, _FUNCTION + "params -> what is better when larger"),
    "generator": (torch.Generator, "; use torch.Generator().manual_seed(0), the only randomness"),
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
) -> Run:
    params = {name: p.detach().clone() for name, p in params.items()}
    optimizer = meta_optimizer(list(params.values()))
    check_optimizer(optimizer, params)
    losses = torch.full(shape, math.nan, device=next(iter(params.values())).device)
    return Run(params, optimizer, generator, losses, {name: p.clone() for name, p in params.items()})


def _gradient_of(
    task_loss: TaskLoss, chunk_size: int | None, n_seeds: int | None, compiled: bool
) -> Gradient:
    gradient: Gradient = partial(meta_gradient, task_loss, chunk_size=chunk_size)
    if n_seeds is not None:
        gradient = vmap(gradient)
    return _compile_or_warn(gradient) if compiled else gradient


def _one_step(
    run: Run, gradient: Gradient, sample: Callable[[], Task], clock: _Clock, n_ranks: int
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        loss, gradients = gradient(run.params, sample())
        if n_ranks > 1:
            # The clocks ride on the message: a process that left or saved at a step of its own would leave the others waiting.
            loss, gradients = _mean_over_ranks(loss, gradients | {"": clock.asks(loss)}, n_ranks)
            clock.asked = gradients[""]
        for name, p in run.params.items():
            p.grad = gradients[name]
        run.optimizer.step()
        return loss

    return step


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
    none = run.losses.new_zeros((0, *run.losses.shape[1:]))
    validation = torch.stack(run.validation) if run.validation else none
    judged = validation.isfinite().any(0)
    best = {name: _where_seed(judged, run.best[name], p) for name, p in run.params.items()}
    return Trained(run.params, run.losses.cpu(), validation.cpu(), best, run.seconds)


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
    problems: dict[int, str] = {}
    for seed, values in enumerate(new.reshape(-1, n).T.tolist()):
        for step, value in enumerate(values, since):
            if not math.isfinite(value):
                problems.setdefault(seed, f"the meta-loss is {value} at meta-step {step}")
    if params_too:
        # The losses are looked at all the time; the gradient of a finite loss can still overflow, one step later tells.
        for name, p in run.params.items():
            for seed, finite in enumerate(p.isfinite().reshape(n, -1).all(1).tolist()):
                if not finite:
                    problems.setdefault(seed, f"{name} is not finite after meta-step {run.step - 1}")
    for seed in sorted(problems.keys() - run.stopped):
        run.stopped.add(seed)
        which = problems[seed] + (f", seed {seed} of {n}" if n > 1 else "")
        if len(run.stopped) == n:
            raise FloatingPointError(
                f"{which}; the checkpoint is left as it was: lower inner_lr or the meta-optimiser's rate"
            )
        warnings.warn(f"{which}: it is stopped, its parameters are NaN, the other seeds go on", stacklevel=3)
        for p in run.params.values():
            p[seed] = math.nan


def _share_of_tasks(
    device: torch.device, n_seeds: int | None, rank: int, n_ranks: int
) -> Callable[[Task], Task]:
    shapes: list[torch.Size] = []

    def look_at_first(tasks: Task) -> None:
        if not isinstance(tasks, Task):
            raise ValueError(
                f"sample_tasks gave a {type(tasks).__name__}, but it must give a Task, a stack of them"
            )
        n, parts, where = n_tasks(tasks), (n_seeds or 1) * n_ranks, tasks.query.x.device
        refuse(
            {
                f"sample_tasks draws {n} tasks, which n_seeds={n_seeds} on {n_ranks} processes can't share; "
                f"draw a multiple of {parts}": n % parts,
                f"the tasks are on {where} and params on {device}; draw them there, or move them with .to": (
                    where != device
                ),
            }
        )

    def share(tasks: Task) -> Task:
        if not shapes:
            look_at_first(tasks)
        new = [t.shape for batch in tasks for t in batch]
        shapes[:] = shapes or new
        if new != shapes:
            raise ValueError(
                f"the tasks have other shapes, {new}, than the first ones, {shapes}; draw them all alike"
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


def _sped_up(
    step: Callable[[], Tensor], run: Run, taken: int, n_ranks: int, stack: ExitStack
) -> Callable[[], Tensor]:
    device = run.losses.device.type
    if taken == 1 and device == "cpu":
        # Nothing that the compiled code depends on changes any more: spare each step the check, a tenth of its time.
        stack.enter_context(torch.compiler.set_stance(skip_guard_eval_unsafe=True))
    if taken == _WARM_UP and device == "cuda" and n_ranks == 1:
        return _recorded(step, run.optimizer, run.generator)
    return step


def _compile_or_warn(gradient: Gradient) -> Gradient:
    compiled = torch.compile(gradient, dynamic=False)
    trusted: bool | None = None  # not looked at yet

    def run(params: Params, tasks: Task) -> tuple[Tensor, Params]:
        nonlocal trusted
        if trusted is not None:
            return (compiled if trusted else gradient)(params, tasks)
        with _Coarsest() as used:
            plain = gradient(params, tasks)
        # torch's cache of compiled code does not know which vector instructions it was made with (2.13), so tell it.
        tag = f"{torch.compiler.config.cache_key_tag} {torch.backends.cpu.get_cpu_capability()}"
        try:
            with torch.compiler.config.patch(cache_key_tag=tag):  # type: ignore[attr-defined]
                fast = compiled(params, tasks)
            problem = _differs(fast, plain, used.eps)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as why:
            reason = " ".join(str(why).strip().splitlines()[:2])
            problem = f"torch.compile has no working compiler here, so every step runs plainly: {reason}"
        trusted = not problem
        if trusted:
            return fast
        warnings.warn(problem, stacklevel=4)
        return plain

    return run


class _Coarsest(TorchDispatchMode):
    """Watches what is computed; `eps` is the rounding of the coarsest type in it, bfloat16 inside of float32 say."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps = 2.0**-10 if torch.backends.cuda.matmul.fp32_precision == "tf32" else 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        floats = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
        self.eps = max([self.eps, *(torch.finfo(t.dtype).eps for t in floats)])
        return out


def _differs(fast: tuple[Tensor, Params], plain: tuple[Tensor, Params], eps: float) -> str:
    # Rounding through a long inner loop stays below the fourth root of one rounding, 2 % in float32 and 0.01 % in float64; a
    # wrong instruction, a lost term or memory that nobody wrote does not. In TF32, bfloat16 and float16 an honest meta-gradient
    # may be off by all of its size, so only a greater size, and what is not finite, is held against the compiler.
    tolerance = eps**0.25 if eps < 1e-6 else 10.0
    whole = torch.stack([_finite_part(g, g).norm() for g in plain[1].values()]).norm()
    for name, a, b, least in (
        ("the loss", fast[0], plain[0], eps**0.75),
        *((f"the gradient of {name}", fast[1][name], b, eps**0.25 * whole) for name, b in plain[1].items()),
    ):
        off, size = _finite_part(a - b, b).norm(), _finite_part(b, b).norm()
        if not bool(off <= tolerance * (size + least)):
            return (
                f"torch.compile gives other numbers here, {name} is off by {float(off):.2g} of {float(size):.2g}, "
                f"so every step runs plainly"
            )
    return ""


def _finite_part(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where.isfinite(), values, 0.0).float()
