"""Each interactive figure in a real browser, from a file, without a kernel and without a network."""

from __future__ import annotations

import re

import pytest
from interactive import (
    FIGURES,
    FINDING,
    GOALS,
    NETWORKS,
    POLICY,
    A,
    W,
    all_differ,
    barriers,
    click,
    clinic,
    descent,
    drag,
    every_figure,
    game,
    grip,
    image_tasks,
    middle,
    navigation,
    plane,
    prior,
    reached,
    rows,
    said,
    sinusoid,
    slide,
    work,
)

from mamlkit.page import widgets
from mamlkit.page.widgets.figure import source


def test_descent_follows_its_sliders_the_mouse_and_the_arrow_keys_also_across_the_minimum(show):
    def start():
        return float(re.search(r"x₀ = (−?[\d.]+)", said(page))[1].replace("−", "-"))

    page = show(descent().html)
    assert page.locator(".maml-caption").inner_text() == "</script><b>x</b>"
    assert "1 − 2η = 0.400" in said(page)
    slide(page, "step size η", 1.1)
    assert "it diverges" in said(page)

    assert page.get_by_label("step size η").get_attribute("aria-valuetext") == "1.10"
    drag(grip(page, "Start x₀"), -200, 0)
    assert not page.locator(".maml-hint").is_visible()
    dragged = start()
    assert dragged != 2
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+ArrowLeft")  # is the browser's
    assert start() - dragged == pytest.approx(0.45, abs=0.011)

    slide(page, "start x₀", 0.1)
    grip(page, "Start x₀").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert start() == -0.1

    line = page.locator("path.maml-line").first
    before = line.get_attribute("d")
    page.set_viewport_size({"width": 400, "height": 700})
    page.wait_for_function(
        "d => document.querySelector('path.maml-line').getAttribute('d') !== d", arg=before
    )


def test_the_plane_follows_mouse_and_keys_and_shows_maml_ahead_after_a_step_until_its_size_is_zero(show):
    page = show(plane().html)
    assert all_differ(
        page,
        lambda: drag(grip(page, "initialisation θ"), 60, -40),
        lambda: drag(grip(page, "optimum of task 1"), 40, 40),
        lambda: page.keyboard.press("ArrowUp"),
        lambda: page.keyboard.press("Shift+ArrowRight"),
        lambda: click(page, "θ to the MAML optimum"),
    )
    assert "apart" in said(page)
    after = {row[0]: float(row[-1]) for row in rows(page)}
    assert after["θ"] == pytest.approx(after["MAML"], abs=2e-3)
    assert after["MAML"] < after["joint"]

    slide(page, "inner step α", 0)
    assert "coincide" in said(page)


def test_support_points_steps_and_tasks_change_what_the_networks_learn(show):
    page = show(sinusoid().html)
    assert all_differ(
        page,
        lambda: drag(grip(page, "support point 2"), 30, 30),
        lambda: page.keyboard.press("ArrowUp"),
        lambda: page.keyboard.press("Shift+ArrowRight"),
        lambda: slide(page, "gradient steps", 7),
        lambda: slide(page, "support points", 9),
        lambda: slide(page, "amplitude", 4),
        lambda: slide(page, "phase", 2),
        lambda: click(page, "New points"),
        lambda: page.get_by_label("only the right half").check(),
    )
    assert "7 gradient steps on 9 points" in said(page)
    places = [float(grip.get_attribute("aria-valuenow")) for grip in page.locator(".maml-grip").all()]
    assert len(places) == 9
    assert min(places) >= 0

    slide(page, "gradient steps", 0)  # nothing is learned
    assert all(row[1] == row[2] for row in rows(page))


def test_descents_goal_is_a_rate_that_changes_sides_and_still_arrives(show):
    page, met = show(descent().html), {}
    for rate in (0.3, 0.5, 0.55, 0.7, 0.85, 1.05):
        slide(page, "step size η", rate)
        met[rate] = reached(page)
    assert met == {rate: rate > 0.5 and 2 * abs(1 - 2 * rate) ** 12 < 1e-3 for rate in met}
    slide(page, "step size η", 0.7)
    slide(page, "start x₀", 0)  # changes no side
    assert not reached(page)


def test_the_planes_goal_is_to_come_near_the_least_loss_after_a_step(show):
    page, met = show(widgets.two_tasks(W, A, inner_lr=0.2).html), []
    for act in (
        lambda: click(page, "θ to the MAML optimum"),
        lambda: click(page, "θ to the joint optimum"),
        lambda: slide(page, "inner step α", 0.01),
        lambda: drag(grip(page, "initialisation θ"), 90, -60),
    ):
        act()
        mine, _, least = (float(row[-1]) for row in rows(page))
        met.append(reached(page))
        assert met[-1] == (mine <= 1.05 * least)
    assert met == [True, False, True, False]


def test_the_sinusoids_goal_is_to_quarter_an_error_with_one_step_on_two_points(show):
    params = {name: p / 9 for name, p in NETWORKS["maml"].items()}
    params["4.bias"] = params["4.bias"] + 5  # a single step of size 1/2 takes off
    figure = widgets.sinusoid_adaptation({"maml": params}, inner_lr=0.5)
    page, met = show(figure.html), set()
    for amplitude, steps, points in ((0.1, 1, 2), (5, 1, 2), (0.1, 2, 2), (0.1, 1, 3)):
        slide(page, "amplitude", amplitude)
        slide(page, "gradient steps", steps)
        slide(page, "support points", points)
        ((_, before, after),) = rows(page)
        met.add(reached(page))
        assert reached(page) == ((steps, points) == (1, 2) and float(after) <= float(before) / 4)
    assert met == {True, False}


def test_the_game_is_played_with_mouse_and_keys_and_keeps_the_score(show):
    figure = widgets.few_shot_game(image_tasks(n_tasks=3))
    answers = figure.settings["answers"]
    page = show(figure.html)

    click(page, f"class {'ABCDE'[answers[0]]}")
    assert "Right" in said(page)
    assert "you 1 of 1" in said(page)
    page.keyboard.press("Enter")  # "Next task" has the focus
    page.keyboard.press(str((answers[1] + 1) % 5 + 1))
    assert f"but it is {'ABCDE'[answers[1]]}" in said(page)
    marked = [page.locator(f".maml-{mark}").inner_text().strip() for mark in ("right", "wrong")]
    assert marked == [f"{'ABCDE'[answers[1]]} ✓", f"{'ABCDE'[(answers[1] + 1) % 5]} ✗"]
    click(page, "Next task")
    for _ in range(2):
        page.keyboard.press(str(answers[2] + 1))

    assert "you 2 of 3, the nearest neighbour in pixels 3 of 3" in said(page)
    assert "last task" in said(page)
    assert not reached(page)
    click(page, "Play again")
    assert "Choose with a click" in said(page)
    for key in (str(answers[0] + 1), "Enter", str(answers[1] + 1), "Enter", str(answers[2] + 1)):
        assert not reached(page)
        page.keyboard.press(key)
    assert reached(page)


def test_a_policy_adapts_to_the_goal_that_one_clicks_drags_or_keys_and_its_luck_is_drawn_anew(show):
    page = show(navigation().html)
    goal = grip(page, "goal")

    def click_beside(across, down):
        x, y = middle(goal)
        page.mouse.click(x + across, y + down)

    assert all_differ(
        page,
        lambda: click_beside(-60, 40),
        lambda: drag(goal, 30, -50),
        lambda: page.keyboard.press("ArrowUp"),
        lambda: page.keyboard.press("Shift+ArrowRight"),
        lambda: click(page, "New rollouts"),
        lambda: slide(page, "rollouts", 60),
        lambda: click(page, "Next goal"),
    )
    assert goal.get_attribute("aria-valuetext") in [
        f"goal at ({x:.3f}, {y:.3f})".replace("-", "−") for x, y in GOALS
    ]
    before, after, oracle = (float(row[1]) for row in rows(page))
    assert oracle < after < before / 2


def test_a_step_harms_in_most_draws_where_the_policy_goes_anyway(show):
    page = show(
        widgets.point_navigation(POLICY, [[0.45, 0.0], [0.06, 0.03]], inner_lr=0.015, rollouts=2).html
    )
    for far in (True, False):
        lower = int(re.search(r"(\d+) of 30 lower the cost", said(page))[1])
        assert reached(page) == (lower < 15) == (not far)
        click(page, "Next goal")


def test_a_click_near_a_goal_takes_that_goal(show):
    page = show(widgets.point_navigation(POLICY, GOALS[::-1], inner_lr=0.015).html)
    goal, box = grip(page, "goal"), page.locator(".maml-ground").bounding_box()
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    unit = box["height"] / 1.24

    page.mouse.click(centre[0] + 0.47 * unit, centre[1] - 0.02 * unit)
    assert goal.get_attribute("aria-valuetext") == "goal at (0.450, 0.000)"
    page.mouse.click(centre[0] + 0.2 * unit, centre[1] - 0.3 * unit)
    x, y = map(float, re.findall(r"[\d.]+", goal.get_attribute("aria-valuetext")))
    assert [x, y] == pytest.approx([0.2, 0.3], abs=0.006)


def test_a_width_matches_the_steps_once_inputs_are_even_and_wherever_the_fit_is(show):
    page = show(prior().html)
    click(page, "Take the steps' wider width")
    assert "No single width is both" in said(page)
    assert not reached(page)

    slide(page, "unevenness", 0)
    click(page, "Take the steps' wider width")
    assert "The two priors are one" in said(page)
    assert all_differ(
        page,
        lambda: slide(page, "steps K", 9),
        lambda: slide(page, "rate α", 0.15),
        lambda: slide(page, "width τ/σ", 1.0),
        lambda: page.keyboard.press("ArrowRight"),
    )
    assert not reached(page)
    wanted = float(rows(page)[0][-1])
    slide(page, "width τ/σ", wanted)
    drag(grip(page, "least squares fit"), -60, 50)
    page.keyboard.press("Shift+ArrowLeft")
    assert reached(page)
    assert all(float(steps) == pytest.approx(float(due), abs=0.006) for _, _, steps, due, _ in rows(page))


def test_local_work_moves_fedavg_and_has_a_best_amount_for_scaffold(show):
    page = show(work().html)

    def rounds(steps):
        slide(page, "local steps K", steps)
        return int(re.search(r"needs (\d+) round", said(page))[1])

    needed = {steps: rounds(steps) for steps in range(1, 31)}
    best = min(needed, key=needed.get)
    assert needed[best] < min(needed[1], needed[30])
    rounds(1)
    assert "FedAvg rests at the joint optimum" in said(page)
    rounds(best + 1)
    page.keyboard.press("ArrowLeft")  # fill leaves the focus there
    assert f"{best} local step" in said(page)
    assert reached(page)
    assert all_differ(page, lambda: slide(page, "local rate η", 0.3), lambda: click(page, "Next federation"))


@pytest.mark.parametrize("way", [1, -1])
def test_a_finger_drags_a_point_down_or_up_and_the_page_stays(show, way):
    page = show(plane().html, width=360, height=500, has_touch=True, is_mobile=True)
    x, y = middle(grip(page, "initialisation θ"))
    before, scrolled = said(page), page.evaluate("scrollY")

    finger = page.context.new_cdp_session(page)
    for kind, far in (("Start", 0), ("Move", 10), ("Move", 25), ("Move", 40), ("End", None)):
        points = [] if far is None else [{"x": x + far, "y": y + way * far}]
        finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    assert said(page) != before
    assert page.evaluate("scrollY") == scrolled


def test_figures_on_one_page_do_not_disturb_each_other(show):
    page = show(descent().html, *(figure().html for figure in FIGURES.values()))
    before = page.locator(FINDING).all_inner_texts()

    page.get_by_label("step size η").nth(1).fill("0.9")
    after = page.locator(FINDING).all_inner_texts()

    assert [i for i in range(len(before)) if before[i] != after[i]] == [1]
    assert before[0] == before[1]


@every_figure
def test_the_live_front_end_is_a_module_that_renders_the_same(show, figure):
    page = show(figure().html, '<div id="live"></div>')

    page.evaluate(
        """async ([state, standIn]) => {
          const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
          const { default: front } = await import(url);
          front.render({ model: new Function(standIn + "; return standIn")()(state), el: document.querySelector("#live") });
        }""",
        [figure().get_state(), source("stand_in.js")],
    )

    assert page.locator(f"#live {FINDING}").inner_text() == said(page)


@every_figure
def test_a_figure_fits_its_page_is_accessible_and_follows_the_theme(show, figure):
    for width in (340, 760):
        page = show(figure().html, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(drawing.bounding_box()["width"] > 150 for drawing in page.locator(".maml-plane").all())

    looks = []
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        style = "getComputedStyle(document.querySelector('.maml-figure'))"
        looks.append(set(page.evaluate(f"[{style}.color, {style}.backgroundColor]")))
        assert not barriers(page)
    assert not looks[0] & looks[1]


@every_figure
def test_reset_takes_back_what_every_part_has_changed_and_the_hint_leaves_with_the_first_touch(show, figure):
    page = show(figure().html, width=500)
    state = "all => all.map(e => [e.value, e.checked])"
    first, inputs, hint = said(page), page.locator("input"), page.locator(".maml-hint")
    before = inputs.evaluate_all(state)
    assert hint.count() == (figure not in (game, work, clinic))
    for overlap in hint.evaluate_all(
        "all => all.map(e => [e, e.parentNode.querySelector('svg')].map(e => e.getBoundingClientRect()))"
    ):
        assert overlap[0]["top"] >= overlap[1]["bottom"], "on a phone it covers nothing"

    page.locator("input[type=range]").evaluate_all(
        "all => all.forEach(e => { e.value = e.max; e.dispatchEvent(new Event('input')); })"
    )
    page.locator("input[type=checkbox]").evaluate_all("all => all.forEach(e => e.click())")
    page.locator("button").first.press("1")
    page.locator(".maml-button").evaluate_all(
        "all => all.filter(e => !/Reset|again/.test(e.textContent)).forEach(e => e.click())"
    )
    assert said(page) != first
    assert not hint.is_visible()

    click(page, "Play again" if figure is game else "Reset")
    assert said(page) == first
    assert inputs.evaluate_all(state) == before


def test_without_scripts_a_sentence_stands_in_the_figures_place(show):
    page = show(plane().html, java_script_enabled=False)

    assert plane().alt in page.locator(".maml-figure").inner_text()
