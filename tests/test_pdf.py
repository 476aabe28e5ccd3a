"""The printed book: a link to another page of the book leads there inside the file, and no link leads to a disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_links_to_chapters_lead_inside_the_file_others_to_a_disk_are_dropped_and_the_webs_stay():
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed: `make peers` with a network")
    annotations = pytest.importorskip("pypdf.annotations")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test installs it")
    sys.path.insert(0, str(ROOT / ".ci"))
    import pdf

    writer = pypdf.PdfWriter()
    for _ in range(3):
        writer.add_blank_page(100, 100)
    for address in (
        "file:///a/book/objective.html#id1",
        "file:///a/_modules/mamlkit/objective.html",  # a source that is called like a chapter
        "https://example.org/x",
    ):
        writer.add_annotation(0, annotations.Link(rect=(0, 0, 9, 9), url=address))

    assert pdf.lead_inside(writer, {"objective": 3}) == 1
    inside, disk, web = (reference.get_object() for reference in writer.pages[0]["/Annots"])
    assert inside["/Dest"][0] == writer.pages[2].indirect_reference
    assert "/A" not in disk
    assert web["/A"]["/URI"] == "https://example.org/x"
