"""What every interactive figure is: a widget beside a kernel, and HTML that holds the same front end and the same state."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import ArrayLike

from mamlkit.calls import refuse
from mamlkit.page.figures import COLOURS, LOOK

FRONT = Path(__file__).parent
SLOT = 'class="maml-slot"'  # by which a stored page is known to hold a figure
LABELS = {
    "maml": "MAML",
    "joint": "joint training",
    "fomaml": "first-order MAML",
    "scratch": "random initialisation",
}
TASK_COLOURS = [COLOURS[name] for name in ("green", "purple", "ochre", "sky", "grey")]


@cache
def source(*names: str) -> str:
    """The text of files of the front end, one after the other."""
    return "".join((FRONT / name).read_text(encoding="utf-8") for name in names)


def look_colour(look: str) -> str:
    """The colour of a name in `figures.LOOK`, as the page has it."""
    colour: str = LOOK[look]["color"]
    # black is the page's own ink, which is white in dark mode
    return "var(--maml-ink)" if colour == COLOURS["black"] else colour


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside its bounds."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value} lies outside {low:g} to {high:g}; choose a value within")


def finite(names: str, *parts: np.ndarray) -> None:
    """Refuse numbers that are not."""
    is_finite = all(np.isfinite(part).all() for part in parts)
    refuse({f"{names} must be finite; one of their numbers is not": not is_finite})


def definite(names: str, matrices: np.ndarray) -> None:
    """Refuse curvatures of which some direction has none."""
    upright = np.allclose(matrices, matrices.swapaxes(-1, -2)) and np.linalg.eigvalsh(matrices).min() > 0
    refuse({f"each of {names} must be symmetric with positive eigenvalues; use B @ B.T + I": not upright})


def stored(values: ArrayLike, digits: int) -> Any:
    """Lists of numbers with so many decimals."""
    return np.asarray(values, dtype=float).round(digits).tolist()


def around(*places: np.ndarray, margin: float, share: float, flatter: float = 1.0) -> dict[str, list[float]]:
    """The x and y of a plane that shows these places, with a margin that grows by a share of how far they lie apart."""
    points = np.vstack(places)
    low, high = points.min(axis=0), points.max(axis=0)
    middle, reach = (low + high) / 2, margin + share * float((high - low).max())
    far = {"x": reach, "y": flatter * reach}
    return {name: [float(m - r), float(m + r)] for m, (name, r) in zip(middle, far.items())}


def named(look: str, labels: Mapping[str, str] | None) -> dict[str, str]:
    """A look of `figures.LOOK` and what a page calls it."""
    return {"look": look, "label": {**LABELS, **(labels or {})}.get(look, look.replace("_", " "))}


class Figure(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """An interactive figure: displayed by a notebook, or by any page that holds its `html`.

    Args:
        parts: the files of its front end; the last one defines `render`.
        title: its name, also for screen readers.
        alt: what it shows, one or two sentences that stand in its place where scripts are off.
        settings: what stays as it is.
        state: what the reader moves, each a trait of this object with the type of its first value:
            `figure.theta` reads it, `figure.theta = [0.0, 1.0]` moves it, and `figure.observe(function,
            "theta")` listens to it.
    """

    def __init__(
        self,
        *parts: str,
        title: str,
        alt: str,
        caption: str,
        colours: Mapping[str, str],
        settings: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        kinds: dict[type, Any] = {
            float: traitlets.Float,
            int: traitlets.Int,
            bool: traitlets.Bool,
            list: traitlets.List,
            str: traitlets.Unicode,
        }
        self.alt = f"Interactive figure: {alt}"
        self.front = source("page.js", *parts)
        self.reader_state = sorted(state)
        self.add_traits(
            _esm=traitlets.Unicode(self.front + "\nexport default { render };\n").tag(sync=True),
            _css=traitlets.Unicode(source("figure.css")).tag(sync=True),
            settings=traitlets.Dict(read_only=True).tag(sync=True),
            **{name: kinds[type(value)](value).tag(sync=True) for name, value in state.items()},
        )
        self.set_trait("settings", {**settings, "title": title, "caption": caption, "colours": dict(colours)})
        super().__init__()

    @property
    def html(self) -> str:
        """The figure in its present state as HTML that needs nothing else; equal figures give equal text."""
        now = {"settings": self.settings, **{name: getattr(self, name) for name in self.reader_state}}
        # "<" could close the script early
        state = json.dumps(now, sort_keys=True, separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        )
        script = self.front + source("stand_in.js")
        name = hashlib.sha256((script + state).encode()).hexdigest()[:12]
        return (
            f'<div {SLOT} data-figure="{name}">\n<style>\n{source("figure.css")}</style>\n'
            f'<div class="maml-figure"><p>{html.escape(self.alt)}</p></div>\n'
            f'<script type="application/json">{state}</script>\n<script>\n(() => {{\n"use strict";\n{script}'
            f"for (const slot of document.querySelectorAll('[data-figure=\"{name}\"]:not([data-live])')) {{\n"
            '  slot.setAttribute("data-live", "");\n'
            "  const state = "
            "JSON.parse(slot.querySelector('script[type=\"application/json\"]').textContent);\n"
            '  render({ model: standIn(state), el: slot.querySelector(".maml-figure") });\n'
            "}\n})();\n</script>\n</div>"
        )

    def __repr__(self) -> str:
        return f"Interactive figure: {self.settings['title']}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "text/html": self.html}, metadata
