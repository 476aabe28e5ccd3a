"""The graded assignments: what they give to answers whose worth is known, and what students get to see."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import torch

COURSE = Path(__file__).parents[1] / "course" / "assignments"
SOLUTION = re.compile(r"(?ms)^( *)### BEGIN SOLUTION\n.*?### END SOLUTION")
EMPTY = 'raise NotImplementedError("no answer so far")'
HEADINGS = re.split(r"(?m)^## ", (COURSE / "answers" / "README.md").read_text(encoding="utf-8"))[1:]


def deserved(section):
    head, _, *rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row[:1] == "|"
    ]
    return {row[0]: dict(zip(head[1:], map(int, row[1:]), strict=True)) for row in rows}


WORTH = {section.split("\n", 1)[0]: deserved(section) for section in HEADINGS}
ALL = [(name, answer) for name in WORTH for answer in WORTH[name]]
BY_NBGRADER = {name: ["full", "empty"] for name in WORTH}
BY_NBGRADER["bug-hunt"].append("wrong-alarm")


def submission(name, answer):
    """The source with a student's answer in place of the solution."""
    book = nbformat.read(COURSE / "source" / name / f"{name}.ipynb", as_version=4)
    given = {}
    if answer not in ("full", "empty"):
        file = COURSE / "answers" / name / f"{answer}.py"
        sections = re.split(r"(?m)^# %% ", file.read_text(encoding="utf-8"))[1:]
        given = dict(section.split("\n", 1) for section in sections)
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("solution") and cell.cell_type == "code":
            emptied = SOLUTION.sub(rf"\1{EMPTY}", cell.source) if answer == "empty" else cell.source
            cell.source = given.pop(cell.metadata.nbgrader.grade_id, emptied)
    assert not given, f"{answer} answers {', '.join(given)}, which {name} does not ask"
    return book


def by_part(scores):
    """The points of tests PART-public and PART-hidden, added up."""
    parts = {}
    for test, points in scores.items():
        part = test.rsplit("-", 1)[0]
        parts[part] = parts.get(part, 0) + points
    return parts | {"sum": sum(scores.values())}


def tried(book, term="2026"):
    """Points by part: each cell is run, a test that raises gives none."""
    scores, names = {}, {}
    for cell in book.cells:
        if cell.cell_type == "code":
            tag = cell.metadata.get("nbgrader", {})
            try:
                exec(cell.source.replace("TERM = 2026", f"TERM = {term}"), names)
                right = True
            except Exception:
                right = False
            if tag.get("grade"):
                scores[tag.grade_id] = tag.points * right
    return by_part(scores)


@pytest.fixture(autouse=True)
def torch_as_it_was():
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "answer"), ALL)
def test_an_answer_gets_what_it_deserves(name, answer):
    assert tried(submission(name, answer)) == WORTH[name][answer]


@pytest.mark.parametrize("name", WORTH)
def test_another_term_is_as_fair(name):
    assert tried(submission(name, "full"), term=2031) == WORTH[name]["full"]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One course for each assignment, with its student's version, and some answers graded."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: make test installs it")
    base = tmp_path_factory.mktemp("courses")

    def grade(name):
        folder = base / name
        shutil.copytree(COURSE, folder)
        nbgrader(folder, "generate_assignment", name)
        for student in BY_NBGRADER[name]:
            place = folder / "submitted" / student / name
            place.mkdir(parents=True)
            nbformat.write(handed_in(folder, name, student), place / f"{name}.ipynb")
        nbgrader(folder, "autograde", name)
        said = nbgrader(folder, "validate", f"submitted/full/{name}/{name}.ipynb")
        (folder / "validated").write_text(said)
        return folder

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as two:
        # nbgrader calls alembic, which stands beside this Python; an activated environment would find it
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield dict(zip(WORTH, two.map(grade, WORTH), strict=True))


def nbgrader(folder, *command):
    run = subprocess.run(
        [sys.executable, "-m", "nbgrader", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def handed_in(folder, name, answer):
    """The student's version, with the cells that a student writes filled in."""
    book = nbformat.read(folder / "release" / name / f"{name}.ipynb", as_version=4)
    for cell, answered in zip(book.cells, submission(name, answer).cells, strict=True):
        if answer != "empty" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = answered.source
    return book


@pytest.mark.parametrize("name", WORTH)
def test_nbgrader_counts_as_we_do(graded, name):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{graded[name]}/gradebook.db") as book:
        assert book.find_assignment(name).max_score == 20
        for student in BY_NBGRADER[name]:
            grades = book.find_submission_notebook(name, name, student).grades
            scores = {grade.name: grade.auto_score for grade in grades if grade.cell.cell_type == "code"}
            assert by_part(scores) == WORTH[name][student]
            (words,) = [grade for grade in grades if grade.cell.cell_type == "markdown"]
            assert words.needs_manual_grade == (student != "empty")


@pytest.mark.parametrize("name", WORTH)
def test_a_student_sees_no_solution_and_no_hidden_test(graded, name):
    source, release = (
        nbformat.read(graded[name] / side / name / f"{name}.ipynb", as_version=4).cells
        for side in ("source", "release")
    )

    secrets = 0
    for ours, theirs in zip(source, release, strict=True):
        for secret in re.findall(r"(?s)### BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)### END", ours.source):
            secrets += 1
            assert not [line for line in secret.splitlines() if line.strip() and line in theirs.source]
    assert secrets == sum(cell.source.count("### BEGIN") for cell in source) > 10
    assert "### BEGIN" not in "".join(cell.source for cell in release)


@pytest.mark.parametrize("name", WORTH)
def test_nbgrader_validates_a_full_solution(graded, name):
    assert "Success! Your notebook passes all the tests." in (graded[name] / "validated").read_text()
