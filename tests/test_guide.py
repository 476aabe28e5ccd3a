"""Paths, map and a teacher's tables hold what the chapters say, and a reader who follows a path is told where it goes on."""

from __future__ import annotations

import re

import guide
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from plain import Chapter

GLANCE = """```{admonition} At a glance
:class: glance
- **You will** add, as in {doc}`objective`.
- **You need** {doc}`inner-loop`, and {doc}`notation`.
- **Reading** 12 min.
- **Running** 20 s and 1 GB on two CPU cores
```"""
EXERCISE = "```{{exercise}} {0}\n:label: ex-{0}\n\n*Code* · {1} minutes · ★★☆\n```"


def test_a_chapter_says_on_its_card_and_over_its_exercises_what_is_read_there():
    cells = [
        new_code_cell(GLANCE.replace("12", "99")),
        new_markdown_cell("```{admonition} Note\n- **Reading** 5 min\n```"),
    ]
    exercises = new_markdown_cell("\n\n".join(EXERCISE.format(*of) for of in (("one", 5), ("two", 10))))
    chapter = Chapter("c", "p", 1, new_notebook(cells=[*cells, new_markdown_cell(GLANCE), exercises]))

    assert chapter.card["You will"] == "add, as in {doc}`objective`"
    assert (chapter.minutes, chapter.needed) == (12, ["inner-loop", "notation"])
    found = [(of["label"], of["kind"], of["minutes"], of["stars"]) for of in chapter.exercises]
    assert found == [("ex-one", "Code", "5", "★★☆"), ("ex-two", "Code", "10", "★★☆")]


@pytest.mark.parametrize("path", guide.ways())
def test_on_a_path_every_chapter_comes_after_what_it_needs(path):
    chapters = guide.ways()[path]["chapters"]

    for i, name in enumerate(chapters):
        assert not set(guide.chapters()[name].needed) & set(guide.chapters()) - set(chapters[:i]), name


@pytest.mark.parametrize("path", guide.ways())
def test_what_is_left_of_a_path_is_what_its_next_chapters_take(path):
    names = guide.ways()[path]["chapters"]
    rows = re.findall(
        r"\{doc\}`([\w-]+)` \| (\d+) min \| (.*) \|", "\n".join(guide._path(path, guide.ways()[path]))
    )

    assert [name for name, *_ in rows] == names
    left = sum(guide.chapters()[name].minutes for name in names)
    for name, minutes, said in rows:
        left -= int(minutes)
        assert guide.stops(name)[path]["left"] == guide.hours(left)
        assert said == (guide.hours(left) if left else "–")
    assert left == 0


def test_the_tree_holds_every_chapter_once_under_one_that_it_needs():
    lines = [re.match(r"( *)- \d+\. \{doc\}`([\w-]+)`", line) for line in guide.tree().splitlines()[1:-1]]
    above: list[str] = []

    for line in lines:
        depth, name = len(line[1]) // 2, line[2]
        assert not depth or above[depth - 1] in guide.chapters()[name].needed
        above[depth:] = [name]
        # by what stands above it, or in brackets, or what one of those needs
        beside = re.findall(r"`([\w-]+)`", line.string)
        known = {*above, *beside}.union(*(guide._all(other) for other in beside if other in guide.chapters()))
        assert {*guide.chapters()[name].needed} <= known
    assert sorted(line[2] for line in lines) == sorted(guide.chapters())


def test_a_teacher_finds_for_each_chapter_its_exercises_mistakes_and_questions_but_no_solution():
    page = guide.lessons()

    assert guide.teaching().keys() == guide.chapters().keys()
    for name, known in guide.teaching().items():
        chapter = guide.chapters()[name]
        assert f"**Objectives.** Students {chapter.card['You will']}." in page
        assert len(chapter.exercises) >= 3
        for exercise in chapter.exercises:
            asked = exercise["title"], exercise["minutes"], exercise["stars"]
            assert re.search(r"\| \[{}\]\(.*\| {} \| {} \|\n".format(*map(re.escape, asked)), page)
        assert len(known["wrong"]) >= 2 <= len(known["exam"])
        assert all(f"- {wrong}\n" in page for wrong in known["wrong"])
        for question in known["exam"]:
            assert question["question"] in page
            assert question["solution"] not in page


def test_the_kit_points_back_to_the_chapters_that_build_and_use_it():
    adapt = guide.uses()["mamlkit.algorithms.maml.adapt"]

    assert "inner-loop" in adapt["built"]
    assert "sinusoids" in adapt["used"]
    said = ["Adapt."]
    guide.point_back(None, "function", "mamlkit.algorithms.maml.adapt", None, None, said)
    assert re.fullmatch(
        r"Built in :doc:`The inner loop </book/inner-loop>`.*\. Used in .* more chapters\.", said[2]
    )
    called = guide._used(["import torch\nfrom mamlkit.algorithms import maml as m", "m.adapt(torch.ones(1))"])
    assert "mamlkit.algorithms.maml.adapt" in called


@pytest.mark.parametrize(("minutes", "words"), [(85, "85 min"), (120, "2 h"), (121, "2½ h"), (150, "2½ h")])
def test_time_is_said_as_a_person_says_it(minutes, words):
    assert guide.hours(minutes) == words
