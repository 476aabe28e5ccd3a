"""What a chapter writes from scratch and calls the kit's code is the kit's code."""

from __future__ import annotations

import gates
import nbformat
import pytest
import refresh

CHAPTERS = refresh.chapters()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_cell_that_names_a_function_of_the_kit_is_its_source(path):
    found = gates.kit_problems(nbformat.read(path, as_version=4), path.name)

    assert not found, "\n".join(found)


def test_the_book_writes_mamls_inner_loop_and_objective_itself():
    cells = (cell for path in CHAPTERS for cell in nbformat.read(path, as_version=4).cells)
    shown = {tag for cell in cells for tag in gates.tags(cell) if tag.startswith("kit:")}

    assert {"kit:algorithms.maml.adapt", "kit:meta.query_loss"} <= shown
