"""The gates bite: a sound chapter passes each of them, and each defect turns one red."""

from __future__ import annotations

import base64
import io
from copy import deepcopy
from functools import cache

import gates
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import refresh
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit import figures

FENCE = "`" * 3


@cache
def png(amplitude: float = 1.0, shift: float = 0.0, title: str = "A wave") -> str:
    """A line in the house style, in base64."""
    with plt.style.context(["default", figures.STYLE]):
        figure, ax = plt.subplots()
        x = np.linspace(0, 6, 200)
        ax.plot(x, amplitude * np.sin(x) + shift, **figures.LOOK["maml"])
        ax.set(title=title, ylim=(-3, 3))
        file = io.BytesIO()
        figure.savefig(file, format="png")
        plt.close(figure)
    return base64.b64encode(file.getvalue()).decode()


def printing(source: str, text: str = "", *, tags=(), **metadata):
    """A code cell with what it printed."""
    outputs = [new_output("stream", name="stdout", text=text + "\n")] if text else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags), **metadata})


def exercise_cells(label: str) -> list:
    """An exercise with its hint, the reader's cell, and the solution."""
    hint = f"{FENCE}{{dropdown}} Hint\nCount.\n{FENCE}"
    return [
        new_markdown_cell(f"{FENCE}`{{exercise}} A sum\n:label: {label}\nAdd.\n{hint}\n{FENCE}`"),
        printing(f'exercise("{label}", lambda: answer == 4)', f"… {label}: not yet (no answer so far)"),
        new_markdown_cell(
            f"{FENCE}{{solution-start}} {label}\n:label: sol-{label}\n:class: dropdown\n{FENCE}"
        ),
        printing(f'answer = 4\nexercise("{label}", lambda: answer == 4)', f"✓ {label}: solved"),
        new_markdown_cell(f"{FENCE}{{solution-end}}\n{FENCE}"),
    ]


PICTURE = {
    "image": {"alt": "A sine wave that rises, falls and rises again", "width": "100%"},
    "figure": {"caption": "One period of the sine, drawn in one line.", "name": "fig-wave"},
}


def chapter():
    """A sound chapter, `tiny.ipynb`."""
    card = "\n".join(f"- **{key}** something" for key in gates.CARD)
    drawing = new_code_cell(
        "plt.plot(x, y);",
        outputs=[new_output("display_data", {"image/png": png(), "text/plain": "<Figure>"})],
        metadata={"mystnb": deepcopy(PICTURE)},
    )
    cells = [
        new_markdown_cell("# Tiny\n\nAfter this page you can add two numbers."),
        new_markdown_cell(f"{FENCE}{{admonition}} At a glance\n:class: glance\n{card}\n{FENCE}"),
        printing("notebook.setup(seed=0)", "mamlkit 0.1.0 · torch 2.13.0 · cpu", tags=["hide-input"]),
        *[printing(f"print({i})", str(i)) for i in range(8)],
        drawing,
        printing('claim("two and two are four", 2 + 2 == 4)', "✓ two and two are four"),
        new_markdown_cell("## Exercises"),
        *[cell for n in (1, 2, 3) for cell in exercise_cells(f"ex-tiny-{n}")],
        new_markdown_cell("## Notes and further reading\n\nNone."),
    ]
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    return refresh.normalised(new_notebook(cells=cells))


def judged(notebook, allowed=None) -> list[str]:
    return gates.problems(notebook, "tiny.ipynb", allowed=allowed or {})


def code(notebook, n: int):
    """The n-th code cell: 0 the set-up, 1-8 prints, 9 the picture, 10 the claim, then the exercises."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"][n]


def test_a_sound_chapter_passes():
    assert judged(chapter()) == []


def strip_outputs(nb):
    for n in range(17):
        code(nb, n).update(outputs=[], execution_count=None)


def run_out_of_order(nb):
    code(nb, 3).execution_count = 9


def warn(nb):
    code(nb, 2).outputs.append(new_output("stream", name="stderr", text="UserWarning"))


def fail(nb):
    code(nb, 2).outputs.append(new_output("error", ename="ValueError", evalue="no", traceback=["no"]))


def announce_an_error_that_never_comes(nb):
    code(nb, 2).metadata["tags"] = ["raises-exception"]


def print_an_address(nb):
    code(nb, 2).outputs[0].text = "<Network at 0x7f32a00ae790>"


def print_a_path(nb):
    code(nb, 2).outputs[0].text = "saved to /home/reader/records"


def print_a_progress_bar(nb):
    code(nb, 2).outputs[0].text = " 40%|████      | 4/10 [00:01<00:02, 3.4it/s]"


def print_a_time(nb):
    code(nb, 2).update(source="start = time.perf_counter()\nprint(f'{time.perf_counter() - start:.1f} s')")
    code(nb, 2).outputs[0].text = "0.3 s"


def ignore_an_output_unlisted(nb):
    code(nb, 2).metadata["tags"] = ["nbval-ignore-output"]


def skip_in_a_comment(nb):
    code(nb, 2).source = "# NBVAL_SKIP\nprint(1)"


def misspell_a_tag(nb):
    code(nb, 2).metadata["tags"] = ["kit.meta.query_loss"]


def forget_alt_text(nb):
    code(nb, 9).metadata["mystnb"]["image"]["alt"] = ""


def forget_the_caption(nb):
    code(nb, 9).metadata["mystnb"]["figure"]["caption"] = "Wave"


def forget_the_figures_name(nb):
    del code(nb, 9).metadata["mystnb"]["figure"]["name"]


def forget_to_draw(nb):
    code(nb, 9).outputs = []


def draw_twice(nb):
    code(nb, 9).outputs *= 2


def write_a_long_cell(nb):
    code(nb, 2).source = "\n".join(["x = 1"] * 31)


def write_only_longish_cells(nb):
    for n in range(1, 9):
        code(nb, n).source = "\n".join(["x = 1"] * 9)


def write_few_cells(nb):
    nb.cells = [cell for cell in nb.cells if not cell.source.startswith("print(")]


def forget_the_sentence(nb):
    nb.cells[0].source = "# Tiny"


def give_two_titles(nb):
    nb.cells[-1].source += "\n\n# Another title"


def forget_the_card(nb):
    del nb.cells[1]


def forget_the_reading_time(nb):
    nb.cells[1].source = nb.cells[1].source.replace("**Reading**", "**Pages**")


def show_the_setup(nb):
    del code(nb, 0).metadata["tags"]


def claim_nothing(nb):
    code(nb, 10).outputs = []


def forget_the_notes(nb):
    nb.cells[-1].source = "The end."


def never_solve(nb):
    code(nb, 12).outputs[0].text = "… ex-tiny-1: not yet (the check is false)\n"


def give_the_answer_away(nb):
    code(nb, 11).outputs[0].text = "✓ ex-tiny-1: solved\n"


def check_nothing_before_the_solution(nb):
    code(nb, 11).outputs = []


def forget_a_hint(nb):
    cell = next(c for c in nb.cells if "{dropdown} Hint" in c.source)
    cell.source = cell.source.replace("{dropdown} Hint", "{note}")


def forget_a_solution(nb):
    cell = next(c for c in nb.cells if "{solution-start} ex-tiny-2" in c.source)
    cell.source = "The solution:"


def show_a_solution_open(nb):
    cell = next(c for c in nb.cells if "{solution-start} ex-tiny-2" in c.source)
    cell.source = cell.source.replace(":class: dropdown\n", "")


def check_an_exercise_that_is_not_there(nb):
    code(nb, 2).source = 'exercise("ex-tiny-9", lambda: True)'


def borrow_another_chapters_label(nb):
    for cell in nb.cells:
        cell.source = cell.source.replace("ex-tiny-3", "ex-other-3")


def ask_too_little(nb):
    start = next(i for i, c in enumerate(nb.cells) if ":label: ex-tiny-2" in c.source)
    del nb.cells[start : start + 10]


DEFECTS = [
    (strip_outputs, "execution count None"),
    (run_out_of_order, "execution count 9"),
    (warn, "stores stderr"),
    (fail, "stores an error without the tag"),
    (announce_an_error_that_never_comes, "stores no error"),
    (print_an_address, "an address"),
    (print_a_path, "a machine's path"),
    (print_a_progress_bar, "a progress bar"),
    (print_a_time, "prints a time"),
    (ignore_an_output_unlisted, "not listed"),
    (skip_in_a_comment, "in a comment"),
    (misspell_a_tag, "which nothing reads"),
    (forget_alt_text, "image.alt"),
    (forget_the_caption, "figure.caption"),
    (forget_the_figures_name, "figure.name"),
    (forget_to_draw, "draws no picture"),
    (draw_twice, "draws 2 pictures"),
    (write_a_long_cell, "31 lines"),
    (write_only_longish_cells, "the median code cell has 9 lines"),
    (write_few_cells, "9 code cells"),
    (forget_the_sentence, "neither title nor"),
    (give_two_titles, "not exactly one title"),
    (forget_the_card, "no card"),
    (forget_the_reading_time, "does not say Reading"),
    (show_the_setup, "hide-input"),
    (claim_nothing, "claims nothing"),
    (forget_the_notes, "## Notes"),
    (never_solve, "ex-tiny-1: its solution does not print 'solved'"),
    (give_the_answer_away, "ex-tiny-1: it is solved before"),
    (check_nothing_before_the_solution, "no cell prints 'not yet'"),
    (forget_a_hint, "has no hint"),
    (forget_a_solution, "ex-tiny-2 has no solution"),
    (show_a_solution_open, "not collapsed"),
    (check_an_exercise_that_is_not_there, "checks ex-tiny-9"),
    (borrow_another_chapters_label, "the label ex-other-3"),
    (ask_too_little, "1 exercises"),
]


@pytest.mark.parametrize(("defect", "message"), DEFECTS, ids=lambda value: getattr(value, "__name__", ""))
def test_hygiene_finds_what_went_wrong(defect, message):
    notebook = chapter()

    defect(notebook)

    assert message in "\n".join(judged(notebook))


def test_a_listed_reason_allows_one_ignored_output():
    notebook = chapter()
    print_a_time(notebook)
    ignore_an_output_unlisted(notebook)
    allowed = gates.allow_list("# comment\ntiny.ipynb | start = time.perf_counter() | clocks differ\n")

    assert judged(notebook, allowed) == []
    assert gates.book_problems({"tiny.ipynb": notebook}, allowed) == []
    assert "no such cell" in gates.book_problems({"tiny.ipynb": chapter()}, allowed)[0]


def test_an_allowance_without_a_reason_is_refused():
    with pytest.raises(ValueError, match="not of the form"):
        gates.allow_list("tiny.ipynb | start = time.perf_counter()\n")


def test_two_figures_of_one_name_are_found():
    assert "fig-wave" in gates.book_problems({"one.ipynb": chapter(), "two.ipynb": chapter()}, {})[0]


def test_pages_and_notebooks_are_compared_by_name(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/index.md").touch()
    toc = "root: book/index\nparts:\n- chapters:\n  - file: book/one\n  - file: book/gone\n"

    assert gates.toc_notebooks(toc, tmp_path) == {"book/one.ipynb", "book/gone.ipynb"}


# --- the kit's code


KIT = '''
import torch
from torch import Tensor

def adapt(params: dict[str, Tensor], *, inner_lr: float = 0.1) -> Tensor:
    """One step."""
    step: float = inner_lr * 2
    return params - step
'''
SHOWN = (
    "import torch\n\ndef adapt(params, *, inner_lr=0.1):\n    step = inner_lr * 2\n    return params - step"
)


@pytest.mark.parametrize(
    ("source", "tag", "message"),
    [
        (SHOWN, "kit:algorithms.maml.adapt", None),
        (SHOWN.replace("- step", "+ step"), "kit:algorithms.maml.adapt", "+    return params + step"),
        (SHOWN.replace("0.1", "0.2"), "kit:algorithms.maml.adapt", "inner_lr=0.2"),
        (SHOWN.replace("*, ", ""), "kit:algorithms.maml.adapt", "+def adapt(params, inner_lr=0.1):"),
        (SHOWN + "\nprint(1)", "kit:algorithms.maml.adapt", "+print(1)"),
        (SHOWN, "kit:algorithms.mmal.adapt", "no module 'algorithms.mmal'"),
        (SHOWN, "kit:algorithms.maml.adopt", "no 'adopt'"),
        ("x = 1", "kit:algorithms.maml.adapt", "is not the kit's source"),
    ],
)
def test_a_cell_that_leaves_the_kits_source_is_found(tmp_path, source, tag, message):
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "algorithms/maml.py").write_text(KIT)
    notebook = new_notebook(cells=[new_code_cell(source, metadata={"tags": [tag]})])

    found = gates.kit_problems(notebook, "tiny.ipynb", kit=tmp_path)

    assert bool(found) == bool(message)
    assert (message or "") in "".join(found)


# --- the normal form


def test_a_chapter_in_its_normal_form_stays_as_it_is(tmp_path):
    path = tmp_path / "tiny.ipynb"
    path.write_text(refresh.text(chapter()), encoding="utf-8")

    assert refresh.is_normal(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda nb: nb.metadata.update(widgets={"state": {}}),
        lambda nb: nb.metadata["kernelspec"].update(name="my-env"),
        lambda nb: nb.cells[0].update(id="b6a1"),
        lambda nb: nb.cells[2].metadata.update(execution={"iopub.status.busy": "2026-01-01T00:00:00"}),
        lambda nb: nb.cells[3].outputs.append(new_output("stream", name="stdout", text="more")),
        lambda nb: code(nb, 9).outputs[0].data.update({"application/vnd.jupyter.widget-view+json": {}}),
        lambda nb: code(nb, 2).update(execution_count=77),
    ],
)
def test_what_an_editor_leaves_behind_is_found(tmp_path, spoil):
    notebook = chapter()
    spoil(notebook)
    path = tmp_path / "tiny.ipynb"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")

    assert not refresh.is_normal(path)
    assert refresh.main(["--check", str(path)]) == 1
    assert refresh.main(["--format", str(path)]) == 0
    assert refresh.is_normal(path)


# --- only what runs cleanly is written


def one_cell(source: str, tags: list[str] | None = None):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": tags or []})])


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        (one_cell("import sys\nprint('careful', file=sys.stderr)"), "stderr"),
        (one_cell("1 / 0"), "ZeroDivisionError"),
        (one_cell("1 / 1;", ["raises-exception"]), "raised nothing"),
    ],
)
def test_a_chapter_that_does_not_run_cleanly_is_not_written(tmp_path, notebook, message, capsys):
    path = tmp_path / "tiny.ipynb"
    before = nbformat.writes(notebook)
    path.write_text(before, encoding="utf-8")

    assert refresh.main([str(path)]) == 1
    assert message in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.ipynb"]


def test_an_unknown_chapter_is_named():
    with pytest.raises(SystemExit, match="no chapter is called 'inner-lop'"):
        refresh.main(["inner-lop"])
