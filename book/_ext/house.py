"""What this book adds to Sphinx: pages without broken or foreign scripts, claims that look like claims."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import sphinxcontrib.bibtex.plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

CLAIM = re.compile(r"^((?:.*<pre>)?(?:<span></span>)?)(✓ [^\n]*?)(?=\n|</pre>)", re.MULTILINE)
WAITING = re.compile(r"^((?:.*<pre>)?(?:<span></span>)?)(… [^\n]*?)(?=\n|</pre>)", re.MULTILINE)


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
    """Link previews and the page for lost visitors need to know where the book lives; BOOK_URL says so."""
    url = os.environ.get("BOOK_URL", "")
    if url:
        config.html_baseurl = config.ogp_site_url = url.rstrip("/") + "/"
    config.notfound_urls_prefix = urlsplit(url).path.rstrip("/") + "/"


def keep_constants(app, what, name, obj, options, lines) -> None:
    """Napoleon reads `Sentence: more` under a constant as a type and a text; what was said is put back."""
    if what in ("data", "attribute"):
        said = app.__dict__.setdefault("house_constants", {})
        lines[:] = said.setdefault(name, list(lines))


def drop_kernel_scripts(app, pagename, templatename, context, doctree) -> None:
    """Jupyter Book 1 puts the scripts for live kernels on every page, twice; this book has none to offer."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in str(getattr(script, "filename", "")).lower()
        and "THEBE" not in str(getattr(script, "attributes", {}).get("body", ""))
    ]
    if "body" in context:
        body = re.sub(r'<script type="text/x-thebe-config">.*?</script>', "", context["body"], flags=re.DOTALL)
        context["body"] = re.sub(r"<script>kernelName = .*?</script>", "", body)


def mark_claims(app, pagename, templatename, context, doctree) -> None:
    """A line that a cell printed as `✓ sentence` is a checked claim, and the style sheet may say so."""
    if "✓ " in context.get("body", "") or "… " in context.get("body", ""):
        body = CLAIM.sub(r'\1<span class="claim">\2</span>', context["body"])
        context["body"] = WAITING.sub(r'\1<span class="waiting">\2</span>', body)


def setup(app) -> dict[str, bool]:
    app.connect("config-inited", published_at)
    app.connect("autodoc-process-docstring", keep_constants, priority=400)
    app.connect("autodoc-process-docstring", keep_constants, priority=600)
    app.connect("html-page-context", drop_kernel_scripts, priority=900)
    app.connect("html-page-context", mark_claims, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
