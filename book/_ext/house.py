"""What this book adds to Sphinx: pages without broken or foreign scripts, names that link.

A hook that works round another package says which, at which version. `CHANGED` counts what each hook still changes, and
tests/test_site.py says when one has nothing left to do: then it goes.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import sphinxcontrib.bibtex.plugin
from cells import with_marks
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

SIGNATURE = re.compile(r'(?<=<dt class="sig ).*?(?=</dt>)', re.DOTALL)
# Markup, and elements whose text is no prose or whose children must stay what they are; or a run of Chinese.
CHINESE = re.compile(
    r"(<(script|style|svg|textarea)\b.*?</\2>|<!--.*?-->|<[^>]*>)"
    r"|[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff](?:[\u3000-\u303f\uff00-\uff65]*[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])*",
    re.DOTALL,
)
FORMULA = r'<span class="math notranslate nohighlight">[^<]*</span>'
CHARACTER = re.compile(r"[\u3400-\u9fff]")
CHANGED: Counter[str] = Counter()


def round_brackets() -> BracketStyle:
    return BracketStyle(left="(", right=")")


@dataclass
class RoundAuthorYear(AuthorYearReferenceStyle):
    """Cite as (Finn et al., 2017)."""

    bracket_parenthetical: BracketStyle = field(default_factory=round_brackets)
    bracket_textual: BracketStyle = field(default_factory=round_brackets)
    bracket_author: BracketStyle = field(default_factory=round_brackets)
    bracket_label: BracketStyle = field(default_factory=round_brackets)
    bracket_year: BracketStyle = field(default_factory=round_brackets)


sphinxcontrib.bibtex.plugin.register_plugin(
    "sphinxcontrib.bibtex.style.referencing", "author_year_round", RoundAuthorYear
)


def published_at(app, config) -> None:
    """Link previews, the list of pages and the page for the lost need to know where the book lives; BOOK_URL says so."""
    if url := os.environ.get("BOOK_URL", ""):
        config.html_baseurl = config.ogp_site_url = url.rstrip("/") + "/"
        config.ogp_image = "_static/page.png"


def name_in_jupyterlab(title: str) -> str:
    """What JupyterLab calls a heading, so that a link to a section of its own page works in both."""
    return title.replace(" ", "-")


def keep_constants(app, what, name, obj, options, lines) -> None:
    """Napoleon reads `Sentence: more` under a constant as a type and a text; what was said is put back.

    Works round Sphinx 7.4.
    """
    if what in ("data", "attribute"):
        said = app.__dict__.setdefault("house_constants", {}).setdefault(name, list(lines))
        CHANGED["keep_constants"] += lines != said
        lines[:] = said


def set_formulas(app, what, name, obj, options, lines) -> None:
    """Formulas and code stand indented in the kit's docstrings, line by line; reST would run them together as a quotation."""
    spoken = [i for i, line in enumerate(lines) if line.strip()]
    for before, i in reversed(list(pairwise(spoken))):
        if lines[i].startswith("    ") and i > before + 1 and not lines[before].startswith("    "):
            lines[i:i] = ["::", ""]


def drop_field_numbers(app, what, name, obj, options, lines) -> None:
    """A named tuple's fields are documented where it is; Python's own "Alias for field number 0" says nothing.

    Works round Python 3.11 to 3.13.
    """
    if lines and lines[0].startswith("Alias for field number"):
        CHANGED["drop_field_numbers"] += 1
        lines.clear()


def drop_kernel_scripts(app, pagename, templatename, context, doctree) -> None:
    """Jupyter Book puts the scripts for live kernels on every page, twice; this book has none to offer.

    Works round Jupyter Book 1.0 and sphinx-thebe 0.3.
    """
    scripts = context["script_files"]
    context["script_files"] = [
        script
        for script in scripts
        if "thebe" not in str(getattr(script, "filename", "")).lower()
        and "THEBE" not in str(getattr(script, "attributes", {}).get("body", ""))
    ]
    CHANGED["drop_kernel_scripts"] += len(scripts) - len(context["script_files"])
    if "body" in context:
        body = re.sub(
            r'<script type="text/x-thebe-config">.*?</script>', "", context["body"], flags=re.DOTALL
        )
        context["body"] = re.sub(r"<script>kernelName = .*?</script>", "", body)


def drop_unread_modules(app, env) -> None:
    """The list of sources must not link to those that could not be read, such as a named tuple's methods.

    Works round Sphinx 7.4.
    """
    modules = getattr(env, "_viewcode_modules", {})
    for name in [name for name, read in modules.items() if not read]:
        CHANGED["drop_unread_modules"] += 1
        del modules[name]


def mend_markup(app, pagename, templatename, context, doctree) -> None:
    """Two habits that trouble a screen reader: lists without terms, and a role that is no more.

    Works round Sphinx 7.4 and docutils 0.21.
    """
    if "body" in context:
        body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        CHANGED["mend_markup: role"] += body != context["body"]
        context["body"] = SIGNATURE.sub(
            lambda sig: re.sub(r"<(/?)d[ld]>", r"<\1div>", sig[0]).replace("<div>", '<div class="sig-line">'),
            body,
        )
        CHANGED["mend_markup: lists"] += body != context["body"]


def mark_chinese(app, pagename, templatename, context, doctree) -> None:
    """A voice or a translator must know which words are Chinese: the page's own language is English."""
    if "body" in context:
        context["body"] = CHINESE.sub(
            lambda run: run[0] if run[1] else f'<span lang="zh-Hans">{run[0]}</span>', context["body"]
        )


def keep_marks(app, pagename, templatename, context, doctree) -> None:
    """A browser may break a line beside a drawn formula, and begin the next with a comma: the mark stays at its formula."""
    if "body" in context:
        context["body"] = with_marks(context["body"], FORMULA)


def group_chinese(app, doctree) -> None:
    """In the index the Chinese terms stand under one heading, not each under its first character."""
    for node in doctree.findall(addnodes.index):
        node["entries"] = [
            (*entry[:4], "中文") if CHARACTER.match(entry[1]) else entry for entry in node["entries"]
        ]


def link_own_names(app, env, node, contnode):
    """Annotations say `Params` or `Task`: link them to where the kit defines them.

    Works round Sphinx 7.4, which looks in the annotated object's own module only.
    """
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith("." + node["reftarget"])]
    if len(found) != 1:
        return None
    CHANGED["link_own_names"] += 1
    there = domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], there.docname, there.node_id, contnode, found[0])


def drag_the_hero(app, pagename, templatename, context, doctree) -> None:
    """The front page alone has a drawing to drag."""
    if 'class="hero"' in context.get("body", ""):
        app.add_js_file("hero.js", loading_method="defer")


class StoredFigure(SphinxDirective):
    """`{stored-figure} CHAPTER TITLE` shows an interactive figure of a chapter on another page, as the chapter stores it."""

    required_arguments = 2  # the chapter, the figure's title
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        chapter, title = self.arguments
        _, path = self.env.relfn2path(f"{chapter}.ipynb")
        self.env.note_dependency(path)
        for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if "".join(data.get("text/plain", "")) == f"Interactive figure: {title}":
                    return [nodes.raw("", "".join(data["text/html"]), format="html")]
        raise self.error(f"{chapter}.ipynb stores no figure named {title!r}; refresh it, or mend the title")


def keep_count(app, exception) -> None:
    """Leave what the hooks changed beside the build's own notes; pages that were not written again counted before."""
    notes = Path(app.doctreedir, "house.json")
    before = json.loads(notes.read_text()) if notes.is_file() else {}
    notes.write_text(json.dumps({name: before.get(name, 0) + n for name, n in CHANGED.items()}))


def setup(app) -> dict[str, bool]:
    app.add_directive("stored-figure", StoredFigure)
    app.connect("config-inited", published_at)
    app.connect("autodoc-process-docstring", keep_constants, priority=400)
    app.connect("autodoc-process-docstring", set_formulas, priority=400)
    app.connect("autodoc-process-docstring", keep_constants, priority=600)
    app.connect("autodoc-process-docstring", drop_field_numbers, priority=700)
    app.connect("doctree-read", group_chinese)
    app.connect("missing-reference", link_own_names)
    app.connect("env-updated", drop_unread_modules)
    app.connect("html-page-context", mend_markup, priority=900)
    app.connect("html-page-context", drop_kernel_scripts, priority=900)
    app.connect("html-page-context", mark_chinese, priority=900)
    app.connect("html-page-context", keep_marks, priority=900)
    app.connect("html-page-context", drag_the_hero)
    app.connect("build-finished", keep_count)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
