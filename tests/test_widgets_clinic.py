"""The clinic, the averages, the spring and Reptile's steps: the page computes what Python computes, and answers the reader."""

from __future__ import annotations

import re
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from interactive import (
    FINE,
    NORMALS,
    ONE,
    ORDERS,
    RED,
    SAYS,
    STARTS,
    WARDS,
    all_differ,
    averages,
    click,
    clinic,
    drag,
    grip,
    network,
    reached,
    rows,
    said,
    slide,
    spring,
    steps,
    wave,
)
from torch import nn
from torch.func import grad, hessian

from mamlkit.algorithms import maml
from mamlkit.gradients import conjugate_gradient
from mamlkit.meta import batch_loss
from mamlkit.page import widgets
from mamlkit.tasks import Batch, Task

OFFSETS, LOUDNESS = [1.0, 0.5, 0.9], [1.0, 0.4, 0.5]


def test_a_patients_curves_are_means_and_ends_over_seeds_thinned_and_every_choice_is_told_by_a_test():
    settings = clinic().settings
    for patient in settings["patients"]:
        printed, examined = WARDS[patient["ward"]][patient["name"]]
        tenths = printed.reshape(3, 10, 4).mean(2)
        for drawn, runs in ((patient["printed"], tenths), (patient["examined"], examined)):
            np.testing.assert_allclose(drawn[1:], [runs.mean(0), runs.min(0), runs.max(0)], atol=6e-4)
        np.testing.assert_allclose(patient["printed"][0], np.arange(2, 40, 4))
        offered = [settings["patients"][i] for i in patient["choices"]]
        assert [other["red"] for other in offered].count(patient["red"]) == 1
        assert patient in offered
        assert {other["ward"] for other in offered} == {patient["ward"]}
    assert [settings["n_seeds"], examine({"few": fewer}).settings["n_seeds"]] == [3, 2]


@pytest.mark.parametrize(
    ("patient", "guess", "reason"),
    [
        ([0], [0, 2], "It would turn order red; this patient leaves it green."),
        ([0, 1], [2], "It would turn order red; this patient leaves it green. "
         "It would leave slope and close green; this patient turns them red."),
    ],
)  # fmt: skip
def test_a_wrong_guess_is_answered_by_the_tests_that_tell(front, patient, guess, reason):
    given = {"patient": {"red": patient}, "guess": {"red": guess}, "tests": ["slope", "close", "order"]}

    assert front(clinic, "whyNot(given.patient, given.guess, given.tests)", **given) == reason
    assert front(clinic, "scoreOf([[0], [2, 1], [], [3]])") == [2, 3]


def test_the_clinic_is_played_with_mouse_and_keys_and_scores_the_first_guess(show):
    figure = clinic()
    patients, page = figure.settings["patients"], show(figure.html)

    def number(i, right):
        return 1 + next(k for k, who in enumerate(patients[i]["choices"]) if (who == i) == right)

    click(page, "slope")
    red = patients[0]["red"]
    assert page.get_by_text("bands: all 3 seeds").is_visible()
    assert page.get_by_role("button", name="slope").inner_text().endswith("✗ red" if 0 in red else "✓ green")
    for held in ("Alt", "Control", "Meta"):  # the browser's own keys
        page.keyboard.press(f"{held}+{number(0, right=True)}")
    page.keyboard.press(str(number(0, right=False)))
    assert "Not " in said(page)
    assert "this patient" in said(page)
    page.keyboard.press(str(number(0, right=True)))
    assert f"Yes, {patients[0]['name']}" in said(page)
    assert page.get_by_text("0 of 1 named at the first guess; 1 test run").is_visible()
    for i in range(1, 6):
        click(page, "Next patient")
        assert page.get_by_role("button", name=f"patient {i + 1}", pressed=True).is_visible()
        page.locator(".maml-choice", has_text=patients[i]["name"]).last.click()
        for key in "1234":
            page.keyboard.press(key)
        assert said(page).startswith("Yes")
        assert ("looks healthy" in said(page)) == (patients[i]["name"] in ("early", "wilted"))
        assert reached(page) == (i == 5)
    assert page.get_by_role("button", name="patient 1, missed at the first guess").is_visible()
    click(page, "Reset")
    assert page.get_by_text("0 of 0 named").is_visible()


def learned(params, batch, n_steps):
    return maml.adapt(network(), params, batch, inner_lr=0.02, inner_steps=n_steps)


@pytest.mark.parametrize("pair", [0, 1, 2])
@pytest.mark.parametrize(("share", "more"), [(0.0, 0), (0.3, 1), (0.5, 7)])
def test_the_page_mixes_two_networks_and_steps_from_the_mix_as_torch_does(front, pair, share, more):
    settings, task = averages().settings, [part[1].flatten().tolist() for batch in wave(2) for part in batch]
    given = {key: settings[key] for key in ("sizes", "starts", "orders")} | {"task": task}
    starts = "given.starts.map((w) => unpack(given.sizes, w))"
    ends = f"endsOf({pair}, {starts}, given.orders, given.task, 0.02, 10)"
    stepped = f"adapt(mixed(...{ends}, {share}), given.task[0], given.task[1], 0.02, {more})"
    found = front(averages, f"meanSquare({stepped}, given.task[2], given.task[3])", **given)

    support, query = (Batch(*(part[1] for part in batch)) for batch in wave(2))
    parts = [support] * 2 if pair < 2 else [Batch(support.x[i::2], support.y[i::2]) for i in (0, 1)]
    a, b = (learned(STARTS[i * (pair == 1)], part, 10) for i, part in enumerate(parts))
    if pair == 0:  # the twin, by the units' order
        names, (first, second) = list(b), ORDERS
        values = [b[name] for name in names]
        w0, b0, w1, b1, w2, b2 = values
        twin = (w0[first], b0[first], w1[second][:, first], b1[second], w2[:, second], b2)
        b = dict(zip(names, twin))
    mix = {name: (1 - share) * a[name] + share * b[name] for name in a}
    wanted = batch_loss(network(), learned(mix, support, more), query).item()
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_walk_between_networks_follows_mouse_and_keys_and_is_done_halfway_inside_one_valley(show):
    page = show(averages().html)
    assert all_differ(
        page,
        lambda: drag(grip(page, "place on the line"), 60, 0),
        lambda: page.keyboard.press("ArrowRight"),
        lambda: slide(page, "steps from there", 6),
        lambda: click(page, "Next task"),
        lambda: click(page, "shuffled twin"),
    )
    slide(page, "second's share", 0.5)
    assert "a barrier" in said(page)
    assert not reached(page)
    click(page, "one MAML start")
    assert reached(page)
    assert "No barrier" in said(page)
    for share, within in ((0.44, False), (0.45, True), (0.55, True), (0.56, False)):
        slide(page, "second's share", share)
        assert reached(page) == within
    support, query = (Batch(*(part[1] for part in batch)) for batch in wave(2))
    start, wanted = learned(STARTS[0], support, 6), re.search(r"MAML's start to (\d+\.\d+)", said(page))[1]
    assert batch_loss(network(), start, query).item() == pytest.approx(float(wanted), rel=5e-3)


TANH = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
THETA = torch.cat([p.flatten().float().double() for p in FINE.values()])


def fine_loss(batch, vector):
    parts = vector.split([p.numel() for p in FINE.values()])
    params = {name: part.view_as(p) for (name, p), part in zip(FINE.items(), parts)}
    return batch_loss(TANH, params, batch)


def stored(task):
    """Support and query as the figure has them, with four decimals."""
    x, y, *query = (torch.tensor(part, dtype=torch.float64)[:, None] for part in task)
    return partial(fine_loss, Batch(x, y)), partial(fine_loss, Batch(*query))


@pytest.mark.parametrize("strength", [2.0, 20.0])
def test_the_page_settles_on_the_spring_and_solves_as_descent_and_the_kit_do(front, strength):
    settings = spring().settings
    given = {"sizes": settings["sizes"], "weights": settings["weights"], "task": settings["task"]}
    support, query = "given.task.slice(0, 2)", "given.task.slice(2)"
    springs = f"descentOfSprings(given.sizes, unpackFloats(given.weights), {support}, {strength}, 100, 9).at(-1).phi"
    errors = f"gradientErrors(given.sizes, phi, {support}, {query}, {strength}, 6)"
    found = front(spring, f"((phi) => [Array.from(phi), {errors}])({springs})", **given)

    (L, Q), theta = stored(settings["task"]), THETA
    phi = theta
    for _ in range(3000):
        phi = phi - 0.02 * (grad(L)(phi) + strength * (phi - theta))
    A, b = torch.eye(len(phi), dtype=phi.dtype) + hessian(L)(phi) / strength, grad(Q)(phi)
    exact = torch.linalg.solve(A, b)
    solved = [conjugate_gradient(lambda v: {"x": A @ v["x"]}, {"x": b}, steps=k)["x"] for k in range(1, 7)]
    wanted = [((x - exact).norm() / exact.norm()).item() for x in solved]
    np.testing.assert_allclose(found[0], phi, atol=1e-6)
    np.testing.assert_allclose(found[1], [1, *wanted], rtol=1e-4, atol=1e-9)
    assert all(after < before for before, after in pairwise(wanted))


def test_the_page_differentiates_twice_as_autodiff_does(front):
    settings = spring().settings
    v = torch.linspace(-1, 1, 39, dtype=torch.float64)
    given = {**settings, "v": v.tolist()}
    of = "derivatives(given.sizes, unpackFloats(given.weights), given.task.slice(0, 2), Float64Array.from(given.v))"
    gradient, product = front(
        spring, f"(({{ gradient, product }}) => [Array.from(gradient), Array.from(product)])({of})", **given
    )

    loss = stored(settings["task"])[0]
    np.testing.assert_allclose(gradient, grad(loss)(THETA), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(product, hessian(loss)(THETA) @ v, rtol=1e-9, atol=1e-12)


def test_on_a_weak_spring_the_page_settles_or_says_that_it_does_not(front):
    settings = spring().settings
    wild = "unpackFloats(given.weights).map((value) => 4 * value)"
    setting = f"given.sizes, {wild}, given.task.slice(0, 2), 0.02, {wild}"
    slope = "plus(derivatives(given.sizes, phi, given.task.slice(0, 2)).gradient, 0.02, plus(phi, -1, theta))"
    found = front(spring, f"((theta, phi) => Math.hypot(...{slope}))({wild}, settled({setting}))", **settings)

    assert found < 1e-10
    downwards = (
        f"given.sizes, {wild}, given.task.slice(0, 2), 3, {wild}.map((value) => 3 * value)"  # at first
    )
    assert front(spring, f"Array.from(settled({downwards}))", **settings)
    with pytest.raises(
        Exception, match=r"no inner optimum on a spring of strength 0\.02 after 3 Newton steps; give"
    ):
        front(spring, f"settled({setting}, 3)", **settings)


def test_a_weaker_spring_moves_further_and_needs_more_products(show):
    page = show(spring().html)
    found = []
    for power in (1.9, 1.0, 0.5):
        slide(page, "strength λ", power)
        found.append(
            [float(x) for x in re.findall(r"lies ([\d.]+) from|it takes (\d+)", said(page)) for x in x if x]
        )
    (near, few), _, (far, many) = found
    assert near < far
    assert few < many
    assert all_differ(
        page,
        lambda: slide(page, "steps k", 7),
        lambda: drag(grip(page, "strength on the curve"), 80, 0),
        lambda: page.keyboard.press("Shift+ArrowLeft"),
    )


def test_the_springs_goal_and_its_count_of_steps_are_what_the_numbers_say(show):
    steep = {name: 3 * p for name, p in FINE.items()}
    page, met = show(widgets.spring_strength(steep, ONE, weakest=1.0).html), set()
    for power, k in product((2, 0.4, 0), (1, 4, 15)):
        slide(page, "strength λ", power)
        slide(page, "steps k", k)
        words = said(page)
        before, after = map(float, re.search(r"from (\S+) to ([\d.]+)\. ", words).groups())
        off = "⁻" in words or float(re.search(r"([\d.]+) % off", words)[1]) <= 1
        needed = re.search(r"it takes (\d+)", words)
        met.add(reached(page))
        assert reached(page) == (off and after <= before / 2), words
        assert off == bool(needed and k >= int(needed[1])), words
    assert met == {True, False}


@pytest.mark.parametrize(("inner_steps", "inner_lr"), [(1, 0.2), (7, 0.4), (60, 0.45)])
def test_the_page_rests_where_reptile_comes_to_rest(front, inner_steps, inner_lr):
    given = {"n": NORMALS, "o": OFFSETS, "l": LOUDNESS}
    weights = f"given.l.map((l) => shareOfWay(l, {inner_lr}, {inner_steps}))"
    found = np.array(front(steps, f"weighedPoint({weights}, given.n, given.o)", **given))

    n, o, loud = (np.array(part) for part in (NORMALS, OFFSETS, LOUDNESS))
    theta = np.zeros(2)
    for _ in range(20_000):
        phi = np.tile(theta, (3, 1))
        for _ in range(inner_steps):
            phi = phi - inner_lr * (2 * loud**2 * ((n * phi).sum(1) - o))[:, None] * n
        if np.abs(phi.mean(0) - theta).max() < 1e-12:
            break
        theta = phi.mean(0)
    np.testing.assert_allclose(found, theta, atol=1e-6)


def test_more_inner_steps_lead_reptile_from_the_joint_optimum_to_the_nearest_point(show):
    page = show(steps().html)
    first = said(page)
    assert "the joint optimum, 0." in first
    assert float(rows(page)[1][-1]) < 0.2
    assert all_differ(
        page,
        lambda: slide(page, "loudness", 0.6),
        lambda: slide(page, "rate α", 0.45),
        lambda: drag(grip(page, "resting point"), -20, 13),
        lambda: page.keyboard.press("ArrowRight"),
        lambda: slide(page, "steps K", 20),
    )
    assert reached(page)
    assert all(float(row[-1]) > 0.9 for row in rows(page))
    slide(page, "steps K", 26)
    assert not reached(page)
    slide(page, "steps K", 1)
    here, joint = re.search(r"here (\S+), joint (\S+),", said(page)).groups()
    assert here == joint


waves, plants = WARDS.values()
bad = {"well": waves["well"], "early": (waves["early"][0], waves["early"][1][:2]), "late": waves["late"]}
hurt = {
    "well": waves["well"],
    "early": (waves["early"][0] * np.nan, waves["early"][1]),
    "late": waves["late"],
}
fewer = {name: (printed[:2], examined[:2]) for name, (printed, examined) in plants.items()}
examine = partial(widgets.bug_clinic, tests=["slope", "close", "order_of"], red=RED, says=SAYS)
support, query = wave(2)
lost, short = Batch(support.x, support.y * np.nan), Batch(support.x[:, 1:], support.y)
mix = partial(widgets.weight_averages, tasks=wave(2), orders=ORDERS, inner_lr=0.02)
lines = partial(widgets.reptile_steps, offsets=OFFSETS, loudness=LOUDNESS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: examine({"waves": {"well": waves["well"]}}), "there are 0 patients; give each ward a healthy"),
        (lambda: examine({"waves": bad}), r"curves of early have shapes \(3, 40\) and \(2, 6\); give"),
        (lambda: examine({"waves": hurt}), "curves of early are not all finite"),
        (lambda: examine(WARDS | {"few": fewer}), "runs from 2 or 3 seeds; give each as many"),
        (lambda: examine(WARDS, says={}), "leaves out early, late, .* a sentence"),
        (lambda: examine(WARDS, tests=["slope", "close"]), "red names order_of, but the tests are slope, close"),
        (lambda: examine(WARDS, red={name: {"slope"} for name in RED}), "no test tells early, .* add a test"),
        (lambda: mix(STARTS[:1]), "how many starts=1 lies outside 2 to 2"),
        (lambda: mix([STARTS[0], network((1, 7, 1)).state_dict()]), r"layers of \[1, 40, 40, 1\] and \[1, 7, 1\]"),
        (lambda: mix(STARTS, orders=ORDERS[:1]), r"no permutations of \[40, 40\] hidden units"),
        (lambda: mix(STARTS, tasks=ONE), r"give \(n_tasks, n, 1\) for each"),
        (lambda: mix(STARTS, tasks=Task(short, query)), r"give \(n_tasks, n, 1\) for each"),
        (lambda: mix(STARTS, tasks=Task(lost, query)), "inputs and targets must be finite"),
        (lambda: averages(share=1.5), "share=1.5 lies outside 0 to 1"),
        (lambda: averages(task=2), "task=2 lies outside 0 to 1"),
        (lambda: widgets.spring_strength(FINE, wave(2)), r"give \(n, 1\) for each"),
        (lambda: spring(strength=1.0), "strength=1.0 lies outside 3 to 100"),
        (lambda: spring(cg_steps=0), "cg_steps=0 lies outside 1 to 15"),
        (lambda: lines(NORMALS[:2]), r"shapes \(2, 2\), \(3,\) and \(3,\); give"),
        (lambda: lines(np.array(NORMALS) * 2), "must have length 1; divide"),
        (lambda: lines([[1.0, 0.0]] * 3), "lie on one line"),
        (lambda: lines(np.array(NORMALS) * np.nan), "must be finite"),
        (lambda: steps(inner_lr=0.6), "inner_lr=0.6 lies outside 0.05 to 0.45"),
        (lambda: steps(inner_steps=0), "inner_steps=0 lies outside 1 to 60"),
    ],
)  # fmt: skip
def test_wrong_input_to_these_figures_is_named_with_its_cure(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
