from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from mamlkit.page.checks import chosen, claim, close, exercise, judged


@pytest.mark.parametrize("true", [True, np.bool_(True), torch.tensor(True), np.array(1) > 0])
def test_a_true_claim_prints_its_sentence(true, capsys):
    claim("water is wet", true)

    assert capsys.readouterr().out == "✓ water is wet\n"


@pytest.mark.parametrize("false", [False, np.bool_(False), torch.tensor(False)])
def test_a_false_claim_raises_its_sentence_and_prints_nothing(false, capsys):
    with pytest.raises(AssertionError, match=r"^water is dry$"):
        claim("water is dry", false)

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "condition",
    [[False], (1 == 2, "message"), "False", 1, 0.3, None, torch.tensor(0.3), torch.tensor([True, False]),
     torch.tensor([True]), np.array([True]), lambda: False],
)  # fmt: skip
def test_a_condition_that_could_not_fail_is_refused(condition):
    with pytest.raises(TypeError, match="a condition is one bool"):
        claim("this holds", condition)


def raises(error: BaseException):
    """A condition that raises."""

    def condition():
        raise error

    return condition


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (lambda: torch.tensor(4.0) == 4, "✓ ex-1: solved\n"),
        (lambda: False, "… ex-1: not yet (the check is false)\n"),
        (lambda: None, "… ex-1: not yet (no answer so far)\n"),
        (raises(NotImplementedError()), "… ex-1: not yet (no answer so far)\n"),
        (
            raises(NameError("name 'x' is not defined")),
            "… ex-1: not yet (NameError: name 'x' is not defined)\n",
        ),
        (lambda: [True], "… ex-1: not yet (TypeError: a condition is one bool, got a list"),
        (
            raises(ValueError("\n<object at 0x7f00aa> " + "x" * 500 + "\n2")),
            "… ex-1: not yet (ValueError: <object at 0x…> x",
        ),
    ],
)
def test_an_answer_is_judged_in_one_short_line_and_nothing_is_raised(condition, said, capsys):
    exercise("ex-1", condition)

    out = capsys.readouterr().out
    assert out.startswith(said)
    assert out.count("\n") == 1
    assert len(out) < 150


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        exercise("ex-1", raises(KeyboardInterrupt()))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (judged((True, "no"), (torch.tensor(True), "nor this")), True),
        (judged((True, "no"), (False, "the sign")), "the sign"),
        (chosen(None, "a", {}), None),
        (chosen("a", "a", {"b": "b is not it"}), True),
        (chosen("b", "a", {"b": "b is not it"}), "b is not it"),
        (chosen("ab", "a", {"b": ""}), "'ab' is not among the choices: 'a', 'b'"),
        (chosen(["a"], "a", {}), "['a'] is not among the choices: 'a'"),
        (close(None, 1), None),
        (close([1, 2], torch.tensor([1.0, 2.0])), True),
        (close((1.0, 0.0), [1.0, 1e-9]), True),
        (close(1.5, 1), "too large"),
        (close(float("nan"), 1), "not a number"),
        (close([1, -2, 3], [1, 2, 4], why="why"), "1 of 3 are right; number 2 has the wrong sign; why"),
        (close([1], [1, 2]), "2 numbers are asked for, 1 given"),
        (close("one", 1), "'one' is not made of numbers"),
    ],
    ids=count(),
)
def test_an_answer_that_is_refused_gets_a_reason(outcome, said):
    assert outcome == said


def test_a_reason_is_said_as_it_stands(capsys):
    exercise("ex-1", lambda: "the sign is lost")

    assert capsys.readouterr().out == "… ex-1: not yet (the sign is lost)\n"
