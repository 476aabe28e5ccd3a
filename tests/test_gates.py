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
        printing(
            f'answer = 5\nexercise("{label}", lambda: answer == 4)',
            f"… {label}: not yet (the check is false)",
            tags=["remove-cell"],
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
        printing('claim("two and two are four", total == 4)', "✓ two and two are four"),
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


def said(n: int, text: str):
    return lambda nb: code(nb, n).outputs[0].update(text=text + "\n")


def written(n: int, source: str):
    return lambda nb: code(nb, n).update(source=source)


def tagged(n: int, *tags: str):
    return lambda nb: code(nb, n).metadata.update(tags=list(tags))


def stored(n: int, *args, **settings):
    return lambda nb: code(nb, n).outputs.append(new_output(*args, **settings))


def replaced(old: str, new: str):
    """The first cell that has `old` says `new` instead."""

    def defect(nb):
        cell = next(c for c in nb.cells if old in c.source)
        cell.source = cell.source.replace(old, new)

    return defect


def checked_by(condition: str, check: str = ""):
    """Exercise 1 asks another condition everywhere."""

    def defect(nb):
        for n in (11, 12, 13):
            cell = code(nb, n)
            cell.source = f"{check}\n" + cell.source.replace("lambda: answer == 4", condition)

    return defect


def print_a_time(nb):
    written(2, "start = time.perf_counter()\nprint(f'{time.perf_counter() - start:.1f} s')")(nb)
    said(2, "0.3 s")(nb)


def ask_too_little(nb):
    start = next(i for i, c in enumerate(nb.cells) if ":label: ex-tiny-2" in c.source)
    del nb.cells[start : start + 12]


# 0 the set-up, 1-8 prints, 9 the picture, 10 the claim, 11-13 the first exercise: before, wrong answer, solution
DEFECTS = [
    (lambda nb: code(nb, 3).update(outputs=[], execution_count=None), "execution count None"),
    (lambda nb: code(nb, 3).update(execution_count=9), "execution count 9"),
    (stored(2, "stream", name="stderr", text="UserWarning"), "stores stderr"),
    (
        stored(2, "error", ename="ValueError", evalue="no", traceback=["no"]),
        "stores an error without the tag",
    ),
    (tagged(2, "raises-exception"), "stores no error"),
    (said(2, "<Network at 0x7f32a00ae790>"), "an address"),
    (said(2, "saved to /home/reader/records"), "a machine's path"),
    (said(2, " 40%|████      | 4/10 [00:01<00:02, 3.4it/s]"), "a progress bar"),
    (print_a_time, "prints a time"),
    (tagged(2, "nbval-ignore-output"), "not listed"),
    (written(2, "# NBVAL_SKIP\nprint(1)"), "in a comment"),
    (tagged(2, "kit.meta.query_loss"), "which nothing reads"),
    (lambda nb: code(nb, 9).metadata["mystnb"]["image"].update(alt=""), "image.alt"),
    (lambda nb: code(nb, 9).metadata["mystnb"]["figure"].update(caption="Wave"), "figure.caption"),
    (lambda nb: code(nb, 9).metadata["mystnb"]["figure"].pop("name"), "figure.name"),
    (lambda nb: code(nb, 9).update(outputs=[]), "draws no picture"),
    (lambda nb: code(nb, 9).update(outputs=code(nb, 9).outputs * 2), "draws 2 pictures"),
    (written(2, "\n".join(["x = 1"] * 31)), "31 lines"),
    (replaced("After this page you can add two numbers.", ""), "neither title nor"),
    (replaced("## Notes", "# Another title\n\n## Notes"), "not exactly one title"),
    (lambda nb: nb.cells.pop(1), "no card"),
    (replaced("**Reading**", "**Pages**"), "does not say Reading"),
    (tagged(0), "hide-input"),
    (lambda nb: code(nb, 10).update(source="1", outputs=[]), "claims nothing"),
    (replaced("## Notes", "The end."), "## Notes"),
    (said(13, "… ex-tiny-1: not yet (the check is false)"), "its solution does not print 'solved'"),
    (said(11, "✓ ex-tiny-1: solved"), "ex-tiny-1: it is solved before"),
    (lambda nb: code(nb, 11).update(outputs=[]), "no cell prints 'not yet'"),
    (said(12, "… ex-tiny-1: not yet (no answer so far)"), "ex-tiny-1: no cell tagged remove-cell"),
    (said(12, "✓ ex-tiny-1: solved"), "ex-tiny-1: no cell tagged remove-cell"),
    (tagged(12), "ex-tiny-1: no cell tagged remove-cell"),
    (replaced("{dropdown} Hint", "{note}"), "has no hint"),
    (replaced("{solution-start} ex-tiny-2", "{note}"), "ex-tiny-2 has no solution"),
    (replaced(":class: dropdown\n", ""), "not collapsed"),
    (written(2, 'exercise("ex-tiny-9", lambda: True)'), "checks ex-tiny-9"),
    (
        lambda nb: [c.update(source=c.source.replace("ex-tiny-3", "ex-other-3")) for c in nb.cells],
        "the label ex-other-3",
    ),
    (ask_too_little, "1 exercises"),
    (written(10, 'claim("two", True)'), "looks at nothing that was computed"),
    (written(10, 'claim("two", 2 + 2 == 4)'), "compares constants"),
    (written(10, 'claim("two", total < 1e9)'), "hardly any other reaches"),
    (written(10, 'claim("two", -10**6 <= total)'), "hardly any other reaches"),
    (written(10, 'claim("two", total == 4 or True)'), "a constant beside or"),
    (written(10, 'claim("two", condition=total == 4)'), "two arguments by position"),
    (written(10, 'print("✓ two and two are four")'), "a tick by itself"),
    (written(10, "total = 4\nshow(total)"), "1 verdicts, but claims and exercises are called 0 times"),
    (lambda nb: code(nb, 10).update(outputs=[]), "0 verdicts, but claims and exercises are called 1 times"),
    (checked_by("lambda: True"), "looks at nothing that was computed"),
    (checked_by("lambda: answer and True"), "a constant beside and"),
    (checked_by("right", "def right():\n    return True"), "returns True whatever"),
    (checked_by("right", "def right():\n    x = answer\n    return True"), "returns the same whatever"),
    (checked_by("right", "def right():\n    assert answer == 4\n    return answer == 4"), "uses assert"),
]


@pytest.mark.parametrize(
    ("defect", "message"), DEFECTS, ids=[f"{i}: {m}" for i, (_, m) in enumerate(DEFECTS)]
)
def test_hygiene_finds_what_went_wrong(defect, message):
    notebook = chapter()

    defect(notebook)

    assert message in "\n".join(judged(notebook))


@pytest.mark.parametrize("condition", ["total > 1e6", "abs(total) < 1e-9", "total == 1623", "all(total)"])
def test_a_claim_that_can_fail_is_no_defect(condition):
    notebook = chapter()

    written(10, f'claim("two", {condition})')(notebook)

    assert judged(notebook) == []


def test_a_listed_reason_allows_one_ignored_output():
    notebook = chapter()
    print_a_time(notebook)
    tagged(2, "nbval-ignore-output")(notebook)
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
