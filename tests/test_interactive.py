"""Each interactive figure in a real browser, from a file, without a kernel and without a network.

Skipped, with the reason, where playwright or a Chromium is missing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mamlkit import widgets
from mamlkit.tasks import Batch, Task

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: make test installs it"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FINDING = ".maml-finding"


def mlp_params(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    return {f"layer.{i}": 0.3 * torch.randn(size, generator=generator) for i, size in enumerate(sizes)}


def descent() -> widgets.Figure:
    return widgets.gradient_descent(step_size=0.3, start=2.0)


def plane() -> widgets.Figure:
    return widgets.two_tasks([[-2, 0], [2, 1]], [[[1, 0], [0, 4]], [[3, 0], [0, 1]]], inner_lr=0.1)


def sinusoid() -> widgets.Figure:
    return widgets.sinusoid_adaptation({"maml": mlp_params(0), "joint": mlp_params(1)}, inner_lr=0.01)


def game() -> widgets.Figure:
    generator = torch.Generator().manual_seed(0)
    support = torch.rand(3, 5, 1, 28, 28, generator=generator)
    labels = torch.stack([torch.randperm(5, generator=generator) for _ in range(3)])
    return widgets.few_shot_game(Task(Batch(support, labels), Batch(support * 0.9, labels)))


FIGURES = [descent, plane, sinusoid, game]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: playwright.Browser, tmp_path: Path) -> Iterator[Callable[..., playwright.Page]]:
    """Opens a file that holds the given HTML; whatever the browser complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(*bodies: str, theme: str = "light", width: int = 760, **options: bool) -> playwright.Page:
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 900}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        file = tmp_path / f"page-{len(contexts)}.html"
        file.write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Figure</title>'
            '<meta name="viewport" content="width=device-width"></head><body><main><h1>Figure</h1>'
            f"{''.join(bodies)}</main></body></html>",
            encoding="utf-8",
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def said(page: playwright.Page) -> str:
    return page.locator(FINDING).first.inner_text()


def drag(page: playwright.Page, name: str, across: float, down: float) -> None:
    grip = page.get_by_role("slider", name=name, exact=True).first
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up()


def slide(page: playwright.Page, name: str, value: float) -> None:
    page.locator("input[type=range]").and_(page.get_by_label(name)).fill(str(value))


def test_the_step_size_slider_passes_from_convergence_to_divergence(show):
    page = show(descent().html)
    assert "1 − 2η = 0.400" in said(page)
    assert "converges from one side" in said(page)

    heard = []
    for step_size in (0.5, 0.75, 1.0, 1.1):
        slide(page, "step size η", step_size)
        heard.append(said(page))

    for text, words in zip(heard, ("lands on the minimum", "side to side", "for ever", "diverges")):
        assert words in text


def test_the_start_of_descent_is_dragged_and_moved_by_keys(show):
    page = show(descent().html)

    drag(page, "Start x₀", -200, 0)
    dragged = said(page)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")

    assert "x₀ = 2.00" not in dragged
    moved = [
        float(re.search(r"x₀ = (−?[\d.]+)", text)[1].replace("−", "-")) for text in (dragged, said(page))
    ]
    assert moved[1] - moved[0] == pytest.approx(0.45, abs=0.011)


def test_arrow_keys_carry_the_start_across_the_minimum(show):
    page = show(widgets.gradient_descent(start=0.1).html)

    page.get_by_role("slider", name="Start x₀", exact=True).first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")

    assert "x₀ = −0.100" in said(page)


def test_the_two_optima_coincide_exactly_at_step_size_zero(show):
    page = show(plane().html)
    assert "apart" in said(page)

    slide(page, "inner step α", 0)

    assert "coincide" in said(page)


def test_theta_and_the_task_optima_are_dragged_and_moved_by_keys(show):
    page = show(plane().html)
    texts = [said(page)]

    drag(page, "initialisation θ", 60, -40)
    texts.append(said(page))
    drag(page, "optimum of task 1", 40, 40)
    texts.append(said(page))
    for press in ("ArrowUp", "Shift+ArrowRight"):
        page.keyboard.press(press)
        texts.append(said(page))

    assert len(set(texts)) == len(texts)


def test_no_start_beats_the_maml_optimum_after_a_step(show):
    page = show(plane().html)

    page.get_by_role("button", name="θ to the MAML optimum").click()
    rows = page.locator("tbody tr").all_inner_texts()
    after = {row.split("\t")[0].strip(): float(row.split("\t")[-1]) for row in rows}

    assert after["θ"] == pytest.approx(after["MAML"], abs=2e-3)
    assert after["MAML"] < after["joint"]


def test_support_points_steps_and_tasks_change_what_the_networks_learn(show):
    page = show(sinusoid().html)
    texts = [said(page)]

    def after(act: Callable[[], object]) -> None:
        act()
        texts.append(said(page))

    after(lambda: drag(page, "support point 2", 50, 80))
    after(lambda: page.keyboard.press("ArrowUp"))
    after(lambda: page.keyboard.press("Shift+ArrowRight"))
    after(lambda: slide(page, "gradient steps", 7))
    after(lambda: slide(page, "support points", 9))
    after(lambda: slide(page, "amplitude", 4))
    after(lambda: slide(page, "phase", 2))
    after(lambda: page.get_by_role("button", name="New points").click())
    after(lambda: page.get_by_label("only the right half").check())

    assert len(set(texts)) == len(texts)
    assert "7 gradient steps on 9 points" in texts[-1]
    assert page.locator(".maml-grip").count() == 9
    assert all(float(grip.get_attribute("aria-valuenow")) >= 0 for grip in page.locator(".maml-grip").all())


def test_without_a_step_nothing_is_learned(show):
    page = show(sinusoid().html)

    slide(page, "gradient steps", 0)
    rows = [row.split("\t") for row in page.locator("tbody tr").all_inner_texts()]

    assert all(row[1] == row[2] for row in rows)


def test_the_game_is_played_with_mouse_and_keys_and_keeps_the_score(show):
    figure = game()
    answers = figure.settings["answers"]
    page = show(figure.html)

    page.get_by_role("button", name=f"class {'ABCDE'[answers[0]]}").click()
    assert "Right" in said(page)
    assert "you 1 of 1" in said(page)
    page.keyboard.press("Enter")  # "Next task" has the focus
    page.keyboard.press(str((answers[1] + 1) % 5 + 1))
    assert f"but it is {'ABCDE'[answers[1]]}" in said(page)
    page.get_by_role("button", name="Next task").click()
    page.keyboard.press(str(answers[2] + 1))
    page.keyboard.press(str(answers[2] + 1))

    assert "you 2 of 3, the nearest neighbour in pixels 3 of 3" in said(page)
    assert "last task" in said(page)
    page.get_by_role("button", name="Play again").click()
    assert "Choose with a click" in said(page)


def test_a_finger_drags_a_point_and_the_page_stays(show):
    page = show(plane().html, width=360, has_touch=True, is_mobile=True)
    before = said(page)
    grip = page.get_by_role("slider", name="initialisation θ", exact=True)
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    scrolled = page.evaluate("scrollY")

    finger = page.context.new_cdp_session(page)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for far in (10, 25, 40):
        finger.send(
            "Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x + far, "y": y + far}]}
        )
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    assert said(page) != before
    assert page.evaluate("scrollY") == scrolled


def test_figures_on_one_page_do_not_disturb_each_other(show):
    page = show(*(figure().html for figure in (descent, plane, descent, sinusoid, game)))
    before = page.locator(FINDING).all_inner_texts()

    page.get_by_label("step size η").nth(1).fill("0.9")
    after = page.locator(FINDING).all_inner_texts()

    assert [i for i in range(5) if before[i] != after[i]] == [2]
    assert before[0] == before[2]


@pytest.mark.parametrize("figure", FIGURES)
def test_the_live_front_end_is_a_module_that_renders_the_same(show, figure):
    shown = figure()
    page = show(shown.html, '<div id="live"></div>')

    state = {"settings": shown.settings, **{name: getattr(shown, name) for name in shown.reader_state}}
    page.evaluate(
        """async ([source, standIn, state]) => {
          const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
          const { default: front } = await import(url);
          front.render({ model: new Function(standIn + "; return standIn")()(state), el: document.querySelector("#live") });
        }""",
        [shown._esm, widgets._source("stand_in.js"), state],
    )

    assert page.locator(f"#live {FINDING}").inner_text() == said(page)


@pytest.mark.parametrize("width", [340, 760])
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_fits_its_page(show, figure, width):
    page = show(figure().html, width=width)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawings = page.locator(".maml-plane").all()
    assert all(drawing.bounding_box()["width"] > 150 for drawing in drawings)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_accessible(show, figure, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = show(figure().html, theme=theme)

    found = axe.Axe().run(page).response["violations"]

    assert [(violation["id"], violation["nodes"][0]["html"][:200]) for violation in found] == []


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_follows_the_theme(show, figure):
    page = show(figure().html)
    look = """(() => {
      const style = getComputedStyle(document.querySelector(".maml-figure"));
      return [style.color, style.backgroundColor];
    })()"""
    light = page.evaluate(look)

    page.evaluate("document.documentElement.dataset.theme = 'dark'")

    assert not set(light) & set(page.evaluate(look))


def test_without_scripts_a_sentence_stands_in_the_figures_place(show):
    figure = plane()
    page = show(figure.html, java_script_enabled=False)

    assert figure.alt in page.locator(".maml-figure").inner_text()
