"""The graph of a meta-gradient, the map of rates and the dial of curvature compute what torch and NumPy compute."""

from __future__ import annotations

import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interactive import (
    BATHS,
    LOSSES,
    RATES,
    VALLEYS,
    all_differ,
    backward,
    click,
    cut,
    drag,
    grip,
    rates,
    reached,
    rows,
    said,
    slide,
)

from mamlkit.page import widgets


def bath_loss(weight, examples):
    x, y = torch.tensor(examples, dtype=torch.float64).T
    return F.binary_cross_entropy_with_logits(weight * x - 0.5, y)


def by_autograd(weight, inner_lr, create_graph, detach_gradient, detach_phi, first_order):
    theta = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    at = theta.detach().requires_grad_() if first_order else theta
    (g,) = torch.autograd.grad(bath_loss(at, BATHS["support"]), at, create_graph=create_graph)
    phi = theta - inner_lr * (g.detach() if detach_gradient else g)
    phi = phi.detach().requires_grad_() if detach_phi else phi
    loss = bath_loss(phi, BATHS["query"])
    (received,) = torch.autograd.grad(loss, theta, allow_unused=True)
    return g.item(), phi.item(), loss.item(), None if received is None else received.item()


SWITCHES = "create_graph", "detach_gradient", "detach_phi", "first_order"


@pytest.mark.parametrize(("weight", "inner_lr"), [(-0.5, 2.0), (-0.5, 3.5), (1.7, 0.3)])
def test_with_every_setting_of_the_switches_there_arrives_what_autograd_brings(front, weight, inner_lr):
    for switches in product([False, True], repeat=4):
        state = dict(zip(SWITCHES, switches)) | {"weight": weight, "inner_lr": inner_lr, "step": 6}
        found = front(backward, "metaGradient(given, given.state)", state=state, **BATHS, offset=-0.5)
        *forward, received = by_autograd(weight, inner_lr, *switches)

        names = "gradient", "phi", "queryLoss"
        np.testing.assert_allclose([found[name] for name in names], forward, rtol=1e-10)
        assert found["received"] == (received and pytest.approx(received, rel=1e-10))
        assert found["differences"] == pytest.approx(found["whole"], abs=1e-9)


@pytest.mark.parametrize(
    ("due", "words"), [(0.5, "it is 4.00 times too long"), (-0.5, "sign is wrong"), (2.001, "the two agree")]
)
def test_what_arrives_by_the_straight_road_alone_is_judged_by_finite_differences(front, due, words):
    assert words in front(backward, "judgement(given)", received=2, straight=2, bent=None, differences=due)


def test_the_graph_is_stepped_through_and_loses_its_roads_to_switches(show):
    page = show(backward().html)
    assert all_differ(page, *[lambda: click(page, "Next step")] * 6)
    assert "Both roads arrive" in said(page)
    whole, differences = rows(page)[2], rows(page)[3]
    assert whole[1] == whole[2] == differences[1]

    page.get_by_label("create_graph=True").uncheck()
    slide(page, "rate α", 3)
    assert "the sign is wrong" in said(page)
    assert reached(page)
    assert page.get_by_text("✂ cut").count() == 2
    slide(page, "step", 5)
    assert not reached(page)
    slide(page, "step", 6)
    page.get_by_label("φ.detach()").check()
    assert "Nothing arrives" in said(page)
    assert not reached(page)


def test_a_cell_of_the_map_is_the_mean_of_its_seeds_and_its_path_leads_there(front):
    table = np.array(LOSSES["maml"])
    found = front(rates, "cellOf(given.losses, 1, 4)", losses=table.tolist())

    np.testing.assert_allclose(found["path"], table.mean(0)[1, :5], rtol=1e-12)
    assert [found[name] for name in ("mean", "low", "high")] == pytest.approx(
        [table[:, 1, 4].mean(), table[:, 1, 4].min(), table[:, 1, 4].max()]
    )
    assert front(rates, "given.losses[0].map((_, i) => turns(given.losses, i))", losses=table.tolist()) == [
        False,
        False,
        True,
        False,
    ]
    worse = table.mean(0) > table[..., :1].mean(0)
    sides = np.abs(np.diff(worse, axis=0)).sum() + np.abs(np.diff(worse, axis=1)).sum()
    assert front(rates, "shore(meanOver(given.losses), 4, 5).length", losses=table.tolist()) == sides


def test_the_map_keeps_three_digits_of_what_it_is_given():
    figure = widgets.rate_map(
        {"maml": [[[2.0, 1.23456], [2.0, 25.0]]]}, [0.1, 0.2], trained_at=0.1, n_tasks=9
    )

    assert figure.settings["starts"][0]["losses"] == [[[2.0, 1.23], [2.0, 25.0]]]


def test_the_map_follows_the_mouse_while_it_points_and_keeps_what_is_clicked_or_keyed(show):
    page = show(rates().html)
    first, cell = said(page), grip(page, "cell of the map")
    box = page.get_by_role("group", name="Map of the mean loss").bounding_box()
    there = box["x"] + 0.9 * box["width"], box["y"] + 0.2 * box["height"]

    page.mouse.move(*there)
    assert "of 0.08: mean loss" in said(page) != first
    page.mouse.move(5, 5)
    assert said(page) == first
    page.mouse.click(*there)
    assert "worse than no step" in said(page)
    cell.focus()
    page.keyboard.press("ArrowLeft")
    assert "step 2 is the first that harms" in said(page)
    assert reached(page)
    click(page, "Start: joint training")
    assert page.get_by_role("button", name="Start: joint training", pressed=True).is_visible()
    assert not reached(page)
    assert all_differ(page, lambda: slide(page, "steps K", 3), lambda: slide(page, "rate α", 0))


def test_the_map_colours_harm_marks_the_trained_rate_and_praises_its_lowest_cell_alone(show):
    page, mean = show(rates().html), np.array(LOSSES["maml"]).mean(0)
    cells = page.get_by_role("group", name="Map of the mean loss").locator("rect[style*='look-']")
    looks = cells.evaluate_all("all => all.map(cell => cell.getAttribute('style').includes('look-worse'))")
    assert looks == (mean > mean[:, :1]).flatten().tolist()

    left, wide = (float(cells.nth(6).get_attribute(name)) for name in ("x", "width"))
    trained = page.locator(".maml-plane .maml-dashed").first.get_attribute("d")
    assert float(trained[1:].split()[0]) == pytest.approx(left + wide / 2, abs=0.1)
    for rate, count in np.ndindex(*mean.shape):
        slide(page, "rate α", rate)
        slide(page, "steps K", count)
        assert ("No cell of this map is lower" in said(page)) == (mean[rate, count] == mean.min())


@pytest.mark.parametrize("kept", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("inner_lr", [0.0, 0.2, 0.3])
def test_the_dial_follows_the_gradient_whose_curvature_term_is_kept_in_part(front, inner_lr, kept):
    w, a = (torch.tensor(part, dtype=torch.float64) for part in VALLEYS)
    theta, path = torch.tensor([0.4, -0.7], dtype=torch.float64), []
    for _ in range(12):
        steps = []
        for bottom, curvature in zip(w, a):

            def loss(at, bottom=bottom, curvature=curvature):
                return (at - bottom) @ curvature @ (at - bottom) / 2

            at_phi = torch.func.grad(loss)(theta - inner_lr * torch.func.grad(loss)(theta))
            steps.append(at_phi - kept * inner_lr * torch.func.hessian(loss)(theta) @ at_phi)
        theta = theta - 0.5 * torch.stack(steps).mean(0)
        path.append(theta.tolist())

    given = dict(zip(("w", "a"), VALLEYS))
    setting = f"given.a, given.w, {inner_lr}, {kept}"
    found, rest, lowest = front(
        cut,
        f"[followedPath({setting}, [0.4, -0.7], 0.5, 12), restOf({setting}), lowestBend(given.a, {inner_lr}, {kept})]",
        **given,
    )
    np.testing.assert_allclose(found[1:], path, rtol=1e-10)
    still = front(cut, f"followedPath({setting}, {rest}, 0.5, 1)[1]", **given)
    np.testing.assert_allclose(still, rest, rtol=1e-9)
    eye = np.eye(2)
    weights = [A @ (eye - inner_lr * A) @ (eye - kept * inner_lr * A) for A in np.array(VALLEYS[1])]
    assert lowest == pytest.approx(np.linalg.eigvalsh(np.mean(weights, 0)).min())


def test_the_least_share_is_where_the_rule_begins_to_rest(front):
    at = "leastKept(given.a, 0.3)"
    low, least, high = front(
        cut,
        f"[lowestBend(given.a, 0.3, {at} - 1e-6), {at}, lowestBend(given.a, 0.3, {at} + 1e-6)]",
        a=VALLEYS[1],
    )

    assert low < 0 < high
    assert 0 < least < 1
    assert front(cut, "leastKept(given.a, 0.2)", a=VALLEYS[1]) == 0


def test_first_order_runs_away_until_enough_of_the_curvature_is_kept(show):
    page = show(cut().html)
    slide(page, "rate α", 0.3)
    assert "runs away" in said(page)
    assert not reached(page)
    for share in range(101):
        slide(page, "curvature kept c", share / 100)
        if "resting point" in said(page):
            break
    assert 50 < share < 100
    assert reached(page)
    slide(page, "curvature kept c", (share + 3) / 100)
    assert not reached(page)
    assert all_differ(
        page,
        lambda: slide(page, "curvature kept c", 1),
        lambda: slide(page, "rate α", 0.1),
    )
    walk = page.locator("path.maml-line").evaluate_all
    paths = "(all) => all.map((path) => path.getAttribute('d')).join()"
    before = walk(paths)
    drag(grip(page, "start of the descent"), 40, 30)
    page.keyboard.press("ArrowUp")
    assert walk(paths) != before


def test_the_dial_says_the_losses_after_a_step_at_the_resting_points(show):
    w, a = map(np.array, VALLEYS)
    found = re.search(
        r"loss (\S+) after a step; it is (\S+) for first order and (\S+) for MAML\.",
        said(show(cut(kept=0.4).html)),
    )

    for text, kept in zip(found.groups(), (0.4, 0, 1)):
        weights = a @ (np.eye(2) - 0.2 * a) @ (np.eye(2) - kept * 0.2 * a)
        rest = np.linalg.solve(weights.sum(0), np.einsum("nij,nj->i", weights, w))
        off = np.einsum("nij,nj->ni", np.eye(2) - 0.2 * a, rest - w)
        assert float(text) == pytest.approx(np.einsum("ni,nij,nj->", off, a, off) / 4, rel=5e-3)


mapped, w, a = partial(widgets.rate_map, trained_at=0.02, n_tasks=9), *map(np.array, VALLEYS)
one = {"maml": LOSSES["maml"]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: backward(support=[1.0, 2.0]), r"support has shape \(2,\); give \(n, 2\)"),
        (lambda: backward(query=[(0.5, 2)]), "query has labels that are neither 0 nor 1"),
        (lambda: backward(offset=np.nan), "must be finite"),
        (lambda: backward(weight=4.0), "weight=4.0 lies outside -3 to 3"),
        (lambda: backward(inner_lr=5.0), "inner_lr=5.0 lies outside 0 to 4"),
        (lambda: backward(step=7), "step=7 lies outside 0 to 6"),
        (lambda: mapped({}, RATES), "no losses to map"),
        (lambda: mapped(one, RATES[:3]), r"give \(n_seeds, n_rates, max_steps \+ 1\)"),
        (lambda: mapped(one, RATES[::-1]), "positive and ascending"),
        (lambda: mapped({"maml": np.array(LOSSES["maml"]) * np.nan}, RATES), "of maml must be positive and finite"),
        (lambda: mapped({"maml": np.ones((2, 4, 6)) * np.arange(1, 5)[:, None]}, RATES), "differ before a step"),
        (lambda: mapped(one, RATES, start="joint"), "start='joint' has no losses; there are maml"),
        (lambda: mapped(one, RATES, rate=4), "rate=4 lies outside 0 to 3"),
        (lambda: mapped(one, RATES, inner_steps=6), "inner_steps=6 lies outside 0 to 5"),
        (lambda: rates(trained_at=1.0), "trained_at=1.0 lies outside"),
        (lambda: widgets.curvature_cut(w[0], a, inner_lr=0.1), "have shapes"),
        (lambda: widgets.curvature_cut(w * np.inf, a, inner_lr=0.1), "must be finite"),
        (lambda: widgets.curvature_cut(w, -a, inner_lr=0.1), "positive eigenvalues"),
        (lambda: cut(inner_lr=0.4), "inner_lr=0.4 lies outside 0 to 0.35"),
        (lambda: cut(kept=1.2), "kept=1.2 lies outside 0 to 1"),
        (lambda: cut(names=["a"]), "1 names for 2 tasks"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_with_its_cure(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
