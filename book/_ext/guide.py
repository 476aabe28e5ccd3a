"""Ways through the book, read from the chapters themselves: paths, a map, a teacher's tables, and where a kit function is used.

A page says `<!-- guide: paths -->` where one of them goes. Nothing is typed twice: what a chapter needs, how long it takes
and how hard its exercises are stand on its card and under its exercises; who reads what stands in `paths.toml`, and what
only a teacher knows in `course/teaching.toml`.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "course"))
from plain import ROOT, Book, Chapter

BOOK = ROOT / "book"


@cache
def chapters() -> dict[str, Chapter]:
    """Every chapter by its name, in the order of the book."""
    return {chapter.name: chapter for chapter in Book.read().chapters}


@cache
def ways() -> dict[str, dict]:
    """The paths of `paths.toml` by name."""
    return tomllib.loads((BOOK / "paths.toml").read_text(encoding="utf-8"))


@cache
def teaching() -> dict[str, dict]:
    """What a teacher knows of each chapter, from `course/teaching.toml`."""
    return tomllib.loads((ROOT / "course" / "teaching.toml").read_text(encoding="utf-8"))


def hours(minutes: int) -> str:
    """Minutes as a person says them, to the next half of an hour from two hours on."""
    if minutes < 120:
        return f"{minutes} min"
    halves = -(-minutes // 30)
    return f"{halves // 2}{'½' if halves % 2 else ''} h"


# What the pages show ------------------------------------------------------------------------------------------------


def paths() -> str:
    """Each path as a table: chapter, minutes, and what is left after it."""
    return "\n".join(line for name, way in ways().items() for line in _path(name, way))


def _path(name: str, way: dict) -> Iterator[str]:
    those = [chapters()[chapter] for chapter in way["chapters"]]
    left = sum(chapter.minutes for chapter in those)
    yield f"({name}-path)=\n## {way['title']}\n\n{way['why']}\n"
    yield f"{len(those)} chapters, {hours(left)} of reading, exercises apart.\n"
    yield f'```{{raw}} html\n<p class="follow" data-path="{name}"></p>\n```\n'
    yield "| chapter | reading | left after it |\n| :-- | --: | --: |"
    for chapter in those:
        left -= chapter.minutes
        yield f"| {chapter.number}. {{doc}}`{chapter.name}` | {chapter.minutes} min | {hours(left) if left else '–'} |"
    yield f"\n{way['then']}\n"


def tree() -> str:
    """The chapters as a tree: each stands under the one that it builds on, and names what it needs from elsewhere."""
    return "\n".join([":::{container} needs", *_branch(""), ":::\n"])


def _branch(above: str, depth: int = 0) -> Iterator[str]:
    for chapter in chapters().values():
        nearest = _nearest(chapter.name)
        if nearest[:1] == [above] or not (nearest or above):
            others = [need for need in chapter.needed if need not in chapters()] + nearest[1:]
            also = f" (and {', '.join(f'{{doc}}`{need}`' for need in others)})" if others else ""
            yield f"{'  ' * depth}- {chapter.number}. {{doc}}`{chapter.name}`{also}"
            yield from _branch(chapter.name, depth + 1)


def _nearest(name: str) -> list[str]:
    """What a chapter needs and nothing else that it needs needs already."""
    own = [need for need in chapters() if need in chapters()[name].needed]
    return [need for need in own if not any(need in _all(other) for other in own)]


@cache
def _all(name: str) -> frozenset[str]:
    own = [need for need in chapters()[name].needed if need in chapters()]
    return frozenset(own).union(*(_all(need) for need in own))


def lessons() -> str:
    """For a teacher: each chapter's objectives, minutes and exercises, what goes wrong there, and questions for an exam."""
    return "\n".join(line for chapter in chapters().values() for line in _lesson(chapter))


def _lesson(chapter: Chapter) -> Iterator[str]:
    known, sum_ = teaching()[chapter.name], sum(int(exercise["minutes"]) for exercise in chapter.exercises)
    yield f"### {chapter.number}. {chapter.title}\n"
    yield f"{{doc}}`Open the chapter <{chapter.name}>`: {chapter.card['Reading']}, and {sum_} min of exercises.\n"
    yield f"**Objectives.** Students {chapter.card['You will']}.\n"
    yield "| exercise | kind | minutes | level |\n| :-- | :-- | --: | :-- |"
    for exercise in chapter.exercises:
        yield "| [{title}](#{label}) | {kind} | {minutes} | {stars} |".format(**exercise)
    yield "\n**What students get wrong.**\n"
    yield from (f"- {one}" for one in known["wrong"])
    yield "\n**For an exam.**\n"
    yield from (f"{i}. {question['question']}" for i, question in enumerate(known["exam"], 1))
    yield ""


SHOWN = {"paths": paths, "map": tree, "lessons": lessons}
MARK = re.compile(r"<!-- guide: (\w+) -->")


def fill(app, docname: str, source: list[str]) -> None:
    """Put what a page asks for in the place of its mark, and read the page again when a chapter changes."""
    if MARK.search(source[0]):
        for file in (*BOOK.glob("*.ipynb"), BOOK / "paths.toml", ROOT / "course" / "teaching.toml"):
            app.env.note_dependency(str(file))
        source[0] = MARK.sub(lambda mark: SHOWN[mark[1]](), source[0])


# Where a reader is on a path -----------------------------------------------------------------------------------------


def stops(name: str) -> dict[str, dict]:
    """For each path through a chapter: its title, where on it the chapter stands, the minutes left, and what is next."""
    found = {}
    for path, way in ways().items():
        if name in way["chapters"]:
            at = way["chapters"].index(name)
            after = [chapters()[other] for other in way["chapters"][at + 1 :]]
            found[path] = {
                "title": way["title"].partition(":")[0],
                "at": at + 1,
                "of": len(way["chapters"]),
                "left": hours(sum(chapter.minutes for chapter in after)),
                "next": [after[0].name + ".html", after[0].title] if after else [],
            }
    return found


def tell_stops(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """A chapter's page carries where it stands on each path; guide.js shows it to a reader who follows one."""
    name = pagename.removeprefix("book/")
    if "body" in context and name in chapters():
        told = json.dumps(stops(name), ensure_ascii=False).replace("<", "\\u003c")
        context["body"] += f'<script type="application/json" id="path-stops">{told}</script>'


# From a kit function back to the chapters ----------------------------------------------------------------------------


@cache
def uses() -> dict[str, dict[str, list[str]]]:
    """For each name of the kit, `mamlkit.algorithms.maml.adapt` say: the chapters that build it, and those that use it."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"built": [], "used": []})
    for chapter in chapters().values():
        for name in dict.fromkeys(_built(chapter)):
            found[name]["built"].append(chapter.name)
        for name in dict.fromkeys(_used(cell.source for cell in chapter.code)):
            found[name]["used"].append(chapter.name)
    return dict(found)


def _built(chapter: Chapter) -> Iterator[str]:
    for cell in chapter.code:
        tags = cell.metadata.get("tags", [])
        yield from ("mamlkit." + tag.removeprefix("kit:") for tag in tags if tag.startswith("kit:"))


def _used(cells: Iterable[str]) -> Iterator[str]:
    """The kit's names in full that code calls by the names it imported them under."""
    called: dict[str, str] = {}
    for text in cells:
        for node in ast.walk(ast.parse(re.sub(r"(?m)^%.*$", "", text))):
            match node:
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "mamlkit":
                    called |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
                case ast.Attribute(value=ast.Name(id=name)) if name in called:
                    yield f"{called[name]}.{node.attr}"
                case ast.Name(id=name) if name in called:
                    yield called[name]


def point_back(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Under a function or a class of the kit: the chapters that build it and those that use it."""
    if what not in ("function", "class") or name not in uses():
        return
    there = uses()[name]
    said = []
    for word, those in (
        ("Built in", there["built"]),
        ("Used in", [c for c in there["used"] if c not in there["built"]]),
    ):
        links = [f":doc:`{chapters()[chapter].title} </book/{chapter}>`" for chapter in those]
        if len(links) > 4:
            links = [*links[:3], f"and {len(links) - 3} more chapters"]
        if links:
            said.append(f"{word} {', '.join(links)}.")
    if said:
        lines += ["", " ".join(said), ""]


def setup(app) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("html-page-context", tell_stops)
    app.connect("autodoc-process-docstring", point_back, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
