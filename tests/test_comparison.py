"""A second run of a chapter lets rounding pass, and nothing that says something else."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path

import comparison
import gates
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pictures
import portable
import pytest
import refresh
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from mamlkit.page import figures
from mamlkit.page.drawn import picture

TESTS = Path(__file__).resolve().parent

# --- texts

SAME = [
    ("MAML 77.8 ± 0.9 % over 600 tasks", "MAML 78.6 ± 0.8 % over 600 tasks"),
    ("a 9.99 b", "a 10.00 b"),
    ("[0.827 0.56 ]", "[0.827 0.561]"),
    ("tensor([-0.437,  1.000])", "tensor([-0.438,  1.001])"),
    ("slope −0.437", "slope -0.438"),
    ("by seed: 1.6 1.7 points", "by seed: 1.7 1.6 points"),
    ("least alike 2%, most 13.3%", "least alike 3%, most 13.2%"),
    ("error 9.9e-05", "error 1.0e-04"),
    ("| loss | 0.50 |\n| --- | ---: |", "| loss  | 0.51 |\n| ----- | -----: |"),
    ("<td>1,234.5</td>", "<td>1,234.6</td>"),
    ("first   9.9  nan  -inf", "first  10.0  nan  -inf"),
    ("'1.2 to 1.4'", "'1.3 to 1.4'"),
    ("✓ it holds\ngain 8.0 ± 2.0", "✓ it holds \ngain 8.1 ± 2.4"),
]
# each text beside those that say something else, with a stroke for the end of a line
OTHER = """
MAML 77.8 ± 0.9 % → MAML 76.8 ± 0.9 % → MAML 77.8 ± 1.9 % → ANIL 77.8 ± 0.9 % → MAML 77.8   0.9 %
0.9 % over 600 tasks → 0.9 % over 601 tasks
loss 0.437 → loss 0.439 → loss -0.437 → loss nan
loss inf → loss nan → loss -inf
loss 1.5 → loss 2
MAML 0.31, joint 2.40 → MAML 2.40, joint 0.31
first: 71% → first: 73%
error 1e-05 → error 1e-04
1,234 tasks → 1,235 tasks → 1,23 tasks
70,000 steps → 7,000 steps
commit 1234e56 → commit 1234e57
torch 2.13.0, seed 3 → torch 2.13.1, seed 3 → torch 2.13.0, seed 4
2026-11-21 → 2026-11-22
one//two → one → one/two
✓ within 3 % → ✓ within 4 % → ✓ beyond 3 %
✓ within 0.05 → ✓ within 0.06
… ex-tiny-1: not yet (the check is false) → ✓ ex-tiny-1: solved → … ex-tiny-1: not yet (no answer so far)
−(I − αH) g′ → −(I + αH) g′
straight road: $I$ → straight road: $J$
"""
ROWS = [line.replace("/", "\n").split(" → ") for line in OTHER.strip().split("\n")]


@pytest.mark.parametrize(("stored", "drawn"), SAME)
def test_what_only_rounding_changed_agrees(stored, drawn):
    assert comparison.text_difference(stored, drawn) is None
    assert comparison.text_difference(drawn, stored) is None


@pytest.mark.parametrize(("stored", "drawn"), [(a, b) for a, *others in ROWS for b in others])
def test_what_says_something_else_is_found(stored, drawn):
    assert comparison.text_difference(stored, drawn)
    assert comparison.text_difference(drawn, stored)


def test_a_difference_is_told_with_its_line_and_its_limit():
    found = comparison.text_difference("one\nloss 0.437", "one\nloss 0.439")

    assert found == "line 2: 'loss 0.437' is now 'loss 0.439' (0.437 and 0.439 may be 0.001 apart)"


def glued(name: str, value: str):
    metadata = {"scrapbook": {"name": name}}
    return new_output("display_data", {"application/papermill.record/text/plain": value}, metadata=metadata)


LINE, GLUED = new_output("stream", name="stdout", text="a 0.5\n"), glued("gain", "'44 points'")


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ([GLUED, LINE], ""),
        ([LINE], "this run made none"),
        ([LINE, GLUED, glued("loss", "'1'")], "the page has 1 outputs of the name of a glued value"),
        ([LINE, glued("loss", "'44 points'")], "other words"),
        ([LINE, glued("gain", "'45 points'")], "44 and 45 may be 0 apart"),
        ([GLUED, new_output("error", ename="ValueError", evalue="0.5")], "stdout, this run made none"),
        ([GLUED, new_output("stream", name="stderr", text="a 0.5\n")], "stdout, this run made none"),
    ],
)
def test_every_output_of_a_cell_is_compared(drawn, message):
    found = comparison.outputs_difference([LINE, GLUED], drawn)

    assert message in found if message else found is None


ALLOWED = comparison.tolerances("""# a comment
one.ipynb | print("a | b") | 3 units | trained here
one.ipynb | print("a | b") | 2 % of the axes | trained here
two.ipynb | x | 5 % | trained there
two.ipynb | fig-worst | another task | trained there
""")
UNITS, SHARE, TASK = ALLOWED.values()


def test_a_cell_with_a_reason_may_differ_by_as_much_as_its_line_grants_and_no_more():
    assert next(iter(ALLOWED)) == ("one.ipynb", 'print("a | b")')
    assert comparison.text_difference("10 of 0.44", "13 of 0.47", UNITS) is None
    assert comparison.text_difference("10 of 0.44", "14 of 0.44", UNITS)
    assert comparison.text_difference("10 of 0.44", "10 of 0.42", SHARE) is None
    assert comparison.text_difference("10 of 0.44", "11 of 0.44", SHARE)
    assert comparison.text_difference("10 of 0.44", "10 for 0.44", SHARE)


@pytest.mark.parametrize(
    "lines", ["3 units", "3 digits | why", "3 units | why\none.ipynb | x | 4 units | why"]
)
def test_a_tolerance_without_a_reason_in_other_words_or_twice_is_refused(lines):
    with pytest.raises(ValueError, match=r"one\.ipynb \| x"):
        comparison.tolerances(f"one.ipynb | x | {lines}")


def test_every_tolerance_of_the_book_belongs_to_one_cell_that_is_compared():
    for name, line in comparison.tolerances((TESTS / "allowed_tolerances.txt").read_text(encoding="utf-8")):
        cells = [c for c in nbformat.read(refresh.BOOK / name, as_version=4).cells if c.cell_type == "code"]
        figure = [c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in cells]
        meant = [c for c, of_figure in zip(cells, figure) if line in (gates.first_line(c), of_figure)]
        assert len(meant) == 1, f"{name} has {len(meant)} cells that begin with {line}"
        assert "nbval-ignore-output" not in gates.tags(meant[0]), f"{name}: {line} is not compared at all"


# --- pictures


@cache
def png(
    *, factor=1.0, shift=0.0, title="A wave", note="43 %", label="loss", start=(1, -1), look="maml", **more
) -> str:
    with plt.style.context(["default", figures.STYLE]):
        figure, (left, right) = plt.subplots(1, 2, figsize=(4, 2))
        x = np.linspace(0, 6, 200)
        left.plot(x, factor * np.sin(x) + shift, **figures.LOOK[look])
        left.plot(*start, "o", color="black")
        left.set(title=title, ylabel=label, ylim=(-1.2, 1.2))
        left.annotate(note, (3, 0.2), xytext=(4, 1), arrowprops={"arrowstyle": "-|>"})
        right.plot(x[1:], more.get("height", 1) * np.exp(-x[1:]), label=more.get("legend", "MAML"))
        right.set(yscale=more.get("scale", "log"), ylim=more.get("ylim", (1e-4, 10)))
        right.set_xticks([1, 5], labels=more.get("ticks", ("one", "five")))
        right.bar([2, 3], more.get("bars", (0.1, 0.5)))
        right.fill_between(x, 0.1, 0.2 + shift, alpha=0.2)
        right.legend()
        figure.suptitle(more.get("above", "The loss has exploded"))
        found = picture(figure)
        plt.close(figure)
    return found


def test_a_picture_drawn_again_is_the_same_to_the_byte_and_a_curve_may_lie_as_far_off_as_its_line_grants():
    assert png.__wrapped__() == png()
    assert pictures.picture_difference(png(), png(factor=1.002, shift=0.002, note="44 %")) is None
    assert pictures.picture_difference(png(), png(factor=1.03), UNITS) is None
    assert "elsewhere" in pictures.picture_difference(png(), png(factor=1.06), UNITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": -1}, "elsewhere"),
        ({"factor": 1.03}, "% of the axes elsewhere (0.5% may)"),
        ({"height": 1.03}, "0.3% of the axes elsewhere (0.2% may)"),
        ({"shift": 0.05}, "elsewhere"),
        ({"start": (1.05, -1)}, "0.7% of the axes elsewhere"),
        ({"look": "reptile"}, "other words"),
        ({"title": "No wave"}, "'A wave' is now 'No wave'"),
        ({"title": ""}, "['A wave'] are now []"),
        ({"label": "accuracy"}, "'loss' is now 'accuracy'"),
        ({"note": "91 %"}, "43 and 91 may be 1 apart"),
        ({"legend": "joint"}, "'MAML' is now 'joint'"),
        ({"ticks": ("five", "one")}, "'one' is now 'five'"),
        ({"above": "The loss has vanished"}, "'The loss has exploded' is now"),
        ({"bars": (0.5, 0.1)}, "elsewhere"),
        ({"scale": "linear"}, "the scales"),
        ({"ylim": (1e-4, 11)}, "the y axis from"),
    ],
)
def test_a_picture_that_says_something_else_is_another_picture(change, message):
    assert message in pictures.picture_difference(png(), png(**change))


def grid(guess=1, turn=0, title="The worst task") -> str:
    images = np.roll(np.eye(8)[None].repeat(2, 0), turn, 1)
    figure = figures.task_grid((images, np.arange(2)), (images, np.arange(2)), np.array([0, guess % 2]))
    figure.suptitle(title)
    found = picture(figure)
    plt.close(figure)
    return found


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({"guess": 2, "turn": 1}, True),
        ({"title": "The best task"}, False),
        ({"guess": 0, "title": ""}, False),
    ],
)
def test_a_picture_of_a_task_may_show_another_one_where_its_line_says_so_and_no_other_words(change, agrees):
    assert pictures.picture_difference(grid(), grid(**change))
    assert (pictures.picture_difference(grid(), grid(**change), TASK) is None) == agrees


def bare(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_without_its_texts_must_be_refreshed_and_pixels_are_compared_besides():
    dumb = bare(pictures._image(png()))

    assert "the stored picture does not say what it shows" in pictures.picture_difference(dumb, png())
    assert "the picture drawn now does not say what it shows" in pictures.picture_difference(png(), dumb)
    assert pictures.pixels_difference(dumb, png(factor=1.002)) is None
    assert "places differ" in pictures.pixels_difference(png(), png(look="reptile"))
    assert "pixels" in pictures.pixels_difference(png(), bare(Image.new("RGB", (9, 9))))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", ""),
        ("[1.0, 2.0]", "[1.001, 2.001]", ""),
        ("[1.0, 2.0]", "[1.2, 2.0]", "state[0].w differs by 0.2"),
        ("[1.0, 2.0]", "[1.0]", "state[0].w"),
        ("3", "4", "state[0].n was 3 and is now 4"),
        ("MAML", "ANIL", "state[0].name"),
        (', "name": "MAML"', "", "state[0] was"),
        ("render", "draw", "front end"),
    ],
)
def test_an_interactive_figure_is_compared_by_its_numbers(old, new, message):
    state = '<script type="application/json">{"w": [1.0, 2.0], "n": 3, "name": "MAML"}</script>'
    page = f'<div class="maml-slot">{state}render();</div>'

    found = pictures.figure_difference(page, page.replace(old, new))

    assert message in found if message else found is None


# --- running again, as `make test` does, and on other machines

DRAW = """from mamlkit.page import notebook
import matplotlib.pyplot as plt
import numpy as np
notebook.setup(seed=0)
x = np.linspace(0, 6, 200)"""
PLOT = "plt.plot(x, np.sin(x))\nplt.title('A wave');"
SOUND = [lambda text, plot: None, lambda text, plot: text.outputs[0].update(text="a 3.01\n")]
DEFECTS = {
    "'a 3.02' is now 'a 3.00'": lambda text, plot: text.outputs[0].update(text="a 3.02\n"),
    "of the axes elsewhere": lambda text, plot: plot.update(source=PLOT.replace("sin", "cos")),
    "'A wave' is now 'No wave'": lambda text, plot: plot.update(source=PLOT.replace("A wave", "No wave")),
    "this run made": lambda text, plot: plot.update(outputs=[]),
    "ValueError": lambda text, plot: text.update(source=f"{text.source}\nraise ValueError"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A number and a picture again and again, with something else in each, beside the hooks that compare the book's."""
    folder = tmp_path_factory.mktemp("book")
    cells = [new_code_cell(cell) for cell in (DRAW, "print(f'a {x.mean():.2f}')\n1 + 1;", PLOT)]
    ran = refresh.normalised(refresh.execute(new_notebook(cells=cells), folder))
    assert [len(cell.outputs) for cell in ran.cells] == [1, 1, 1]
    for name, changes in {"sound": SOUND, "wrong": DEFECTS.values()}.items():
        notebook = new_notebook(cells=ran.cells[:1], metadata=ran.metadata)
        for change in changes:
            change(*(pair := deepcopy(ran.cells[1:])))
            notebook.cells += pair
        (folder / f"{name}.ipynb").write_text(refresh.text(refresh.normalised(notebook)), encoding="utf-8")
    hooks = (refresh.BOOK / "conftest.py").read_text(encoding="utf-8")
    (folder / "conftest.py").write_text(f"import sys\n\nsys.path.insert(0, {str(TESTS)!r})\n" + hooks)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def test_the_second_run_lets_rounding_pass_and_finds_what_no_longer_holds_and_says_it(folder, capsys):
    both = [str(folder / f"{name}.ipynb") for name in ("sound", "wrong")]
    row, good = portable.run("default-1", both, str(folder))
    assert not good
    assert row.split()[2:] == ["11", "5", "DIFFERS"]
    printed = capsys.readouterr().out
    assert "sound.ipynb::" not in printed
    for cell, message in zip((1, 4, 6, 8, 9), DEFECTS, strict=True):
        assert message in printed.partition(f" wrong.ipynb::Cell {cell}")[2].partition("\n____")[0]


@pytest.mark.parametrize(
    ("status", "said", "end"),
    [(0, "5 passed", "5 0 holds"), (0, "no tests ran", "0 0 DIFFERS"), (1, "6 passed, 1 failed", "6 1 DIFFERS"),
     (1, "6 passed", "6 0 DIFFERS")],
)  # fmt: skip
def test_a_setting_holds_where_cells_ran_and_all_passed(monkeypatch, status, said, end):
    done = subprocess.CompletedProcess([], status, f"{said} in 1.00s\n")
    monkeypatch.setattr(portable.subprocess, "run", lambda *_, **__: done)

    row, good = portable.run("native-1", [], "folder")
    assert row.split()[2:] == end.split()
    assert good == end.endswith("holds")


def test_a_setting_takes_over_nothing_from_another_and_compiles_for_itself(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    found = {name: portable.environment(name, "folder") for name in portable.SETTINGS}

    assert "ATEN_CPU_CAPABILITY" not in found["native-1"]
    assert found["default-2"]["ATEN_CPU_CAPABILITY"] == "default"
    assert [found[name]["MAMLKIT_THREADS"] for name in ("avx2-1", "avx2-2")] == ["1", "2"]
    assert refresh.kernel_environment()["OMP_WAIT_POLICY"] == "passive", (
        "two kernels of two threads stand in each other's way"
    )
    caches = {Path(environment["TORCHINDUCTOR_CACHE_DIR"]) for environment in found.values()}
    assert caches == {Path("mine", instructions) for instructions in portable.INSTRUCTIONS}


def test_every_setting_has_its_turn_and_in_it_every_chapter():
    every, chapters = len(portable.SETTINGS), [f"chapter {i}" for i in range(31)]
    turns = [portable.in_turn(n, chapters) for n in range(4 * every)]

    assert {name for name, _ in turns[:every]} == set(portable.SETTINGS)
    assert max(len(part) for _, part in turns) == 8
    ran = [(name, chapter) for name, part in turns for chapter in part]
    assert sorted(ran) == sorted(product(portable.SETTINGS, chapters))


def test_a_turn_runs_its_own_setting_and_quarter_or_what_is_asked_for(monkeypatch):
    ran = []
    monkeypatch.setattr(
        portable, "run", lambda name, chapters, _: (ran.append((name, chapters)), ("", True))[1]
    )
    portable.main(["--turn"])
    portable.main(["--turn", "--only", "reptile"])
    portable.main(["default-1"])
    quarter, asked, every = (len(chapters) for _, chapters in ran)
    assert asked == 1 < quarter <= every / 4 + 1 < every == len([*portable.ROOT.glob("book/*.ipynb")])
    assert ran[0][0] == ran[1][0] in portable.SETTINGS
    assert ran[2][0] == "default-1"


def test_a_shaken_network_starts_roundings_away_and_no_other_does():
    start = "import torch; torch.manual_seed(0); print(torch.nn.Linear(1, 1).weight.item().hex())"
    starts = {}
    for name in ("native-1", "shaken-1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MAMLKIT_SHAKEN", raising=False)
            for key, value in portable.SETTINGS[name].items():
                patch.setenv(key, value)
            told = {"env": refresh.kernel_environment(), "capture_output": True, "text": True, "check": True}
        starts[name] = float.fromhex(subprocess.run([sys.executable, "-c", start], **told).stdout)

    assert 1e-8 < abs(starts["shaken-1"] / starts["native-1"] - 1) < 1e-6
