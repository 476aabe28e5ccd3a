"""The built site is whole: every page, link, picture, caption and citation, with nothing fetched from elsewhere.

Builds nothing: `make site` builds the pages first. BOOK_HTML names another folder than `_build/html`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from bs4 import BeautifulSoup
from pybtex.database import parse_file

from mamlkit.algorithms import maml
from mamlkit.meta import meta_step, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import sinusoid_tasks

ROOT = Path(__file__).parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
NAMES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
CHAPTERS = [HTML / f"{name}.html" for name in NAMES]
PAGES = sorted(page for page in HTML.rglob("*.html") if "_static" not in page.relative_to(HTML).parts)


@pytest.fixture(autouse=True, scope="module")
def the_site_is_built():
    assert (HTML / "index.html").is_file(), f"there is no site in {HTML}: run `make site`"


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def found(selector: str, pages: list[Path]) -> list[str]:
    return [f"{page.name}: {str(tag)[:160]}" for page in pages for tag in soup(page).select(selector)]


def test_every_page_of_the_table_of_contents_exists():
    assert not [page for page in CHAPTERS if not page.is_file()]


@pytest.mark.parametrize(
    "wrong",
    [
        'html:not(:has(meta[property="og:site_name"][content="The MAML Book"]))',
        'html:not(:has(script[src*="print.js"]))',  # which prints in the light theme
        "html:not(:has(article))",
        'div.glance:not(:has(li:last-child code:-soup-contains("make lab")))',  # how to run it, where no button can
        'a[href*="colab.research.google.com/github"]',
        'img:not([alt]), img:is([alt=""], [alt^=" "], [alt^="../"], [alt^="_images"])',
        'article svg:not([aria-hidden], [aria-label]:not([aria-label=""]), [aria-labelledby])',
        "article div.cell_output img:not(figure:has(figcaption) img)",
        "article div.output:is(.traceback, .stderr):not(.tag_raises-exception *)",
    ],
)
def test_no_chapter_lacks_its_name_or_a_pictures_name_or_caption_or_stores_an_error(wrong):
    assert not found(wrong, CHAPTERS)


@pytest.mark.parametrize(
    "asked",
    [
        ":is(script, img, iframe, video, audio)",
        "link:is([rel~=stylesheet], [rel~=preload], [rel~=icon], [rel~=modulepreload])",
    ],
)
def test_pages_ask_nothing_of_the_network(asked):
    tags = [tag for page in PAGES for tag in soup(page).select(asked)]

    assert tags
    assert not [tag for tag in tags if urlsplit(tag.get("src") or tag.get("href") or "").netloc]


def test_what_is_folded_has_a_name_and_a_figures_code_has_its_number():
    chapters = [page for page in CHAPTERS if soup(page).select_one(".cell")]
    names = [(page, str(tag.string)) for page in chapters for tag in soup(page).select("p.collapsed")]
    figures = [(page, name.split()[-1]) for page, name in names if name.startswith("Code of Figure ")]
    drawn = {
        (page, str(tag.string).strip().removeprefix("Fig. "))
        for page in chapters
        for tag in soup(page).select(".cell_output .caption-number")
    }

    assert {re.sub(r" [\d.]+$", "", name) for _, name in names} <= {"Setup", "Code", "Code of Figure"}
    assert len(figures) == len({*figures}) > 60
    assert {*figures} == drawn


def test_claims_stand_in_one_line_that_opens_and_nobody_is_told_that_he_has_not_answered():
    chapters = [soup(page) for page in CHAPTERS if soup(page).select_one(".cell")]

    for page in chapters:
        for group in page.select("details.claims"):
            said = len(group.find("ul").find_all("li"))
            assert group.summary.string == f"✓ {said} checks"
            assert said > 1
        assert not page.find(string=re.compile("no answer so far"))
        assert page.select_one("p.versions"), "the versions stand at the foot of the page"
    assert sum(len(page.select("details.claims")) for page in chapters) > 100
    assert sum(len(page.select("details.claims details.checked .cell_input")) for page in chapters) > 60


def test_every_figure_has_a_narrow_twin_and_neither_carries_what_only_the_tests_read():
    for page in (page for page in CHAPTERS if soup(page).select_one(".cell")):
        for image in soup(page).select(".cell_output img"):
            twin = image.find_previous_sibling("source")
            assert twin, f"{page.name}: {image['src']} has no twin"
            for name in (image["src"], twin["srcset"]):
                assert b"naRw" not in (page.parent / name).read_bytes()


def test_every_link_leads_somewhere_and_every_anchor_exists():
    @cache
    def anchors(page):
        return {tag.get(key) for tag in soup(page).select("[id], [name]") for key in ("id", "name")}

    def broken(page, link):
        path, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
        to = (HTML / path.lstrip("/") if path[:1] == "/" else page.parent / path if path else page).resolve()
        if not to.exists():
            return True
        return anchor and to.suffix == ".html" and to.is_file() and anchor not in anchors(to)

    links = [
        (page, str(tag.get("href", tag.get("src"))))
        for page in PAGES
        for tag in soup(page).select(":is(a, link, area)[href], [src]")
    ]
    ours = [(page, link) for page, link in links if not (urlsplit(link).scheme or link.startswith("//"))]
    assert not [f"{page.relative_to(HTML)} -> {link}" for page, link in ours if broken(page, link)]


@cache
def on_the_wire(path: Path) -> int:
    """Bytes of a file as a server sends it: text compressed, pictures and fonts as they are."""
    sent = path.read_bytes()
    return len(sent if path.suffix in (".png", ".woff2") else gzip.compress(sent, 6))


def test_a_page_weighs_at_most_a_megabyte_and_a_half():
    icons = [*(HTML / "_static/vendor").rglob("*solid*.woff2")]
    assert icons
    weights = {}
    for page in CHAPTERS:
        asked = soup(page).select("script[src], link[rel=stylesheet], article img[src]")
        files = {(page.parent / urlsplit(tag.get("src") or tag["href"]).path).resolve() for tag in asked}
        weights[page.stem] = sum(map(on_the_wire, {page, *files, *icons}))

    assert len(weights) > 30
    assert {name: weight for name, weight in weights.items() if weight > 1_500_000} == {}


def test_the_site_carries_nothing_twice_and_nothing_that_no_page_uses():
    files = [path for path in HTML.rglob("*") if path.is_file()]
    large = [path for path in files if path.stat().st_size > 20_000]
    alike = [hashlib.sha256(path.read_bytes()).hexdigest() for path in large]

    assert len({*alike}) == len(large)
    assert not [path for path in files if path.suffix in (".map", ".ttf")]
    assert sum(path.stat().st_size for path in files) < 45e6
    for notebook in HTML.rglob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells), f"{notebook.name} is downloaded with outputs"


def test_chinese_words_are_marked_as_chinese():
    words = [
        (page.name, text, text.find_parent(lang="zh-Hans"))
        for page in CHAPTERS
        for text in soup(page).article.find_all(string=re.compile("[\u4e00-\u9fff]"))
        if not text.find_parent(["script", "style", "svg"])
    ]

    assert len(words) > 50, "the glossary has more"
    assert not [word for word in words if word[2] is None]
    assert soup(HTML / "book/glossary.html").find("span", lang="zh-Hans", string="元学习")


def test_the_copy_button_leaves_prompts_out_and_a_branch_that_github_serves_keeps_the_styles():
    script = (HTML / "_static" / "copybutton.js").read_text(encoding="utf-8")

    assert r"formatCopyText(text, '>>> |\\.\\.\\. ', true," in script
    assert (HTML / ".nojekyll").is_file()


def test_formulas_and_code_of_the_reference_keep_their_lines():
    blocks = [block.text for block in soup(HTML / "book/api.html").select("div.highlight pre")]

    assert found("dl.py blockquote, section > blockquote", [HTML / "book/api.html"]) == []
    assert any("\n(theta, alpha, s) <- (theta, alpha, s) - beta *" in block for block in blocks)
    assert any("for epoch in range(100):\n    weights = " in block for block in blocks)


def test_every_hook_of_the_house_still_changes_something():
    changed = json.loads((HTML.parent / ".doctrees" / "house.json").read_text())
    hooks = re.findall(r'CHANGED\["(.*?)"\]', (ROOT / "book/_ext/house.py").read_text(encoding="utf-8"))

    idle = [hook for hook in hooks if not changed.get(hook)]

    assert len(hooks) == 7
    assert not idle, f"{idle} change nothing any more: what they worked round is mended, delete them"


def test_every_reference_carries_an_identifier_and_is_cited():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    cited = {key.strip() for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in keys.split(",")}

    assert len(entries) > 20
    assert not [key for key, entry in entries.items() if not {"doi", "eprint", "url"} & {*entry.fields}]
    assert {*entries} ^ cited == set()
    people = [
        [" ".join(one.last_names) for one in entry.persons.get("author", [])] for entry in entries.values()
    ]
    shown = [
        (who if len(who) < 3 else who[0], entry.fields["year"])
        for who, entry in zip(people, entries.values())
    ]
    assert [name for name in shown if name[0] and shown.count(name) > 1] == [], "cite as 2020a and 2020b"


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_the_five_lines_train_a_network(page):
    code = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert code, f"{page} shows no Python"
    model = mlp([1, 40, 40, 1])
    params = initial_params(model)
    before = {name: p.detach().clone() for name, p in params.items()}
    scope = {
        "partial": partial,
        "maml": maml,
        "query_loss": query_loss,
        "sinusoid_tasks": sinusoid_tasks,
        "meta_step": meta_step,
        "model": model,
        "params": params,
        "generator": torch.Generator().manual_seed(0),
        "meta_optimizer": torch.optim.Adam(params.values(), lr=1e-3),
        "meta_steps": 3,
    }

    exec(code[1], scope)

    assert all(not torch.equal(before[name], p) for name, p in params.items())
