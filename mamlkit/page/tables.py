"""Results as tables: aligned columns and a quiet rule, in a notebook, on a page and in a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

__all__ = ["Table", "table"]

NUMERIC = re.compile(r"[-+−±<>≈~]?\s?\d[\d.,\s±×%e+−-]*\s?\w{0,4}|[–✓✗·]?")
CODE = re.compile("`([^`]+)`")


class Table:
    """A table that a notebook shows as HTML and a terminal as text; `table` makes one."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.columns, self.rows = columns, rows

    def __repr__(self) -> str:
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        first, *right = widths
        return "\n".join(
            "  ".join(
                [line[0].ljust(first), *(cell.rjust(w) for cell, w in zip(line[1:], right, strict=True))]
            )
            for line in lines
        )

    def _repr_html_(self) -> str:
        numbers = [all(map(NUMERIC.fullmatch, column)) for column in zip(*self.rows, strict=True)]

        def line(kind: str, cells: Sequence[str]) -> str:
            whole = "".join(
                _cell("th" if text and (kind == "th" or i == 0) else "td", kind, text, numbers[i] and i > 0)
                for i, text in enumerate(cells)
            )
            return f"<tr>{whole}</tr>"

        head = line("th", self.columns)
        body = "\n".join(line("td", row) for row in self.rows)
        return f'<div class="results"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(tag: str, kind: str, text: str, number: bool) -> str:
    scope = "" if tag == "td" else ' scope="col"' if kind == "th" else ' scope="row"'
    side = "right" if number else "left"
    shown = CODE.sub(r"<code>\1</code>", html.escape(text))
    return f'<{tag}{scope} style="text-align: {side}">{shown}</{tag}>'


def table(rows: Iterable[Sequence[object]], *, columns: Sequence[str]) -> Table:
    """A table with one row per item of `rows`; as the last line of a cell it is shown on the page.

    Args:
        rows: each as long as `columns`; its first cell names it. A cell is text, an integer, a bool (a tick or a
            dot) or anything that says itself in words, such as `mean_ci95`; `code` in backticks is set as code.
        columns: the heads; the first may be empty.

    Raises:
        ValueError: a row of another length, or no row at all.
        TypeError: a bare float, whose digits nobody chose; write `f"{value:.2f}"`.

    >>> table([("MAML", "0.42", True), ("none", "3.10", False)], columns=("", "loss", "falls"))
          loss  falls
    MAML  0.42      ✓
    none  3.10      ·
    """
    words = [[_words(cell) for cell in row] for row in rows]
    wrong = [row for row in words if len(row) != len(columns)]
    if wrong or not words:
        raise ValueError(
            f"there are {len(columns)} columns {tuple(columns)} and "
            f"{f'the row {tuple(wrong[0])}' if wrong else 'no row'}; give each row one cell a column"
        )
    return Table([str(column) for column in columns], words)


def _words(cell: object) -> str:
    if isinstance(cell, bool):
        return "✓" if cell else "·"
    if isinstance(cell, float | np.floating | Tensor):
        raise TypeError(
            f"a cell is the bare number {cell!r}; say how many digits hold, as in f'{{value:.2f}}'"
        )
    return str(cell)
