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
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
    r"(?:(?:\.\d+)(?:[eE][-+−]\d+)?(?![\d]|\.\d)|(?:[eE][-+−]\d+)?(?!\w|\.\d))"
)
GRANT = re.compile(
    r"(\S+) +\| +(\S.*?) +\| +(?:(\d+(?:\.\d+)?) (units|%|% of the axes)|(another task)) +\| +\S.*"
)
KINDS = {"units": "units", "%": "share", "% of the axes": "axes", "another task": "task"}
NEVER_TEXT = {"image/png", "application/vnd.jupyter.widget-view+json"}


class Tolerance(NamedTuple):
    """What a line of `allowed_tolerances.txt` grants one cell beside the ordinary rules."""

    units: Decimal = Decimal(0)  # of the last digit, and of an integer
    share: Decimal = Decimal(0)  # of the number
    axes: Decimal = Decimal(0)  # of a picture's axes
    task: Decimal = Decimal(0)  # 1 where a picture may show another task: other drawings and answers (✓, ✗)


ORDINARY = Tolerance()


class Number(NamedTuple):
    value: Decimal
    unit: Decimal  # of its last digit; zero for an integer that counts
    text: str  # as it was printed


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
        room = max(unit, allowed.share * abs(number.value), allowed.units * (unit or 1))
        if words[i + 1] == "±" and i + 1 < len(numbers):
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
    """Why the texts of two lists of outputs, as nbformat holds them, do not say the same, or `None`.

    Pictures are not looked at; `clean` is taken over every text before, for what no two runs share.
    """
    page, run = (_texts(outputs, clean) for outputs in (stored, drawn))
    for kind in page | run:
        if len(page[kind]) != len(run[kind]):
            return (
                f"the page has {len(page[kind])} outputs of {kind}, this run made {len(run[kind]) or 'none'}"
            )
        for text, now in zip(page[kind], run[kind], strict=True):
            if why := text_difference(text, now, allowed):
                return f"{kind}, {why}"
    return None


def _texts(outputs: list[Mapping], clean) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for output in outputs:
        if output["output_type"] == "stream":
            texts = {output["name"]: output["text"]}
        elif output["output_type"] == "error":
            texts = {"error": f"{output['ename']}: {output['evalue']}"}
        else:
            glued = output.get("metadata", {}).get("scrapbook", {})
            texts = {f"the {key} of a glued value": glued[key] for key in glued} | output["data"]
        for kind, text in texts.items():
            if kind not in NEVER_TEXT:
                found[kind].append(clean(text if isinstance(text, str) else json.dumps(text, sort_keys=True)))
    return found


def tolerances(text: str) -> dict[tuple[str, str], Tolerance]:
    """Tolerances by (file name, first line of the cell or name of its figure), from lines of `allowed_tolerances.txt`.

    Raises:
        ValueError: a line without its four parts, a tolerance of another form, or the same kind twice.
    """
    granted: defaultdict[tuple[str, str], dict] = defaultdict(dict)
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        parts = GRANT.fullmatch(line.strip())
        if not parts:
            form = "notebook.ipynb | first line or fig-name | 3 units, 5 %, 2 % of the axes or another task | reason"
            raise ValueError(f"not of the form {form!r}: {line!r}")
        name, cell, amount, *unit = parts.groups()
        kind = KINDS[unit[0] or unit[1]]
        if kind in granted[name, cell]:
            raise ValueError(f"{name} | {cell}: two lines grant {unit[0] or unit[1]}; keep one")
        granted[name, cell][kind] = Decimal(amount or 1) / (100 if kind in ("share", "axes") else 1)
    return {cell: Tolerance(**kinds) for cell, kinds in granted.items()}
