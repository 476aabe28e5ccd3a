"""Meta-steps made faster than they are written: compiled, recorded for a GPU, and compared with plain ones before they count."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mamlkit.checkpoints import Run
from mamlkit.tasks import Params, Task

Gradient = Callable[[Params, Any], tuple[Tensor, Params]]
_WARM_UP = 3
"""Meta-steps that run plainly before a GPU's step is recorded."""


def sped_up(
    step: Callable[[], Tensor], run: Run, taken: int, n_ranks: int, stack: ExitStack, *, scheduled: bool
) -> Callable[[], Tensor]:
    device = run.losses.device.type
    if taken == 1 and device == "cpu":
        # Nothing that the compiled code depends on changes any more: spare each step the check, a tenth of its time.
        stack.enter_context(torch.compiler.set_stance(skip_guard_eval_unsafe=True))
    if taken == _WARM_UP and device == "cuda" and n_ranks == 1 and not scheduled:
        return _recorded(step, run.optimizer, run.generator)
    return step


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


def compile_or_warn(gradient: Gradient) -> Gradient:
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


@cache
def keep_large_blocks() -> None:
    # By default glibc hands every large block back to the system and asks for it again, page by page, in the next step: a fifth
    # of a meta-step of convolutions. Elsewhere (musl, macOS, Windows) there is no such switch and nothing happens.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 2**30)
        mallopt(m_trim_threshold, 2**31 - 1)
