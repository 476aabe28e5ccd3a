"""A chapter in plain Markdown: what only Sphinx understands (roles, labels, glued values, directives) said without it.

Numbers of equations, figures and exercises are counted as Sphinx counts them, so that a slide and the page agree.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat
import yaml
from blocks import blocks
from nbformat import NotebookNode
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

ROOT = Path(__file__).resolve().parent.parent
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]+)`")
EXPLICIT = re.compile(r"(.*\S)\s*<(.*)>$", re.S)
LABELLED = re.compile(r"^\$\$[ ]*\(([\w-]+)\)", re.M)
EXERCISE = re.compile(
    r"\{exercise\} (?P<title>.*)\n:label: (?P<label>\S+)\n\n\*(?P<kind>.*?)\* · (?P<minutes>\d+) minutes · (?P<stars>\S+)"
)
CARD = re.compile(r"^- \*\*(.+?)\*\* (.*?)\.?$", re.M)
GLUED = "application/papermill.record/text/plain"


@dataclass
class Chapter:
    """One notebook and its place in the book."""

    name: str
    part: str
    number: int
    notebook: NotebookNode

    @property
    def title(self) -> str:
        return self.notebook.cells[0].source.split("\n")[0].removeprefix("# ")

    @property
    def promise(self) -> str:
        """The one sentence under the title."""
        return self.notebook.cells[0].source.split("\n\n", 1)[1].strip()

    @property
    def markdown(self) -> list[str]:
        return [cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"]

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @cached_property
    def card(self) -> dict[str, str]:
        """The lines of the card `At a glance`, without their full stops, by what stands in bold before them."""
        return dict(CARD.findall(next(text for text in self.markdown if "{admonition} At a glance" in text)))

    @cached_property
    def exercises(self) -> list[dict[str, str]]:
        """Of each exercise its title, label, kind, minutes and stars."""
        return [found.groupdict() for text in self.markdown for found in EXERCISE.finditer(text)]

    @property
    def minutes(self) -> int:
        """To read it, code included."""
        return int(self.card["Reading"].split()[0])

    @property
    def needed(self) -> list[str]:
        """The chapters and pages that its card names."""
        return re.findall(r"\{doc\}`([\w-]+)`", self.card["You need"])


@dataclass
class Book:
    """The chapters in their order, and what a label or a reference stands for."""

    chapters: list[Chapter] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path = ROOT) -> Book:
        found: list[Chapter] = []
        for part in yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))["parts"]:
            for page in part["chapters"]:
                path = (root / page["file"]).with_suffix(".ipynb")
                if path.is_file():
                    notebook = nbformat.read(path, as_version=4)
                    found.append(Chapter(path.stem, part["caption"], len(found) + 1, notebook))
        return cls(found)

    @cached_property
    def titles(self) -> dict[str, str]:
        """What each page is called."""
        pages = {
            path.stem: re.search(r"^# (.*)$", path.read_text(encoding="utf-8"), re.M)[1]
            for path in (ROOT / "book").glob("*.md")
        }
        return pages | {chapter.name: chapter.title for chapter in self.chapters}

    @cached_property
    def numbers(self) -> dict[str, str]:
        """What the pages print in place of each label."""
        found: dict[str, str] = {}
        for chapter in self.chapters:
            figures = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in chapter.code]
            for form, labels in (
                ("({})", LABELLED.findall("\n\n".join(chapter.markdown))),
                ("Fig. {}", filter(None, figures)),
                ("Exercise {}", [exercise["label"] for exercise in chapter.exercises]),
            ):
                for i, label in enumerate(labels, 1):
                    found[label] = form.format(f"{chapter.number}.{i}")
        return found

    @cached_property
    def formulas(self) -> dict[str, str]:
        """The numbered formulas of all chapters, by the number that the pages print."""
        found = [b for chapter in self.chapters for text in chapter.markdown for b in blocks(text)]
        return {self.numbers[b.label]: b.text for b in found if b.kind == "math" and b.label}

    @cached_property
    def glued(self) -> dict[str, str]:
        """The values that cells hand over to the prose."""
        outputs = [o for c in self.chapters for cell in c.code for o in cell.outputs if "data" in o]
        return {o.metadata["scrapbook"]["name"]: _value(o.data[GLUED]) for o in outputs if GLUED in o.data}

    @cached_property
    def works(self) -> dict[str, Entry]:
        return dict(parse_file(str(ROOT / "book" / "references.bib"), bib_format="bibtex").entries)

    def plain(self, text: str) -> str:
        """The text with every role replaced by what a page shows for it."""
        return ROLE.sub(lambda role: self._said(role[1], role[2]), text)

    def _said(self, role: str, text: str) -> str:
        explicit = EXPLICIT.fullmatch(text)
        shown, target = (explicit[1], explicit[2]) if explicit else ("", text)
        match role:
            case "doc":
                title = shown or f"*{self.titles[target]}*"
                return f"[{title}]({target}.html)" if any(c.name == target for c in self.chapters) else title
            case "term":
                return shown or target
            case "eq" | "numref" | "ref":
                return self.numbers[target].replace(" ", "\u00a0")
            case "glue:text":
                return self.glued[target]
            case "math":
                return f"${text}$"
            case "cite:t":
                return ", ".join("{} ({})".format(*self._work(key)) for key in target.split(","))
            case "cite:p":
                return f"({'; '.join('{}, {}'.format(*self._work(key)) for key in target.split(','))})"
        raise ValueError(f"the role {{{role}}} has no plain form yet; add it to {Path(__file__).name}")

    def _work(self, key: str) -> tuple[str, str]:
        """Who wrote a work, and the year as a link to it."""
        work = self.works[key.strip()]
        people = work.persons.get("author") or work.persons["editor"]
        names = [str(Text.from_latex(" ".join([*p.prelast_names, *p.last_names]))) for p in people]
        who = f"{names[0]} et al." if len(names) > 2 or "others" in names else " and ".join(names)
        where = work.fields
        if "doi" in where:
            link = f"https://doi.org/{where['doi']}"
        elif "eprint" in where:
            link = f"https://arxiv.org/abs/{where['eprint']}"
        else:
            link = where["url"]
        return who, f"[{where['year']}]({link})"


def _value(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text
