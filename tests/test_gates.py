"""The gates bite: a sound chapter passes each of them, and each defect turns one red."""

from __future__ import annotations

import base64
import json
import re

import gates
import nbformat
import pytest
import refresh
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mamlkit.page.widgets import two_tasks

UNANSWERED, REFUSED = "… ex-tiny-1: not yet (no answer so far)", "… ex-tiny-1: not yet (too small)"
EXERCISE = f"""
%% markdown
````{{exercise}} A sum
:label: ex-tiny-1

*Code* · 5 minutes · ★☆☆

```{{dropdown}} Hint
```
````
%% code {{}}
exercise("ex-tiny-1", lambda: answer == 4)
--> stdout {UNANSWERED}
%% markdown
```{{solution-start}} ex-tiny-1
:class: dropdown
```
%% code {{"tags": ["remove-cell"]}}
exercise("ex-tiny-1", lambda: answer == 4)
--> stdout {REFUSED}
%% code {{}}
exercise("ex-tiny-1", right)
--> stdout ✓ ex-tiny-1: solved
%% markdown
```{{solution-end}}
```
"""
TWINS = base64.b64encode(b"PNG" + gates.TWIN).decode()
FIGURE = '{"image": {"alt": "A sine wave that falls"}, "figure": {"name": "fig-wave", "caption": "A period of the sine."}}'
QUESTION = """
<div class="check" role="group" aria-labelledby="check-tiny-1">
<h3 id="check-tiny-1">What is two and two?</h3>
<details class="right"><summary>Four</summary>

**Right:** count them, two and two more.
</details>
<details class="no"><summary>Three</summary>

**No:** that is one less than there are.
</details>
<details class="no"><summary>Five</summary>

**No:** that is one more than there are.
</details>
</div>
"""
# the wrong answers come first
FIRST, SECOND, *REST = QUESTION.replace("tiny-1", "tiny-3").split("</details>\n")
HEAD, ANSWER = FIRST.split("<details", 1)
LAST = "</details>\n".join([f"{HEAD}{SECOND}", f"<details{ANSWER}", *REST])
CHAPTER = f"""
%% markdown
# Tiny

After this page you can add two numbers.
%% markdown
```{{admonition}} At a glance
:class: glance
{", ".join(f"**{key}**" for key in gates.CARD if key != "Running")}
- **Running** 20 s and 1 GB on two CPU cores
```
%% code {{"tags": ["hide-input"]}}
notebook.setup(seed=0)
def right():
    return answer == 4
%% code {{"tags": []}}
print(2)
--> stdout 2
%% code {{"tags": ["hide-input"], "mystnb": {FIGURE}}}
plt.plot(x, y);
--> image/png {TWINS}
%% code {{"tags": ["kit:maml.adapt"]}}
from torch import Tensor
def adapt(params, *, inner_lr=0.1):
    step = inner_lr * 2
    return params - step
%% code {{}}
claim("two and two", total == 4)
--> stdout ✓ two and two
%% markdown
## Exercises
{"".join(EXERCISE.replace("ex-tiny-1", f"ex-tiny-{n}") for n in (1, 2, 3))}
%% markdown
## Check yourself
{QUESTION}{QUESTION.replace("tiny-1", "tiny-2")}{LAST}
%% markdown
## Notes and further reading
"""
KIT = '''
@checked
def adapt(params: dict[str, Tensor], *, inner_lr: float = 0.1) -> Tensor:
    """One step."""
    import torch
    step: float = inner_lr * 2
    return params - step
'''


def output(line: str):
    kind, _, text = line.partition(" ")
    if kind == "error":
        return new_output(kind, ename="ValueError", evalue=text, traceback=[text])
    if kind in ("stdout", "stderr"):
        return new_output("stream", name=kind, text=f"{text}\n")
    return new_output("display_data", {kind: text})


def notebook(text: str, old: str = "", new: str = ""):
    """A notebook of cells, `%% kind {metadata}`, and their outputs, `--> kind text`, with `new` in place of `old`."""
    assert old in text, "there is nothing to change"
    cells = []
    for cell in text.replace(old, new).split("\n%% ")[1:]:
        source, *stored = cell.strip().split("\n--> ")
        head, _, source = source.partition("\n")
        if head == "markdown":
            cells.append(new_markdown_cell(source))
        else:
            metadata = json.loads(head.removeprefix("code "))
            count, outputs = metadata.get("count", 1), [output(line) for line in stored]
            cells.append(new_code_cell(source, metadata=metadata, execution_count=count, outputs=outputs))
    return refresh.normalised(new_notebook(cells=cells))


TIMED = ("print(2)\n--> stdout 2", "start = time.perf_counter()\n--> stdout 0.3 s")
# what stands in the chapter, what stands there instead, and words that the gates say then
DEFECTS = [
    ('"tags": []', '"tags": ["raises-exception"], "count": null', "stores no error", "execution count None"),
    ('"tags": []', '"tags": ["nbval-ignore-output", "kit.maml"]', "not listed", "which nothing reads"),
    ("--> stdout 2", "--> stderr UserWarning\n--> error no", "stores stderr", "stores an error without"),
    ("stdout 2", "stdout <Network at 0x7f32a00ae790> in /home/reader", "an address", "a machine's path"),
    ("stdout 2", r"text/html C:\records [00:01<00:02, 3.4it/s]", "a machine's path", "a progress bar"),
    (*TIMED, "prints a time"),
    ("print(2)", "x = 1\n" * 30 + "# NBVAL_SKIP", "31 lines", "in a comment"),
    ("print(2)", 'table([], columns="a")\nprint(2)', "a table that nobody sees"),
    ("print(2)", 'for _ in "ab":\n    table([], columns="a")', "a table that nobody sees"),
    (FIGURE, '{"image": {}, "figure": {"name": "Wave"}}', "image.alt", "figure.caption", "figure.name"),
    ("A period of the sine.", "The black line is a period of the sine.", "trade places in the dark"),
    ("A period of the sine.", "A sine; left, one period of it.", "a phone stacks panels"),
    (f"--> image/png {TWINS}\n", "", "draws no picture"),
    (TWINS, "iVBORw0KGgo=", "without its narrow twin"),
    ('"tags": ["hide-input"], "mystnb"', '"mystnb"', "tag the cell hide-input"),
    ("*Code* · 5 minutes · ★☆☆", "*Riddle* · soon · ★", "kind, minutes and stars"),
    ("(too small)", "(the check is false)", "without a reason"),
    ("--> stdout 2", 2 * "\n--> image/png eHh4" + "\n--> image/svg+xml <svg/>", "draws 2 pictures", "no PNG"),
    ("After this page you can add two numbers.", "", "neither title nor"),
    ("## Notes", "# Another title\n\n## Notes", "not exactly one title"),
    (":class: glance", "", "no card"),
    ("**Reading**", "**Pages**", "does not say Reading"),
    ("20 s and 1 GB", "19 s and 1 GB", "what `make costs` measured"),
    ("20 s and 1 GB", "20 s and 1.2 GB", "what `make costs` measured"),
    ("two CPU cores", "two CPU cores or so", "what `make costs` measured"),
    ('{"tags": ["hide-input"]}', "{}", "hide-input"),
    ("notebook.setup(seed=0)", "1", "notebook.setup"),
    ("two and two", "ex-tiny-1: solved", "claims nothing"),
    ("\n## ", "\n### ", "## Exercises", "## Notes"),
    ("✓ ex-tiny-1: solved", REFUSED, "its solution does not print 'solved'"),
    (UNANSWERED, "✓ ex-tiny-1: solved", "ex-tiny-1: it is solved before", "no cell prints 'not yet'"),
    (REFUSED, UNANSWERED, "ex-tiny-1: no cell tagged remove-cell"),
    (REFUSED, "✓ ex-tiny-1: solved", "ex-tiny-1: no cell tagged remove-cell"),
    ('{"tags": ["remove-cell"]}', "{}", "ex-tiny-1: no cell tagged remove-cell"),
    ("{solution-start} ex-tiny-2", "{solution} ex-tiny-9", "-2 has no solution", "a solution to ex-tiny-9"),
    ("{solution-end}", "{note}", "3 solution-start and 0 solution-end"),
    ("dropdown", "note", "has no hint", "not collapsed"),
    ("print(2)", 'exercise("ex-tiny-9", right)', "checks ex-tiny-9"),
    ("ex-tiny-3", "ex-other-3", "the label ex-other-3"),
    (":label: ex-tiny-3", "", "the label (none)"),
    ("ex-tiny-3", "ex-tiny-1", "the label ex-tiny-1 stands twice", "2 exercises"),
    ("## Notes", "".join(EXERCISE.replace("-1", f"-{n}") for n in "456") + "\n## Notes", "6 exercises"),
    ("## Check yourself", "## Ask yourself", "between exercises and notes", "asks 0 questions"),
    ("check-tiny-1", "check-tiny-9", "question 1 is not named check-tiny-1"),
    (
        '<details class="right">',
        '<details class="no">',
        "check-tiny-1 has 0 right answers",
        "'Four' does not open",
    ),
    ("that is one less than there are", "", "check-tiny-2: 'Three' does not open with '**No:**'"),
    ("<summary>Five", "<summary>Three", "check-tiny-3 has an answer twice"),
    ("<summary>Five", "<summary>`Five`", "check-tiny-3 has a backtick"),
    (LAST, QUESTION.replace("tiny-1", "tiny-3"), "all stand in one place"),
    (QUESTION, QUESTION + QUESTION, "asks 4 questions", "question 2 is not named"),
    ('<details class="no"><summary>Five', "<p><summary>Five", "has 2 answers, 3 to 4"),
    ("total == 4", "2 + 2 == 4", "looks at nothing that was computed", "compares constants"),
    ("total == 4", "total < 1e9", "hardly any other reaches"),
    ("total == 4", "-(10**6) <= total", "hardly any other reaches"),
    ("total == 4", "total == 4 or True", "a constant beside or"),
    ("total == 4", "condition=total == 4", "two arguments by position"),
    ("total == 4", "*[total == 4]", "two arguments by position"),
    ("claim(", "print('✓ two', ", "a tick by itself", "1 verdicts, but claims and exercises are called 0"),
    ("--> stdout ✓ two and two\n", "", "0 verdicts, but claims and exercises are called 1 times"),
    ("lambda: answer == 4", "lambda: 4", "looks at nothing that was computed"),
    ("    return answer == 4", "    assert answer == 4\n    return True", "the same whatever", "uses assert"),
    ("    return answer == 4", "    return True\n    if answer:\n        pass", "the same whatever"),
    ("- step", "+ step\nprint(1)", "+    return params + step", "+print(1)"),
    ("*, inner_lr=0.1", "inner_lr=0.2", "+def adapt(params, inner_lr=0.2):"),
    ("maml.adapt", "mmal.adapt", "no module 'mmal'"),
    ("maml.adapt", "maml.adopt", "no 'adopt'"),
    # and what is no defect
    ("print(2)", 'table([], columns="a")'),
    ("total == 4", "total > 1e6"),
    ("total == 4", "total == 1623"),
    ("claim(", "%time pass\nfor total in totals:\n    claim("),
    ("claim(", "def show():\n    claim('two', total)\nshow()\nclaim("),
    ("    return answer == 4", "    if answer == 4:\n        return True\n    return False"),
    ('"tags": []}\nprint(2)\n--> stdout 2', '"tags": ["raises-exception"]}\nprint(2)\n--> error no'),
    ("print(2)", "x = 1\n" * 29 + "print(2)"),
]


@pytest.mark.parametrize(("old", "new", "words"), [(old, new, words) for old, new, *words in DEFECTS])
def test_a_defect_is_found_and_what_is_none_passes(tmp_path, old, new, words):
    (tmp_path / "maml.py").write_text(KIT)
    chapter = notebook(CHAPTER, old, new)

    found = [
        *gates.problems(chapter, "tiny.ipynb", allowed={}),
        *gates.kit_problems(chapter, "", kit=tmp_path),
    ]

    assert [word for word in words if word not in "\n".join(found)] == []
    assert words or not found


def test_a_listed_reason_allows_one_ignored_output_and_a_figure_has_its_name_alone():
    old, new = TIMED
    chapter = notebook(CHAPTER, f'"tags": []}}\n{old}', f'"tags": ["nbval-ignore-output"]}}\n{new}')
    allowed = gates.allow_list("# comment\ntiny.ipynb | start = time.perf_counter() | clocks differ\n")

    assert not gates.problems(chapter, "tiny.ipynb", allowed=allowed)
    assert not gates.book_problems({"tiny.ipynb": chapter}, allowed)
    assert "no such cell" in gates.book_problems({"tiny.ipynb": notebook(CHAPTER)}, allowed)[0]
    assert "fig-wave" in gates.book_problems({"tiny.ipynb": chapter, "two.ipynb": chapter}, allowed)[0]
    with pytest.raises(ValueError, match="not of the form"):
        gates.allow_list("tiny.ipynb | a line without a reason\n")


@pytest.mark.parametrize(
    "change",
    [
        ("aim.reached(", "aim.wanted("),
        ("function handle(", "function grip("),
        (".maml-figure {", ".maml-picture {"),
        ('"use strict";', ""),
    ],
)
def test_an_interactive_figure_whose_front_end_has_gone_on_since_is_found_without_running_it(change):
    figure = two_tasks([[-2, 0], [2, 1]], [[[1, 0], [0, 4]], [[3, 0], [0, 1]]], inner_lr=0.1).html
    of = "--> stdout 2", "--> text/html {}"

    sound, old = (
        gates.problems(notebook(CHAPTER, of[0], of[1].replace("{}", page)), "tiny.ipynb", allowed={})
        for page in (figure, figure.replace(*change))
    )

    assert figure != figure.replace(*change)
    assert not sound
    assert ["another front end" in problem for problem in old] == [True]


def test_a_page_that_is_neither_markdown_nor_there_counts_as_a_notebook():
    toc = "format: jb-book\nroot: book/index\nchapters:\n- file: book/gone\n- file: book/index.ipynb\n"

    assert gates.toc_notebooks(toc, gates.ROOT) == {"book/gone.ipynb", "book/index.ipynb"}


def test_what_an_editor_leaves_behind_is_found_and_goes(tmp_path):
    chapter, path = notebook(CHAPTER, "stdout 2", "stdout 2\n3"), tmp_path / "tiny.ipynb"
    sound = refresh.text(chapter)
    chapter.metadata.update(widgets={"state": {}}, kernelspec={"name": "my-env"})
    chapter.cells[0].id = "b6a1"
    chapter.cells[2].metadata.execution = {"iopub.status.busy": "2026-01-01T00:00:00"}
    chapter.cells[3].update(outputs=[output("stdout 2"), output("stdout 3")], execution_count=77)
    chapter.cells[4].outputs[0].data.update({refresh.LIVE_ONLY[0]: {}})
    path.write_text(json.dumps(chapter), encoding="utf-8")

    assert refresh.main(["--check", str(path)]) == 1
    assert refresh.main(["--format", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == sound
    assert refresh.main(["--check", str(path)]) == 0


UNCLEAN = {
    "stderr": "{}\nimport sys\nprint('careful', file=sys.stderr)",
    "ZeroDivisionError": "{}\n1 / 0",
    "raised nothing": '{"tags": ["raises-exception"]}\n1 / 1;',
}


@pytest.mark.parametrize(("message", "cell"), UNCLEAN.items())
def test_a_chapter_that_does_not_run_cleanly_is_not_written(tmp_path, cell, message, capsys):
    path = tmp_path / "tiny.ipynb"
    before = nbformat.writes(notebook(f"\n%% code {cell}"))
    path.write_text(before, encoding="utf-8")

    assert refresh.main([str(path)]) == 1
    assert message in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.ipynb"]


def test_an_unknown_chapter_is_named():
    with pytest.raises(SystemExit, match="no chapter is called 'inner-lop'"):
        refresh.main(["inner-lop"])


def test_a_measured_run_writes_its_cost_onto_the_card_and_nothing_else(tmp_path):
    path = tmp_path / "tiny.ipynb"
    first_day = 'import os\n\nassert not os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"])'
    code = map(new_code_cell, (first_day, 'held = b"1" * 600_000_000'))
    cells = [new_markdown_cell("# Tiny\n\n- **Running** by guess"), *code]
    path.write_text(refresh.text(refresh.normalised(new_notebook(cells=cells))), encoding="utf-8")
    before = path.read_text(encoding="utf-8")

    refresh.main(["--costs", str(path)])

    after = path.read_text(encoding="utf-8")
    said = re.search(r"(\d+) s and 1 GB on two CPU cores", after)
    assert after == before.replace("by guess", said[0])
    assert int(said[1]) in gates.SECONDS


def test_a_cost_is_rounded_up_to_what_a_card_may_say_and_refused_beyond_it_or_without_a_card(tmp_path):
    assert [refresh._up(taken, gates.SECONDS) for taken in (0.1, 5.0, 5.1, 300.0)] == [5, 5, 10, 300]
    with pytest.raises(refresh.RefreshError, match=r"it takes 301\.0, a card says at most 300"):
        refresh._up(301.0, gates.SECONDS)
    (tmp_path / "bare.ipynb").write_text(refresh.text(new_notebook()), encoding="utf-8")
    with pytest.raises(refresh.RefreshError, match="no card with"):
        refresh.costs(tmp_path / "bare.ipynb")


def test_a_run_that_takes_half_as_long_again_as_its_card_says_is_remarked_on():
    card = new_notebook(cells=[new_markdown_cell("- **Running** 20 s and 1 GB on two CPU cores")])
    assert "its card says 20 s" in refresh._card(card, 31.0)
    assert not refresh._card(card, 29.0)
