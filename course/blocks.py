"""A Markdown cell cut into blocks: headings, paragraphs, formulas, lists, tables, directives."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Block:
    """A piece of Markdown between blank lines, or a whole formula, list, table or directive."""

    kind: str  # heading, text, math, list, table, code, or the name of a directive
    text: str
    title: str = ""
    level: int = 0
    label: str = ""


def blocks(source: str) -> list[Block]:
    """A Markdown cell cut into its blocks; comments, targets and attributes are left out."""
    lines, found = source.split("\n"), []
    while lines:
        line = lines.pop(0)
        if not line.strip() or re.match(r"%|\([\w-]+\)=$|\{[.#:]", line):
            continue
        if heading := re.match(r"(#+) (.*)", line):
            found.append(Block("heading", heading[2], level=len(heading[1])))
        elif fence := re.match(r"(`{3,}|:{3,})(?:\{([\w-]+)\})?[ ]*(.*)", line):
            body = _until(lines, lambda line, end=fence[1]: line.strip() == end)
            options = [line for line in body if re.match(r":[\w-]+:", line)]
            inside = "\n".join(line for line in body if line not in options).strip()
            found.append(Block(fence[2] or "code", inside, title=fence[3], label=" ".join(options)))
        elif line.startswith("$$"):
            body = (
                [line]
                if re.search(r"\$\$\s*\(|\$\$$", line[2:])
                else [line, *_until(lines, lambda line: "$$" in line, keep=True)]
            )
            whole = "\n".join(body)
            label = re.search(r"\$\$\s*\(([\w-]+)\)\s*$", whole)
            found.append(
                Block(
                    "math",
                    whole.rsplit("$$", 1)[0].removeprefix("$$").strip(),
                    label=label[1] if label else "",
                )
            )
        else:
            kind = "table" if line.startswith("|") else "list" if _is_item(line) else "text"
            body = [line]
            while lines and _goes_on(kind, lines):
                body.append(lines.pop(0))
            found.append(Block(kind, "\n".join(body).rstrip()))
    return found


def _is_item(line: str) -> bool:
    return bool(re.match(r"[-*] |\d+\. ", line))


def _goes_on(kind: str, lines: list[str]) -> bool:
    line = lines[0]
    if kind == "list":
        if line.strip():
            return _is_item(line) or line.startswith(" ") or not re.match(r"#|\$\$|```|:::", line)
        after = next(filter(str.strip, lines), "")
        return _is_item(after) or after.startswith("  ")
    return (
        bool(line.strip())
        and not re.match(r"#+ |\$\$|`{3}|:{3}", line)
        and not (kind == "text" and _is_item(line))
    )


def _until(lines: list[str], ends: Callable[[str], bool], keep: bool = False) -> list[str]:
    body = []
    while lines:
        line = lines.pop(0)
        if ends(line):
            return [*body, line] if keep else body
        body.append(line)
    return body
