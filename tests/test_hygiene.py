"""The chapters as files: what running them again cannot see."""

from __future__ import annotations

from pathlib import Path

import gates
import nbformat
import pytest
import refresh

CHAPTERS = refresh.chapters()
ALLOWED = gates.allow_list(
    Path(__file__).with_name("allowed_ignored_outputs.txt").read_text(encoding="utf-8")
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_the_notebooks_of_the_book_are_those_of_its_table_of_contents():
    named = gates.toc_notebooks((refresh.ROOT / "_toc.yml").read_text(encoding="utf-8"), refresh.ROOT)

    there = {path.relative_to(refresh.ROOT).as_posix() for path in CHAPTERS}
    assert there == named, "a notebook without a page is never tested, a page without a notebook never built"
    assert there, "without chapters every gate would pass"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_the_rules_of_the_house(path):
    found = gates.problems(read(path), path.name, allowed=ALLOWED)

    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_was_written_by_make_refresh(path):
    assert refresh.is_normal(path), f"run `make refresh ONLY={path.stem}`"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_small_enough_to_read_online(path):
    size = path.stat().st_size

    assert size <= gates.LARGEST_FILE, f"{size:,} bytes; draw fewer or smaller pictures"


def test_names_are_used_once_in_the_book_and_every_allowance_is_needed():
    found = gates.book_problems({path.name: read(path) for path in CHAPTERS}, ALLOWED)

    assert not found, "\n" + "\n".join(found)
