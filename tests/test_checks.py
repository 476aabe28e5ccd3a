from __future__ import annotations

import numpy as np
import pytest
import torch

from mamlkit.page.checks import claim, exercise


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
