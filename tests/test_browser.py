"""Every page in a real browser, from the file system with the network shut: quiet, narrow enough, usable by all."""

from __future__ import annotations

import io
import sys
import unicodedata
from functools import partial

import numpy as np
import pytest
from interactive import barriers, drag, faint
from PIL import Image
from test_site import HTML, NAMES

# what the theme itself gets wrong on every page; nothing of this book's own is excused
THEME_FINDINGS = ("label-content-name-mismatch", "region")

every_page = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def visit(open_page):
    """Opens a page, whose formulas must all be drawn, and which must stay quiet to the end."""

    def visit(name, **options):
        assert (HTML / "index.html").is_file(), f"there is no site in {HTML}: run `make site`"
        page = open_page(HTML / f"{name}.html", **options)
        page.wait_for_function("window.MathJax === undefined || !!window.MathJax.startup?.promise")
        page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        undrawn = page.locator("mjx-merror, [data-mjx-error], .math:not(:has(mjx-container))")
        assert undrawn.all_text_contents() == []
        assert not page.locator(".maml-small", has_text="Goal reached").count(), "before the reader moves"
        return page

    return visit


@every_page
def test_a_page_fits_a_phone(visit, name):
    page = visit(name, width=390, height=844)

    wide = page.evaluate(
        """() => [...document.querySelectorAll("article *")].filter((node) => {
          if (node.getBoundingClientRect().right <= innerWidth + 1) return false;
          // a plane in a drawing is as wide as what it cuts off
          for (let a = node.ownerSVGElement ? node : node.parentElement; a; a = a.parentElement)
            if (getComputedStyle(a).overflowX !== "visible") return false;
          return true;
        }).slice(0, 5).map((node) => node.outerHTML.slice(0, 160))"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = page.locator("article span.math").evaluate_all(
        """(formulas) => formulas.filter((node) => node.scrollWidth > node.clientWidth + 1
          && getComputedStyle(node).overflowX === "hidden").map((node) => node.textContent)"""
    )
    assert cut == []
    fallen = page.locator("article span.math").evaluate_all(
        """(formulas) => formulas.filter((node) => {
          const mark = document.createRange();
          if (node.nextSibling?.nodeType !== 3 || !/^[.,:;?!)]/.test(node.nextSibling.data)) return false;
          mark.setStart(node.nextSibling, 0);
          mark.setEnd(node.nextSibling, 1);
          return mark.getBoundingClientRect().left < node.getBoundingClientRect().right - 8;
        }).map((node) => node.textContent + node.nextSibling.data.slice(0, 20))"""
    )
    assert fallen == [], "a mark begins a line"


def test_what_goes_on_beyond_an_edge_fades_there_until_one_has_scrolled_to_its_end(visit):
    page = visit("book/when-maml-wins", width=390, height=844)

    found = page.evaluate(
        """async () => {
          const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const boxes = [...document.querySelectorAll('article :is(.results, mjx-container[display="true"])')];
          const fade = (box, side) => parseFloat(getComputedStyle(box).getPropertyValue("--fade-" + side));
          const fades = () => boxes.map((box) => ["left", "right"].map((side) => fade(box, side)));
          const beyond = boxes.map((box) => box.scrollWidth - box.clientWidth), before = fades();
          boxes.forEach((box, i) => { box.scrollLeft = beyond[i]; });
          await frames();
          return fades().map((after, i) => [beyond[i] > 0, before[i], after]);
        }"""
    )
    assert {wide for wide, *_ in found} == {True, False}
    fades = {True: [[0, 24], [24, 0]], False: [[0, 0], [0, 0]]}
    assert all(both == fades[wide] for wide, *both in found), found


def test_paper_shows_the_solutions_that_a_reader_has_opened(visit):
    page = visit("book/objective")
    hints, solutions = page.locator("details.sd-dropdown"), page.locator(".solution")
    hints.nth(0).locator("summary").click()
    solutions.nth(0).locator("button.toggle-button").click()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for folded in (hints, solutions):
        assert [folded.nth(i).is_visible() for i in (0, 1)] == [True, False]


def test_the_printed_book_has_every_solution(browser):
    sys.path.insert(0, str(HTML.parents[1] / ".ci"))
    import pdf

    page = browser.new_page(offline=True)
    sheets = pdf.printed(page, "objective").pages
    text = "".join(sheet.extract_text() for sheet in sheets)
    assert sum(len(sheet.images) for sheet in sheets) == page.locator(".cell_output figure img").count() > 2
    assert text.count("Solution to Exercise") == page.locator(".solution").count() > 2
    assert text.count("Hint") == page.locator("details.sd-dropdown summary", has_text="Hint").count() > 2
    text = " ".join(unicodedata.normalize("NFKC", text).split())  # no letters that are two
    opened = page.locator(".claims li, .check details > p").all_inner_texts()
    assert len(opened) > 9
    assert [words for words in opened if not words or words[:25] not in text] == []
    page.close()


def test_a_phone_gets_the_narrow_figure_and_a_tap_opens_the_wide_one(visit):
    shown = "(image) => [image.currentSrc, image.naturalWidth, image.getBoundingClientRect().width]"
    sources = {}
    for width in (390, 1280):
        page = visit("book/inner-loop", width=width, height=844)
        image = page.locator(".cell_output figure img").first
        image.scroll_into_view_if_needed()
        sources[width], pixels, across = image.evaluate(shown)
        assert pixels >= across, "no figure is blown up"
        opens = image.evaluate("(image) => image.closest('a').href")

    assert sources[390] == sources[1280].replace(".png", "-narrow.png")
    assert opens == sources[1280]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_is_fetched_when_it_is_nearly_in_sight_and_its_place_is_kept(visit, width):
    page = visit("book/sinusoids", width=width, height=844)
    image = page.locator(".cell_output figure img").last
    place = image.bounding_box()
    assert image.evaluate("(image) => image.naturalWidth") == 0

    image.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('.cell_output figure img')].at(-1).naturalWidth > 0"
    )

    found = image.bounding_box()
    assert (found["width"], found["height"]) == pytest.approx((place["width"], place["height"]), abs=1)


@pytest.mark.parametrize(("width", "sides"), [(390, ["Top", "Bottom"]), (1280, ["Left", "Right"])])
def test_a_caption_tells_panels_apart_as_they_stand(visit, width, sides):
    page = visit("book/objective", width=width, height=844)
    said = page.locator("#fig-objective-same-data figcaption").inner_text()

    assert [word for word in ("Left", "Right", "Top", "Bottom") if f"{word}:" in said] == sides


@pytest.mark.parametrize("name", ["book/objective", "book/averaging-is-not-maml", "book/bug-clinic"])
def test_on_a_phone_what_a_figure_says_stays_in_sight_beside_its_plot(visit, name):
    page = visit(name, width=390, height=844)
    page.locator(".maml-figure").first.evaluate("(figure) => figure.scrollIntoView()")
    plot, said = (page.locator(f".maml-{part}").first.bounding_box() for part in ("plane", "finding"))

    assert plot["y"] >= 0
    assert plot["y"] + plot["height"] <= said["y"]
    assert said["y"] + said["height"] <= 844


def test_in_the_dark_no_figure_is_a_white_slab(visit):
    page = visit("book/inner-loop", color_scheme="dark")
    image = page.locator(".cell_output figure img").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    picture = Image.open(io.BytesIO(page.screenshot())).convert("L")
    inside = picture.crop((int(box["x"]), int(box["y"]), int(box["x"] + box["width"]), int(box["y"]) + 200))

    assert np.median(np.asarray(inside)) < 60


@every_page
def test_a_page_is_accessible_in_light_and_dark(visit, name):
    page = visit(name, color_scheme="light")
    assert not barriers(page, *THEME_FINDINGS)

    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert not faint(page)


def test_the_reader_chooses_between_light_and_dark_and_the_page_for_the_lost_knows_it(visit):
    page = visit(NAMES[0])
    paper = "getComputedStyle(document.body).backgroundColor"
    colours = {page.evaluate(paper)}

    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        colours.add(chosen := page.evaluate(paper))
        page.goto((HTML / "404.html").as_uri())
        assert page.evaluate(paper) == chosen
        page.go_back()

    assert len(colours) == 2


@every_page
def test_a_page_is_quiet_and_its_figures_answer_the_keyboard_and_follow_the_mouse(visit, name):
    page = visit(name)
    right, left = (partial(page.keyboard.press, f"Arrow{way}") for way in ("Right", "Left"))

    for figure in page.locator(".maml-figure:visible").all():
        handles = figure.locator("[role=slider], input[type=range]")
        called = figure.get_attribute("aria-label")
        # the game has only buttons, which a browser gives to the keyboard by itself
        assert handles.count() or figure.locator("button:enabled").count(), f"nothing to move in {called}"
        for handle in handles.all():
            pulls = [partial(drag, handle, far, far / 2) for far in (30, -30)]
            # to either side, in case its range ends here
            for acts in ([right, right, left, left, left], pulls):
                handle.focus()
                before = handle.get_attribute("aria-valuetext")
                moved = (act() or handle.get_attribute("aria-valuetext") != before for act in acts)
                assert any(moved), f"{called}: {handle} stays under {acts}"


def test_who_follows_a_path_is_told_what_comes_next_until_it_is_left(visit):
    page = visit("book/paths")
    page.locator('[data-path="builder"] button').click()
    assert page.locator('[data-path="builder"] button').inner_text() == "Leave this path"

    page.goto(page.url.replace("paths.html", "bug-clinic.html"))
    bar = page.locator(".path-bar")
    assert "chapter 5 of 10" in bar.inner_text()
    assert bar.get_by_role("link").get_attribute("href") == "few-shot-images.html"
    bar.get_by_role("button").click()
    page.reload()
    assert not bar.count()


@pytest.mark.parametrize(
    ("query", "first"),
    [("meta_gradient", "mamlkit.meta.meta_gradient"), ("reptile", "10. Reptile"), ("θ", ""), ("α", "")],
)
def test_the_search_finds_symbols_and_functions_from_a_disk_one_hit_a_page_with_a_line_of_text(
    open_page, query, first
):
    page = open_page(HTML / "search.html", f"?q={query}")
    page.wait_for_selector("ul.search li mark")
    hits = page.locator("ul.search li")
    pages = hits.locator("a").evaluate_all("(links) => links.map((link) => link.pathname)")

    assert hits.first.inner_text().startswith(first)
    assert len({*pages}) == len(pages) > 5
    assert not barriers(page, *THEME_FINDINGS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["404", "genindex", "py-modindex"])
def test_pages_beside_the_chapters_are_accessible_and_fit_a_phone(open_page, name, scheme):
    page = open_page(HTML / f"{name}.html", width=390, color_scheme=scheme)

    assert not barriers(page, *THEME_FINDINGS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
