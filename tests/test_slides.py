"""Decks of slides say what the chapters say, in twelve to twenty slides, and stand by themselves in a browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "course"))
import slides
from plain import Book

BOOK = Book.read()
CHAPTERS = {chapter.name: chapter for chapter in BOOK.chapters}
# three kinds of interactive figure, the longest code, tables of the kit's and of Markdown
LOOKED_AT = "learning-to-learn", "outer-loop", "what-is-proved"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_deck_has_the_length_of_a_lecture_and_shows_neither_sphinx_nor_a_solution(name):
    deck = slides.deck(BOOK, CHAPTERS[name])

    assert slides.LEAST <= len(deck) <= slides.MOST
    kinds = [slide.kind for slide in deck]
    assert kinds[:2] == ["title", "goals"]
    assert {"saw", "turn"} <= set(kinds)
    assert kinds[-1] == "reading"
    written = "\n".join(cell.source for slide in deck for cell in slide if cell.cell_type == "markdown")
    assert not re.search(r"\{[a-z:-]+\}`|`{3}\{|:{3}|^:\w+:|^\([\w-]+\)=", written, re.M)
    code = "\n".join(cell.source for slide in deck for cell in slide if cell.cell_type == "code")
    assert "exercise(" not in code, "answers and checks are the student's"


def test_notes_and_slides_together_hold_the_prose_of_a_chapter():
    chapter = CHAPTERS["first-order"]
    deck = slides.deck(BOOK, chapter)
    told = "\n".join(cell.source for slide in deck for cell in slide)

    prose = [t.text for t in slides.things(chapter) if t.block]
    assert len(prose) > 30
    assert all(BOOK.plain(text).strip("$\n") in told or "eq-" in text for text in prose if "$$" not in text)


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    pytest.importorskip("sphinx_revealjs", reason="reveal.js is not installed")
    out = tmp_path_factory.mktemp("slides")
    slides.main(str(out), *LOOKED_AT)
    return out


@pytest.mark.parametrize(("name", "scheme"), list(zip(LOOKED_AT, ("light", "dark", "light"))))
def test_a_deck_opens_from_the_disk_and_nothing_leaves_a_slide(decks, open_page, name, scheme):
    page = open_page(decks / f"{name}.html", width=1280, height=720, color_scheme=scheme)
    page.wait_for_function("'ready' in document.documentElement.dataset")

    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color")
    )
    red = [int(re.search(r"\d+", colour)[0]) for colour in (paper, ink)]
    assert (red[0] > red[1]) == (scheme == "light")
    assert abs(red[0] - red[1]) > 150
    shown = page.locator(".slides section")
    for i in range(shown.count()):
        page.keyboard.press("ArrowRight") if i else None
        here = shown.nth(i)
        assert here.is_visible()
        assert here.evaluate("(s) => s.scrollHeight <= 720 && s.scrollWidth <= 1280")
        # sixteen pixels in 720 are read from the last row
        assert float(here.evaluate("(s) => s.style.getPropertyValue('--scale')")) >= 0.65
        for figure in here.locator(".maml-figure").all():
            figure.locator("input[type=range], button:enabled").first.focus()
            before = figure.text_content()
            page.keyboard.press(
                "Enter" if page.evaluate("document.activeElement.tagName") == "BUTTON" else "ArrowLeft"
            )
            assert figure.text_content() != before, "an interactive figure answers"
            page.evaluate("document.activeElement.blur()")


def test_a_deck_prints_a_page_for_each_slide(decks, open_page):
    printed = open_page(decks / "outer-loop.html", width=1280, height=720)
    printed.goto(f"{(decks / 'outer-loop.html').as_uri()}?print-pdf")
    printed.wait_for_function(
        "'ready' in document.documentElement.dataset && document.querySelector('.pdf-page')"
    )

    n_pages = len(
        re.findall(rb"/Type\s*/Page\b", printed.pdf(prefer_css_page_size=True, print_background=True))
    )
    assert n_pages == len(slides.deck(BOOK, CHAPTERS["outer-loop"]))
