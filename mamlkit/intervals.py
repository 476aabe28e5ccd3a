"""A mean and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from mamlkit.calls import checked


class MeanCI(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval; prints as `mean ± half_width`."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


@checked
def mean_ci95(values: Tensor | Sequence[float]) -> MeanCI:
    """The mean of independent values `(n,)` and the half-width of its 95 % interval by Student's t with n - 1 degrees of freedom.

    The interval says how far the mean over *these* units (tasks or seeds) may be off; over tasks it says nothing of the spread
    over seeds.

    Raises:
        ValueError: fewer than 2 values, more than one axis, or a value that is not finite.

    >>> print(mean_ci95(torch.tensor([1.0, 2.0, 3.0])))  # t = 4.303 at 2 degrees of freedom
    2.000 ± 2.484
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.dim() > 1:
        raise ValueError(
            f"values has shape {tuple(values.shape)}, but an interval is over one kind of unit, (n,); take the mean over the "
            f"other axes first: of (seeds, tasks) values.mean(1) leaves the seeds, values.mean(0) the tasks"
        )
    values = values.flatten()
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"{int((~torch.isfinite(values)).sum())} of {n} values are not finite; drop or mend them first"
        )
    half_width = stdtrit(n - 1, 0.975) * values.std().item() / math.sqrt(n)
    return MeanCI(values.mean().item(), half_width)
