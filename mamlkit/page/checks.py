"""Claims and exercises: a sentence beside the condition that proves it.

A page that says something runs what it says. `claim` is for the book's own sentences and stops the notebook
when one is false; `exercise` is for the reader's answers and never stops anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["claim", "exercise"]


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
        condition: takes nothing; returns what `claim` accepts, or `None` for "no answer so far".

    Raises:
        TypeError: `condition` cannot be called, write `lambda: ...`, or the label is no text.

    >>> answer = None
    >>> exercise("ex-sums-1", lambda: answer == 4)
    … ex-sums-1: not yet (the check is false)
    >>> answer = 2 + 2
    >>> exercise("ex-sums-1", lambda: answer == 4)
    ✓ ex-sums-1: solved
    """
    _check_text("label", label)
    if not callable(condition):
        raise TypeError(f"{label} has the condition {condition!r}; write exercise({label!r}, lambda: ...)")
    try:
        outcome = condition()
        reason = "no answer so far" if outcome is None else "" if _truth(outcome) else "the check is false"
    except Exception as error:  # whatever the reader's code raises is the reason
        reason = _reason(error)
    print(f"… {label}: not yet ({reason})" if reason else f"✓ {label}: solved")


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
        return "no answer so far"
    # Addresses and endless messages differ from run to run, and the reason is stored on the page.
    text = re.sub(r"0x[0-9a-fA-F]+", "0x…", lines[0]) if lines else ""
    text = text if len(text) <= 100 else text[:99] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
