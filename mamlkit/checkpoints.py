"""A run of `mamlkit.training.meta_train` as a file: all that decides how it ends, written whole, read with suspicion.

A checkpoint is what `torch.save` writes, read without running anything in it. Every byte that means something is under the sum
that a zip file keeps of each part, so a damaged checkpoint is refused and never trained on.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor

from mamlkit.files import sweep_drafts, write_atomically
from mamlkit.tasks import Params


@dataclass
class Run:
    """All that decides how a run ends; with seeds every tensor has them as one more axis."""

    params: Params
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    losses: Tensor
    best: Params
    validation: list[Tensor] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    stopped: set[int] = field(default_factory=set)

    @property
    def n_seeds(self) -> int:
        """The number of runs that go on at once, 1 without a seeds' axis."""
        return self.losses.shape[1] if self.losses.dim() > 1 else 1


def settings(
    config: Mapping[str, Any] | None,
    optimizer: torch.optim.Optimizer,
    validate_every: int | None,
    task_loss: Any,
    more: Mapping[str, Any],
) -> str:
    """What a run is, as one line of JSON; a checkpoint is resumed by the run of the same line only.

    Raises:
        ValueError: `config` is no dictionary, or holds what JSON does not know: another process might not write it alike.
    """
    if not isinstance(config or {}, Mapping):
        raise ValueError(f"config is a {type(config).__name__}, but it must be a dictionary that JSON knows")
    for name, value in (config or {}).items():
        try:
            json.dumps({name: value}, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as why:
            words = f"config[{name!r}] is nothing that JSON knows ({why}); use .item() or str()"
            raise ValueError(words) from None
    about: dict[str, Any] = {"config": dict(config or {}), "optimizer": _groups(optimizer.param_groups)}
    about |= {name: _recipe(value) for name, value in more.items() if value is not None}
    if validate_every is not None:
        about["validate_every"] = validate_every
    about["task_loss"] = _recipe(task_loss)
    return json.dumps(about, sort_keys=True, default=str)  # a rate may be a tensor


def _recipe(value: Any, depth: int = 8) -> Any:
    """What a function was made from, as far as that can be seen: the settings in its partials, closures and defaults.

    The kit's own functions are their names: what stands in them, or is checked around them, is no setting of a run.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.nn.Module):
        return repr(value)
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        data = value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
        return f"tensor {sha256(data).hexdigest()[:12]}"
    parts = _parts(value) if depth else {}
    if not parts:
        return getattr(value, "__qualname__", type(value).__qualname__)
    return {name: _recipe(part, depth - 1) for name, part in parts.items()}


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, partial):
        return {"": value.func, **{str(i): arg for i, arg in enumerate(value.args)}, **value.keywords}
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, list | tuple):
        return {str(i): part for i, part in enumerate(value)}
    if not isinstance(value, FunctionType) or value.__module__.startswith("mamlkit"):
        return {}
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    found = {
        name: cell.cell_contents for name, cell in cells if cell != CellType()
    }  # an empty one equals an empty one
    found |= {f"={i}": default for i, default in enumerate(value.__defaults__ or ())} | (
        value.__kwdefaults__ or {}
    )
    return {"": value.__qualname__} | found if found else {}


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for part, item in items for k, v in _leaves(item, f"{name}.{part}".strip(".")).items()}


def save(run: Run, path: Path, settings: str) -> None:
    """Nothing; `path` holds the run.

    Raises:
        OSError: it can't be written; what was there is left.
    """
    state = {
        "settings": settings,
        "step": run.step,
        "params": run.params,
        "optimizer": run.optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "random": _random(run.losses.device),
        "losses": run.losses[: run.step].clone(),
        "best": run.best,
        "validation": run.validation,
        "stopped": sorted(run.stopped),
        "seconds": run.seconds,
    }
    memory = io.BytesIO()
    torch.save(state, memory)
    try:
        write_atomically(path, memory.getbuffer())
    except OSError as why:
        words = (
            f"the checkpoint of meta-step {run.step} can't be written ({why.strerror}), the one before is left as it was; "
            f"make room or give another folder, and start the run again"
        )
        raise OSError(why.errno, words, str(path)) from why


def resume(run: Run, path: Path, settings: str, validate_every: int | None) -> None:
    """Nothing; `run` is where the checkpoint left it, and as it was where there is no checkpoint yet.

    Every tensor stays the same object, so that the optimiser goes on holding them, and the generator is touched last.

    Raises:
        OSError: no checkpoint can be written here.
        ValueError: the checkpoint is damaged or of another run; it is left as it is, and so is the generator.
    """
    folder = Path(os.path.realpath(path)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        if path.is_dir():
            path.open()  # says so
    except OSError as why:
        words = f"no checkpoint can be written here ({why.strerror}); give another one"
        raise OSError(why.errno, words, str(path)) from why
    sweep_drafts(path)
    if not path.exists():
        return
    reason = None
    try:
        saved = read(path, run.losses.device)
        problem = _other_run(saved, run, settings)
        if not problem:
            _restore(saved, run, 0 if validate_every is None else saved["step"] // validate_every)
    except Exception as why:  # whatever a damaged file makes of the reading
        problem = _unreadable(why)
        reason = why
    if problem:
        cure = "give another file, or move this one away to start anew; it is left as it is"
        raise ValueError(f"{path} {problem}; {cure}") from reason


def _unreadable(why: Exception) -> str:
    return f"is no readable checkpoint ({type(why).__name__}: {why}".splitlines()[0] + ")"


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save` wrote, on `device`.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or no checkpoint.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            damaged = parts.testzip()  # torch.load does not compare the sums
        if damaged is not None:
            raise ValueError(f"its part {damaged} is damaged")
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if (
            not isinstance(state, dict)
            or not {"params", "losses", "validation", "best", "seconds"} <= state.keys()
        ):
            raise ValueError("it holds something else")
    except Exception as why:
        raise ValueError(f"{path} {_unreadable(why)}") from why
    return state


def _other_run(saved: dict[str, Any], run: Run, settings: str) -> str:
    there, here = (_leaves(json.loads(line)) for line in (saved["settings"], settings))
    unlike = [name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name)]
    if saved["step"] < len(
        run.losses
    ):  # on the way the order may rise and the steps' shares in the loss change
        unlike = [name for name in unlike if not {"first_order", "step_weights"} & {*name.split(".")}]
    if unlike:
        pairs = [f"{name} {there.get(name)!r}, here {here.get(name)!r}" for name in unlike[:3]]
        return f"is of a run with other settings, {'; '.join(pairs)}"
    if _kinds(saved["params"]) != _kinds(run.params):
        return f"holds parameters of another network than {_kinds(run.params)}"
    if saved["step"] > len(run.losses):
        return f"is {saved['step']} steps on, but meta_steps={len(run.losses)}; ask for at least that"
    return ""


def _restore(saved: dict[str, Any], run: Run, n_validations: int) -> None:
    step, losses, validation, seconds = (saved[name] for name in ("step", "losses", "validation", "seconds"))
    per_seed = run.losses.shape[1:]
    healthy = [seed for seed in range(run.n_seeds) if seed not in saved["stopped"]]
    sound = {
        "step": type(step) is int and step >= 1,
        "losses": losses.shape == (step, *per_seed) and _finite(losses.reshape(step, -1), healthy, axis=1),
        "params": all(_finite(p.reshape(run.n_seeds, -1), healthy, axis=0) for p in saved["params"].values()),
        "best": _kinds(saved["best"]) == _kinds(run.best),
        "validation": [v.shape for v in validation] == [per_seed] * n_validations,
        "stopped": set(saved["stopped"]) <= set(range(run.n_seeds)) and bool(healthy),
        "seconds": type(seconds) is float and 0 <= seconds < math.inf,
        "optimizer": _fits(saved["optimizer"], run),
    }
    if not all(sound.values()):
        raise ValueError(f"{', '.join(name for name in sound if not sound[name])} can't be a run's")
    state = saved["generator"].cpu()
    torch.Generator(run.generator.device).set_state(state)

    run.step, run.validation = step, [v.to(run.losses) for v in validation]
    run.stopped, run.seconds = set(saved["stopped"]), seconds
    run.losses[:step] = losses
    run.optimizer.load_state_dict(saved["optimizer"])
    for name, p in run.params.items():
        p.copy_(saved["params"][name])
        run.best[name].copy_(saved["best"][name])
    torch.set_rng_state(saved["random"][0].cpu())
    for of_device in saved["random"][1:]:
        torch.cuda.set_rng_state(of_device.cpu(), run.losses.device)
    run.generator.set_state(state)


def _random(device: torch.device) -> list[Tensor]:
    """The states of torch's own generators, from which dropout draws: the CPU's, and the GPU's where the run is on one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _kinds(params: Params) -> dict[str, Any]:
    return {name: (tuple(p.shape), p.dtype) for name, p in params.items()}


def _finite(values: Tensor, healthy: list[int], *, axis: int) -> bool:
    return bool(values.index_select(axis, torch.tensor(healthy, device=values.device)).isfinite().all())


def _groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def _fits(saved: dict[str, Any], run: Run) -> bool:
    # The rates must be those of the settings, but where a schedule moves them: torch's put `initial_lr` beside. A CUDA graph
    # makes an optimiser `capturable`.
    for there, here in zip(_groups(saved["param_groups"]), _groups(run.optimizer.param_groups), strict=True):
        a, b = (json.dumps(g | {"capturable": 0}, sort_keys=True, default=str) for g in (there, here))
        if a != b and "initial_lr" not in here:
            return False
    if not type(run.optimizer).__module__.startswith("torch.optim"):
        return True
    # What torch's own optimisers remember after one step is what they remember ever after: the same names and shapes.
    optimizer, params = trial(run)
    for p in params.values():
        p.grad = torch.zeros_like(p)
    type(optimizer).step(optimizer)
    return _remembered(saved) == _remembered(optimizer.state_dict())


def trial(run: Run) -> tuple[torch.optim.Optimizer, Params]:
    """Copies of a run's optimiser and parameters to try a step on; its hooks, which would act on the run, are left out."""
    optimizer, params = copy.deepcopy((run.optimizer, run.params))
    for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
        hooks.clear()
    return optimizer, params


def _remembered(state: dict[str, Any]) -> dict[Any, Any]:
    return {
        i: {name: getattr(value, "shape", None) for name, value in of_one.items()}
        for i, of_one in state["state"].items()
    }
