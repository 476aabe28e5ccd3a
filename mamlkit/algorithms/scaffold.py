"""SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich & Suresh, ICML 2020, arXiv:1910.06378).

Federated averaging without its drift: client i keeps a control variate c_i, a guess of its own gradient, and every local step
puts the mean c of all guesses in its place (Algorithm 1, option II):

    phi_i <- phi_i - eta * (grad L_i(phi_i) - c_i + c),    K times, from phi_i = theta
    c_i <- c_i - c + (theta - phi_i) / (K * eta)
    theta <- theta + eta_g * sum_i p_i (phi_i - theta),    c = sum_i p_i c_i

A minimum of sum_i p_i L_i is at rest, whatever K is: with c_i = grad L_i(theta) and c = 0 no client moves.

Differs from the paper: every client is asked in every round, so c is always the mean of the c_i; means are weighted by the
clients' sizes, where the paper weights them alike; and each step takes the gradient on all of a client's examples, where the
paper draws a minibatch. Option I, the gradient at theta as the new guess, is an exercise in the chapter.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from mamlkit.algorithms import maml
from mamlkit.algorithms.fedavg import check_clients, client_ends, client_mean
from mamlkit.calls import checked, refuse
from mamlkit.gradients import dot
from mamlkit.meta import Loss, batch_loss
from mamlkit.tasks import Params, check_counts, one_by_one


@checked
def initial_controls(params: Params, n_clients: int) -> dict[str, Tensor]:
    """Control variates that are zero, `(n_clients, ...)` under each name: the first round is then one of FedAvg.

    Raises:
        ValueError: `n_clients` below 1.

    Karimireddy et al. (2020), Algorithm 1. Derived in chapter `learning-goes-on`.
    """
    return {name: p.new_zeros(n_clients, *p.shape) for name, p in params.items()}


@checked
def server_round(
    model: nn.Module,
    params: Params,
    controls: dict[str, Tensor],
    clients: Any,
    *,
    weights: Tensor,
    inner_lr: float,
    inner_steps: int,
    server_lr: float = 1.0,
    loss: Loss = batch_loss,
) -> tuple[Params, dict[str, Tensor]]:
    """The server's parameters and the clients' control variates after one round; what was given stays as it is.

    Args:
        params: theta, by name.
        controls: c_i, `(n_clients, ...)` under the same names; `initial_controls` before the first round.
        clients: each client's examples as `loss` takes them: a stack, `(n_clients, n, ...)`, which goes through one `vmap`, or a
            list, whose sizes may differ, one by one.
        weights: n_i, each client's number of examples, `(n_clients,)`; only their ratios count.
        inner_lr: eta > 0, the size of a local step.
        inner_steps: K >= 1.
        server_lr: eta_g, how far the server goes towards the average.
        loss: L_i, `(model, params, client) -> scalar`.

    Raises:
        TypeError: clients that hold something else than tensors.
        ValueError: no clients, one without examples, or without a weight or controls of their own; `inner_lr` that is not above
            0, `inner_steps` below 1.

    Karimireddy et al. (2020), Algorithm 1. Derived in chapter `learning-goes-on`.
    """
    check_round(params, controls, clients, weights, inner_lr, inner_steps)
    theta = maml.constant(params)
    tilt = {name: client_mean(weights, c) - c for name, c in controls.items()}  # c - c_i

    def tilted_loss(model: nn.Module, phi: Params, client: Any) -> Tensor:  # its slope is grad L_i - c_i + c
        own, slope = client
        return loss(model, phi, own) + dot(slope, phi)

    local = partial(maml.adapt, model, inner_lr=inner_lr, inner_steps=inner_steps, loss=tilted_loss)
    listed = isinstance(clients, list)
    phi = client_ends(local, theta, [*zip(clients, one_by_one(tilt))] if listed else (clients, tilt))
    walk = {name: t - phi[name] for name, t in theta.items()}
    controls = {name: v / (inner_steps * inner_lr) - tilt[name] for name, v in walk.items()}
    return {name: t - server_lr * client_mean(weights, walk[name]) for name, t in theta.items()}, controls


def check_round(
    params: Params,
    controls: dict[str, Tensor],
    clients: Any,
    weights: Tensor,
    inner_lr: float,
    inner_steps: int,
) -> None:
    """Nothing, if a round can run.

    Raises:
        TypeError: clients that hold something else than tensors.
        ValueError: what `server_round` raises.
    """
    check_clients(clients, weights)
    check_counts(1, inner_steps=inner_steps)
    wanted = {name: (len(weights), *p.shape) for name, p in params.items()}
    given = {name: tuple(c.shape) for name, c in controls.items()}
    refuse(
        {
            f"inner_lr={inner_lr}, but a local step must be above 0": inner_lr == 0,
            f"controls has {given}, but needs {wanted}; make it with initial_controls(params, {len(weights)})": given
            != wanted,
        }
    )
