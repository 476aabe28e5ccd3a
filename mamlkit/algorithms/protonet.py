"""Prototypical networks (Snell, Swersky & Zemel, NeurIPS 2017, arXiv:1703.05175).

A class is the mean of its support features, its prototype, and a query z belongs to the nearest one (equations 1 and 2):

    c_k = mean of z_i over the support examples of class k,    p(k | z) = softmax_k(-norm(z - c_k)^2)

Written out, `-norm(z - c_k)^2 = 2 c_k . z - norm(c_k)^2 - norm(z)^2`, and the last term is the same for all classes. What is left
is a linear head (section 2.4)

    W_k = 2 c_k,    b_k = -norm(c_k)^2

which `adapt` writes into a `Network`, in one step and without a rate. The prototypes stay in the graph, so that the meta-gradient
reaches the body through the support set too.

*Proto-MAML* (Triantafillou et al., ICLR 2020, arXiv:1903.03096) is `maml.adapt` from there, in one line:

    maml.adapt(model, protonet.adapt(model, params, support), support, inner_lr=inner_lr, inner_steps=inner_steps)

Differs from the paper: batch norm sees the support and the query set apart, as everywhere in the kit, at meta-test too; the
authors' code normalises both as one batch in training and by running averages in testing. An episode has as many classes as the
head has outputs. Theirs train on more classes than they test on; so does who gives `query_loss` and `evaluate` two networks of
one body, since only the size of the head counts here. Triantafillou et al. report Proto-MAML at first order, `first_order=True`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import debug_unwrap

from mamlkit.calls import checked
from mamlkit.meta import predict
from mamlkit.models import Network
from mamlkit.tasks import Batch, Params, check_names, part


@checked
def adapt(model: nn.Module, params: Params, support: Batch) -> Params:
    """The parameters with a head made of prototypes, whose logits are minus the squared distances, up to a constant per query.

    Args:
        model: a `Network` whose head is an `nn.Linear` with a bias.
        params: theta, by name; what it has of the head is replaced.
        support: `x` of shape `(n, ...)`, `y` of shape `(n,)`, integer labels.

    Raises:
        ValueError: another model, targets that are no labels, or a class without an example. That last one is seen on a CPU;
            elsewhere, where looking would wait for the device, such a class has the origin for its prototype.

    Snell et al. (2017), section 2.4. Derived in chapter `metric-learning`.

    >>> model = Network(nn.Identity(), nn.Linear(1, 2))
    >>> support = Batch(x=torch.tensor([[1.0], [3.0], [5.0]]), y=torch.tensor([0, 0, 1]))  # prototypes 2 and 5
    >>> adapt(model, {"head.bias": torch.zeros(2)}, support)
    {'head.bias': tensor([ -4., -25.]), 'head.weight': tensor([[ 4.],
            [10.]])}
    """
    z, y = embedded(model, params, support, labels=True)
    n = y.sum(0)
    _check_classes(n)
    c = y.T @ z / n.clamp(min=1)[:, None]
    return params | {"head.weight": 2 * c, "head.bias": -(c * c).sum(1)}


def embedded(
    model: nn.Module, params: Params, support: Batch, *, labels: bool = False
) -> tuple[Tensor, Tensor]:
    """What a closed form for the head needs: features `(n, features)`, and targets `(n, outputs)`, labels as rows of 0 and a 1.

    Args:
        labels: take nothing else.

    Raises:
        ValueError: a `model` that is no `Network` with a linear head and a bias, a name in `params` that it lacks, or targets
            that are neither labels nor real of the head's size.
    """
    if not torch.compiler.is_compiling():
        _check_given(model, params, support, labels)
    z = predict(model.get_submodule("body"), part(params, "body."), support.x)
    if support.y.is_floating_point():
        return z, support.y
    one_hot = torch.eye(len(model.get_parameter("head.weight")), dtype=z.dtype, device=z.device)
    return z, one_hot.index_select(0, support.y)


def _check_given(model: nn.Module, params: Params, support: Batch, labels: bool) -> None:
    head, y = getattr(model, "head", None), getattr(support, "y", None)
    if not (isinstance(model, Network) and isinstance(head, nn.Linear) and head.bias is not None):
        raise ValueError(
            f"model is a {type(model).__name__} with the head {head!r}, but a head in closed form needs a Network(body, head) of "
            f"mamlkit.models whose head is nn.Linear(features, outputs), with its bias"
        )
    check_names(model, params)
    if not (isinstance(support, Batch) and isinstance(y, Tensor)):
        raise TypeError(
            f"support is a {type(support).__name__} with y a {type(y).__name__}; give Batch(x, y) of tensors"
        )
    if labels or not y.is_floating_point():
        fits, wanted = y.dtype == torch.int64 and y.dim() == 1, "labels are int64 of shape (n,)"
    else:
        fits, wanted = y.shape[1:] == (head.out_features,), f"real targets are (n, {head.out_features})"
    if not fits:
        raise ValueError(
            f"y of the support set is {y.dtype} {tuple(y.shape)}, but {wanted}; of one-hot ones y.argmax(-1)"
        )


def _check_classes(n: Tensor) -> None:
    if torch.compiler.is_compiling() or not n.is_cpu:
        return
    if not bool(debug_unwrap(n).all()):  # those of all tasks, under vmap
        raise ValueError(
            f"support has 0 examples of a class, but each of the head's {len(n)} classes needs 1 or more for its prototype; draw "
            f"from all, or give a Network with as many outputs as the task has classes"
        )
