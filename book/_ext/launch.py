"""How a chapter comes to life: a launch button where the book is published, a line that says how to run it elsewhere.

Two addresses in the environment say that it is published: BOOK_URL, where the pages will be, and BOOK_REPOSITORY, which
Colab opens notebooks from. Without both there is no button, because it would lead nowhere.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "course"))
import editions

BRANCH = "hosted"  # what `course/editions.py OUT hosted` writes and .github/workflows/publish.yml pushes


def published() -> str:
    """The repository's address where the book is published, else nothing."""
    return editions.repository() if os.environ.get("BOOK_URL") else ""


def offer_launch(app, config) -> None:
    """The theme's own button, for each chapter."""
    try:
        address = published()
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    if address:
        config.html_theme_options |= {
            "repository_url": address,
            "repository_branch": BRANCH,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        }


class SayHowToRun(SphinxPostTransform):
    """On a page that is not published, the last line of a chapter's card."""

    default_priority = 150
    formats = ("html",)

    def run(self, **kwargs) -> None:
        if published() or not self.env.doc2path(self.env.docname).endswith(".ipynb"):
            return
        for card in self.document.findall(nodes.admonition):
            if "glance" in card["classes"]:
                name = f"{Path(self.env.docname).name}.ipynb"
                line = nodes.paragraph(classes=["run-it"])
                line += [nodes.strong("", "Run it"), nodes.Text(" with "), nodes.literal("", "make lab")]
                line += [nodes.Text(" in the book’s folder, then open "), nodes.literal("", name)]
                next(card.findall(nodes.bullet_list)).append(nodes.list_item("", line))


def hand_out(app, exception) -> None:
    """What a page offers for download is a notebook to run: plain Markdown, no outputs, and it says what it needs."""
    if exception is None and app.builder.format == "html":
        book = editions.Shelf.read()
        setup = editions.fetching() if published() else editions.LOCAL
        for chapter in book.chapters:
            notebook, _ = editions.edition(chapter, book, "reader", setup)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.update(outputs=[], execution_count=None)
            path = Path(app.outdir, "_sources", "book", f"{chapter.name}.ipynb")
            if path.is_file():
                path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def setup(app) -> dict[str, bool]:
    app.connect("config-inited", offer_launch)
    app.add_post_transform(SayHowToRun)
    app.connect("build-finished", hand_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
