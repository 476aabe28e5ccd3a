"""Broken programs to diagnose from their curves and from tests."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, look_colour

Runs = tuple[ArrayLike, ArrayLike]
POINTS, CHOICES = 10, 4


def bug_clinic(
    wards: Mapping[str, Mapping[str, Runs]],
    *,
    tests: Sequence[str],
    red: Mapping[str, Collection[str]],
    says: Mapping[str, str],
    caption: str = "",
) -> Figure:
    """Patients to diagnose: the curves of a broken program beside a healthy one's, tests to run, names to choose from.

    Patients come in a fixed mixed order, and the wrong names are those of patients of the same ward that turn other tests red,
    so that some test can tell. Used in chapter `bug-clinic`.

    Args:
        wards: by the name of each ward its programs, the healthy one first. A program is a pair: what it prints,
            `(n_seeds, n_steps)`, and its examinations at equal distances from the first step to the last, `(n_seeds, n_exams)`.
        tests: the tests' names.
        red: by the name of each patient the tests that it turns red.
        says: by the name of each patient what it does, with the patient as the subject of the sentence.

    The reader's patient is `figure.patient`, from 0; `figure.asked` lists the tests run, as pairs of patient and test;
    `figure.guesses` has for each patient the choices made, the first of which counts.
    """
    patients = {name: ward for ward, programs in wards.items() for name in [*programs][1:]}
    if len(patients) < 2:
        raise ValueError(
            f"there are {len(patients)} patients; give each ward a healthy program first, then its patients"
        )
    healthy = {ward: _thinned(*next(iter(programs.items()))) for ward, programs in wards.items()}
    curves = {name: _thinned(name, wards[ward][name]) for name, ward in patients.items()}
    n_seeds = sorted({len(np.asarray(runs[0])) for programs in wards.values() for runs in programs.values()})
    untold = [name for name in patients if name not in red or name not in says]
    unknown = sorted({test for found in red.values() for test in found} - set(tests))
    refuse(
        {
            f"red or says leaves out {', '.join(untold)}; give each patient its red tests and a sentence": untold,
            f"programs have runs from {' or '.join(map(str, n_seeds))} seeds; give each as many": len(n_seeds)
            > 1,
            f"red names {', '.join(unknown)}, but the tests are {', '.join(tests)}; name those": unknown,
        }
    )
    others = {
        name: [m for m, of in patients.items() if of == ward and set(red[m]) != set(red[name])]
        for name, ward in patients.items()
    }
    alone = [name for name, apart in others.items() if not apart or not red[name]]
    if alone:
        raise ValueError(
            f"no test tells {', '.join(alone)} from the others of its ward; add a test or a patient"
        )
    dice, order = random.Random(0), [*patients]
    dice.shuffle(order)
    chosen = {n: [n, *dice.sample(others[n], min(CHOICES - 1, len(others[n])))] for n in order}
    for names in chosen.values():
        dice.shuffle(names)
    return Figure(
        "bug_clinic.js",
        title="Which bug is it?",
        alt=(
            f"{len(patients)} broken programs, each with the loss that it prints and its loss when examined "
            "over the meta-steps, beside the curves of a healthy program. The reader runs tests on it, sees which turn red, and "
            "chooses the bug among several; a wrong choice is answered by the test that tells the two apart."
        ),
        caption=caption,
        colours={
            "printed": look_colour("before"),
            "examined": look_colour("after"),
            "right": COLOURS["green"],
            "wrong": COLOURS["vermillion"],
        },
        settings={
            "tests": [test.replace("_", " ") for test in tests],
            "healthy": healthy,
            "n_seeds": n_seeds[0],
            "patients": [
                {
                    "name": name,
                    "says": says[name],
                    "ward": patients[name],
                    "red": [i for i, test in enumerate(tests) if test in red[name]],
                    "choices": [order.index(other) for other in chosen[name]],
                    **curves[name],
                }
                for name in order
            ],
        },
        state={"patient": 0, "asked": [], "guesses": [[] for _ in order]},
    )


def _thinned(name: str, runs: Runs) -> dict[str, Any]:
    """Of each curve the places and the mean, least and largest over the seeds; what is printed in `POINTS` stretches."""
    printed, examined = (np.asarray(curve, dtype=float) for curve in runs)
    fits = printed.ndim == examined.ndim == 2 and len(printed) == len(examined) > 0
    refuse(
        {
            f"the curves of {name} have shapes {printed.shape} and {examined.shape}; give (n_seeds, n_steps) and "
            "(n_seeds, n_exams) with at least 1 step and 2 examinations": not (
                fits and printed.shape[1] >= 1 and examined.shape[1] >= 2
            ),
            f"the curves of {name} are not all finite; check that program before showing it": not all(
                np.isfinite(curve).all() for curve in (printed, examined)
            ),
        }
    )
    n_steps = printed.shape[1]
    stretches = np.array_split(np.arange(n_steps), min(POINTS, n_steps))
    at = [float(steps.mean()) + 0.5 for steps in stretches]
    means = np.stack([printed[:, steps].mean(1) for steps in stretches], 1)

    def curve(x: Any, seeds: np.ndarray) -> list[Any]:
        rows = (np.asarray(x), np.mean(seeds, 0), np.min(seeds, 0), np.max(seeds, 0))
        return [row.round(3).tolist() for row in rows]

    exams = np.linspace(0, n_steps, examined.shape[1])
    return {"printed": curve(at, means), "examined": curve(exams, examined)}
