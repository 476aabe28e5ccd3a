"""How a second run of the chapters compares pictures and interactive figures; `comparison` does the texts.

nbval skips images, so a stored picture could show anything. Here each is compared with the one the same run has
just drawn, twice. By what `mamlkit.page.drawn` wrote into both: the words must be the same, and no point may lie
further away than about two pixels. And by their pixels, roughly: the same size, and nearly the same ink in
nearly every place.

`book/conftest.py` hands the hooks below to pytest.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from comparison import ORDINARY, Tolerance, outputs_difference, text_difference, tolerances
from nbval.kernel import RunningKernel
from PIL import Image, ImageFilter
from refresh import kernel_environment

from mamlkit.page.drawn import KEYWORD
from mamlkit.page.widgets.figure import SLOT

MOVED = 0.005  # of the axes, between two places of one point: about two pixels
RATIO = 0.02  # of a value along a logarithmic axis, where that is less
LABELS = 0.03  # of the axes, between two places of a label or arrow, which move when numbers get wider
SHADE = 0.06  # of full contrast, between two blurred pictures at one place
SHARE = 0.004  # of the places may differ by more
NUMBERS = 0.02  # of the largest number of a list, between two states of an interactive figure


def picture_difference(stored: str, drawn: str, allowed: Tolerance = ORDINARY) -> str | None:
    """Why two PNGs, in base64, are not the same picture, or `None` where they are."""
    found = []
    for png, whose in ((stored, "stored picture"), (drawn, "picture drawn now")):
        text = _image(png).info.get(KEYWORD)
        if text is None:
            return f"the {whose} does not say what it shows: draw it after notebook.setup, and refresh"
        found.append(json.loads(text))
    if allowed.task:
        return _content_difference(*map(_without_task, found), allowed)
    return _content_difference(*found, allowed) or pixels_difference(stored, drawn, allowed)


def _without_task(content: dict) -> dict:
    texts = ["an answer" if text[0] in "✓✗" else text for text in content["texts"]]
    marks = [[m for m in axes["marks"] if not m[0].startswith("AxesImage")] for axes in content["axes"]]
    axes = [{**axes, "marks": left} for axes, left in zip(content["axes"], marks, strict=True)]
    return {"texts": texts, "axes": axes}


def _image(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def pixels_difference(stored: str, drawn: str, allowed: Tolerance = ORDINARY) -> str | None:
    """Why two PNGs, in base64, do not look nearly the same, or `None` where they do."""
    one, other = (_image(png).convert("RGB") for png in (stored, drawn))
    if one.size != other.size:
        return f"the stored picture has {one.size} pixels, the one drawn now {other.size}"
    step = max(1, one.width // 270)
    one, other = (
        np.asarray(i.reduce(step).filter(ImageFilter.GaussianBlur(2)), dtype=float) / 255
        for i in (one, other)
    )
    share = float((np.abs(one - other).max(axis=-1) > SHADE).mean())
    room = SHARE * max(1, float(allowed.axes) / MOVED)
    if share > room:
        return f"{share:.1%} of the stored picture's places differ from the one drawn now ({room:.1%} may)"
    return None


def _content_difference(stored: dict, drawn: dict, allowed: Tolerance) -> str | None:
    if len(stored["texts"]) != len(drawn["texts"]):
        gone, new = (set(a["texts"]) - set(b["texts"]) for a, b in ((stored, drawn), (drawn, stored)))
        return f"the picture's texts {sorted(gone)} are now {sorted(new)}"
    for text, now in zip(stored["texts"], drawn["texts"], strict=True):
        if why := text_difference(text, now, allowed):
            return f"a text of the picture, {why}"
    if len(stored["axes"]) != len(drawn["axes"]):
        return f"the stored picture has {len(stored['axes'])} axes, the one drawn now {len(drawn['axes'])}"
    pairs = enumerate(zip(stored["axes"], drawn["axes"], strict=True), 1)
    return next((f"axes {i}: {why}" for i, axes in pairs if (why := _axes_difference(*axes, allowed))), None)


def _axes_difference(stored: dict, drawn: dict, allowed: Tolerance) -> str | None:
    if stored["scales"] != drawn["scales"]:
        return f"the scales {stored['scales']} are now {drawn['scales']}"
    rooms = []
    for name, scale, i in (("x", stored["scales"][0], 0), ("y", stored["scales"][1], 2)):
        ends = np.array([stored["limits"][i : i + 2], drawn["limits"][i : i + 2]])
        ends = np.log(ends) if scale == "log" else ends
        length = abs(ends[0, 1] - ends[0, 0])
        rooms.append(max(min(MOVED, RATIO / length if scale == "log" else 1), float(allowed.axes)))
        if np.abs(ends[0] - ends[1]).max() > rooms[-1] * length:
            return f"the {name} axis from {stored['limits'][i : i + 2]} is now {drawn['limits'][i : i + 2]}"
    if len(stored["marks"]) != len(drawn["marks"]):
        return f"{len(stored['marks'])} marks are now {len(drawn['marks'])}"
    for (name, places), (new_name, new_places) in zip(stored["marks"], drawn["marks"], strict=True):
        if why := text_difference(name, new_name, allowed):
            return f"a mark, {why}"
        a, b = (np.array(p, dtype=float) for p in (places, new_places))
        if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
            return f"{name}: {len(a) // 2} points are now {len(b) // 2}, or others are missing"
        room = np.resize(np.maximum(rooms, LABELS) if name in ("Text", "Arrow") else rooms, a.shape)
        far = np.abs(a - b) / np.maximum(1, np.abs(a))  # outside of the axes only the direction is seen
        if (far > room).any():
            worst = np.nanargmax(far / room)
            return f"{name}: a point lies {far[worst]:.1%} of the axes elsewhere ({room[worst]:.1%} may)"
    return None


def figure_difference(stored: str, drawn: str) -> str | None:
    """Why the HTML of two interactive figures is not the same figure, or `None` where it is."""
    pattern = re.compile(r'(<script type="application/json">)(.*?)(</script>)', re.DOTALL)
    states = [[json.loads(match[2]) for match in pattern.finditer(page)] for page in (stored, drawn)]
    frames = [re.sub(r"[0-9a-f]{12}", "·", pattern.sub(r"\1\3", page)) for page in (stored, drawn)]
    if frames[0] != frames[1]:
        return "the stored interactive figure has another front end than the one made now"
    return _state_difference(states[0], states[1], "state")


def _state_difference(stored: Any, drawn: Any, where: str) -> str | None:
    if isinstance(stored, dict) and isinstance(drawn, dict) and stored.keys() == drawn.keys():
        pairs = [(stored[key], drawn[key], f"{where}.{key}") for key in stored]
    elif isinstance(stored, list) and isinstance(drawn, list) and len(stored) == len(drawn):
        if stored and all(_is_number(value) for value in stored + drawn):
            scale = max(map(abs, stored))
            far = max(abs(a - b) for a, b in zip(stored, drawn, strict=True))
            return f"{where} differs by {far:.3g}" if far > NUMBERS * scale + 1e-6 else None
        pairs = [(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(stored, drawn, strict=True))]
    elif _is_number(stored) and _is_number(drawn):
        near = math.isclose(stored, drawn, rel_tol=NUMBERS, abs_tol=1e-6)
        return None if near else f"{where} was {stored:.6g} and is now {drawn:.6g}"
    else:
        return None if stored == drawn else f"{where} was {str(stored)[:60]!r} and is now {str(drawn)[:60]!r}"
    return next((found for pair in pairs if (found := _state_difference(*pair))), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def pytest_configure(config):
    """Settings that every second run needs, so that `pytest --nbval book/*.ipynb` is the whole command."""
    if not getattr(config.option, "nbval", False):
        return
    settings = kernel_environment()  # nothing of the user's may change an output
    os.environ.clear()
    os.environ.update(settings)
    config.option.nbval_current_env = True
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(Path(__file__).with_name("sanitize.cfg"))
    # Without history IPython does not see the semicolon that keeps a value out of the outputs.
    RunningKernel.execute_cell_input = lambda kernel, source, allow_stdin=None: kernel.kc.execute(
        source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
    )
    config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 600)


def pytest_itemcollected(item):
    """Let each cell of a chapter compare texts, pictures and figures by our rules in place of nbval's."""
    if type(item).__name__ == "IPyNbCell":
        item.compare_outputs = lambda drawn, stored: _outputs_agree(item, drawn, stored)


def _outputs_agree(item, drawn: list, stored: list) -> bool:
    line = item.cell.source.strip().split("\n")[0].strip()
    figure = item.cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
    granted = (_allowed().get((item.path.name, name)) for name in (figure, line))
    allowed = next(filter(None, granted), ORDINARY)
    figures = [_take(outputs, "text/html", SLOT) for outputs in (stored, drawn)]
    pictures = [_take(outputs, "image/png") for outputs in (stored, drawn)]
    found = outputs_difference(stored, drawn, allowed, item.sanitize)
    found = found or _compare(*figures, figure_difference, "interactive figures")
    found = found or _compare(*pictures, partial(picture_difference, allowed=allowed), "pictures")
    item.comparison_traceback = [found] if found else []
    return found is None


@cache
def _allowed() -> dict[tuple[str, str], Tolerance]:
    return tolerances(Path(__file__).with_name("allowed_tolerances.txt").read_text(encoding="utf-8"))


def _take(outputs: list, mime: str, having: str = "") -> list[str]:
    """Take the values of one kind out of the outputs, so that they are compared once, by their own rule."""
    data = [output.get("data", {}) for output in outputs]
    return [of_output.pop(mime) for of_output in data if mime in of_output and having in of_output[mime]]


def _compare(stored: list[str], drawn: list[str], difference, kind: str) -> str | None:
    if len(stored) != len(drawn):
        return f"the page stores {len(stored)} {kind}, this run made {len(drawn)}"
    return next((found for a, b in zip(stored, drawn, strict=True) if (found := difference(a, b))), None)
