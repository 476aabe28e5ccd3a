"""Vectors that are dictionaries of tensors: inner product, sum, and the Hessian times such a vector.

The Hessian itself is never formed: `hvp` costs a small multiple of one gradient, whatever the number of parameters
(Pearlmutter 1994, "Fast exact multiplication by the Hessian").
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad

from mamlkit.tasks import Params


def dot(a: Params, b: Params) -> Tensor:
    """The inner product of two vectors with the same names and shapes, a scalar. Derived in chapter `outer-loop`."""
    return sum((a[name] * b[name]).sum() for name in a)  # type: ignore[return-value]


def axpy(scale: float | Tensor, x: Params, y: Params) -> Params:
    """`scale * x + y`, name by name (the BLAS's name for it). Derived in chapter `outer-loop`."""
    return {name: scale * x[name] + y[name] for name in x}


def hvp(loss: Callable[[Params], Tensor], params: Params, vector: Params) -> Params:
    """The Hessian of `loss` at `params` times `vector`: the gradient of the gradient's inner product with `vector`.

    Reverse over reverse, which works for every loss; forward over reverse, `jvp(grad(loss))`, stops at `F.mse_loss` (torch 2.13).
    Pearlmutter (1994). Derived in chapter `outer-loop`.

    >>> import torch
    >>> hvp(lambda p: (p["w"] ** 3).sum(), {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])})
    {'w': tensor([ 6., 12.])}
    """
    product: Params = grad(lambda p: dot(grad(loss)(p), vector))(params)
    return product
