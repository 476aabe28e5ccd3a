"""The whole book as one PDF, `_build/book.pdf`, from the built pages: each printed by Chromium, then joined.

Before the chapters stand a title and the contents; every page has its number; a link to another page of the book leads
there inside the file, and the bookmarks are the table of contents. Hints, solutions, answers and what was
checked print open, where they stand.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PAPER = {"format": "A4", "margin": {"top": "16mm", "bottom": "20mm", "left": "16mm", "right": "16mm"}}
FRONT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The MAML Book</title><style>
body { font-family: system-ui, "Noto Sans", sans-serif; margin: 0; }
.cover { break-after: page; padding-top: 32%; text-align: center; }
.cover h1 { font-size: 34pt; margin: 0 0 8pt; }
h2 { font-size: 18pt; }
h3 { font-size: 11pt; margin: 8pt 0 1pt; break-after: avoid; }
li { display: flex; font-size: 10pt; padding: 0.5pt 0; }
ul { margin: 0; padding: 0; }
li a { color: inherit; flex: 1; text-decoration: none; }</style>
<div class="cover"><h1>The MAML Book</h1><p>Model-Agnostic Meta-Learning, derived, built and checked</p>
<p>Code under the MIT licence, text and figures under CC BY 4.0</p></div><h2>Contents</h2>"""
NUMBERS = """<style>
div { break-after: page; height: 260mm; position: relative; }
b { bottom: -6mm; color: #555; font: 9pt sans-serif; position: absolute; text-align: center; width: 100%; }</style>"""


def entries() -> list[tuple[str, str, str]]:
    """Of each page in the order of the book: its part, its file's name, its title with its number."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [
        (part["caption"], Path(entry["file"]).name) for part in toc["parts"] for entry in part["chapters"]
    ]
    return [(part, name, _title(name)) for part, name in files]


def _title(name: str) -> str:
    page = BeautifulSoup((HTML / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    heading = page.select_one("article h1")
    for link in heading.select(".headerlink"):
        link.decompose()
    return " ".join(heading.get_text().split())


def printed(page: Page, name: str) -> PdfReader:
    """A page as Chromium prints it, formulas drawn and every picture loaded."""
    page.goto((HTML / "book" / f"{name}.html").as_uri())
    page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")
    page.evaluate(
        "document.querySelectorAll('img[loading=lazy]').forEach((image) => { image.loading = 'eager'; })"
    )
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.evaluate(
        "document.querySelectorAll('.sd-dropdown, .check > details, .claims').forEach((folded) => { folded.open = true; })"
    )
    page.evaluate(
        "document.querySelectorAll('.solution').forEach((one) => { one.classList.remove('toggle-hidden'); })"
    )
    return PdfReader(io.BytesIO(page.pdf(**PAPER)))


def front(page: Page, starts: dict[str, int], found: list[tuple[str, str, str]]) -> PdfReader:
    """Title and contents, with the page on which each chapter starts."""
    lines, before = [FRONT], ""
    for part, name, title in found:
        if part != before:
            lines.append(f"<h3>{escape(part)}</h3>")
        before = part
        address = (HTML / "book" / f"{name}.html").as_uri()
        lines.append(f'<ul><li><a href="{address}">{escape(title)}</a>{starts[name]}</li></ul>')
    page.set_content("".join(lines))
    return PdfReader(io.BytesIO(page.pdf(**PAPER)))


def numbers(page: Page, first: int, last: int) -> PdfReader:
    """Sheets that hold nothing but their number, at the foot."""
    page.set_content(NUMBERS + "".join(f"<div><b>{n}</b></div>" for n in range(first, last + 1)))
    return PdfReader(io.BytesIO(page.pdf(**{**PAPER, "margin": {**PAPER["margin"], "bottom": "10mm"}})))


def lead_inside(writer: PdfWriter, starts: dict[str, int]) -> int:
    """Make links to files of the book links to pages of the PDF, drop those to files that are not in it; how many lead."""
    turned = 0
    for sheet in writer.pages:
        for reference in sheet.get("/Annots", []):
            annotation = reference.get_object()
            address = urlsplit(str(annotation.get("/A", {}).get("/URI", "")))
            if address.scheme == "file":
                del annotation["/A"]
                file = Path(unquote(address.path))
                # the source of mamlkit.algorithms.reptile is called like the chapter
                if file.parent.name == "book" and (start := starts.get(file.stem)):
                    there = writer.pages[start - 1].indirect_reference
                    annotation[NameObject("/Dest")] = ArrayObject([there, NameObject("/Fit")])
                    turned += 1
    return turned


def main() -> int:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(
            f"No browser here to print with (looked for {', '.join(BROWSERS)}): install chromium, then run make pdf again."
        )
        return 1
    found = entries()
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(offline=True)
        parts = {}
        for _, name, title in found:
            parts[name] = printed(page, name)
            print(f"{title}: {len(parts[name].pages)} pages", flush=True)
        starts = dict.fromkeys(parts, 0)
        for _ in range(2):  # the second time with the right numbers
            opening = front(page, starts, found)
            at = len(opening.pages) + 1
            for name, part in parts.items():
                starts[name], at = at, at + len(part.pages)
        stamps = numbers(page, len(opening.pages) + 1, at - 1)
    writer = PdfWriter()
    writer.append(opening, import_outline=False)
    for part in parts.values():
        writer.append(part, import_outline=False)
    for sheet, stamp in zip(writer.pages[len(opening.pages) :], stamps.pages, strict=True):
        sheet.merge_page(stamp)
    turned, above, heading = lead_inside(writer, starts), "", None
    for part, name, title in found:
        if part != above:
            above, heading = part, writer.add_outline_item(title=part, page_number=starts[name] - 1)
        writer.add_outline_item(title=title, page_number=starts[name] - 1, parent=heading)
    writer.add_metadata({"/Title": "The MAML Book"})
    writer.compress_identical_objects()
    place = ROOT / "_build" / "book.pdf"
    draft = place.with_suffix(".partial")
    writer.write(draft)
    draft.replace(place)
    fonts = shutil.which("fc-list")
    if fonts and not subprocess.check_output([fonts, ":lang=zh"]):
        print(
            "No font here has Chinese letters: the glossary shows boxes. Install one (on Debian fonts-noto-cjk), print again."
        )
    print(
        f"\n{len(writer.pages)} pages, {turned} links inside, {place.stat().st_size / 1e6:.0f} MB:\n\n    {place.as_uri()}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
