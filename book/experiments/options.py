"""What the scripts' command lines share: a number, a device or a folder that can't be used is refused before the run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch


def whole(least: int, *, of: int = 1) -> Callable[[str], int]:
    """A reader of whole numbers of at least `least`, and multiples of `of`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or number % of:
            multiple = f", a multiple of {of}" if of > 1 else ""
            raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {least}{multiple}")
        return number

    return read


def minutes(text: str) -> float:
    """A time above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not found > 0:  # nan is neither
        raise argparse.ArgumentTypeError(f"{text} is no time above 0 minutes")
    return found


def device(text: str) -> torch.device:
    """A device that is here."""
    try:
        found = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is no device; use cpu or cuda") from None
    n = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(found.type)
    if n is None:
        raise argparse.ArgumentTypeError(f"{text} is not a device these scripts run on; use cpu or cuda")
    if (found.index or 0) >= n:
        raise argparse.ArgumentTypeError(f"{text} is not here: torch finds {n} of the kind; use cpu")
    return found


def folder(text: str) -> Path:
    """A folder, made if it is not there."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is no folder and can't be made one: {error.strerror}"
        ) from None
    return Path(text)
