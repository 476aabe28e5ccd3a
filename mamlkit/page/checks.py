"""Claims and exercises: a sentence beside the condition that proves it.

A page that says something runs what it says. `claim` is for the book's own sentences and stops the notebook
when one is false; `exercise` is for the reader's answers and never stops anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch

__all__ = ["chosen", "claim", "close", "exercise", "judged"]

NO_ANSWER = "no answer so far"


def claim(sentence: str, condition: object) -> None:
    """Print `✓ sentence` where `condition` is true; where it is false the sentence is the error.

    Args:
        condition: a bool, a NumPy bool, or a bool tensor or array without axes. Nothing else, because a
            claim must be able to fail and a non-empty list, a string or a loss is true whatever it holds.

    Raises:
        AssertionError: the condition is false.
        TypeError: the condition is no single bool, or the sentence is no text.

    >>> claim("two halves make a whole", 1 / 2 + 1 / 2 == 1)
    ✓ two halves make a whole
    """
    _check_text("sentence", sentence)
    if not _truth(condition):
        raise AssertionError(sentence)
    print(f"✓ {sentence}")


def exercise(label: str, condition: Callable[[], object]) -> None:
    """Print `✓ label: solved` where `condition()` is true, else `… label: not yet` with the reason.

    The condition is a function, so that an answer that is missing or raises is a reason and not a stop.

    Args:
        label: the exercise's label on the page, `ex-chapter-1`.
        condition: takes nothing; returns what `claim` accepts, `None` for "no answer so far", or the reason
            why the answer is refused, as text. `judged`, `chosen` and `close` make such reasons.

    Raises:
        TypeError: `condition` cannot be called, write `lambda: ...`, or the label is no text.

    >>> answer = None
    >>> exercise("ex-sums-1", lambda: close(answer, 4))
    … ex-sums-1: not yet (no answer so far)
    >>> answer = 2 + 2
    >>> exercise("ex-sums-1", lambda: close(answer, 4))
    ✓ ex-sums-1: solved
    """
    _check_text("label", label)
    if not callable(condition):
        raise TypeError(f"{label} has the condition {condition!r}; write exercise({label!r}, lambda: ...)")
    try:
        outcome = condition()
        if outcome is None:
            reason = NO_ANSWER
        elif isinstance(outcome, str) and outcome.strip():
            reason = outcome.strip()
        else:
            reason = "" if _truth(outcome) else "the check is false"
    except Exception as error:  # whatever the reader's code raises is the reason
        reason = _reason(error)
    print(f"… {label}: not yet ({reason})" if reason else f"✓ {label}: solved")


def judged(*checks: tuple[object, str]) -> bool | str:
    """True where every condition holds, else the reason that stands beside the first that does not.

    Args:
        checks: pairs of what `claim` accepts and the reason to give where it is false.

    >>> judged((1 + 1 == 2, "a sum is off"), (2 * 3 == 5, "a product is off"))
    'a product is off'
    """
    return next((reason for condition, reason in checks if not _truth(condition)), True)


def chosen(answer: object, right: str, wrong: Mapping[str, str]) -> bool | str | None:
    """Whether `answer` is the right one of several words; else why the one that was chosen is wrong.

    Args:
        answer: the reader's, `None` before there is one.
        wrong: the reason against each of the other choices.

    >>> chosen("dog", "cat", {"dog": "dogs bark"})
    'dogs bark'
    >>> chosen("cow", "cat", {"dog": "dogs bark"})
    "'cow' is not among the choices: 'cat', 'dog'"
    """
    if answer is None or answer == right:
        return None if answer is None else True
    if isinstance(answer, str) and answer in wrong:
        return wrong[answer]
    return f"{answer!r} is not among the choices: {', '.join(map(repr, sorted({right, *wrong})))}"


def close(answer: object, right: object, *, tolerance: float = 1e-6, why: str = "") -> bool | str | None:
    """Whether the numbers of `answer` are those of `right`; else how many are, and how the first other is off.

    Args:
        answer: a number, or a list, tuple, array or tensor of numbers; `None` before there is one.
        right: the same.
        tolerance: how far a number may be off, as a share of the right one and, near 0, by itself.
        why: what is to be said to a reader whose numbers are off.

    >>> close((1, 2.5), [1.0, -2.5])
    '1 of 2 are right; number 2 has the wrong sign'
    >>> close(3, 4, why="count the query set, too")
    'too small; count the query set, too'
    """
    if answer is None:
        return None
    try:
        given, wanted = (
            torch.as_tensor(side, dtype=torch.float64).flatten().tolist() for side in (answer, right)
        )
    except (TypeError, ValueError, RuntimeError):
        return f"{answer!r} is not made of numbers"
    if len(given) != len(wanted):
        return f"{len(wanted)} {'number is' if len(wanted) == 1 else 'numbers are'} asked for, {len(given)} given"
    fits = [abs(g - w) <= tolerance * max(1.0, abs(w)) for g, w in zip(given, wanted, strict=True)]
    if all(fits):
        return True
    first = fits.index(False)
    g, w = given[first], wanted[first]
    how = "has the wrong sign" if g * w < 0 else "is too small" if g < w else "is too large"
    how = how if g == g else "is not a number"
    several = f"{sum(fits)} of {len(fits)} are right; number {first + 1} {how}"
    return (several if len(fits) > 1 else how.removeprefix("is ")) + (f"; {why}" if why else "")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip():
        raise TypeError(
            f"{name} is {text!r}, but a reader needs words; give it as text, before the condition"
        )


def _truth(condition: object) -> bool:
    if isinstance(condition, (bool, np.bool_)):
        return bool(condition)
    found = type(condition).__name__
    if isinstance(condition, (torch.Tensor, np.ndarray)):
        if condition.ndim == 0 and condition.dtype in (torch.bool, np.dtype(bool)):
            return bool(condition)
        found += f" of shape {tuple(condition.shape)} and type {condition.dtype}"
    raise TypeError(
        f"a condition is one bool, got a {found}; compare it with something and reduce it with .all()"
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, NotImplementedError) and not lines:
        return NO_ANSWER
    # Addresses and endless messages differ from run to run, and the reason is stored on the page.
    text = re.sub(r"0x[0-9a-fA-F]+", "0x…", lines[0]) if lines else ""
    text = text if len(text) <= 100 else text[:99] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
