"""Networks mixed along a straight line, and MAML's steps from the mix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, look_colour, stored, within
from mamlkit.page.widgets.mlp import columns, packed
from mamlkit.tasks import Params, Task

PAIRS = 3


def weight_averages(
    starts: Sequence[Params],
    tasks: Task,
    *,
    orders: Sequence[Tensor],
    inner_lr: float,
    inner_steps: int = 10,
    share: float = 0.2,
    pair: int = 1,
    more_steps: int = 1,
    task: int = 0,
    caption: str = "",
) -> Figure:
    """The error of networks on the straight line between two adapted ones, before and after steps from there.

    There are three pairs: a network and its shuffled twin, two adapted from two starts, and two adapted from one start, each
    on every other support point. The front end adapts, mixes and steps by itself, on the given float32 numbers and in double
    precision. Used in chapter `averaging-is-not-maml` (model soups: Wortsman et al. 2022).

    Args:
        starts: the parameters of two meta-trained networks of the same shape, `Linear` layers from 1 input to 1 output with
            ReLU between them.
        tasks: a stack of regression tasks, inputs and targets `(n_tasks, n, 1)`.
        orders: for each hidden layer the order of its units in the twin, a permutation.
        inner_lr: α of all inner steps.
        inner_steps: how many the networks of a pair have taken.
        share: of the second network in the mix at first, 0 to 1; the reader's is `figure.share`.
        pair: which pair is shown at first, 0 to 2 as above; the reader's is `figure.pair`.
        more_steps: steps from the mix at first, 0 to 10; the reader's is `figure.more_steps`.
        task: which task is shown at first, from 0; the reader's is `figure.task`.
    """
    within("how many starts", len(starts), 2, 2)
    first, second = (packed(f"start {i}", params) for i, params in enumerate(starts, 1))
    parts = columns(tasks, "(n_tasks, n, 1)")
    hidden, given = first["sizes"][1:-1], [sorted(int(unit) for unit in order) for order in orders]
    refuse(
        {
            f"the starts have layers of {first['sizes']} and {second['sizes']} units; give two of one shape": (
                first["sizes"] != second["sizes"]
            ),
            f"there are {len(parts[0])} support sets and {len(parts[2])} query sets; give both of each task": (
                len(parts[0]) != len(parts[2])
            ),
            "a pair shares the support points; give 2 of each task at least": parts[0].shape[1] < 2,
            f"the orders are no permutations of {hidden} hidden units; use torch.randperm": given
            != [[*range(units)] for units in hidden],
        }
    )
    within("inner_lr", inner_lr, 1e-4, 1.0)
    within("inner_steps", inner_steps, 1, 20)
    within("share", share, 0.0, 1.0)
    within("pair", pair, 0, PAIRS - 1)
    within("more_steps", more_steps, 0, 10)
    within("task", task, 0, len(parts[0]) - 1)
    return Figure(
        "mlp.js",
        "weight_averages.js",
        title="Walk from one network to another",
        alt=(
            "the error of the weights on the straight line between two networks that have learned a "
            "sinusoid, before and after gradient steps from there, and the function at the chosen place. Between a network and "
            "its shuffled twin, and between networks from two starts, the error climbs to a barrier that the steps do not "
            "take down; between two networks from one start there is none."
        ),
        caption=caption,
        colours={
            "mix": COLOURS["vermillion"],
            "after": look_colour("maml"),
            "start": COLOURS["green"],
            "truth": look_colour("truth"),
        },
        settings={
            "sizes": first["sizes"],
            "starts": [first["weights"], second["weights"]],
            "orders": [[int(unit) for unit in order] for order in orders],
            "tasks": [[stored(part[:, 0], 4) for part in task] for task in zip(*parts)],
            "inner_lr": inner_lr,
            "inner_steps": inner_steps,
            "max_more": 10,
        },
        state={"share": float(share), "pair": pair, "more_steps": more_steps, "task": task},
    )
