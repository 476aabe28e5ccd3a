"""The interactive figures: one JavaScript front end for the live notebook and for the published page.

Beside a kernel a `Figure` is an ipywidget (anywidget), and what the reader moves can be read and set from
Python. Its stored output is HTML that holds the same front end and the same state, so that a page without a
kernel, a server or a network is as interactive. The HTML depends on nothing but the figure's content.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS, LOOK
from mamlkit.tasks import Params, Task

__all__ = [
    "Figure",
    "few_shot_game",
    "gradient_descent",
    "local_work",
    "point_navigation",
    "prior_width",
    "sinusoid_adaptation",
    "two_tasks",
]

FRONT = Path(__file__).parent / "_front"
TASK_COLOURS = [COLOURS[name] for name in ("green", "purple", "ochre", "sky", "grey")]
LABELS = {
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "joint": "joint training",
    "scratch": "random initialisation",
}


@cache
def _source(*names: str) -> str:
    return "".join((FRONT / name).read_text(encoding="utf-8") for name in names)


def _colour(look: str) -> str:
    colour: str = LOOK[look]["color"]
    # black is the page's own ink, which is white in dark mode
    return "var(--maml-ink)" if colour == COLOURS["black"] else colour


class Figure(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """An interactive figure: displayed by a notebook, or by any page that holds its `html`.

    Args:
        parts: the files of its front end; the last one defines `render`.
        title: its name, also for screen readers.
        alt: one or two sentences that stand in its place where scripts are off.
        settings: what stays as it is.
        state: what the reader moves, each a trait of this object with the type of its first value:
            `figure.theta` reads it, `figure.theta = [0.0, 1.0]` moves it, and `figure.observe(function,
            "theta")` listens to it.
    """

    def __init__(
        self,
        *parts: str,
        title: str,
        alt: str,
        caption: str,
        colours: Mapping[str, str],
        settings: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        kinds: dict[type, Any] = {
            float: traitlets.Float,
            int: traitlets.Int,
            bool: traitlets.Bool,
            list: traitlets.List,
        }
        self.alt = alt
        self.front = _source("page.js", *parts)
        self.reader_state = sorted(state)
        self.add_traits(
            _esm=traitlets.Unicode(self.front + "\nexport default { render };\n").tag(sync=True),
            _css=traitlets.Unicode(_source("figure.css")).tag(sync=True),
            settings=traitlets.Dict(read_only=True).tag(sync=True),
            **{name: kinds[type(value)](value).tag(sync=True) for name, value in state.items()},
        )
        self.set_trait("settings", {**settings, "title": title, "caption": caption, "colours": dict(colours)})
        super().__init__()

    @property
    def html(self) -> str:
        """The figure in its present state as HTML that needs nothing else; equal figures give equal text."""
        now = {"settings": self.settings, **{name: getattr(self, name) for name in self.reader_state}}
        # "<" could close the script early
        state = json.dumps(now, sort_keys=True, separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        )
        script = self.front + _source("stand_in.js")
        name = hashlib.sha256((script + state).encode()).hexdigest()[:12]
        return (
            f'<div class="maml-slot" data-figure="{name}">\n<style>\n{_source("figure.css")}</style>\n'
            f'<div class="maml-figure"><p>{html.escape(self.alt)}</p></div>\n'
            f'<script type="application/json">{state}</script>\n<script>\n(() => {{\n"use strict";\n{script}'
            f"for (const slot of document.querySelectorAll('[data-figure=\"{name}\"]:not([data-live])')) {{\n"
            '  slot.setAttribute("data-live", "");\n'
            "  const state = "
            "JSON.parse(slot.querySelector('script[type=\"application/json\"]').textContent);\n"
            '  render({ model: standIn(state), el: slot.querySelector(".maml-figure") });\n'
            "}\n})();\n</script>\n</div>"
        )

    def __repr__(self) -> str:
        return f"Interactive figure: {self.settings['title']}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "text/html": self.html}, metadata


def gradient_descent(
    *, step_size: float = 0.3, start: float = 2.0, steps: int = 12, caption: str = ""
) -> Figure:
    """Gradient descent on f(x) = x², with sliders for the step size and the start.

    A step is x ← (1 − 2η) x: it converges for 0 < η < 1, jumps from side to side beyond 1/2 and diverges
    beyond 1. Used in chapter `learning-to-learn`.

    Args:
        step_size: η at first, within 0.05 and 1.1; the reader's is `figure.step_size`.
        start: x₀ at first, within ±2.4; the reader's is `figure.start`.
        steps: how many steps are shown, at least 1.

    >>> gradient_descent(step_size=0.4)
    Interactive figure: Gradient descent on f(x) = x²
    """
    _within("step_size", step_size, 0.05, 1.1)
    _within("start", start, -2.4, 2.4)
    _within("steps", steps, 1, 100)
    return Figure(
        "gradient_descent.js",
        title="Gradient descent on f(x) = x²",
        alt=(
            "Interactive figure: the iterates of gradient descent on the parabola x², and their distance "
            "from the minimum, as the step size η moves. Each step multiplies x by 1 − 2η, so the distance "
            "shrinks for 0 < η < 1 and grows for η > 1."
        ),
        caption=caption,
        colours={"path": COLOURS["blue"]},
        settings={"steps": steps},
        state={"step_size": float(step_size), "start": float(start)},
    )


def two_tasks(
    optima: ArrayLike,
    curvatures: ArrayLike,
    *,
    inner_lr: float,
    theta: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    caption: str = "",
) -> Figure:
    """Quadratic tasks Lᵢ(θ) = ½ (θ − wᵢ)ᵀ Aᵢ (θ − wᵢ) on a plane: drag θ and the optima wᵢ, slide α.

    Joint training ends at the mean of the wᵢ weighted by Aᵢ, MAML at their mean weighted by Aᵢ (I − αAᵢ)²,
    which is the same point at α = 0. Derived in chapter `objective`.

    Args:
        optima: the wᵢ, `(n_tasks, 2)`; the reader's are `figure.optima`.
        curvatures: the Aᵢ, `(n_tasks, 2, 2)`, symmetric and positive definite.
        inner_lr: α at first, not negative; the reader's is `figure.inner_lr`. The slider ends at 0.95
            divided by the largest curvature, or at `inner_lr` if that is more.
        theta: θ at first, `(2,)`; the reader's is `figure.theta`. By default the mean of the optima.
        names: one per task, `task 1` and so on by default.

    >>> two_tasks([[-2, 0], [2, 1]], [[[1, 0], [0, 4]], [[3, 0], [0, 1]]], inner_lr=0.1).theta
    [0.0, 0.5]
    """
    w, a = np.asarray(optima, dtype=float), np.asarray(curvatures, dtype=float)
    n = len(w) if w.ndim == 2 and w.shape[1] == 2 and a.shape == (len(w), 2, 2) else 0
    if not 1 <= n <= len(TASK_COLOURS):
        raise ValueError(
            f"optima has shape {w.shape} and curvatures has shape {a.shape}; give (n, 2) and (n, 2, 2), a row of 2 coordinates "
            f"and a 2 × 2 matrix for each of 1 to {len(TASK_COLOURS)} tasks"
        )
    start = w.mean(axis=0) if theta is None else np.asarray(theta, dtype=float)
    names = [f"task {i + 1}" for i in range(n)] if names is None else list(names)
    finite = np.isfinite(w).all() and np.isfinite(a).all()
    eigenvalues = np.linalg.eigvalsh(a) if finite else np.zeros(1)
    definite = np.allclose(a, a.transpose(0, 2, 1)) and eigenvalues.min() > 0
    on_plane = start.shape == (2,) and np.isfinite(start).all()
    is_step = 0 <= inner_lr < np.inf
    refuse(
        {
            "optima and curvatures must be finite; one of their numbers is not": not finite,
            f"each curvature must be symmetric with positive eigenvalues, got {a.tolist()}; use B @ B.T + I": not definite,
            f"theta is {start.tolist()}; give 2 finite coordinates": not on_plane,
            f"inner_lr={inner_lr} is not a step size; it must be finite and at least 0": not is_step,
            f"{len(names)} names for {n} tasks; give one each": len(names) != n,
        }
    )
    low, high = np.vstack([w, start]).min(axis=0), np.vstack([w, start]).max(axis=0)
    middle, reach = (low + high) / 2, 1.5 + 0.6 * float((high - low).max())
    return Figure(
        "quadratics.js",
        "two_tasks.js",
        title=f"{['One', 'Two', 'Three', 'Four', 'Five'][n - 1]} quadratic task{'s' * (n > 1)}, one initialisation",
        alt=(
            "Interactive figure: ellipses of equal loss of quadratic tasks on a plane, an initialisation θ "
            "that one drags, and an arrow for each task's inner step. The optimum of joint training and "
            "the optimum of MAML coincide at step size 0 and part as it grows, because MAML leaves the "
            "steep directions to the inner step."
        ),
        caption=caption,
        colours={
            **{f"task_{i}": TASK_COLOURS[i] for i in range(n)},
            **{look: _colour(look) for look in ("joint", "maml")},
        },
        settings={
            "curvatures": a.tolist(),
            "x": [middle[0] - reach, middle[0] + reach],
            "y": [middle[1] - reach * 0.75, middle[1] + reach * 0.75],
            "names": names,
            "max_inner_lr": max(float(inner_lr), round(0.95 / float(eigenvalues.max()), 4)),
        },
        state={"optima": w.tolist(), "theta": start.tolist(), "inner_lr": float(inner_lr)},
    )


def sinusoid_adaptation(
    networks: Mapping[str, Params],
    *,
    inner_lr: float | Mapping[str, float],
    k_shot: int = 5,
    inner_steps: int = 1,
    max_steps: int = 10,
    amplitude: float = 3.0,
    phase: float = 1.0,
    labels: Mapping[str, str] | None = None,
    caption: str = "",
) -> Figure:
    """Networks that adapt in the page to a sinusoid, from support points that the reader draws.

    The front end runs the forward and the backward pass itself, on the given float32 numbers and in double
    precision: `inner_steps` steps down the mean squared error over the support points. Used in chapter
    `sinusoids` (Finn et al. 2017, section 5.1: amplitude within 0.1 and 5, phase within 0 and π, inputs
    within ±5).

    Args:
        networks: the parameters of each network under its name in `figures.LOOK`, such as `{"maml": params,
            "joint": baseline}`. A network is `Linear` layers from 1 input to 1 output with ReLU between
            them, its tensors in order: weight `(rows, columns)`, then bias `(rows,)`, of each layer.
        inner_lr: α, one for all or one per name.
        k_shot: how many support points there are at first, 1 to 20; the reader's are `figure.support`,
            pairs of x and the height above the sinusoid.
        inner_steps: K at first; the reader's is `figure.inner_steps`, up to `max_steps`.
        amplitude, phase: of y = amplitude · sin(x − phase) at first; the reader's are `figure.amplitude`
            and `figure.phase`.
        labels: what the page calls each network, by name.
    """
    if not networks:
        raise ValueError("there are no networks to adapt; give at least one, such as {'maml': params}")
    _within("k_shot", k_shot, 1, 20)
    _within("max_steps", max_steps, 1, 50)
    _within("inner_steps", inner_steps, 0, max_steps)
    _within("amplitude", amplitude, 0.1, 5.0)
    _within("phase", phase, 0.0, np.pi)
    rates = dict(inner_lr) if isinstance(inner_lr, Mapping) else dict.fromkeys(networks, inner_lr)
    if missing := sorted(set(networks) - set(rates)):
        raise ValueError(f"inner_lr has no rate for {', '.join(missing)}; give one to each network")
    for name, rate in rates.items():
        _within(f"inner_lr of {name}", rate, 0.0, 10.0)
    called = {**LABELS, **(labels or {})}
    state = {
        "amplitude": float(amplitude),
        "phase": float(phase),
        "inner_steps": inner_steps,
        "half_range": False,
        # spread over the range by the golden ratio: any k_shot of them lie well apart
        "support": [[round(-5 + 10 * ((0.3 + i * 0.6180339887) % 1), 3), 0.0] for i in range(k_shot)],
    }
    return Figure(
        "mlp.js",
        "sinusoid_adaptation.js",
        title="Adapt to a new sinusoid",
        alt=(
            "Interactive figure: a sinusoid, a few support points on it, and the curve of each network "
            "before and after gradient steps on those points. A meta-trained network bends to the sinusoid "
            "within a step or two, also where it has seen no point; a baseline hardly moves."
        ),
        caption=caption,
        colours={look: _colour(look) for look in (*networks, "truth", "support")},
        settings={
            "networks": [
                {
                    "look": name,
                    "label": called.get(name, name.replace("_", " ")),
                    "inner_lr": float(rates[name]),
                    **_packed(name, params),
                }
                for name, params in networks.items()
            ],
            "max_steps": max_steps,
            "max_shots": 20,
        },
        state=state,
    )


def point_navigation(
    policy: Sequence[ArrayLike],
    goals: ArrayLike,
    *,
    inner_lr: float,
    horizon: int = 20,
    noise: float = 0.05,
    limit: float = 0.1,
    reach: float = 0.5,
    gains: Sequence[float] = (0.7, 1.0, 1.4, 2.0, 3.0),
    rollouts: int = 20,
    caption: str = "",
) -> Figure:
    """A policy a = sK + b on the plane that takes one REINFORCE step in the page, for a goal that the reader sets.

    The front end rolls out, with noise from a generator of its own, and computes the step and the costs in
    double precision. Used in chapter `reinforcement-learning` (Finn et al. 2017, section 5.3).

    Args:
        policy: K `(2, 2)` and b `(2,)`, stored to six decimals.
        goals: `(n, 2)`, the places to click; the first is the goal at first, the reader's is `figure.goal`.
        inner_lr: the size of the step.
        horizon, noise, limit: the steps of an episode, the standard deviation of the noise on an action, and
            the largest velocity in each coordinate.
        reach: goals lie within ± this in each coordinate.
        gains: the oracle is the cheapest K = −kI, b = k · goal of these k.
        rollouts: in the support set at first, 2 to 60; the reader's is `figure.rollouts`, drawn from
            `figure.seed`.

    >>> point_navigation(([[-1, 0], [0, -1]], [0, 0]), [[0.3, 0.4]], inner_lr=0.01).goal
    [0.3, 0.4]
    """
    K, b, places = (np.asarray(part, dtype=float) for part in (*policy, goals))
    fits = (
        K.shape == (2, 2)
        and b.shape == (2,)
        and places.ndim == 2
        and places.shape[1:] == (2,)
        and len(places) > 0
    )
    finite = all(np.isfinite(part).all() for part in (K, b, places))
    refuse(
        {
            f"policy and goals have shapes {K.shape}, {b.shape} and {places.shape}; give (2, 2), (2,) and (n, 2)": not fits,
            "policy and goals must be finite; one of their numbers is not": not finite,
            f"a goal lies outside ±{reach:g}; move it or widen reach": fits
            and finite
            and np.abs(places).max() > reach,
        }
    )
    _within("inner_lr", inner_lr, 0.0, 10.0)
    _within("horizon", horizon, 1, 100)
    _within("noise", noise, 1e-6, 10.0)
    _within("limit", limit, 1e-6, 10.0)
    _within("rollouts", rollouts, 2, 60)
    return Figure(
        "point_navigation.js",
        title="One step towards a goal that only the cost tells",
        alt=(
            "Interactive figure: a square of the plane with a goal that one clicks or drags. A policy rolls out "
            "from the origin, takes one REINFORCE step, and rolls out again; its cost before and after stands "
            "beside that of an oracle. Before the step the paths stay around the origin, after it they head "
            "for the goal, and how well depends on the luck of the rollouts, less so with more of them."
        ),
        caption=caption,
        colours={
            "before": COLOURS["grey"],
            "goal": COLOURS["vermillion"],
            **{k: _colour(k) for k in ("maml", "oracle")},
        },
        settings={
            "policy": {"K": K.round(6).tolist(), "b": b.round(6).tolist()},
            "world": {"horizon": horizon, "noise": noise, "limit": limit},
            "goals": places.round(3).tolist(),
            "gains": list(gains),
            "inner_lr": float(inner_lr),
            "reach": float(reach),
        },
        state={"goal": places[0].round(3).tolist(), "seed": 0, "rollouts": rollouts},
    )


def prior_width(
    centre: ArrayLike,
    fit: ArrayLike,
    *,
    n: int,
    inner_lr: float = 0.1,
    inner_steps: int = 4,
    width: float = 0.7,
    unevenness: float = 0.5,
    turn: float = 0.5,
    caption: str = "",
) -> Figure:
    """K gradient steps on a linear model beside the posterior mean under a normal prior of one width, in the plane of weights.

    Along an eigenvector of X'X / n with the eigenvalue e the steps leave (1 - 2αe)^K of the centre, the posterior mean
    1 / (1 + n e τ²/σ²). Both are equal wherever the fit is if the two eigenvalues are one and the width is that of the steps.
    Derived in chapter `maml-is-a-prior` (Santos 1996; Grant et al. 2018).

    Args:
        centre: θ, `(2,)`, the start of the steps and the mean of the prior.
        fit: the least squares fit to the task's examples at first, `(2,)`; the reader's is `figure.fit`.
        n: the number of examples.
        inner_lr: α at first, 0.01 to 0.25; no step overshoots. The reader's is `figure.inner_lr`.
        inner_steps: K at first, 1 to 20; the reader's is `figure.inner_steps`.
        width: τ/σ at first, 0.01 to 3; the reader's is `figure.width`.
        unevenness: u at first, 0 to 0.9: X'X / n has the eigenvalues 1 + u and 1 - u. The reader's is `figure.unevenness`.
        turn: the angle from the first axis to the direction in which inputs vary most, in radians.

    >>> prior_width([1.0, -0.5], [2.0, 0.5], n=6).inner_steps
    4
    """
    places = [np.asarray(place, dtype=float) for place in (centre, fit)]
    shapes = " and ".join(str(place.shape) for place in places)
    flat = all(place.shape == (2,) for place in places)
    refuse(
        {
            f"centre and fit have shapes {shapes}; give 2 coordinates each": not flat,
            "centre and fit must be finite; one of their numbers is not": not all(
                np.isfinite(place).all() for place in places
            ),
        }
    )
    _within("n", n, 1, 1000)
    _within("inner_lr", inner_lr, 0.01, 0.25)
    _within("inner_steps", inner_steps, 1, 20)
    _within("width", width, 0.01, 3.0)
    _within("unevenness", unevenness, 0.0, 0.9)
    _within("turn", turn, -np.pi, np.pi)
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    middle, reach = (low + high) / 2, 0.8 + 0.6 * float((high - low).max())
    return Figure(
        "goal.js",
        "prior_width.js",
        title="Steps against prior width",
        alt=(
            "Interactive figure: a plane of weights with a centre, the fit to a task alone, the place where K gradient steps "
            "from the centre end, and the posterior mean under a normal prior around the centre. The prior that the steps "
            "stand for is drawn as an ellipse, the one that one dials as a circle. With uneven inputs no circle is the "
            "ellipse; with even ones a single width makes the two priors, and the two answers, one."
        ),
        caption=caption,
        colours={
            "maml": _colour("maml"),
            "prior": _colour("oracle"),
            "centre": COLOURS["green"],
            "fit": COLOURS["vermillion"],
        },
        settings={
            "centre": places[0].round(3).tolist(),
            "n": n,
            "turn": float(turn),
            "x": [middle[0] - reach, middle[0] + reach],
            "y": [middle[1] - reach, middle[1] + reach],
            "max_inner_lr": 0.25,
            "max_steps": 20,
            "max_width": 3.0,
        },
        state={
            "fit": places[1].round(3).tolist(),
            "inner_lr": float(inner_lr),
            "inner_steps": inner_steps,
            "width": float(width),
            "unevenness": float(unevenness),
        },
    )


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
    finite = all(np.isfinite(part).all() for part in (a, w, p, theta))
    usual = fits and finite
    steepest = float(np.linalg.eigvalsh(a).max()) if usual else 1.0
    definite = usual and np.allclose(a, a.swapaxes(-1, -2)) and np.linalg.eigvalsh(a).min() > 0
    refuse(
        {
            f"curvatures, bottoms, shares and start have shapes {a.shape}, {w.shape}, {p.shape} and {theta.shape}; give "
            "(F, n, 2, 2), (F, n, 2), (F, n) and (2,) for F federations of n clients": not fits,
            "curvatures, bottoms, shares and start must be finite; one of their numbers is not": not finite,
            "each of curvatures must be symmetric with positive eigenvalues; use B @ B.T + I": not definite,
            "the shares of a federation must be at least 0 and have the sum 1": usual
            and not (p.min() >= 0 and np.allclose(p.sum(1), 1)),
        }
    )
    max_rate = math.floor(100 / steepest) / 100 or 1 / steepest
    _within("rate", rate, 0.1 * max_rate, max_rate)
    _within("local_steps", local_steps, 1, 100)
    _within("federation", federation, 0, len(p) - 1)
    _within("near", near, 1e-9, 1e-2)
    _within("rounds", rounds, 10, 1000)
    return Figure(
        "quadratics.js",
        "goal.js",
        "local_work.js",
        title="Local work against the resting point",
        alt=(
            "Interactive figure: clients with quadratic losses on a plane, their joint optimum, and the paths of federated "
            "averaging and of SCAFFOLD over the rounds; beside it their distances from the joint optimum. With one local step "
            "both end there. With more, federated averaging comes to rest elsewhere, and SCAFFOLD still ends at the joint "
            "optimum, first in fewer rounds, then in more."
        ),
        caption=caption,
        colours={"client": COLOURS["grey"], "fedavg": _colour("joint"), "scaffold": _colour("maml")},
        settings={
            "federations": [
                {"curvatures": c.round(6).tolist(), "bottoms": b.round(6).tolist(), "shares": s.tolist()}
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


def few_shot_game(tasks: Task, *, caption: str = "") -> Figure:
    """Few-shot learning as a game: which class does a drawing belong to, says the reader, says pixel distance.

    Of each task one query is asked, chosen at random with a fixed seed. The page shows four shades of grey;
    the nearest neighbour, in squared distance, sees the images as given. The reader's choices are
    `figure.guesses`. Used in chapter `learning-to-learn`.

    Args:
        tasks: a stack of image tasks as `sampling.class_tasks` draws it: support and query images
            `(n_tasks, n, channels, h, w)` with ink 1 on paper 0 in their first channel, labels
            `(n_tasks, n)` from 0, as many drawings of every class.
    """
    (support_x, support_y), (query_x, query_y) = ((part.x.cpu(), part.y.cpu()) for part in tasks)
    alike = query_x.shape[2:] == support_x.shape[2:] and len(query_x) == len(support_x) > 0
    labelled = support_y.shape == support_x.shape[:2] and query_y.shape == query_x.shape[:2]
    if support_x.dim() != 5 or not alike or not labelled:
        raise ValueError(
            f"support images {tuple(support_x.shape)}, query images {tuple(query_x.shape)} and their labels "
            f"{tuple(support_y.shape)} and {tuple(query_y.shape)} do not fit; give a stack of tasks, images "
            "(n_tasks, n, channels, h, w) and labels (n_tasks, n), and draw support and query together"
        )
    n_way, low, high = int(support_y.max()) + 1, float(support_x.min()), float(support_x.max())
    k_shot = support_y.shape[1] // n_way
    even = all(torch.equal(y.bincount(), torch.full((n_way,), k_shot)) for y in support_y)
    refuse(
        {
            f"pixels lie between {low:.3g} and {high:.3g}; scale the images to 0 (paper) to 1 (ink)": (
                not 0 <= low <= high <= 1
            ),
            f"the support labels are not {n_way} classes with equally many drawings in every task; use class_tasks": not even,
        }
    )
    _within("n_way", n_way, 2, 9)
    chooser = random.Random(0)
    drawings, answers, nearest = [], [], []
    for images, labels, queries, query_labels in zip(support_x, support_y, query_x, query_y):
        order = torch.argsort(labels, stable=True)
        asked = chooser.randrange(len(queries))
        distances = (images[order] - queries[asked]).flatten(1).double().square().sum(dim=1)
        drawings.append(torch.cat([images[order], queries[asked : asked + 1]])[:, 0])
        answers.append(int(query_labels[asked]))
        nearest.append(int(labels[order][distances.argmin()]))
    shades = (torch.cat(drawings).double() * 3).round().clamp(0, 3).to(torch.uint8).flatten().numpy()
    shades = np.pad(shades, (0, -len(shades) % 4)).reshape(-1, 4)
    packed = (shades << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    return Figure(
        "few_shot_game.js",
        title="Few-shot learning as a game",
        alt=(
            f"Interactive figure: {len(answers)} tasks, each with {n_way} classes of {k_shot} "
            f"drawing{'s' * (k_shot > 1)} and one more drawing to classify. The reader's score is set beside "
            "that of the nearest neighbour in pixels."
        ),
        caption=caption,
        colours={"right": COLOURS["green"], "wrong": COLOURS["vermillion"]},
        settings={
            "n_way": n_way,
            "k_shot": k_shot,
            "height": support_x.shape[-2],
            "width": support_x.shape[-1],
            "drawings": base64.b64encode(packed.tobytes()).decode(),
            "answers": answers,
            "rivals": [{"name": "the nearest neighbour in pixels", "guesses": nearest}],
        },
        state={"guesses": []},
    )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value} lies outside {low:g} to {high:g}; choose a value within")


def _packed(name: str, params: Params) -> dict[str, Any]:
    tensors = [tensor.detach().cpu() for tensor in params.values()]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    weights, biases = shapes[0::2], shapes[1::2]
    layers = (
        len(shapes) >= 2
        and len(weights) == len(biases)
        and all(len(weight) == 2 and bias == weight[:1] for weight, bias in zip(weights, biases))
        and all(left[0] == right[1] for left, right in itertools.pairwise(weights))
        and weights[0][1] == weights[-1][0] == 1
    )
    refuse(
        {
            f"the parameters of {name} have shapes {shapes}; give weight and bias of each linear layer in order, "
            "from 1 input to 1 output": not layers,
            f"the parameters of {name} are not all finite; check its training before showing it": not all(
                tensor.float().isfinite().all() for tensor in tensors
            ),
        }
    )
    flat = torch.cat([tensor.flatten() for tensor in tensors]).float()
    return {
        "sizes": [1, *(rows for rows, _ in weights)],
        "weights": base64.b64encode(flat.numpy().astype("<f4").tobytes()).decode(),
    }
