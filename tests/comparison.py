"""What a second run of the chapters compares: words exactly, numbers as far as the page vouches for them.

Two processors round differently, so a stored output and a new one agree when their words are equal and each
number is within what the page itself says of it:

    12.3 ± 0.4     the mean within its own half-width; the half-width within a quarter of itself
    0.437, 1e-05   within one unit of the last printed digit (the finer one, where the two differ)
    71 %           within one per cent
    600, seed 3    exactly: an integer counts something
    ✓ a claim      exactly, numbers and all: they are bounds, and bounds are not measured
    nan, inf       exactly: they are words

Blanks and the length of rules do not count, because a number that grows by a digit moves its column.
`allowed_tolerances.txt` widens this for single cells, each with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
    r"(?:(?:\.\d+)(?:[eE][-+−]\d+)?(?![\d]|\.\d)|(?:[eE][-+−]\d+)?(?!\w|\.\d))"
)
NEVER_TEXT = ("image/png", "application/vnd.jupyter.widget-view+json")


@dataclass(frozen=True)
class Tolerance:
    """What a line of `allowed_tolerances.txt` grants one cell beside the ordinary rules."""

    units: Decimal | None = None  # of the last digit, and of an integer
    share: Decimal = Decimal(0)  # of the number
    axes: Decimal = Decimal(0)  # of a picture's axes
    task: Decimal = Decimal(0)  # 1 where a picture may show another task: other drawings and answers (✓, ✗)


ORDINARY = Tolerance()


@dataclass(frozen=True)
class Number:
    """A number as it was printed."""

    value: Decimal
    unit: Decimal  # of its last digit; zero for an integer that counts
    text: str


def text_difference(stored: str, drawn: str, allowed: Tolerance = ORDINARY) -> str | None:
    """Why two printed texts do not say the same, or `None` where they do."""
    stored_lines, drawn_lines = (text.rstrip().split("\n") for text in (stored, drawn))
    for position, (line, now) in enumerate(zip(stored_lines, drawn_lines, strict=False), 1):
        if why := _line_difference(line, now, allowed):
            return f"line {position}: {line.strip()!r} is now {now.strip()!r} ({why})"
    if len(stored_lines) != len(drawn_lines):
        return f"the page has {len(stored_lines)} lines, this run printed {len(drawn_lines)}"
    return None


def _line_difference(stored: str, drawn: str, allowed: Tolerance) -> str | None:
    if stored.startswith("✓") or drawn.startswith("✓"):
        return None if stored.rstrip() == drawn.rstrip() else "another claim"
    (words, numbers), (now_words, now_numbers) = _read(stored), _read(drawn)
    if words != now_words:
        return "other words"
    for i, (number, now) in enumerate(zip(numbers, now_numbers, strict=True)):
        unit = min(number.unit, now.unit) or max(number.unit, now.unit)
        room = max(unit, allowed.share * abs(number.value))
        if allowed.units is not None:
            room = max(room, allowed.units * (unit or 1))
        if words[i + 1] == "±" and words[i + 2 : i + 3] and i + 1 < len(numbers):
            room = max(room, numbers[i + 1].value)
        elif words[i] == "±" and i > 0:
            room = max(room, number.value / 4)
        if abs(number.value - now.value) > room:
            return f"{number.text} and {now.text} may be {room.normalize():f} apart"
    return None


def _read(line: str) -> tuple[list[str], list[Number]]:
    """The words around and between the numbers of a line, one more than there are numbers, and these."""
    words, numbers, end = [], [], 0
    for match in NUMBER.finditer(line):
        words.append(_plain(line[end : match.start()]))
        end = match.end()
        value = Decimal(match[0].replace("−", "-").replace(",", ""))
        exact = value.as_tuple().exponent == 0 and not re.match(r"\s?%", line[end:])
        unit = Decimal(0) if exact else Decimal((0, (1,), int(value.as_tuple().exponent)))
        numbers.append(Number(value, unit, match[0]))
    return [*words, _plain(line[end:])], numbers


def _plain(words: str) -> str:
    return re.sub(r"([-=─━])\1{2,}", r"\1\1\1", " ".join(words.split()))


def outputs_difference(
    stored: list[Mapping], drawn: list[Mapping], allowed: Tolerance = ORDINARY, clean=lambda text: text
) -> str | None:
    """Why the texts of two lists of outputs do not say the same, or `None`; pictures are not looked at.

    Args:
        stored: what the page shows, as nbformat holds it.
        drawn: what this run made.
        allowed: beyond the ordinary rules.
        clean: taken over every text before, for what no two runs share.
    """
    page, run = (_texts(outputs, clean) for outputs in (stored, drawn))
    if missing := [kind for kind in page if kind not in run]:
        return f"the page has {', '.join(missing)}, this run made none"
    for kind, texts in run.items():
        if len(texts) != len(page.get(kind, [])):
            return f"the page has {len(page.get(kind, []))} outputs of {kind}, this run made {len(texts)}"
        for text, now in zip(page[kind], texts, strict=True):
            if why := text_difference(text, now, allowed):
                return f"{kind}, {why}"
    return None


def _texts(outputs: list[Mapping], clean) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, text in (pair for output in outputs for pair in _pairs(output)):
        found.setdefault(kind, []).append(clean(text))
    return found


def _pairs(output: Mapping) -> Iterator[tuple[str, str]]:
    if output["output_type"] == "stream":
        yield output["name"], output["text"]
    elif output["output_type"] == "error":
        yield "error", f"{output['ename']}: {output['evalue']}"
    else:
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name is not None:
            yield "the name of a glued value", name
        for mime, value in output["data"].items():
            if mime not in NEVER_TEXT:
                yield mime, value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def tolerances(text: str) -> dict[tuple[str, str], Tolerance]:
    """Tolerances by (file name, first line of the cell or name of its figure), from lines of `allowed_tolerances.txt`.

    Raises:
        ValueError: a line without its four parts, a tolerance of another form, or the same kind twice.
    """
    granted: dict[tuple[str, str], dict] = {}
    for line in filter(str.strip, text.splitlines()):
        if line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        granting = parts[-2] if len(parts) > 3 else ""
        amount = re.fullmatch(r"(\d+(?:\.\d+)?) (units|%|% of the axes)|(another task)", granting)
        if not amount or not all(parts):
            raise ValueError(
                "not of the form 'notebook.ipynb | first line or fig-name | 3 units, 5 %, 2 % of the axes or "
                f"another task | reason': {line!r}"
            )
        unit = amount[2] or amount[3]
        kind = {"units": "units", "%": "share", "% of the axes": "axes", "another task": "task"}[unit]
        of_cell = granted.setdefault((parts[0], " | ".join(parts[1:-2])), {})
        if kind in of_cell:
            raise ValueError(f"{parts[0]} | {parts[1]}: two lines grant {unit}; keep one")
        of_cell[kind] = Decimal(amount[1] or 1) / (1 if kind in ("units", "task") else 100)
    return {cell: Tolerance(**kinds) for cell, kinds in granted.items()}
