"""The first cell of every chapter: seeds, threads, print options, style, and one line that says what runs."""

from __future__ import annotations

import os
import random
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import mamlkit
from mamlkit.page import figures
from mamlkit.page.drawn import picture

__all__ = ["setup"]


def setup(*, seed: int, device: str = "cpu", threads: int = 2, kit: str | None = None) -> None:
    """Make the notebook's results repeatable and print one line: the kit's version, torch's version, the
    device.

    Seeds Python, NumPy and torch (tasks and noise of the kit come from the generators it is given, fresh
    weights from torch's), fixes the number of CPU threads, sets print options of four decimals, draws
    figures in the page whatever MPLBACKEND says, activates the house style and makes stored pictures say what
    they show (`mamlkit.page.drawn`). Returns nothing, so that the cell stores one line. What is and what is
    not bit-equal is on the page
    `reproducibility`.

    Args:
        seed: an integer from 0 to 2**32 - 1.
        device: where the chapter computes, as torch writes it. Only checked and printed: tensors are moved
            by the chapter.
        threads: CPU threads for torch, at least 1. Sums are taken in another order with another number, so
            results can differ in the last digits. The environment variable `MAMLKIT_THREADS` stands in for it.
        kit: the version the page was written for, as `"0.1"` for any 0.1.x.

    Raises:
        ValueError: the seed, the thread count (here or in `MAMLKIT_THREADS`) or the device does not exist.
        RuntimeError: the installed kit is not the version asked for, or Python leaves `assert` out, with
            which the exercises check answers.
    """
    if not __debug__:
        raise RuntimeError(
            "Python runs with -O, so that assert checks nothing and every answer would pass; "
            "unset PYTHONOPTIMIZE and start the kernel again"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} but NumPy takes 0 to {2**32 - 1}; choose one of these")
    if threads < 1:
        raise ValueError(f"threads={threads} but torch needs at least 1; leave it at 2")
    installed = mamlkit.__version__
    if kit is not None and installed.split(".")[: len(kit.split("."))] != kit.split("."):
        raise RuntimeError(
            f"this page was written for mamlkit {kit} but {installed} is installed; "
            "run `pip install -e .` in the book's folder"
        )
    where = _device(device)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, for the reader's own use of the global generator
    torch.manual_seed(seed)
    torch.set_num_threads(_threads(threads))
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.set_printoptions(precision=4, linewidth=100)  # type: ignore[no-untyped-call]
    np.set_printoptions(precision=4, suppress=True, linewidth=100)
    _draw_in_the_page()
    figures.use()
    _plain_pictures()
    print(f"mamlkit {installed} · torch {torch.__version__.split('+')[0]} · {where}")


def _threads(wanted: int) -> int:
    told = os.environ.get("MAMLKIT_THREADS", "")
    if told and not (told.isdecimal() and int(told) > 0):
        raise ValueError(f"MAMLKIT_THREADS={told!r} is no number of threads; unset it, or set 1 or more")
    return int(told or wanted)


def _device(name: str) -> str:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name!r} is not usable here ({str(error).splitlines()[0]}); use 'cpu'"
        ) from error
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _draw_in_the_page() -> None:
    # MPLBACKEND=Agg in a shell's profile, usual on clusters, takes every figure out of a notebook without a word
    if _in_notebook() and "inline" not in matplotlib.get_backend().lower():
        from IPython import get_ipython

        get_ipython().run_line_magic("matplotlib", "inline")


def _plain_pictures() -> None:
    # bbox_inches="tight", the notebook's default, makes a picture's size depend on its text.
    if not _in_notebook():
        return
    from IPython import get_ipython
    from matplotlib_inline.config import InlineBackend

    backend: Any = InlineBackend.instance()
    backend.figure_formats = {"png"}
    backend.print_figure_kwargs = {"bbox_inches": None, "metadata": {"Software": None}}
    shell: Any = get_ipython()
    shell.display_formatter.formatters["image/png"].for_type(Figure, picture)


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
