from __future__ import annotations

import numpy as np
import pytest
import torch

from mamlkit.checks import claim, exercise


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


def test_a_right_answer_is_solved(capsys):
    exercise("ex-sums-1", lambda: torch.tensor(4.0) == 4)

    assert capsys.readouterr().out == "✓ ex-sums-1: solved\n"


def test_a_missing_or_wrong_answer_is_not_yet_with_its_reason_and_nothing_is_raised(capsys):
    def missing():
        raise NotImplementedError

    exercise("ex-1", lambda: False)
    exercise("ex-2", lambda: None)
    exercise("ex-3", lambda: undefined_name)  # type: ignore[name-defined]  # noqa: F821
    exercise("ex-4", lambda: [True])
    exercise("ex-5", missing)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "… ex-1: not yet (the check is false)"
    assert lines[1] == "… ex-2: not yet (no answer so far)"
    assert lines[2] == "… ex-3: not yet (NameError: name 'undefined_name' is not defined)"
    assert lines[3].startswith("… ex-4: not yet (TypeError: a condition is one bool, got a list")
    assert lines[4] == "… ex-5: not yet (no answer so far)"


def test_a_reason_is_one_short_line_without_addresses(capsys):
    def fails():
        raise ValueError(f"\n{object()!r} " + "x" * 500 + "\nsecond line")

    exercise("ex-1", fails)

    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert len(out) < 150
    assert "0x…" in out


def test_an_interrupt_is_not_swallowed():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise("ex-1", stop)
