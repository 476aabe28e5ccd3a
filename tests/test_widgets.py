"""The front end computes what torch and NumPy compute, and the stored HTML needs nothing from outside."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import traitlets
from interactive import (
    FEDERATIONS,
    FIGURES,
    GOALS,
    POLICY,
    A,
    W,
    descent,
    every_figure,
    game,
    image_tasks,
    navigation,
    network,
    plane,
    prior,
    sinusoid,
    work,
)
from torch.func import functional_call, grad

from mamlkit.page import widgets
from mamlkit.tasks import Batch, Task


@pytest.mark.parametrize("sizes", [(1, 40, 40, 1), (1, 7, 1), (1, 5, 6, 4, 1)])
@pytest.mark.parametrize("inner_steps", [0, 1, 10])
def test_the_page_adapts_a_network_as_torch_does(front, sizes, inner_steps):
    model = network(sizes)
    stored = widgets.sinusoid_adaptation({"maml": model.state_dict()}, inner_lr=0.02).settings["networks"][0]
    x = torch.linspace(-4, 4.5, 7, dtype=torch.float64).unsqueeze(1)
    y, grid = 3 * torch.sin(x - 1), torch.linspace(-5, 5, 41, dtype=torch.float64).unsqueeze(1)

    params = {name: value.double() for name, value in model.state_dict().items()}
    for _ in range(inner_steps):
        gradients = grad(lambda p: (functional_call(model, p, x) - y).square().mean())(params)
        params = {name: value - 0.02 * gradients[name] for name, value in params.items()}
    wanted = functional_call(model, params, grid).flatten()
    points = {name: value.flatten().tolist() for name, value in {"x": x, "y": y, "grid": grid}.items()}
    adapted = f"adapt(unpack(given.sizes, given.weights), given.x, given.y, given.inner_lr, {inner_steps})"
    found = front(sinusoid, f"predict({adapted}, given.grid)", **stored, **points)

    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inner_lr", [0.0, 0.1, 0.2])
def test_the_page_finds_where_the_mean_loss_after_a_step_is_least(front, inner_lr):
    w, curvatures = (torch.tensor(given, dtype=torch.float64) for given in (W, A))

    def after_a_step(theta):  # convex, so that it is least where its slope is 0
        ends = theta - inner_lr * torch.einsum("nij,nj->ni", curvatures, theta - w) - w
        return torch.einsum("ni,nij,nj->", ends, curvatures, ends)

    after = f"given.A.map((a) => curvatureAfter(a, {inner_lr}))"
    found, joint = front(plane, f"[{after}, given.A].map((a) => commonOptimum(a, given.W))", A=A, W=W)

    np.testing.assert_allclose(grad(after_a_step)(torch.tensor(found, dtype=torch.float64)), 0, atol=1e-12)
    assert np.allclose(joint, found) == (inner_lr == 0)


def test_each_corner_of_a_contour_has_the_same_loss(front):
    corners = np.array(front(plane, "ellipse(given.a, given.w, 0.7)", a=A[1], w=W[1])) - W[1]

    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", corners, A[1], corners) / 2, 0.7, rtol=1e-12)


COUNTED = "((off) => roundsNeeded(() => [off.shift(), 0], [9, 0], [0, 0], 1, off.length))"


@pytest.mark.parametrize(
    ("figure", "expression", "value"),
    [
        (descent, "[0.3, 1.05].map(verdict)", ["it converges from one side", "it diverges"]),
        (descent, "[0.5, 1].map(verdict)", ["one step lands on the minimum", "it jumps between two points for ever"]),
        (descent, "verdict(0.8)", "it jumps from side to side and converges"),
        (descent, "[0.3, 0.8, 1.05].map((s) => descend(1, s, 3)[3])", pytest.approx([0.4**3, -(0.6**3), -(1.1**3)])),
        # a walk that leaves again has not arrived
        (work, f"{COUNTED}([0.5, 3, 0.5, 0.4, 0.5])", 3),
        (work, f"{COUNTED}([0.5, 0.5, 0.5, 0.5, 3])", math.inf),
        # where the step solves every task, no single initialisation is best
        (plane, "commonOptimum([curvatureAfter([[2, 0], [0, 2]], 0.5)], [[1, 1]])", None),
        (descent, "[0, 1, 2].map((n) => counted(n, 'step'))", ["0 steps", "1 step", "2 steps"]),
    ],
)  # fmt: skip
def test_what_the_page_says_of_steps_and_optima_is_true(front, figure, expression, value):
    assert front(figure, expression) == value


NUMBERS = [
    (0.0, "0"), (-0.0, "0"), (-1e-15, "0"), (-0.4, "−0.400"), (3.456, "3.46"), (9.995, "9.99"), (9.996, "10.0"),
    (0.99951, "1.00"), (999.6, "1000"), (1234.5, "1235"), (99960.0, "99960"), (99999.6, "1.0 × 10⁵"), (0.001, "0.00100"),
    (0.00099951, "0.00100"), (0.00099, "9.9 × 10⁻⁴"), (2e-5, "2.0 × 10⁻⁵"), (9.96e-6, "1.0 × 10⁻⁵"), (-1e-7, "−1.0 × 10⁻⁷"),
    (9.4e12, "9.4 × 10¹²"), (1e21, "1.0 × 10²¹"), (1e308, "1.0 × 10³⁰⁸"), (math.inf, "∞"), (-math.inf, "−∞"),
    (math.nan, "undefined"),
]  # fmt: skip


def test_a_number_has_three_true_digits_at_its_edges_too(front):
    values, wanted = map(list, zip(*NUMBERS))
    assert front(descent, "given.x.map((x) => number(x))", x=values) == wanted
    short = front(descent, "[[0.96, 1], [12.34, 1], [99.6, 2]].map(([x, digits]) => number(x, digits))")
    assert short == ["1", "12", "100"]
    assert front(descent, "[-0.004, -0.006, 2].map(fixed(2))") == ["0.00", "−0.01", "2.00"]
    assert front(descent, "[-0.004, 1.256, -3].map(tick)") == ["0", "1.26", "−3"]


def test_what_gradient_descent_draws_is_the_parabola_and_the_common_logarithm(front):
    render = "(el) => (render({ model: standIn(given), el }), [...el.querySelectorAll('path')])"
    paths = f"({render})(document.createElement('div')).map((path) => path.getAttribute('d'))"
    drawn = front(descent, paths, **descent().get_state())
    down = [[float(xy.split()[1]) for xy in d[1:].split("L")] for d in drawn]  # of 340

    parabola, logarithms = np.linspace(-2.6, 2.6, 81) ** 2, np.log10(2 * 0.4 ** np.arange(13))
    np.testing.assert_allclose(down[0], 340 * (6.25 - parabola) / (6.25 + 0.4), atol=0.02)
    np.testing.assert_allclose(down[3], 340 * (2 - logarithms) / (2 + 4), atol=0.02)


def test_equal_figures_are_stored_as_equal_text_and_different_ones_under_different_names():
    makers = [*FIGURES.values(), partial(descent, step_size=0.4)]
    figures = [make() for make in makers * 2]
    names = {re.search(r'data-figure="(\w+)"', figure.html)[1] for figure in figures}

    assert len(names) == len({figure.html for figure in figures}) == len(makers)
    assert len({figure.model_id for figure in figures}) == len(figures)


@every_figure
def test_the_stored_html_needs_nothing_from_outside(figure):
    text = figure().html.replace("http://www.w3.org/2000/svg", "")
    without_scripts = re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.DOTALL)

    assert ElementTree.fromstring(without_scripts).find(".//p").text == figure().alt
    assert not re.search(r"https?:|//cdn|\bimport\b|require\(|\bfetch\(|XMLHttpRequest", text)
    assert text.count("<script") == text.count("</script") == 2
    assert len(figure().front) < 40_000
    assert len(text.encode()) < 70_000


def test_a_figure_shows_itself_as_a_widget_as_html_and_as_a_sentence():
    figure = descent()
    data, _ = figure._repr_mimebundle_()

    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["text/plain"] == "Interactive figure: Gradient descent on f(x) = x²"
    assert data["text/html"] == figure.html


@every_figure
def test_python_reads_sets_and_hears_what_the_reader_moves(figure):
    for name in figure().reader_state:
        moved, heard = figure(), []
        moved.observe(heard.append, name)
        before, value = moved.html, getattr(moved, name)
        new = (
            not value
            if isinstance(value, bool)
            else value[:-1] or [0]
            if isinstance(value, list)
            else value * 2 or 1
        )

        setattr(moved, name, new)

        assert getattr(moved, name) == heard[0]["new"] == new
        assert f'"{name}":{json.dumps(new, separators=(",", ":"))}' in moved.html != before


def test_the_game_keeps_the_drawings_answers_and_the_nearest_neighbour(front):
    tasks = image_tasks(n_tasks=4, n_way=3, k_shot=2)
    settings = widgets.few_shot_game(tasks).settings
    pixels = front(game, f"Array.from(unpackPixels(given.drawings, {4 * 7 * 28 * 28}))", **settings)

    for drawn, x, y in zip(torch.tensor(pixels).view(4, 7, 28, 28), *tasks.support):
        shades = (x[torch.argsort(y, stable=True), 0].double() * 3).round().long()
        torch.testing.assert_close(drawn[:6], shades)
    assert settings["answers"] == settings["rivals"][0]["guesses"]  # each query is a paler support drawing
    assert len(set(settings["answers"])) > 1


WORLD = {"horizon": 20, "noise": 0.05, "limit": 0.1}


def rolled_out(K, b, goal, noise):
    """What an episode costs after each step, and where it was before: (n, horizon), (n, horizon, 2)."""
    s, states, costs = torch.zeros(len(noise), 2, dtype=torch.float64), [], []
    for eps in noise.unbind(1):
        states.append(s)
        s = s + (s @ K + b + WORLD["noise"] * eps).clamp(-WORLD["limit"], WORLD["limit"])
        costs.append((s - goal).square().sum(1))
    return torch.stack(costs, 1), torch.stack(states, 1)


@pytest.mark.parametrize("rollouts", [2, 7, 60])
@pytest.mark.parametrize("goal", [*GOALS, [0.1, -0.5]])
def test_the_page_takes_the_reinforce_step_that_autograd_takes(front, goal, rollouts):
    given = {"policy": dict(zip("Kb", POLICY)), "world": WORLD, "goal": goal}
    stepped = f"adaptTo(given.policy, given.goal, 3, {rollouts}, given.world, 0.015).adapted"
    numbers, adapted = front(navigation, f"[Array.from(normals(3, {rollouts * 40})), {stepped}]", **given)
    cost_after = "meanCost(rollOut(given.adapted, given.goal, given.noise, given.world))"
    found = front(navigation, cost_after, adapted=adapted, noise=numbers, **given)

    there, noise = (torch.tensor(given, dtype=torch.float64) for given in (goal, numbers))
    noise = noise.view(rollouts, 20, 2)
    K, b = (torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in POLICY)
    with torch.no_grad():
        costs, states = rolled_out(K, b, there, noise)
        actions = states @ K + b + 0.05 * noise
    to_come = costs.flip(1).cumsum(1).flip(1)
    log_prob = torch.distributions.Normal(states @ K + b, 0.05).log_prob(actions).sum(2)
    (log_prob * (to_come - to_come.mean(0))).sum(1).mean().backward()
    wanted = [(part - 0.015 * part.grad).detach() for part in (K, b)]

    for part, value in zip("Kb", wanted):
        np.testing.assert_allclose(adapted[part], value, rtol=1e-9, atol=1e-9)
    after, _ = rolled_out(*wanted, there, noise)
    assert found == pytest.approx(float(after.sum(1).mean()), rel=1e-9)


def test_the_oracle_is_the_cheapest_of_its_gains(front):
    gains = navigation().settings["gains"]
    oracle = "oracleCost(given.gains, given.goal, given.noise, given.world)"
    noise = torch.randn(50, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = front(navigation, oracle, gains=gains, goal=GOALS[2], noise=noise.flatten().tolist(), world=WORLD)

    goal, eye = torch.tensor(GOALS[2], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    costs = [rolled_out(-k * eye, k * goal, goal, noise)[0].sum(1).mean() for k in gains]
    assert found == pytest.approx(float(min(costs)), rel=1e-9)


def test_the_noise_of_the_page_is_standard_normal_and_its_seeds_are_independent(front):
    drawn = np.array(
        front(navigation, "[-2, 0, 1, 2, 1000000].map((seed) => Array.from(normals(seed, 40000)))")
    )

    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.025)
    np.testing.assert_allclose((drawn**2).mean(axis=1), 1, atol=0.04)
    np.testing.assert_allclose((drawn**4).mean(axis=1), 3, atol=0.3)
    np.testing.assert_allclose(np.corrcoef(drawn), np.eye(5), atol=0.025)
    assert all(abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < 0.025 for row in drawn for lag in (1, 2, 40))


@pytest.mark.parametrize("unevenness", [0.0, 0.5])
@pytest.mark.parametrize(("inner_lr", "inner_steps"), [(0.1, 1), (0.2, 4), (0.25, 12)])
def test_the_page_adapts_and_shrinks_as_descent_and_the_posterior_mean_do(
    front, unevenness, inner_lr, inner_steps
):
    n, width, turn, centre, fit = 6, 0.7, 0.5, np.array([1.0, -0.5]), np.array([2.2, 0.4])
    e, q = np.array([1 + unevenness, 1 - unevenness]), np.array(front(prior, f"eigenvectors({turn})")).T
    gram = n * q @ np.diag(e) @ q.T  # X'X, and X'y = gram @ fit
    w = centre
    for _ in range(inner_steps):
        w = w - inner_lr * 2 / n * gram @ (w - fit)
    due = np.linalg.solve(gram + np.eye(2) / width**2, gram @ fit + centre / width**2)

    given = {"fit": fit.tolist(), "centre": centre.tolist(), "e": e.tolist()}
    ends = [f"keptBySteps(e, {inner_lr}, {inner_steps})", f"keptByPrior(e, {n}, {width})"]
    places = [f"between(given.fit, given.centre, {turn}, given.e.map((e) => {kept}))" for kept in ends]
    own = f"given.e.map((e) => impliedWidth(e, {n}, {inner_lr}, {inner_steps}))"
    found = front(prior, f"[{places[0]}, {places[1]}, {own}]", **given)

    np.testing.assert_allclose(q.T @ q, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found[:2], [w, due], rtol=1e-10)
    precision = q @ np.diag(1 / np.square(found[2])) @ q.T  # the prior that K steps stand for
    np.testing.assert_allclose(
        np.linalg.solve(gram + precision, gram @ fit + precision @ centre), w, rtol=1e-9
    )
    assert np.isclose(*found[2]) == (unevenness == 0)


def federated(steps, rate, rounds, controlled):
    """The server's path from (3, 3), step by local step, in the first of the test's federations."""
    a, w, p = (part[0] for part in FEDERATIONS)
    theta, control, path = np.full(2, 3.0), np.zeros_like(w), []
    for _ in range(rounds):
        phi, common = np.tile(theta, (len(w), 1)), p @ control
        for _ in range(steps):
            phi = phi - rate * (np.einsum("nij,nj->ni", a, phi - w) - controlled * (control - common))
        control, theta = control - common + (theta - phi) / (steps * rate), p @ phi
        path.append(theta)
    return np.array(path)


def settled(path, goal, near):
    """Rounds until the path stays within `near`."""
    far = np.linalg.norm(path - goal, axis=1) >= near
    return int(np.flatnonzero(far).max(initial=-1)) + 2


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.9), (5, 0.5), (40, 0.7)])
def test_the_page_walks_rests_and_counts_as_the_local_steps_do(front, steps, rate):
    here = work().settings["federations"][0]
    rounds = {"fedavg": "fedavgRound", "scaffold": "scaffoldRound"}
    walked = [f"walkOf({name}(given, {rate}, {steps}), [3, 3], 30)" for name in rounds.values()]
    counted = f"scaffoldNeeds(given, [3, 3], {rate}, {steps}, 1e-4)"
    found = front(
        work,
        f"[{', '.join(walked)}, fedavgRest(given, {rate}, {steps}), jointOptimum(given), {counted}]",
        **here,
    )

    averaged, corrected = (federated(steps, rate, 1500, flag) for flag in (0, 1))
    np.testing.assert_allclose(found[0][1:], averaged[:30], atol=1e-5)  # the page has six decimals
    np.testing.assert_allclose(found[1][1:], corrected[:30], atol=1e-5)
    np.testing.assert_allclose([found[2], found[3]], [averaged[-1], corrected[-1]], atol=1e-5)
    assert found[4] == settled(corrected, np.array(found[3]), 1e-4)
    assert np.allclose(found[2], found[3], atol=1e-5) == (steps == 1)


def test_the_fewest_rounds_are_those_of_the_best_local_work(front):
    here = work().settings["federations"][0]
    each = "Array.from({ length: 60 }, (_, i) => scaffoldNeeds(given, [3, 3], 0.5, i + 1, 1e-6))"
    needed, fewest = front(work, f"[{each}, fewestRounds(given, [3, 3], 0.5, 60, 1e-6)]", **here)

    assert fewest == min(needed) < min(needed[0], needed[-1])


def adapting(params, look="maml", **given):
    return widgets.sinusoid_adaptation({look: params}, **{"inner_lr": 0.1, **given})


def playing(change):
    return play(Task(*(Batch(*change(part.x, part.y)) for part in image_tasks())))


two, w, a, nothing = partial(widgets.two_tasks, inner_lr=0.1), np.array(W), np.array(A), torch.zeros(1)
walk = partial(widgets.point_navigation, inner_lr=0.015)
steep, apart, shares = FEDERATIONS
fed = partial(widgets.local_work, start=[3.0, 3.0])
play, state, Trait = widgets.few_shot_game, network().state_dict(), traitlets.TraitError


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: descent(step_size=2.0), ValueError, "step_size=2.0 lies outside 0.05 to 1.1"),
        (lambda: descent(start=float("nan")), ValueError, "start=nan lies outside"),
        (lambda: two([1.0, 2.0], a), ValueError, "optima has shape"),
        (lambda: two(w, a[:2]), ValueError, "curvatures has shape"),
        (lambda: two(w, -a), ValueError, "positive eigenvalues"),
        (lambda: two(w, np.triu(a)), ValueError, "must be symmetric"),
        (lambda: two(w * np.nan, a), ValueError, "must be finite"),
        (lambda: two(w, a, inner_lr=-0.1), ValueError, "inner_lr=-0.1 is not a step size"),
        (lambda: two(w, a, theta=[1.0]), ValueError, "give 2 finite coordinates"),
        (lambda: two(w, a, names=["a"]), ValueError, "1 names for 3 tasks"),
        (lambda: widgets.sinusoid_adaptation({}, inner_lr=0.1), ValueError, "no networks"),
        (lambda: adapting(network((2, 3, 1)).state_dict()), ValueError, "parameters of maml have shapes"),
        (lambda: adapting({"w": nothing[None] / 0, "b": nothing}), ValueError, "not all finite"),
        (lambda: adapting(state, inner_lr={"joint": 0.1}), ValueError, "no rate for maml"),
        (lambda: adapting(state, inner_steps=11), ValueError, "inner_steps=11"),
        (lambda: adapting(state, look="mine"), KeyError, "no look is called 'mine'"),
        (lambda: playing(lambda x, y: (x[:, :, 0], y)), ValueError, "give a stack of tasks"),
        (lambda: play(Task(image_tasks().support, Batch(nothing, nothing))), ValueError, "do not fit"),
        (lambda: playing(lambda x, y: (x * 255, y)), ValueError, "scale the images"),
        (lambda: playing(lambda x, y: (x, y * 0 + 1)), ValueError, "equally many drawings"),
        (lambda: walk((a[0], w), GOALS), ValueError, r"give \(2, 2\), \(2,\) and \(n, 2\)"),
        (lambda: walk(POLICY, []), ValueError, "policy and goals have shapes"),
        (lambda: walk((a[0] * np.nan, w[0]), GOALS), ValueError, "must be finite"),
        (lambda: walk(POLICY, [[0.6, 0.0]]), ValueError, "a goal lies outside ±0.5"),
        (lambda: walk(POLICY, GOALS, rollouts=1), ValueError, "rollouts=1 lies outside 2 to 60"),
        (lambda: walk(POLICY, GOALS, noise=0.0), ValueError, "noise=0.0 lies outside"),
        (lambda: widgets.prior_width([1.0], w[0], n=6), ValueError, "centre and fit have shapes"),
        (lambda: widgets.prior_width(w[0], w[0] * np.nan, n=6), ValueError, "must be finite"),
        (lambda: prior(inner_lr=0.3), ValueError, "inner_lr=0.3 lies outside 0.01 to 0.25"),
        (lambda: prior(inner_steps=0), ValueError, "inner_steps=0 lies outside"),
        (lambda: prior(width=0.0), ValueError, "width=0.0 lies outside"),
        (lambda: prior(unevenness=1.0), ValueError, "unevenness=1.0 lies outside"),
        (lambda: fed(steep[0], apart, shares), ValueError, r"give \(F, n, 2, 2\), \(F, n, 2\), \(F, n\)"),
        (lambda: fed(steep, apart * np.nan, shares), ValueError, "must be finite"),
        (lambda: fed(-steep, apart, shares), ValueError, "positive eigenvalues"),
        (lambda: fed(steep, apart, shares * 2), ValueError, "have the sum 1"),
        (lambda: work(rate=3.0), ValueError, "rate=3.0 lies outside"),
        (lambda: work(local_steps=0), ValueError, "local_steps=0 lies outside 1 to 100"),
        (lambda: work(federation=2), ValueError, "federation=2 lies outside 0 to 1"),
        (lambda: setattr(plane(), "inner_lr", "large"), Trait, "inner_lr"),
        (lambda: setattr(plane(), "settings", {}), Trait, "settings"),
    ],
)
def test_wrong_input_is_named_with_its_cure(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
