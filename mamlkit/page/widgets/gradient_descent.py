"""Gradient descent on a parabola, with its step size and its start to turn."""

from __future__ import annotations

from mamlkit.page.figures import COLOURS
from mamlkit.page.widgets.figure import Figure, within


def gradient_descent(
    *, step_size: float = 0.3, start: float = 2.0, steps: int = 12, caption: str = ""
) -> Figure:
    """Gradient descent on f(x) = x², with sliders for the step size and the start.

    A step is x ← (1 − 2η) x: it converges for 0 < η < 1, jumps from side to side beyond 1/2 and diverges
    beyond 1. Used in chapter `learning-to-learn`.

    Args:
        step_size: η at first, within 0.05 and 1.1; the reader's is `figure.step_size`.
        start: x₀ at first, within ±2.4; the reader's is `figure.start`.
        steps: how many steps are shown, at least 1.

    >>> gradient_descent(step_size=0.4)
    Interactive figure: Gradient descent on f(x) = x²
    """
    within("step_size", step_size, 0.05, 1.1)
    within("start", start, -2.4, 2.4)
    within("steps", steps, 1, 100)
    return Figure(
        "gradient_descent.js",
        title="Gradient descent on f(x) = x²",
        alt=(
            "the iterates of gradient descent on the parabola x², and their distance "
            "from the minimum, as the step size η moves. Each step multiplies x by 1 − 2η, so the distance "
            "shrinks for 0 < η < 1 and grows for η > 1."
        ),
        caption=caption,
        colours={"path": COLOURS["blue"]},
        settings={"steps": steps},
        state={"step_size": float(step_size), "start": float(start)},
    )
