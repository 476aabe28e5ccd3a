"""What the built site has besides its pages: nothing that no page uses, a search from disk, a page for the lost, previews.

Runs when everything is written. `tests/test_site.py` says what a page may weigh, and that nothing is there twice.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes
from jinja2 import Environment

HERE = Path(__file__).parent
# What the theme and MathJax bring along and no page of this book asks for.
UNUSED = """_static/**/*.map _static/**/*.ttf _static/locales _static/*macros.html
_static/mathjax/*mml*.js _static/mathjax/*svg*.js _static/mathjax/*full*.js _static/mathjax/adaptors _static/mathjax/input/mml*
_static/mathjax/core.js _static/mathjax/latest.js _static/mathjax/loader.js _static/mathjax/node-main.js
_static/mathjax/startup.js _static/mathjax/input/asciimath.js _static/mathjax/input/tex*.js _static/mathjax/ui"""
# Greek letters by the names that TeX gives them, and signs that are more than their letters.
GREEK = {
    unicodedata.name(sign).split()[-1].lower().replace("lamda", "lambda"): sign
    for sign in "αβγδεζηθκλμνξπρστφχψω"
}
SIGNS = GREEK | {
    "Delta": "Δ", "Sigma": "Σ", "Phi": "Φ", "nabla": "∇", "partial": "∂", "sum": "∑", "times": "×", "cdot": "·", "in": "∈",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "approx": "≈", "pm": "±", "to": "→", "infty": "∞", "top": "ᵀ",
}  # fmt: skip
# Speech and Braille of formulas for an English book; MathJax knows these by their names.
SPOKEN = {"base", "en", "nemeth"}
ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def drop_unused(out: Path) -> None:
    for pattern in UNUSED.split():
        for path in sorted(out.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (out / "_static/mathjax/sre/mathmaps").glob("*.json"):
        if path.stem not in SPOKEN:
            path.unlink()


def drop_icons(out: Path) -> None:
    """Of two thousand icons keep those that a page or a script of the theme names."""
    script = out / "_static/scripts/fontawesome.js"
    text = script.read_text(encoding="utf-8")
    others = [path for path in (out / "_static").rglob("*.js") if path != script]
    named = {
        name
        for path in [*out.rglob("*.html"), *others]
        for name in re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8"))
    }

    def kept(icon: re.Match) -> str:
        return icon[0] if named & {icon[1], *re.findall(r'"([\w-]+)"', icon[2])} else ""

    script.write_text(ICON.sub(kept, text), encoding="utf-8")


def plain(page: str) -> str:
    """The words of a page as they are read, formulas in letters."""
    article = re.search(r"<article.*?</article>", page, re.DOTALL)
    words = re.sub(
        r"<(script|style|svg|button)\b.*?</\1>|<a class=\"headerlink\".*?</a>",
        " ",
        article[0] if article else "",
        flags=re.DOTALL,
    )
    words = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</(p|li|h\d|div|td|th|dt|dd|pre)>", " ", words)))
    formulas = re.compile(r"\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
    return " ".join(formulas.sub(lambda tex: letters(tex[1] or tex[2]), words).split())


def letters(tex: str) -> str:
    """A formula without the marks of TeX."""
    words = re.sub(r"\\(?:begin|end)\{\w+\*?\}", " ", tex)
    words = re.sub(r"\\([A-Za-z]+)", lambda name: SIGNS.get(name[1], ""), words)
    return re.sub(r"[{}$&]|\\.", "", words)


def write_texts(app, out: Path) -> None:
    """What the search page shows of a hit; a page from a disk must not ask for another page."""
    names = sorted(app.env.found_docs)
    pages = {name: (out / f"{name}.html").read_text(encoding="utf-8") for name in names}
    known = {
        "texts": {name: plain(page) for name, page in pages.items()},
        "chapters": [name for name in names if app.env.toc_secnumbers.get(name)],
        "greek": {sign: name for name, sign in GREEK.items()},
    }
    (out / "_static/search-texts.js").write_text(
        f"const KNOWN = {json.dumps(known, ensure_ascii=False)};\n", encoding="utf-8"
    )
    shutil.copy(HERE / "search.js", out / "_static")


def write_lost(app, out: Path) -> None:
    """The page for addresses that lead nowhere; it may be shown at any of them, so its look is inside it."""
    titles = [(name, app.env.titles[name].astext()) for name in chapters(app)]
    page = Environment(autoescape=True).from_string((HERE / "404.html").read_text(encoding="utf-8"))
    root = urlsplit(app.config.html_baseurl).path
    (out / "404.html").write_text(
        page.render(project=app.config.project, root=root, titles=titles) + "\n", encoding="utf-8"
    )


def write_map(app, out: Path) -> None:
    """The list of pages for search engines, where the book has an address."""
    if base := app.config.html_baseurl:
        urls = "".join(
            f"<url><loc>{html.escape(base + name)}.html</loc></url>\n" for name in sorted(app.env.found_docs)
        )
        (out / "sitemap.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n',
            encoding="utf-8",
        )


def chapters(app) -> list[str]:
    """The pages in the order of the book."""
    order = [app.config.root_doc]
    for name in order:
        order += [child for child in app.env.toctree_includes.get(name, []) if child not in order]
    return order


def describe(app, pagename, templatename, context, doctree) -> None:
    """Whoever shares a chapter shows its first sentence, which says what one will be able to do."""
    if pagename == "search":
        app.add_js_file("search-texts.js")
        app.add_js_file("search.js", loading_method="defer")  # after Sphinx's own
    if doctree is None:
        return
    given = re.search(r'<meta [^>]*name="description"[^>]*>', context["metatags"])
    if given:
        sentence = re.search(r'content="([^"]*)"', given[0])[1]
    else:
        paragraph = next((node.astext() for node in doctree.findall(nodes.paragraph)), "")
        sentence = html.escape(re.split(r"(?<=[.!?])\s", paragraph)[0])
        context["metatags"] += f'\n<meta name="description" content="{sentence}" />\n'
    context["meta"] = {**(context["meta"] or {}), "og:description": sentence}


def finish(app, exception) -> None:
    if exception is None and app.builder.name == "html":
        out = Path(app.outdir)
        write_texts(app, out)
        write_lost(app, out)
        write_map(app, out)
        drop_unused(out)
        drop_icons(out)


def setup(app) -> dict[str, bool]:
    app.connect("html-page-context", describe, priority=400)
    # after what MathJax's package copies
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
