"""Every page in a real browser, from the file system with the network shut: quiet, narrow enough, usable by all.

Skipped, with the reason, where playwright or a Chromium is missing. BOOK_HTML names another folder than `_build/html`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: make test installs it"
)

ROOT = Path(__file__).parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
# what the theme itself gets wrong on every page; nothing of this book's own is excused
THEME_FINDINGS = {"label-content-name-mismatch", "region"}


def page_names() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


@dataclass
class Visit:
    """An open page, and what it complained about or asked for since."""

    page: playwright.Page
    complaints: list[str] = field(default_factory=list)

    def hear(self, complaint: str, counts: bool = True) -> None:
        if counts:
            self.complaints.append(complaint)

    def settle(self) -> None:
        self.page.wait_for_function("window.MathJax === undefined || !!window.MathJax.startup?.promise")
        self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    assert (HTML / "index.html").is_file(), (
        f"there is no site in {HTML}: run `make site`, which builds it first"
    )
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    contexts = []

    def open_page(name: str, *, scheme: str = "light", viewport: dict[str, int] = WIDE) -> Visit:
        context = browser.new_context(
            color_scheme=scheme, viewport=viewport, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        seen = Visit(context.new_page())
        seen.page.on("console", lambda said: seen.hear(said.text, said.type in ("error", "warning")))
        seen.page.on("pageerror", lambda error: seen.hear(str(error)))
        seen.page.on("requestfailed", lambda request: seen.hear(f"failed: {request.url}"))
        seen.page.on("request", lambda request: seen.hear(request.url, request.url.startswith("http")))
        seen.page.goto((HTML / f"{name}.html").as_uri())
        seen.settle()
        return seen

    yield open_page
    for context in contexts:
        context.close()


def interactive_figures(seen: Visit) -> playwright.Locator:
    return seen.page.locator(".maml-figure:visible")


@pytest.mark.parametrize("name", page_names())
def test_a_page_is_quiet_without_a_network(visit, name):
    seen = visit(name)

    wrong = seen.page.locator("mjx-merror, [data-mjx-error]")
    assert [formula.text_content() for formula in wrong.all()] == []
    assert seen.complaints == []


@pytest.mark.parametrize("name", page_names())
def test_a_page_fits_a_phone(visit, name):
    seen = visit(name, viewport=PHONE)

    width = seen.page.evaluate("document.documentElement.scrollWidth")
    wide = seen.page.evaluate(
        """() => [...document.querySelectorAll("article *")].filter((node) => {
          if (node.getBoundingClientRect().right <= innerWidth + 1) return false;
          for (let a = node.parentElement; a; a = a.parentElement)
            if (getComputedStyle(a).overflowX !== "visible") return false;
          return true;
        }).slice(0, 5).map((node) => node.outerHTML.slice(0, 160))"""
    )

    assert wide == []
    assert width <= PHONE["width"], f"{name} scrolls sideways: {width} px wide"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", page_names())
def test_a_page_is_accessible(visit, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    seen = visit(name, scheme=scheme)

    found = axe.Axe().run(seen.page).response["violations"]
    ours = [
        f"{violation['id']}: {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for violation in found
        if violation["id"] not in THEME_FINDINGS
        for node in violation["nodes"][:4]
    ]

    assert ours == []


def test_the_reader_chooses_between_light_and_dark(visit):
    seen = visit(page_names()[0])
    paper = "getComputedStyle(document.body).backgroundColor"
    colours = {seen.page.evaluate(paper)}

    for _ in range(3):
        seen.page.locator(".theme-switch-button:visible").first.click()
        colours.add(seen.page.evaluate(paper))

    assert len(colours) == 2


def test_formulas_are_drawn(visit):
    seen = visit("book/notation")

    assert seen.page.locator("mjx-container svg, mjx-container mjx-math").count() > 20


@pytest.mark.parametrize("name", page_names())
def test_interactive_figures_answer_the_keyboard(visit, name):
    seen = visit(name)

    for figure in interactive_figures(seen).all():
        handles = figure.locator("[role=slider], input[type=range]")
        # the game has only buttons, which a browser gives to the keyboard by itself
        assert handles.count() or figure.locator("button:enabled").count(), (
            f"nothing to move in {figure.get_attribute('aria-label')}"
        )
        for handle in handles.all():
            before = handle.get_attribute("aria-valuetext")
            handle.focus()
            for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
                seen.page.keyboard.press(key)
                if handle.get_attribute("aria-valuetext") != before:
                    break
            assert handle.get_attribute("aria-valuetext") != before, handle.get_attribute("aria-label")
    assert seen.complaints == []


@pytest.mark.parametrize("name", page_names())
def test_interactive_figures_follow_the_mouse(visit, name):
    seen = visit(name)

    for grip in seen.page.locator(".maml-figure:visible [role=slider]:visible").all():
        grip.scroll_into_view_if_needed()
        box, before = grip.bounding_box(), grip.get_attribute("aria-valuetext")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        # to either side, in case the handle stands at an end of its range
        for far in (30, -30):
            seen.page.mouse.move(x, y)
            seen.page.mouse.down()
            seen.page.mouse.move(x + far, y + far / 2, steps=5)
            seen.page.mouse.up()
            if grip.get_attribute("aria-valuetext") != before:
                break
        assert grip.get_attribute("aria-valuetext") != before, grip.get_attribute("aria-label")
    assert seen.complaints == []
