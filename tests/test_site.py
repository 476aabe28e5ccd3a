"""The built site is whole: every page, link, picture, caption and citation, with nothing fetched from elsewhere.

Builds nothing: `make site` builds the pages first. BOOK_HTML names another folder than `_build/html`.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[1]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
FETCHED = ["script", "img", "iframe", "video", "audio"]


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def pages() -> list[Path]:
    return sorted(page for page in HTML.rglob("*.html") if "_static" not in page.relative_to(HTML).parts)


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(
        str(tag[key]) for key in ("id", "name") for tag in soup(page).find_all(attrs={key: True})
    )


def chapters() -> list[Path]:
    return [HTML / f"{name}.html" for name in toc_files()]


def body(page: Path) -> Tag:
    article = soup(page).find("article")
    assert isinstance(article, Tag), f"{page.name} has no article"
    return article


def target(page: Path, link: str) -> Path:
    path = unquote(urlsplit(link).path)
    found = HTML / path.lstrip("/") if path.startswith("/") else page.parent / path
    return (page if not path else found).resolve()


def links(page: Path) -> list[str]:
    found = [str(a["href"]) for a in soup(page).find_all(["a", "link", "area"], href=True)]
    found += [str(tag["src"]) for tag in soup(page).find_all(src=True)]
    return [link for link in found if not urlsplit(link).scheme and not link.startswith("//")]


@pytest.fixture(autouse=True, scope="module")
def the_site_is_built() -> None:
    assert (HTML / "index.html").is_file(), (
        f"there is no site in {HTML}: run `make site`, which builds it first"
    )


def test_every_page_names_the_book_and_can_print_in_the_light_theme():
    wrong = [
        page.name
        for page in chapters()
        if not soup(page).find("meta", property="og:site_name", content="The MAML Book")
        or not soup(page).find("script", src=re.compile(r"print\.js"))
    ]

    assert not wrong


def test_chinese_words_are_marked_as_chinese():
    words = [
        (page.name, text, text.find_parent(lang="zh-Hans"))
        for page in chapters()
        for text in body(page).find_all(string=re.compile("[\u4e00-\u9fff]"))
        if not text.find_parent(["script", "style", "svg"])
    ]

    assert len(words) > 50, "the glossary has more"
    assert not [word for word in words if word[2] is None]
    assert soup(HTML / "book/glossary.html").find("span", lang="zh-Hans", string="元学习")


def test_the_copy_button_leaves_prompts_out():
    script = (HTML / "_static" / "copybutton.js").read_text(encoding="utf-8")

    assert r"formatCopyText(text, '>>> |\\.\\.\\. ', true," in script


def test_a_branch_that_github_serves_keeps_the_styles():
    assert (HTML / ".nojekyll").is_file()


def test_every_hook_of_the_house_still_changes_something():
    changed = json.loads((HTML.parent / ".doctrees" / "house.json").read_text())
    hooks = re.findall(r'CHANGED\["(.*?)"\]', (ROOT / "book/_ext/house.py").read_text(encoding="utf-8"))

    idle = [hook for hook in hooks if not changed.get(hook)]

    assert len(hooks) == 7
    assert not idle, f"{idle} change nothing any more: what they worked round is mended, delete them"


def test_every_page_of_the_table_of_contents_exists():
    missing = [page.name for page in chapters() if not page.is_file()]

    assert not missing


def test_every_internal_link_leads_somewhere():
    broken = [
        f"{page.relative_to(HTML)} -> {link}"
        for page in pages()
        for link in links(page)
        if page.name != "404.html" and not target(page, link).exists()
    ]

    assert not broken


def test_every_anchor_exists():
    broken = []
    for page in pages():
        for link in links(page):
            anchor, to = unquote(urlsplit(link).fragment), target(page, link)
            if anchor and to.suffix == ".html" and to.is_file() and anchor not in anchors(to):
                broken.append(f"{page.relative_to(HTML)} -> {link}")

    assert not broken


def test_every_picture_says_what_it_shows():
    silent = [
        f"{page.name}: {picture.get('src', '')}"
        for page in chapters()
        for picture in soup(page).find_all("img")
        if not str(picture.get("alt", "")).strip() or str(picture["alt"]).startswith(("../", "_images"))
    ]

    assert not silent


def test_every_drawing_has_a_name():
    silent = [
        f"{page.name}: {str(drawing)[:80]}"
        for page in chapters()
        for drawing in body(page).find_all("svg")
        if not (drawing.get("aria-hidden") or drawing.get("aria-label") or drawing.get("aria-labelledby"))
    ]

    assert not silent


def test_every_picture_made_by_a_cell_has_a_caption():
    bare = [
        f"{page.name}: {picture.get('alt')}"
        for page in chapters()
        for picture in body(page).select("div.cell_output img")
        if not ((figure := picture.find_parent("figure")) and figure.find("figcaption"))
    ]

    assert not bare


def test_pages_ask_nothing_of_the_network():
    fetching = []
    for page in pages():
        html = soup(page)
        asked = [str(tag["src"]) for tag in html.find_all(FETCHED, src=True)]
        asked += [
            str(tag["href"])
            for tag in html.find_all("link", href=True)
            if {"stylesheet", "preload", "icon", "modulepreload"} & set(tag.get("rel") or [])
        ]
        fetching += [f"{page.name}: {url}" for url in asked if urlsplit(url).netloc]

    assert not fetching


def test_a_page_stores_no_error_and_no_warning_of_a_cell():
    wrong = [
        f"{page.name}: {output.get_text()[:120]}"
        for page in chapters()
        for output in body(page).select("div.output.traceback, div.output.stderr")
        if not output.find_parent(class_="tag_raises-exception")
    ]

    assert not wrong


def bibliography() -> dict[str, str]:
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.split(r"^@\w+\{", text, flags=re.MULTILINE)[1:]
    return {entry.split(",", 1)[0].strip(): entry for entry in entries}


def test_every_reference_carries_an_identifier():
    entries = bibliography()
    nameless = [
        key for key, entry in entries.items() if not re.search(r"^\s*(doi|eprint|url)\s*=", entry, re.M)
    ]

    assert len(entries) > 20
    assert not nameless


def test_every_reference_is_cited():
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    cited = {key.strip() for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in keys.split(",")}

    assert set(bibliography()) - cited == set()
    assert cited - set(bibliography()) == set()


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_the_five_lines_train_a_network(page):
    from mamlkit.algorithms import maml
    from mamlkit.meta import meta_step, query_loss
    from mamlkit.models import initial_params, mlp
    from mamlkit.sampling import sinusoid_tasks

    code = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert code, f"{page} shows no Python"
    generator = torch.Generator().manual_seed(0)
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
        "generator": generator,
        "meta_optimizer": torch.optim.Adam(params.values(), lr=1e-3),
        "meta_steps": 3,
    }

    exec(code[1], scope)

    assert all(not torch.equal(before[name], p) for name, p in params.items())
