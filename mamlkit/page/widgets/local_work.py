"""Federated averaging and SCAFFOLD on quadratic clients, with the local work to turn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, definite, finite, look_colour, stored, within


def local_work(
    curvatures: ArrayLike,
    bottoms: ArrayLike,
    shares: ArrayLike,
    *,
    start: ArrayLike,
    rate: float = 0.5,
    local_steps: int = 20,
    federation: int = 0,
    near: float = 1e-6,
    rounds: int = 100,
    caption: str = "",
) -> Figure:
    """Where FedAvg rests and how many rounds SCAFFOLD needs, on clients with the losses ½ (θ - wᵢ)ᵀ Aᵢ (θ - wᵢ) in the plane.

    FedAvg rests at the mean of the wᵢ weighted by pᵢ (I - (I - ηAᵢ)^K), SCAFFOLD at the joint optimum, weighted by pᵢAᵢ. The
    front end takes K local steps of every client in closed form. Derived in chapter `learning-goes-on` (McMahan et al. 2017,
    Karimireddy et al. 2020).

    Args:
        curvatures: the Aᵢ of each federation, `(n_federations, n_clients, 2, 2)`, symmetric and positive definite.
        bottoms: the wᵢ, `(n_federations, n_clients, 2)`.
        shares: the pᵢ, `(n_federations, n_clients)`, not negative, with the sum 1 in each federation.
        start: θ before the first round, `(2,)`.
        rate: η at first, above 0; the reader's is `figure.rate`, up to 1 / (largest curvature).
        local_steps: K at first, 1 to 100; the reader's is `figure.local_steps`.
        federation: which one is shown at first, from 0; the reader's is `figure.federation`.
        near: SCAFFOLD's rounds are counted until it stays within this distance of the joint optimum.
        rounds: how many are drawn.
    """
    a, w, p, theta = (np.asarray(given, dtype=float) for given in (curvatures, bottoms, shares, start))
    fits = (
        p.ndim == 2
        and p.size > 0
        and a.shape == (*p.shape, 2, 2)
        and w.shape == (*p.shape, 2)
        and theta.shape == (2,)
    )
    refuse(
        {
            f"curvatures, bottoms, shares and start have shapes {a.shape}, {w.shape}, {p.shape} and {theta.shape}; give "
            "(F, n, 2, 2), (F, n, 2), (F, n) and (2,) for F federations of n clients": not fits,
        }
    )
    finite("curvatures, bottoms, shares and start", a, w, p, theta)
    definite("the curvatures", a)
    are_shares = p.min() >= 0 and np.allclose(p.sum(1), 1)
    refuse({"the shares of a federation must be at least 0 and have the sum 1": not are_shares})
    steepest = float(np.linalg.eigvalsh(a).max())
    max_rate = math.floor(100 / steepest) / 100 or 1 / steepest
    within("rate", rate, 0.1 * max_rate, max_rate)
    within("local_steps", local_steps, 1, 100)
    within("federation", federation, 0, len(p) - 1)
    within("near", near, 1e-9, 1e-2)
    within("rounds", rounds, 10, 1000)
    return Figure(
        "quadratics.js",
        "local_work.js",
        title="Local work against the resting point",
        alt=(
            "clients with quadratic losses on a plane, their joint optimum, and the paths of federated "
            "averaging and of SCAFFOLD over the rounds; beside it their distances from the joint optimum. With one local step "
            "both end there. With more, federated averaging comes to rest elsewhere, and SCAFFOLD still ends at the joint "
            "optimum, first in fewer rounds, then in more."
        ),
        caption=caption,
        colours={"client": COLOURS["grey"], "fedavg": look_colour("joint"), "scaffold": look_colour("maml")},
        settings={
            "federations": [
                {"curvatures": stored(c, 6), "bottoms": stored(b, 6), "shares": s.tolist()}
                for c, b, s in zip(a, w, p)
            ],
            "start": theta.tolist(),
            "max_rate": max_rate,
            "max_steps": 100,
            "near": near,
            "rounds": rounds,
        },
        state={"local_steps": local_steps, "rate": float(rate), "federation": federation},
    )
