"""Few-shot learning as a game against the nearest neighbour."""

from __future__ import annotations

import base64
import random

import numpy as np
import torch

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, within
from mamlkit.tasks import Task


def few_shot_game(tasks: Task, *, caption: str = "") -> Figure:
    """Few-shot learning as a game: which class does a drawing belong to, says the reader, says pixel distance.

    Of each task one query is asked, chosen at random with a fixed seed. The page shows four shades of grey;
    the nearest neighbour, in squared distance, sees the images as given. The reader's choices are
    `figure.guesses`. Used in chapter `learning-to-learn`.

    Args:
        tasks: a stack of image tasks as `sampling.class_tasks` draws it: support and query images
            `(n_tasks, n, channels, h, w)` with ink 1 on paper 0 in their first channel, labels
            `(n_tasks, n)` from 0, as many drawings of every class.
    """
    (support_x, support_y), (query_x, query_y) = ((part.x.cpu(), part.y.cpu()) for part in tasks)
    alike = query_x.shape[2:] == support_x.shape[2:] and len(query_x) == len(support_x) > 0
    labelled = support_y.shape == support_x.shape[:2] and query_y.shape == query_x.shape[:2]
    if support_x.dim() != 5 or not alike or not labelled:
        raise ValueError(
            f"support images {tuple(support_x.shape)}, query images {tuple(query_x.shape)} and their labels "
            f"{tuple(support_y.shape)} and {tuple(query_y.shape)} do not fit; give a stack of tasks, images "
            "(n_tasks, n, channels, h, w) and labels (n_tasks, n), and draw support and query together"
        )
    n_way, low, high = int(support_y.max()) + 1, float(support_x.min()), float(support_x.max())
    k_shot = support_y.shape[1] // n_way
    even = all(torch.equal(y.bincount(), torch.full((n_way,), k_shot)) for y in support_y)
    refuse(
        {
            f"pixels lie between {low:.3g} and {high:.3g}; scale the images to 0 (paper) to 1 (ink)": (
                not 0 <= low <= high <= 1
            ),
            f"the support labels are not {n_way} classes with equally many drawings in every task; use class_tasks": not even,
        }
    )
    within("n_way", n_way, 2, 9)
    chooser = random.Random(0)
    drawings, answers, nearest = [], [], []
    for images, labels, queries, query_labels in zip(support_x, support_y, query_x, query_y):
        order = torch.argsort(labels, stable=True)
        asked = chooser.randrange(len(queries))
        distances = (images[order] - queries[asked]).flatten(1).double().square().sum(dim=1)
        drawings.append(torch.cat([images[order], queries[asked : asked + 1]])[:, 0])
        answers.append(int(query_labels[asked]))
        nearest.append(int(labels[order][distances.argmin()]))
    shades = (torch.cat(drawings).double() * 3).round().clamp(0, 3).to(torch.uint8).flatten().numpy()
    shades = np.pad(shades, (0, -len(shades) % 4)).reshape(-1, 4)
    packed = (shades << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    return Figure(
        "few_shot_game.js",
        title="Few-shot learning as a game",
        alt=(
            f"{len(answers)} tasks, each with {n_way} classes of {k_shot} "
            f"drawing{'s' * (k_shot > 1)} and one more drawing to classify. The reader's score is set beside "
            "that of the nearest neighbour in pixels."
        ),
        caption=caption,
        colours={"right": COLOURS["green"], "wrong": COLOURS["vermillion"]},
        settings={
            "n_way": n_way,
            "k_shot": k_shot,
            "height": support_x.shape[-2],
            "width": support_x.shape[-1],
            "drawings": base64.b64encode(packed.tobytes()).decode(),
            "answers": answers,
            "rivals": [{"name": "the nearest neighbour in pixels", "guesses": nearest}],
        },
        state={"guesses": []},
    )
