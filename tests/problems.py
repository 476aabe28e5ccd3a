"""Networks and tasks in float64 that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mamlkit.models import initial_params, mlp
from mamlkit.tasks import Batch, Params, Task


def regression(sizes=(2, 8, 8, 1), *, n_tasks: int = 3, k_shot: int = 5) -> tuple[nn.Module, Params, Task]:
    """An MLP, or of two sizes a linear map, its parameters, and tasks of noise."""
    torch.manual_seed(0)
    model = (mlp(sizes) if len(sizes) > 2 else nn.Linear(*sizes, bias=False)).double()
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    support, query = (Batch(*(draw(n_tasks, n, size) for size in (sizes[0], sizes[-1]))) for n in (k_shot, 4))
    return model, initial_params(model), Task(support, query)


def one(stack: Batch | Task, i: int = 0):
    """The batch or task number `i` of a stack."""
    return tree_map(lambda t: t[i], stack)


def alike(ours: Params, theirs: Params, *, rtol: float = 1e-12, atol: float = 1e-14) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[name], theirs[name], rtol=rtol, atol=atol) for name in theirs
    )


def classification(
    sizes=(3, 6, 4, 3), *, n_tasks: int = 3, k_shot: int = 2
) -> tuple[nn.Module, Params, Task]:
    """An MLP, its parameters, and tasks of noise with as many classes as it has outputs; the support set is sorted by class."""
    model = mlp(sizes).double()
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    params = {name: 0.7 * draw(p.shape) for name, p in initial_params(model).items()}
    y = torch.arange(sizes[-1]).repeat_interleave(k_shot)
    support, query = (Batch(draw(n_tasks, len(y), sizes[0]), y.repeat(n_tasks, 1)) for _ in range(2))
    return model, params, Task(support, query)


def slopes(
    loss: Callable[[Params], Tensor], params: Params, gradients: Params, *, step: float, only: str = ""
) -> tuple[Tensor, Tensor]:
    """Along a random way of the parameters whose names start with `only`: a difference of losses, and what `gradients` say."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    way = {name: draw(p.shape) * name.startswith(only) for name, p in params.items()}
    up, down = (loss({name: p + h * way[name] for name, p in params.items()}) for h in (step, -step))
    return (up - down) / (2 * step), sum((gradients[name] * way[name]).sum() for name in params)
