"""What the kit's functions are given, checked once, where they are called: kinds as annotated, limits by name.

A call from inside another one, per task under `vmap` say, has its settings looked at and nothing else: no check costs a task
anything, and none waits for a device. What torch raises further down keeps its words and gains a note, what it was given and
the cure.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from mamlkit.tasks import Params, check_batch, check_counts

P = ParamSpec("P")
R = TypeVar("R")
Rule = Callable[[str, Any], None]

_outermost = threading.local()


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose arguments are checked before anything is computed, and whose errors name them.

    Raises:
        TypeError: an argument of another kind than annotated.
        ValueError: one out of its range, or vectors that differ in names or shapes.
    """
    signature = inspect.signature(function)
    kinds = {name: str(p.annotation).partition("[[")[0] for name, p in signature.parameters.items()}
    rules = {name: RULES[kind] for name, kind in kinds.items() if kind in RULES}
    vectors = [name for name, kind in kinds.items() if kind == "Params"]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        inside = getattr(_outermost, "runs", False)
        given: Mapping[str, Any] = kwargs if inside else signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            if name in rules:
                rules[name](name, value)
        if inside:
            return function(*args, **kwargs)
        for name in vectors[1:]:
            _check_alike(vectors[0], given[vectors[0]], name, given[name])
        _outermost.runs = True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not _is_the_kits_own(error):
                error.add_note(_note(f"{function.__module__}.{function.__name__}", error, given))
            raise
        finally:
            _outermost.runs = False

    return call


def refuse(faults: Mapping[str, object]) -> None:
    """Nothing, if none of the faults, sentences beside the conditions that make them true, is there.

    Raises:
        ValueError: the first sentence that is true.
    """
    for sentence, there in faults.items():
        if there:
            raise ValueError(sentence)


def _check_kind(wanted: type | tuple[type, ...], cure: str) -> Rule:
    def check(name: str, value: object) -> None:
        if not isinstance(value, wanted):
            raise TypeError(f"{name} is a {type(value).__name__}, {_described(value)}; {cure}")

    return check


_check_tensor = _check_kind(Tensor, "give a tensor, torch.as_tensor(...) makes one")


def _check_params(name: str, value: Params) -> None:
    _check_kind(Mapping, "give tensors by name, as initial_params(model) does")(name, value)
    check_counts(**{f"len({name})": len(value)})
    for key, tensor in value.items():
        _check_tensor(f"{name}[{key!r}]", tensor)


LEAST = {"inner_lr": 0.0, "finetune_lr": 0.0, "strength": math.nextafter(0, 1)}


def _check_number(name: str, value: object) -> None:
    if isinstance(value, Tensor):  # a learned one: its value is the device's
        return
    least = LEAST.get(name, -math.inf)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and least <= value < math.inf and value > -math.inf):  # type: ignore[operator]
        limit = {0.0: " of at least 0", -math.inf: ""}.get(least, " above 0")
        raise ValueError(f"{name}={value!r}, but it must be a finite number{limit}")


def _check_rate(name: str, value: Any) -> None:
    (_check_params if isinstance(value, Mapping) else _check_number)(name, value)


def _check_each(rule: Rule, n: int | None = None) -> Rule:
    def check(name: str, value: Any) -> None:
        _check_kind((list, tuple), "give a list or a tuple")(name, value)
        if len(value) != (n or len(value)):
            raise ValueError(f"{name}={value!r} has {len(value)} numbers, but it must have {n}")
        for i, item in enumerate(value):
            rule(f"{name}[{i}]", item)

    return check


def _check_count(name: str, value: Any) -> None:
    check_counts(0 if name in ("inner_steps", "finetune_steps") else 1, **{name: value})


def _check_alike(name: str, vector: Params, other_name: str, other: Params) -> None:
    shapes, others = ({key: tuple(t.shape) for key, t in v.items()} for v in (vector, other))
    if shapes != others:
        raise ValueError(
            f"{name} has {shapes} but {other_name} has {others}; give both the same names and shapes"
        )


_check_function = _check_kind(Callable, "give a function")  # type: ignore[arg-type]

RULES: dict[str, Rule] = {
    "nn.Module": _check_kind(nn.Module, "give a torch.nn.Module"),
    "torch.Generator": _check_kind(torch.Generator, "give torch.Generator().manual_seed(0)"),
    "torch.Generator | None": lambda name, value: (
        None if value is None else RULES["torch.Generator"](name, value)
    ),
    "torch.dtype": _check_kind(torch.dtype, "give torch.float32 or torch.float64"),
    "str": _check_kind(str, "it must be text, a str"),
    "str | tuple[str, ...]": _check_kind((str, tuple), "it must be text, a str, or a tuple of such"),
    "Tensor": _check_tensor,
    "Batch": check_batch,
    "Params": _check_params,
    "int": _check_count,
    "int | None": lambda name, value: None if value is None else _check_count(name, value),
    "float": _check_number,
    "float | None": lambda name, value: None if value is None else _check_number(name, value),
    "float | Tensor": _check_number,
    "float | Tensor | Params": _check_rate,
    "Sequence[int]": _check_each(_check_count),
    "Sequence[float]": _check_each(_check_number),
    "tuple[float, float]": _check_each(_check_number, 2),
    "Callable": _check_function,
    **dict.fromkeys(("Adapt", "TaskLoss", "Loss", "Metric", "Trajectory"), _check_function),
}


def _is_the_kits_own(error: Exception) -> bool:
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    module = str(frame.tb_frame.f_globals.get("__name__")) if frame else ""
    return module.startswith("mamlkit") and isinstance(error, (ValueError, FloatingPointError))


CURES = {
    "out of bounds|out of range|Target": "labels count from 0 and end below the model's number of outputs, "
    "and a stack of tasks has axes (meta_batch_size, n, ...): torch.stack makes one",
    "flash|efficient_attention|attention.*derivative|derivative.*attention": "fused attention has no second derivative: run "
    "it inside `with sdpa_kernel(SDPBackend.MATH):`, from torch.nn.attention, or take first_order=True",
    "[Nn]ested[ _]?[Tt]ensor|fast path|_transformer_encoder_layer_fwd": "in eval() a transformer's layers take a path of their "
    "own: call torch.backends.mha.set_fastpath_enabled(False), and for a second derivative run it inside `with "
    "sdpa_kernel(SDPBackend.MATH):`, from torch.nn.attention",
    "saved tensor hooks|saved_tensors_hooks": "torch.utils.checkpoint can't stand inside torch.func: leave it out; "
    "chunk_size=1 keeps the graph of a single task at a time, first_order=True that of a single step",
    "setup_context|generate_vmap_rule": "an autograd.Function needs a forward without ctx, a setup_context and "
    "generate_vmap_rule=True, or chunk_size=1",
    "functorch transforms": "inside a network take torch.func.grad where you had torch.autograd.grad",
    "derivative|differentiable twice|once_differentiable": "this operation has no second derivative: write it with operations "
    "that have one, or take first_order=True",
    "escaped": "what a hook or a module keeps of a pass under vmap is dead afterwards: chunk_size=1, or let a metric return it",
    "[Ss]parse|CSR|COO": "sparse products know no vmap: chunk_size=1, with the matrix in COO layout, or index_add",
    "randomness": "dropout draws per task: pass chunk_size=1, or call model.eval()",
    "in-place|inplace|captured Tensor": "a module that changes itself can't be adapted: track_running_stats=False, or "
    "model.eval()",
    "[Dd]ata-dependent|\\.item\\(\\)": "vmap can't branch on a value: write the formula out without `if`, or chunk_size=1",
    "requires_grad_": "a transform can't ask for gradients in the middle: use torch.func.grad there",
    "dtype|ScalarType|same type|to have type": "bring x, y and params to one floating type with .to(torch.float32); labels are "
    "int64",
    "device": "move all tensors and the generator to one device with .to(device)",
    "scalar": "a task_loss is one number per task; end it with .mean()",
    "vmap|batch|broadcast": "chunk_size=1 goes task by task without vmap",
}
"""What torch says, as a pattern, and the line that cures it; the first that fits is taken."""


def _note(where: str, error: Exception, given: Mapping[str, Any]) -> str:
    cures = [cure for sign, cure in CURES.items() if re.search(sign, str(error))]
    facts = ", ".join(f"{name}={_described(value)}" for name, value in given.items())
    return f"{where} was given {facts}; {(cures or ['compare them with its docstring'])[0]}"


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        labels = not value.is_floating_point() and value.is_cpu and value.numel() and not value.is_complex()
        values = f" from {value.min()} to {value.max()}" if labels and value.dtype != torch.bool else ""
        return f"{str(value.dtype)[6:]} {tuple(value.shape)} on {value.device}{values}"
    if isinstance(value, tuple | Mapping) and value:
        leaves = [
            (keystr(path).lstrip("."), _described(t) if isinstance(t, Tensor) else repr(t)[:60])
            for path, t in tree_flatten_with_path(value)[0]
        ]
        if isinstance(value, Mapping) and len(leaves) > 4:
            return f"{len(leaves)} tensors ({', '.join(sorted({what for _, what in leaves})[:4])})"
        return "(" + ", ".join(f"{name}={what}" for name, what in leaves) + ")"
    return repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__}"
