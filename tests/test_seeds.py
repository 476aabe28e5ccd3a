"""The script that runs chapters from other seeds: what it shifts, what it calls without margin, and what it is told to let be."""

from __future__ import annotations

import ast

import nbformat
import pytest
import refresh
import seeds

HELD, FAILED = ("the loss falls by # %", True, "…"), ("the loss falls by # %", False, "the loss falls by 3 %")


def test_every_seed_of_a_chapter_is_shifted_and_no_other_number():
    source = "notebook.setup(seed=1, threads=1)\ntorch.manual_seed(2)\nf(3)\ng = np.random.default_rng(4)"

    moved = ast.unparse(seeds.Shift(1000).visit(ast.parse(source)))

    assert moved == source.replace("seed=1", "seed=1 + 1000").replace("(2)", "(2 + 1000)").replace(
        "(4)", "(4 + 1000)"
    )


@pytest.mark.parametrize(
    ("runs", "listed", "good"),
    [
        ([HELD, HELD], set(), True),
        ([HELD, FAILED], set(), False),
        ([HELD, FAILED], {("one", "the loss falls by # %")}, True),
        ([HELD, FAILED], {("other", "the loss falls by # %")}, False),
        (
            [("ex-one-1", False, "ex-one-1")],
            seeds.examples("one.ipynb | ex-one-1 | asks what follows from it"),
            True,
        ),
    ],
)
def test_a_claim_that_fails_from_one_seed_has_no_margin_unless_it_is_listed(runs, listed, good, capsys):
    assert seeds.judged("one", [(shift, [noted]) for shift, noted in enumerate(runs)], listed) is good
    assert ("shift" in capsys.readouterr().out) is not good


def test_every_example_is_a_claim_or_an_exercise_of_its_chapter():
    for name, sentence in seeds.examples(seeds.EXAMPLES.read_text(encoding="utf-8")):
        cells = nbformat.read(refresh.BOOK / f"{name}.ipynb", as_version=4).cells
        printed = [out.get("text", "") for c in cells if c.cell_type == "code" for out in c.outputs]
        said = {seeds.words(line.removeprefix("✓ ")) for text in printed for line in text.splitlines()}
        labels = {
            line.split()[1].rstrip(":") for text in printed for line in text.splitlines() if " ex-" in line
        }
        assert sentence in said | labels, f"{name} does not say {sentence!r}"
