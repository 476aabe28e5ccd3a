"""Vectors that are dictionaries of tensors: inner product, sum, the Hessian times such a vector, and linear solves with it.

The Hessian itself is never formed: `hvp` costs a small multiple of one gradient, whatever the number of parameters
(Pearlmutter 1994, "Fast exact multiplication by the Hessian").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from mamlkit.calls import checked
from mamlkit.tasks import Params


@checked
def dot(a: Params, b: Params) -> Tensor:
    """The inner product of two vectors with the same names and shapes, a scalar. Derived in chapter `outer-loop`."""
    return sum((a[name] * b[name]).sum() for name in a)  # type: ignore[return-value]


@checked
def axpy(scale: float | Tensor, x: Params, y: Params) -> Params:
    """`scale * x + y`, name by name (the BLAS's name for it). Derived in chapter `outer-loop`."""
    return {name: scale * x[name] + y[name] for name in x}


@checked
def hvp(loss: Callable[[Params], Tensor], params: Params, vector: Params) -> Params:
    """The Hessian of `loss` at `params` times `vector`: the gradient of the gradient's inner product with `vector`.

    Reverse over reverse, which works wherever every operation has a second backward pass; forward over reverse,
    `jvp(grad(loss))`, stops at `F.mse_loss` (torch 2.13).
    Pearlmutter (1994). Derived in chapter `outer-loop`.

    >>> import torch
    >>> hvp(lambda p: (p["w"] ** 3).sum(), {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])})
    {'w': tensor([ 6., 12.])}
    """
    product: Params = grad(lambda p: dot(grad(loss)(p), vector))(params)
    return product


@checked
def conjugate_gradient(matvec: Callable[[Params], Params], b: Params, *, steps: int) -> Params:
    """About the `x` with `matvec(x) = b`, after `steps` iterations from zero, each of which costs one `matvec`.

    `matvec` multiplies by a symmetric positive definite matrix that nobody has to form; for any other the answer means
    nothing, and where a direction has no curvature it is not finite. In exact arithmetic as many steps as the matrix has
    different eigenvalues end at the solution, and k steps leave at most 2 ((sqrt(c) - 1) / (sqrt(c) + 1))^k of the error in
    the matrix's norm, where c is the condition number. Hestenes & Stiefel (1952). Derived in chapter `implicit-maml`.

    Raises:
        ValueError: `steps` below 1.

    >>> double_it = lambda v: {"w": 2 * v["w"]}
    >>> conjugate_gradient(double_it, {"w": torch.tensor([2.0, 6.0])}, steps=1)
    {'w': tensor([1., 3.])}
    """
    x, residual, direction = {name: torch.zeros_like(t) for name, t in b.items()}, b, b
    rr = dot(residual, residual)
    for _ in range(steps):
        product = matvec(direction)
        step = _ratio(rr, dot(direction, product))
        x = axpy(step, direction, x)
        residual = axpy(-step, product, residual)
        rr, before = dot(residual, residual), rr
        direction = axpy(_ratio(rr, before), direction, residual)
    return x


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    # Zero once nothing is left to solve: 0 / 0 would make an exact solution nan, and vmap can't stop one task early.
    return torch.where(a <= torch.finfo(a.dtype).tiny, 0.0, a / b)


@checked
def with_gradient(value: Tensor, params: Params, gradients: Params) -> Tensor:
    """The scalar `value`, made to have `gradients` as its gradient with respect to `params`, whatever it was computed from.

    So an algorithm that brings its own meta-gradient, as Reptile and implicit MAML do, goes through the same `meta_gradient` and
    optimisers as the rest. Derived in chapter `reptile`.

    >>> p = {"w": torch.tensor([1.0, 2.0])}
    >>> torch.func.grad_and_value(lambda p: with_gradient(torch.tensor(7.0), p, {"w": torch.tensor([3.0, 4.0])}))(p)
    ({'w': tensor([3., 4.])}, tensor(7.))
    """
    nothing = {name: p - p.detach() for name, p in params.items()}  # zero, with a slope of one
    return value.detach() + dot(nothing, {name: g.detach() for name, g in gradients.items()})
