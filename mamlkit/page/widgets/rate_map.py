"""The loss after adaptation over inner rates and numbers of steps, as a map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, look_colour, named, within


def rate_map(
    losses: Mapping[str, ArrayLike],
    rates: ArrayLike,
    *,
    trained_at: float,
    n_tasks: int,
    rate: int = 0,
    inner_steps: int = 1,
    start: str = "",
    labels: Mapping[str, str] | None = None,
    caption: str = "",
) -> Figure:
    """Mean losses after adaptation as a map of inner rate and number of steps, with the path of losses that leads to each cell.

    Cells that are worse than no step are marked. The losses are measured elsewhere and kept with three digits. Used in chapter
    `sinusoids`.

    Args:
        losses: of each start under its name in `figures.LOOK`, `(n_seeds, n_rates, max_steps + 1)`: the mean over tasks after
            0, 1, ... steps, positive, the same for every rate before a step.
        rates: the inner rates, `(n_rates,)`, positive and ascending.
        trained_at: the rate that a start was meta-trained with, marked on the map.
        n_tasks: how many tasks each mean is over; the page says it.
        rate: the cell at first, an index of `rates` from 0; the reader's is `figure.rate`.
        inner_steps: its number of steps, 0 to max_steps; the reader's is `figure.inner_steps`.
        start: whose map is shown at first, by default the first; the reader's is `figure.start`.
        labels: what the page calls each start, by name.

    >>> rate_map({"maml": [[[1, 0.5], [1, 2]]]}, [0.1, 0.2], trained_at=0.1, n_tasks=9).start
    'maml'
    """
    if not losses:
        raise ValueError(
            "there are no losses to map; give at least those of one start, such as {'maml': losses}"
        )
    a = np.asarray(rates, dtype=float)
    tables = {name: np.asarray(table, dtype=float) for name, table in losses.items()}
    shapes = {name: table.shape for name, table in tables.items()}
    one = next(iter(shapes.values()))
    fits = a.ndim == 1 and len(a) > 1 and len(one) == 3 and one[0] > 0 and one[1] == len(a) and one[2] > 1
    fits = fits and all(shape[1:] == one[1:] for shape in shapes.values())
    ascending = a.ndim == 1 and bool((a > 0).all() and (np.diff(a) > 0).all() and np.isfinite(a).all())
    refuse(
        {
            f"losses and rates have shapes {shapes} and {a.shape}; give (n_seeds, n_rates, max_steps + 1) for each start and "
            "(n_rates,), with two rates or more and one step or more": not fits,
            "rates must be positive and ascending": not ascending,
        }
        | {
            f"the losses of {name} must be positive and finite; cap those that diverged": not (
                np.isfinite(table).all() and (table > 0).all()
            )
            for name, table in tables.items()
        }
        | {
            f"the losses of {name} differ before a step; nothing has been adapted there, so check the order of the axes": fits
            and not np.allclose(table[..., 0], table[:, :1, 0], rtol=1e-4)
            for name, table in tables.items()
        }
    )
    shown = start or next(iter(tables))
    refuse({f"start={shown!r} has no losses; there are {', '.join(tables)}": shown not in tables})
    within("trained_at", trained_at, a[0], a[-1])
    within("n_tasks", n_tasks, 1, 10**9)
    within("rate", rate, 0, len(a) - 1)
    within("inner_steps", inner_steps, 0, one[2] - 1)
    return Figure(
        "rate_map.js",
        title="The loss after adaptation, over rates and steps",
        alt=(
            "a map of cells, inner rate across and number of steps up, coloured by the mean loss after "
            "adaptation; beside it the path of losses that leads to the chosen cell. From MAML's start the loss is least at the "
            "rate it was trained with, and to its right begins a region in which adapting is worse than no step, wider the more "
            "steps are taken. From a jointly trained start the map is shallow and that region begins later."
        ),
        caption=caption,
        colours={
            **{name: look_colour(name) for name in tables},
            "better": COLOURS["blue"],
            "worse": COLOURS["vermillion"],
        },
        settings={
            "starts": [
                {**named(name, labels), "losses": _short(table).tolist()} for name, table in tables.items()
            ],
            "rates": _short(a).tolist(),
            "trained_at": float(trained_at),
            "n_tasks": n_tasks,
        },
        state={"start": shown, "rate": rate, "inner_steps": inner_steps},
    )


def _short(values: np.ndarray) -> np.ndarray:
    """Three significant digits, which is what the page shows."""
    return np.array([float(f"{value:.3g}") for value in values.flat]).reshape(values.shape)
