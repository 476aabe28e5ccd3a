"""What a chapter writes from scratch and calls the kit's code is the kit's code."""

from __future__ import annotations

import gates
import nbformat
import pytest
import refresh

CHAPTERS = refresh.chapters()
SHOWN = """
algorithms.cavia.adapt algorithms.fedavg.client_ends algorithms.fedavg.client_mean algorithms.fedavg.server_round
algorithms.imaml.adapt algorithms.imaml.task_loss algorithms.learned_optimiser.update algorithms.maml.adapt
algorithms.maml.adapt algorithms.maml.constant algorithms.mamlpp.annealed_weights algorithms.mamlpp.task_loss
algorithms.meta_curvature.transformed algorithms.protonet.adapt algorithms.reptile.adapt algorithms.reptile.task_loss
algorithms.ridge.solution algorithms.scaffold.server_round gradients._ratio gradients.axpy
gradients.conjugate_gradient gradients.dot gradients.hvp gradients.with_gradient meta._task_gradient meta.batch_loss
meta.inductive_accuracy meta.meta_gradient meta.meta_step meta.predict meta.query_loss models._forward_in_bfloat16
models._in_float32 models.in_bfloat16 sampling.draw_sinusoids sampling.sinusoid training._mean_over_ranks
"""


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_cell_that_names_a_function_of_the_kit_is_its_source(path):
    found = gates.kit_problems(nbformat.read(path, as_version=4), path.name)

    assert not found, "\n".join(found)


def test_the_book_writes_all_this_itself_and_no_tag_gets_lost():
    cells = (cell for path in CHAPTERS for cell in nbformat.read(path, as_version=4).cells)
    shown = sorted(tag for cell in cells for tag in gates.tags(cell) if tag.startswith("kit:"))

    assert shown == [f"kit:{name}" for name in SHOWN.split()]
