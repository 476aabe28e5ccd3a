"""Decks of slides say what the chapters say, in twelve to twenty slides, and stand by themselves in a browser."""

from __future__ import annotations

import base64
import re
from html import escape

import pytest
import slides
from cells import OURS, chunks
from interactive import barriers
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
    shown = {f"({tag})" for tag in re.findall(r"\\tag\{(.*?)\}", written)}
    cited = {n for slide in deck for cell in slide.cells for n in slides.CITED.findall(slides.said(cell))}
    assert cited & BOOK.formulas.keys() <= shown <= BOOK.formulas.keys(), "what a slide cites, a slide shows"
    drawn = [cell for slide in deck for cell in slide.cells if "figure" in cell.metadata.get("mystnb", {})]
    assert all(slides.said(cell).startswith(f"**Fig. {CHAPTERS[name].number}.") for cell in drawn)
    code = "\n".join(cell.source for slide in deck for cell in slide if cell.cell_type == "code")
    assert "exercise(" not in code, "answers and checks are the student's"
    turns = [cell.source for slide in deck if slide.kind == "turn" for cell in slide.cells]
    assert turns
    assert not [source for source in turns if re.search(r"^\*\*(Hint|Solution)", source, re.M)]
    pictures = [
        output.data["image/png"]
        for slide in deck
        for cell in slide.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert not {kind for png in pictures for kind, *_ in chunks(base64.b64decode(png))} & {*OURS}


def test_notes_and_slides_together_hold_the_prose_of_a_chapter():
    chapter = CHAPTERS["first-order"]
    deck = slides.deck(BOOK, chapter)
    told = re.sub("</?span.*?>", "", "\n".join(cell.source for slide in deck for cell in slide))

    found = slides.things(chapter)
    prose, claims = [t.text for t in found if t.block], [escape(line) for t in found for line in t.claims]
    assert len(prose) > 30
    assert len(claims) > 10
    assert not [claim for claim in claims if claim not in told]
    assert all(BOOK.plain(text).strip("$\n") in told or "eq-" in text for text in prose if "$$" not in text)


LONG = "A sentence of the book that is long enough to stand by itself on a slide, with a comma."


@pytest.mark.parametrize(
    ("paragraph", "lead"),
    [
        (f"Before.\n{LONG}", [LONG]),
        (f"{LONG}\nIt is small.", [f"{LONG}\nIt is small."]),
        (f"{LONG}\nSo {LONG}\nThen {LONG}", [f"{LONG}\nSo {LONG}\nThen {LONG}"]),
        (f"Its {LONG}", []),
        (f"That {LONG}\nShort, and needs no other.", ["Short, and needs no other."]),
        (f"{LONG}\n" + f"So {LONG}\n" * 4 + f"Now {LONG}", [f"Now {LONG}"]),
        (f"{LONG}\n" + f"So {LONG}\n" * 4 + f"But {LONG}", []),
        ("where it ends,", []),
        ("", []),
    ],
)
def test_a_lead_brings_the_sentences_that_it_needs_or_stays_away(paragraph, lead):
    assert slides.leading(paragraph) == lead


def test_a_cell_tagged_slide_is_taken_and_one_tagged_no_slide_never():
    found, room = slides.things(CHAPTERS["first-order"]), 10
    before = {id(thing) for thing in slides.chosen(BOOK, found, room)}
    wanted = next(thing for thing in found if slides.value(thing) > 0 and id(thing) not in before)
    refused = next(thing for thing in found if id(thing) in before)

    wanted.tags, refused.tags = ("slide",), ("no-slide",)
    after = {id(thing) for thing in slides.chosen(BOOK, found, room)}
    assert id(wanted) in after
    assert id(refused) not in after


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
        assert not barriers(page), f"slide {i + 1}"
        for figure in here.locator(".maml-figure").all():
            figure.locator("input[type=range], button:enabled").first.focus()
            before = figure.text_content()
            page.keyboard.press(
                "Enter" if page.evaluate("document.activeElement.tagName") == "BUTTON" else "ArrowLeft"
            )
            assert figure.text_content() != before, "an interactive figure answers"
            page.evaluate("document.activeElement.blur()")


def test_on_an_upright_phone_slides_are_upright_with_the_narrow_figures_and_nothing_leaves_them(
    decks, open_page
):
    page = open_page(decks / "what-is-proved.html", width=390, height=844)
    page.wait_for_function("'ready' in document.documentElement.dataset")

    slides_ = page.locator(".slides section")
    for i in range(slides_.count()):
        page.keyboard.press("ArrowRight") if i else None
        here = slides_.nth(i)
        assert here.evaluate("(s) => s.scrollHeight <= 1240 && s.scrollWidth <= 640")
        for image in here.locator("figure img").all():
            assert image.evaluate("(i) => i.currentSrc !== i.src && i.clientWidth >= 500")
    words = " ".join(page.locator("figcaption").all_inner_texts())
    assert re.findall(r"\b(Left|Right|Top|Bottom):", words) == ["Top", "Bottom"], "panels are stacked"


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
