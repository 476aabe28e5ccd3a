"""What a second run of the chapters compares beyond text: pictures, and the data of interactive figures.

nbval skips images, so a stored picture could show anything. Here each is decoded and compared with the one
the same run has just drawn: the same size, and nearly the same ink in nearly every place. Near, because
antialiasing and the last digits of a long training differ between machines; a curve that lies elsewhere, a
missing panel or another drawing is far outside.

`book/conftest.py` hands the hooks below to pytest.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from nbval.kernel import RunningKernel
from PIL import Image, ImageFilter

SHADE = 0.06  # of full contrast, between two blurred pictures at one place
SHARE = 0.004  # of the places may differ by more
NUMBERS = 0.02  # of the largest number of a list, between two states of an interactive figure


def picture_difference(stored: str, drawn: str) -> str | None:
    """Why two PNGs, in base64, are not the same picture, or `None` where they are."""
    one, other = (Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in (stored, drawn))
    if one.size != other.size:
        return f"the stored picture has {one.size} pixels, the one drawn now {other.size}"
    step = max(1, one.width // 270)
    one, other = (
        np.asarray(i.reduce(step).filter(ImageFilter.GaussianBlur(2)), dtype=float) / 255
        for i in (one, other)
    )
    share = float((np.abs(one - other).max(axis=-1) > SHADE).mean())
    if share > SHARE:
        return f"{share:.1%} of the stored picture's places differ from the one drawn now ({SHARE:.1%} may)"
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
    os.environ.update(TQDM_DISABLE="1", NO_COLOR="1", PYTHONHASHSEED="0")
    config.option.nbval_current_env = True
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(Path(__file__).with_name("sanitize.cfg"))
    # Without history IPython does not see the semicolon that keeps a value out of the outputs.
    RunningKernel.execute_cell_input = lambda kernel, source, allow_stdin=None: kernel.kc.execute(
        source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
    )
    config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 600)


def pytest_itemcollected(item):
    """Let each cell of a chapter compare its pictures and figures after its text."""
    if type(item).__name__ == "IPyNbCell":
        text_agrees = item.compare_outputs
        item.compare_outputs = lambda test, ref: _outputs_agree(item, text_agrees, test, ref)


def _outputs_agree(item, text_agrees, drawn, stored) -> bool:
    figures = [_take(outputs, "text/html", 'class="maml-slot"') for outputs in (stored, drawn)]
    pictures = [_take(outputs, "image/png") for outputs in (stored, drawn)]
    if not text_agrees(drawn, stored):
        return False
    found = _compare(*figures, figure_difference, "interactive figures")
    found = found or _compare(*pictures, picture_difference, "pictures")
    item.comparison_traceback = [found] if found else []
    return found is None


def _take(outputs: list, mime: str, having: str = "") -> list[str]:
    """Take the values of one kind out of the outputs, so that they are compared once, by their own rule."""
    taken = []
    for output in outputs:
        data = output.get("data", {})
        if mime in data and having in data[mime]:
            taken.append(data.pop(mime))
    return taken


def _compare(stored: list[str], drawn: list[str], difference, kind: str) -> str | None:
    if len(stored) != len(drawn):
        return f"the page stores {len(stored)} {kind}, this run made {len(drawn)}"
    return next((found for a, b in zip(stored, drawn, strict=True) if (found := difference(a, b))), None)
