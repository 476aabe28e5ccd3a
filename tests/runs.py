"""The long runs' scripts in small: a command line, a few steps instead of many, and made-up characters."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass

import pytest
import torch

from mamlkit.data.image_sets import ImageClasses

TINY = {"meta_steps": 12, "validate_every": 3, "channels": 2, "meta_batch_size": 2, "seeds": (0, 1), "n_way": 3,
        "n_validation_tasks": 4, "n_test_tasks": 5, "test_steps": (1, 2)}  # fmt: skip


def call(script, *arguments) -> None:
    """The script's `main()` with such a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        script.main()


def small(script, **settings):
    """The script's settings with other defaults."""
    defaults = [(name, object, value) for name, value in settings.items()]
    return make_dataclass("Config", defaults, bases=(script.Config,), frozen=True)


def few_steps(script, **settings):
    """The settings of a race of two meta-steps, one in a trial."""
    few = {**TINY, "meta_steps": 2, "trial_steps": 1, "k_query": 2, **settings}
    return script.Config(**{name: value for name, value in few.items() if hasattr(script.Config, name)})


def made_up(split: str, protocol: str = "alphabets") -> ImageClasses:
    """Eight characters a split, each a fixed picture with a little noise."""
    generator = torch.Generator().manual_seed(len(split))
    shapes = torch.rand(8, 1, 1, 28, 28, generator=generator)
    noise = torch.rand(8, 20, 1, 28, 28, generator=generator)
    names = tuple(f"{split} {i}" for i in range(8))
    return ImageClasses((0.8 * shapes + 0.2 * noise).round(), names, names)
