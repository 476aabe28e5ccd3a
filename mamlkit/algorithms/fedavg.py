"""Federated averaging, FedAvg (McMahan, Moore, Ramage, Hampson & Agüera y Arcas, AISTATS 2017, arXiv:1602.05629).

A server sends its parameters to clients, who keep their data; each takes K steps on its own loss, and the server averages what
comes back, weighted by the numbers of examples (Algorithm 1):

    phi_i = adapt(theta, client i),    theta <- theta + eta_g * sum_i p_i (phi_i - theta),    p_i = n_i / sum_j n_j

One local step on all examples is gradient descent on sum_i p_i L_i. With more, rounds rest where sum_i p_i (phi_i - theta) = 0,
in general no minimum of it, once the clients' curvatures differ. With equal weights a round is a step of batched Reptile.

Differs from the paper: eta_g is 1 there, and who is asked in a round is drawn anew; here the caller gives those who are asked.
What a client does is any `adapt`: `maml.adapt` takes K steps on all of its examples, `reptile.adapt` on parts of them in turn,
where the paper shuffles minibatches anew in every local epoch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves

from mamlkit.algorithms.maml import constant
from mamlkit.calls import checked, refuse
from mamlkit.meta import Adapt
from mamlkit.tasks import Params, check_batch, check_counts


@checked
def server_round(
    adapt: Adapt, params: Params, clients: Any, *, weights: Tensor, server_lr: float = 1.0
) -> Params:
    """The server's parameters after one round; `params` stay as they are.

    Args:
        adapt: a client's local work, `(params, client) -> params`, such as `partial(maml.adapt, model, inner_lr=0.1,
            inner_steps=5)`.
        params: theta, by name.
        clients: what `adapt` takes, of each client: a stack, `(n_clients, n, ...)`, which goes through one `vmap`, or a list,
            whose sizes may differ, one by one.
        weights: n_i, each client's number of examples, `(n_clients,)`; only their ratios count.
        server_lr: eta_g, how far the server goes towards the average.

    Raises:
        TypeError: clients that hold something else than tensors.
        ValueError: no clients, one without examples, or not one weight each, finite, at least 0 and one of them above.

    McMahan et al. (2017), Algorithm 1. Derived in chapter `learning-goes-on`.

    >>> double = lambda params, client: {"w": 2 * params["w"] + client}
    >>> clients = torch.tensor([0.0, 4.0])  # end at 2 and 6; the second counts three times
    >>> server_round(double, {"w": torch.tensor(1.0)}, clients, weights=torch.tensor([10, 30]))
    {'w': tensor(5.)}
    """
    check_clients(clients, weights)
    theta = constant(params)
    phi = client_ends(adapt, theta, clients)
    return {name: t + server_lr * client_mean(weights, phi[name] - t) for name, t in theta.items()}


def client_ends(adapt: Adapt, params: Params, clients: Any) -> Params:
    """Where each client ends, by name, stacked: `(n_clients, ...)`. Derived in chapter `learning-goes-on`."""
    if isinstance(clients, list):
        ends = [adapt(params, client) for client in clients]
        return {name: torch.stack([phi[name] for phi in ends]) for name in params}
    phi: Params = vmap(adapt, (None, 0), randomness="different")(params, clients)
    return phi


def client_mean(weights: Tensor, of_clients: Tensor) -> Tensor:
    """sum_i p_i v_i of what clients have, `(n_clients, ...)`, where p = weights / sum. Derived in chapter `learning-goes-on`."""
    p = weights.to(of_clients)  # whole numbers would be divided in single precision
    mean: Tensor = torch.tensordot(p / p.sum(), of_clients, 1)
    return mean


def check_clients(clients: Any, weights: Tensor) -> None:
    """Nothing, if each client holds examples and has a weight.

    Raises:
        TypeError: clients that hold something else than tensors.
        ValueError: none, one without examples, or weights that are not one each, finite, at least 0 and one of them above.
    """
    if isinstance(clients, list):
        check_counts(**{"len(clients)": len(clients)})
        for i, client in enumerate(clients):
            check_batch(f"clients[{i}]", client)
        n = len(clients)
    else:
        check_batch("clients", clients, axes=2)
        n = len(tree_leaves(clients)[0])
    shape = tuple(weights.shape)
    refuse({f"weights has shape {shape} for {n} clients; give each its number of examples": shape != (n,)})
    if weights.is_cpu:  # a GPU is not waited for
        good = weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0
        refuse({f"weights={weights.tolist()}, but they must be finite, at least 0 and one above": not good})
