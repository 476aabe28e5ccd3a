"""The editions: a student's chapters are open and give nothing away, a teacher's are whole, archives depend on nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import editions
import launch
import nbformat
import pytest

from mamlkit.page.checks import close, exercise

ROOT = Path(__file__).resolve().parents[1]
BOOK = editions.Shelf.read()
SPHINX = re.compile(r"\{[a-z:-]+\}`|^\s*[`:]{3,}\{|^\$\$ *\(|^:\w+:", re.M)
each_chapter = pytest.mark.parametrize("chapter", BOOK.chapters, ids=lambda chapter: chapter.name)


def lines(chapter, solution: bool) -> set[str]:
    """The lines that stand in solutions, or outside them; short ones may stand anywhere."""
    cells = [cell["source"] for cell, solves in editions.segments(chapter) if bool(solves) is solution]
    return {line for line in "\n".join(cells).split("\n") if len(line.strip()) > 12}


def shown(part) -> list[str]:
    """Every line of every text in a notebook: sources, outputs, metadata."""
    if isinstance(part, dict):
        part = list(part.values())
    return (
        [line for inner in part for line in shown(inner)] if isinstance(part, list) else str(part).split("\n")
    )


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@each_chapter
def test_a_student_finds_every_exercise_open_and_no_solution(chapter):
    notebook, checks = editions.edition(chapter, BOOK, "student")
    labels = [exercise["label"] for exercise in chapter.exercises]

    ends = [match[1] for match in re.finditer(r"^%run -i checks/(.*)\.py$", "\n".join(code(notebook)), re.M)]
    assert ends == labels == list(checks)
    given = shown(notebook.cells) + shown({label: editions.packed(checks[label], label) for label in labels})
    secret = lines(chapter, solution=True) - lines(chapter, solution=False)
    assert secret
    assert not secret & {*given}
    assert not [line for line in given if line.startswith("✓ ex-")]
    assert not re.search(r"\b(exercise|chosen)\(|wrong answer", "".join(code(notebook)))


@pytest.mark.parametrize(
    ("factors", "said"), [(None, "… {}: not yet (no answer so far)"), ((0.25, 1), "✓ {}: solved")]
)
def test_a_packed_check_says_what_the_check_says(capsys, factors, said):
    chapter = next(chapter for chapter in BOOK.chapters if chapter.name == "context-and-latent")
    label = "ex-context-and-latent-1"
    packed = editions.packed(editions.edition(chapter, BOOK, "student")[1][label], label)

    exec(packed, {"close": close, "exercise": exercise, "factors": factors})
    assert capsys.readouterr().out.strip() == said.format(label)


def test_no_cell_of_a_student_and_no_check_needs_a_name_that_only_a_solution_makes(tmp_path):
    for chapter in BOOK.chapters:
        notebook, checks = editions.edition(chapter, BOOK, "student")
        program = re.sub(r"(?m)^%run .*", "", "\n".join([*code(notebook), *checks.values()]))
        (tmp_path / f"{chapter.name.replace('-', '_')}.py").write_text(program)

    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", tmp_path]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_chapter
def test_a_teacher_has_every_solution_and_a_wrong_answer_that_is_refused(chapter):
    notebook, _ = editions.edition(chapter, BOOK, "teacher")

    solutions = [
        editions.code_cell(cell)["source"]
        for cell, solves in editions.segments(chapter)
        if solves and "outputs" in cell
    ]
    assert not {*solutions} - {*code(notebook)}
    after = [b for a, b in pairwise(notebook.cells) if a.source.startswith("**A common wrong answer**")]
    refused = [output.text for cell in after for output in cell.outputs]
    labels = [exercise["label"] for exercise in chapter.exercises]
    assert {re.match(r"… (ex-\S+): not yet \((?!no answer)", text)[1] for text in refused} == set(labels)
    right = [b for a, b in pairwise(notebook.cells) if a.source.startswith("**The right answer**")]
    solved = [text for cell in right for text in re.findall(r"✓ (ex-\S+): solved", cell.outputs[-1].text)]
    assert len(solved) == len(set(solved)) == len(right)


@pytest.mark.parametrize("kind", editions.KINDS)
def test_nothing_that_only_sphinx_understands_is_left(kind):
    notebooks = editions.pages(BOOK) | {c.name: editions.edition(c, BOOK, kind)[0] for c in BOOK.chapters}

    markdown = {
        name: [c.source for c in n.cells if c.cell_type == "markdown"] for name, n in notebooks.items()
    }
    assert not [
        (name, m[0]) for name, cells in markdown.items() for cell in cells if (m := SPHINX.search(cell))
    ]
    links = re.findall(r"\]\(([\w-]+)\.ipynb\)", json.dumps(markdown))
    assert set(links) <= notebooks.keys()
    assert "glue(" not in "".join(source for notebook in notebooks.values() for source in code(notebook))


def test_archives_made_twice_are_equal(tmp_path):
    made = [
        editions.contents("student", BOOK, editions.built_wheel(tmp_path / name)) for name in ("one", "two")
    ]
    assert made[0] == made[1]
    for name, files in (("one", made[0]), ("two", dict(reversed(made[1].items())))):
        few = {path: data for path, data in files.items() if not path.endswith(".ipynb")}
        editions.archive(tmp_path / name / "book.zip", few)

    assert (tmp_path / "one/book.zip").read_bytes() == (tmp_path / "two/book.zip").read_bytes()


def test_a_teacher_plans_from_the_edition_and_the_solutions_of_an_exam_are_the_teachers_alone():
    cells = [cell.source for cell in editions.teaching(BOOK).cells]
    [question] = [cell for cell in cells if "**Question 2.1.**" in cell]
    assert len(question.split("**Solution.** ")[1]) > 20
    assert [cell for cell in cells if cell.startswith("### Two weeks") and "(objective.ipynb)" in cell]
    rows = [line for cell in cells for line in cell.split("\n") if re.search(r"^\| \d+\. .* ★", line)]
    assert len(rows) == sum(len(chapter.exercises) for chapter in BOOK.chapters)

    wheel = Path(__file__)  # any file will do
    files = {kind: editions.contents(kind, BOOK, wheel) for kind in editions.KINDS}
    there = {kind: "teaching.ipynb" in of for kind, of in files.items()}
    led = {kind: b"(teaching.ipynb)" in of["index.ipynb"] for kind, of in files.items()}
    assert there == led == {"student": False, "teacher": True, "reader": False}


@pytest.mark.parametrize(
    "said", ['<li><p class="run-it"><code>make lab</code> there</p></li>', editions.LOCAL]
)
def test_what_is_packed_for_a_place_without_the_repository_does_not_speak_of_make(said):
    assert "make" in said
    assert "make" not in editions.carried(said)
    assert "notebooks" in editions.carried(said)


URL, REPOSITORY = "https://example.org/book/", "https://github.com/owner/name"


@pytest.mark.parametrize(
    ("url", "repository", "button"),
    [("", "", False), (URL, "", False), ("", REPOSITORY, False), (URL, REPOSITORY, True)],
)
def test_there_is_a_launch_button_exactly_where_both_addresses_are_known(
    monkeypatch, tmp_path, url, repository, button
):
    monkeypatch.setenv("BOOK_URL", url)
    monkeypatch.setenv("BOOK_REPOSITORY", repository)
    config = SimpleNamespace(html_theme_options={})
    launch.offer_launch(None, config)

    assert bool(config.html_theme_options) is button
    assert bool(launch.published()) is button


def test_a_hosted_chapter_begins_by_fetching_the_book_at_its_commit(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BOOK_REPOSITORY", REPOSITORY + "/")
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()

    assert editions.main([str(tmp_path), "hosted"]) == 0
    for chapter in BOOK.chapters:
        first = code(nbformat.read(tmp_path / "book" / f"{chapter.name}.ipynb", as_version=4))[0]
        assert f"{REPOSITORY}/archive/{commit}.tar.gz" in first
    monkeypatch.setenv("BOOK_REPOSITORY", "https://gitlab.com/owner/name")
    with pytest.raises(ValueError, match="of the form https"):
        editions.repository()
