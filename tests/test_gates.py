"""The gates bite: a sound chapter passes each of them, and each defect turns one red."""

from __future__ import annotations

import json

import gates
import nbformat
import pytest
import refresh
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ASKED = 'exercise("ex-tiny-1", lambda: answer == 4)'
UNANSWERED, REFUSED = "… ex-tiny-1: not yet (no answer so far)", "… ex-tiny-1: not yet (the check is false)"
SOLVED = "✓ ex-tiny-1: solved"
EXERCISE = f"""
%% markdown
````{{exercise}} A sum
:label: ex-tiny-1
```{{dropdown}} Hint
```
````
%% code {{}}
{ASKED}
--> stdout {UNANSWERED}
%% markdown
```{{solution-start}} ex-tiny-1
:class: dropdown
```
%% code {{"tags": ["remove-cell"]}}
{ASKED}
--> stdout {REFUSED}
%% code {{}}
{ASKED}
--> stdout {SOLVED}
%% markdown
```{{solution-end}}
```
"""
CHAPTER = f"""
%% markdown
# Tiny

After this page you can add two numbers.
%% markdown
```{{admonition}} At a glance
:class: glance
{", ".join(f"**{key}**" for key in gates.CARD)}
```
%% code {{"tags": ["hide-input"]}}
notebook.setup(seed=0)
--> stdout mamlkit 0.1.0 · torch 2.13.0 · cpu
%% code {{"tags": []}}
print(2)
--> stdout 2
%% code {
    json.dumps(
        {
            "mystnb": {
                "image": {"alt": "A sine wave that falls"},
                "figure": {"name": "fig-wave", "caption": "A period of the sine."},
            }
        }
    )
}
plt.plot(x, y);
--> image/png iVBORw0KGgo=
%% code {{"tags": ["kit:algorithms.maml.adapt"]}}
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
            cells.append(new_code_cell(source, metadata=metadata, outputs=list(map(output, stored))))
            cells[-1].execution_count = metadata.pop("count", 1)
    return refresh.normalised(new_notebook(cells=cells))


def asked(body: str) -> str:
    """The first exercise, with a function as its check."""
    return f'def right():\n    "Whether it is right."\n    {body}\nexercise("ex-tiny-1", right)'


TIMED = ("print(2)\n--> stdout 2", "start = time.perf_counter()\n--> stdout 0.3 s")
# what stands in the chapter, what stands there instead, and what the gates say then
DEFECTS = [
    ('"tags": []', '"count": null', "execution count None"),
    ("--> stdout 2", "--> stderr UserWarning", "stores stderr"),
    ("--> stdout 2", "--> error no", "stores an error without the tag"),
    ('"tags": []', '"tags": ["raises-exception"]', "stores no error"),
    ("stdout 2", "stdout <Network at 0x7f32a00ae790>", "an address"),
    ("stdout 2", "stdout saved to /home/reader/records", "a machine's path"),
    ("stdout 2", r"text/html saved to C:\records", "a machine's path"),
    ("stdout 2", "stdout  40%|████      | 4/10 [00:01<00:02, 3.4it/s]", "a progress bar"),
    (*TIMED, "prints a time"),
    ('"tags": []', '"tags": ["nbval-ignore-output"]', "not listed"),
    ("print(2)", "# NBVAL_SKIP\nprint(2)", "in a comment"),
    ('"tags": []', '"tags": ["kit.meta.query_loss"]', "which nothing reads"),
    ("A sine wave that falls", "", "image.alt"),
    ("A period of the sine.", "Wave", "figure.caption"),
    ("fig-wave", "Wave", "figure.name"),
    ("--> image/png iVBORw0KGgo=\n", "", "draws no picture"),
    ("--> image/png iVBORw0KGgo=", 2 * "\n--> image/png iVBORw0KGgo=", "draws 2 pictures"),
    ("--> stdout 2", "--> image/svg+xml <svg/>", "no PNG"),
    ("print(2)", "x = 1\n" * 30 + "print(2)", "31 lines"),
    ("After this page you can add two numbers.", "", "neither title nor"),
    ("## Notes", "# Another title\n\n## Notes", "not exactly one title"),
    (":class: glance", "", "no card"),
    ("**Reading**", "**Pages**", "does not say Reading"),
    ('{"tags": ["hide-input"]}', "{}", "hide-input"),
    ("notebook.setup(seed=0)", "1", "notebook.setup"),
    ("two and two", "ex-tiny-1: solved", "claims nothing"),
    ("## Exercises", "Now you.", "## Exercises"),
    ("## Notes", "The end.", "## Notes"),
    (SOLVED, REFUSED, "its solution does not print 'solved'"),
    (UNANSWERED, SOLVED, "ex-tiny-1: it is solved before"),
    (f"--> stdout {UNANSWERED}", "", "no cell prints 'not yet'"),
    (REFUSED, UNANSWERED, "ex-tiny-1: no cell tagged remove-cell"),
    (REFUSED, SOLVED, "ex-tiny-1: no cell tagged remove-cell"),
    ('{"tags": ["remove-cell"]}', "{}", "ex-tiny-1: no cell tagged remove-cell"),
    ("{dropdown} Hint", "{note}", "has no hint"),
    ("{solution-start} ex-tiny-2", "{note}", "ex-tiny-2 has no solution"),
    ("{solution-start} ex-tiny-2", "{solution-start} ex-tiny-9", "a solution to ex-tiny-9"),
    ("{solution-end}", "{note}", "3 solution-start and 0 solution-end"),
    (":class: dropdown\n", "", "not collapsed"),
    ("print(2)", 'exercise("ex-tiny-9", lambda: answer)', "checks ex-tiny-9"),
    ("ex-tiny-3", "ex-other-3", "the label ex-other-3"),
    (":label: ex-tiny-3", "", "the label (none)"),
    ("ex-tiny-3", "ex-tiny-1", "the label ex-tiny-1 stands twice"),
    ("{exercise} A sum\n:label: ex-tiny-2", "{note}", "2 exercises"),
    ("## Notes", "".join(EXERCISE.replace("-1", f"-{n}") for n in "456") + "\n## Notes", "6 exercises"),
    ("total == 4", "True", "looks at nothing that was computed"),
    ("total == 4", "2 + 2 == 4", "compares constants"),
    ("total == 4", "total < 1e9", "hardly any other reaches"),
    ("total == 4", "-(10**6) <= total", "hardly any other reaches"),
    ("total == 4", "total == 4 or True", "a constant beside or"),
    ("total == 4", "condition=total == 4", "two arguments by position"),
    ("total == 4", "*[total == 4]", "two arguments by position"),
    ("claim(", "print('✓ two', ", "a tick by itself"),
    ("claim(", "show(", "1 verdicts, but claims and exercises are called 0 times"),
    ("--> stdout ✓ two and two\n", "", "0 verdicts, but claims and exercises are called 1 times"),
    ("lambda: answer == 4", "lambda: 4", "looks at nothing that was computed"),
    (ASKED, asked("return True\n    if answer:\n        return False"), "returns the same whatever"),
    (ASKED, asked("x = answer\n    return True"), "returns the same whatever"),
    (ASKED, asked("assert answer == 4\n    return answer == 4"), "uses assert"),
    ("- step", "+ step", "+    return params + step"),
    ("inner_lr=0.1", "inner_lr=0.2", "inner_lr=0.2"),
    ("*, ", "", "+def adapt(params, inner_lr=0.1):"),
    ("- step", "- step\nprint(1)", "+print(1)"),
    ("maml.adapt", "mmal.adapt", "no module 'algorithms.mmal'"),
    ("maml.adapt", "maml.adopt", "no 'adopt'"),
    # and what is no defect
    ("", "", None),
    ("total == 4", "total > 1e6", None),
    ("total == 4", "total == 1623", None),
    ("claim(", "%time pass\nfor total in totals:\n    claim(", None),
    ("claim(", "def show():\n    claim('two', total)\nshow()\nclaim(", None),
    ("lambda: answer == 4", "lambda: None if answer is None else answer == 4", None),
    (ASKED, asked("return answer == 4"), None),
    (ASKED, asked("if answer == 4:\n        return True\n    return False"), None),
    ('"tags": []}\nprint(2)\n--> stdout 2', '"tags": ["raises-exception"]}\nprint(2)\n--> error no', None),
    ("print(2)", "x = 1\n" * 29 + "print(2)", None),
]


@pytest.mark.parametrize(("old", "new", "message"), DEFECTS)
def test_a_defect_is_found_and_what_is_none_passes(tmp_path, old, new, message):
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "algorithms/maml.py").write_text(KIT)
    chapter = notebook(CHAPTER, old, new)

    found = gates.problems(chapter, "tiny.ipynb", allowed={})
    found += gates.kit_problems(chapter, "tiny.ipynb", kit=tmp_path)

    assert message in "\n".join(found) if message else not found


def test_a_listed_reason_allows_one_ignored_output_and_a_figure_has_its_name_alone():
    old, new = TIMED
    chapter = notebook(CHAPTER, f'"tags": []}}\n{old}', f'"tags": ["nbval-ignore-output"]}}\n{new}')
    allowed = gates.allow_list("# comment\ntiny.ipynb | start = time.perf_counter() | clocks differ\n")

    assert gates.problems(chapter, "tiny.ipynb", allowed=allowed) == []
    assert gates.book_problems({"tiny.ipynb": chapter}, allowed) == []
    assert "no such cell" in gates.book_problems({"tiny.ipynb": notebook(CHAPTER)}, allowed)[0]
    assert "fig-wave" in gates.book_problems({"tiny.ipynb": chapter, "two.ipynb": chapter}, allowed)[0]
    with pytest.raises(ValueError, match="not of the form"):
        gates.allow_list("tiny.ipynb | a line without a reason\n")


def test_pages_and_notebooks_are_compared_by_name(tmp_path):
    (tmp_path / "index.md").touch()
    toc = "format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: book/one\n  - file: book/gone\n"

    assert gates.toc_notebooks(toc, tmp_path) == {"book/one.ipynb", "book/gone.ipynb"}


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


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{}\nimport sys\nprint('careful', file=sys.stderr)", "stderr"),
        ("{}\n1 / 0", "ZeroDivisionError"),
        ('{"tags": ["raises-exception"]}\n1 / 1;', "raised nothing"),
    ],
)
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
