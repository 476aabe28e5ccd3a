"""Paths, map and a teacher's tables hold what the chapters say, and a reader who follows a path is told where it goes on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))
import guide


@pytest.mark.parametrize("path", guide.ways())
def test_on_a_path_every_chapter_comes_after_what_it_needs(path):
    chapters = guide.ways()[path]["chapters"]

    for i, name in enumerate(chapters):
        assert not set(guide.chapters()[name].needed) & set(guide.chapters()) - set(chapters[:i]), name


def test_the_tree_holds_every_chapter_once_under_one_that_it_needs():
    lines = [re.match(r"( *)- \d+\. \{doc\}`([\w-]+)`", line) for line in guide.tree().splitlines()[1:-1]]
    above: list[str] = []

    for line in lines:
        depth, name = len(line[1]) // 2, line[2]
        assert not depth or above[depth - 1] in guide.chapters()[name].needed
        above[depth:] = [name]
    assert sorted(line[2] for line in lines) == sorted(guide.chapters())


def test_a_teacher_finds_for_each_chapter_its_exercises_mistakes_and_questions_but_no_solution():
    page = guide.lessons()

    assert guide.teaching().keys() == guide.chapters().keys()
    for name, known in guide.teaching().items():
        assert len(guide.chapters()[name].exercises) >= 3
        assert len(known["wrong"]) >= 2 <= len(known["exam"])
        for question in known["exam"]:
            assert question["question"] in page
            assert question["solution"] not in page


def test_the_kit_points_back_to_the_chapters_that_build_and_use_it():
    adapt = guide.uses()["mamlkit.algorithms.maml.adapt"]

    assert "inner-loop" in adapt["built"]
    assert "sinusoids" in adapt["used"]
    called = guide._used(["import torch\nfrom mamlkit.algorithms import maml as m", "m.adapt(torch.ones(1))"])
    assert "mamlkit.algorithms.maml.adapt" in called


@pytest.mark.parametrize(("minutes", "words"), [(85, "85 min"), (120, "2 h"), (121, "2½ h"), (150, "2½ h")])
def test_time_is_said_as_a_person_says_it(minutes, words):
    assert guide.hours(minutes) == words
