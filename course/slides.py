"""Every chapter as a deck of slides, from the same notebook: `python course/slides.py [OUT] [CHAPTER ...]`.

A deck is what one points at while telling a chapter: of each section what matters most (an interactive figure, a figure,
an equation, lines of the kit, a table, what was claimed); the prose between goes into the speaker's notes. The choice is
`WORTH` and a room of `MOST` slides; a cell tagged `slide` is always taken, one tagged `no-slide` never.
nbconvert's SlidesExporter writes the chosen cells as a reveal.js deck, which needs no network.
"""

from __future__ import annotations

import base64
import copy
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from math import ceil
from pathlib import Path

from blocks import Block, blocks
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbconvert import SlidesExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook, new_output
from plain import GLUED, ROOT, Book, Chapter
from pygments.formatters import HtmlFormatter

sys.path.append(str(ROOT / "book" / "_ext"))
from cells import NARROW, OURS, chunks, is_stacked, size, with_marks, with_sides

DECK = Path(__file__).resolve().parent / "deck"
LEAST, MOST = 12, 20  # slides
# How much a thing is worth a slide of its own; what else stands in its section is worth LESS, once for each that goes before.
WORTH = {
    "widget": 100,
    "figure": 80,
    "equation": 75,
    "kit": 70,
    "table": 60,
    "box": 55,
    "formula": 45,
    "code": 40,
    "list": 30,
    "lines": 28,
    "claims": 25,
}
LESS = 30
WORTHWHILE = 15
LONGEST_CODE = 22  # lines
HEIGHT = 15  # of a slide below heading and lead, in lines of code
ROW = re.compile(r"<tr.*?</tr>", re.S)
UNDER = {"figure": 0, "widget": 0, "box": 0, "claims": 7}  # claims under a thing; 3 if not said
SHORT = 60  # characters of a sentence
LONGEST_LEAD = 340  # characters
# how a sentence begins that says nothing without the one before it
LEANS = re.compile(
    r"(?:That|This|These|Those|Them|It|Its|They|Their|Both|Neither|Either|Such|Beside|So|Then|But|And|Or|Hence|Otherwise"
    r"|Again|Here (?:it|they|too)|If (?:that|so|not)|(?:Before|After) that|(?:One|Two|Three|Four|Five|Eight) of (?:them|these)"
    r"|The (?:other|others|third|second|first|last|next|same|latter|former|rest|two|three))\b"
)
FITS = 950  # characters of prose on a slide
CLAIM = "✓ "
CITED = re.compile(r"\(\d+\.\d+\)")
FORMULA = r"(?<![$\\])\$(?![$\s])[^$\n]+\$(?!\$)"  # in a line


@dataclass
class Thing:
    """What may become the middle of a slide, or text that goes to the notes."""

    kind: str
    section: tuple[str, ...]
    cell: NotebookNode | None = None
    block: Block | None = None
    tags: tuple[str, ...] = ()
    claims: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return written(self.block) if self.block else ""


@dataclass
class Slide:
    """A heading, cells, and what the speaker says."""

    heading: str
    kicker: str = ""
    cells: list[NotebookNode] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kind: str = ""

    def __iter__(self) -> Iterator[NotebookNode]:
        kicker = f'<p class="kicker">{escape(self.kicker)}</p>\n\n' if self.kicker else ""
        yield text_cell(f"{kicker}{self.heading}", "head", slide="slide", data={"kind": self.kind})
        yield from self.cells
        yield text_cell("\n\n".join(filter(None, self.notes)) or "No notes.", slide="notes")


def text_cell(source: str, *tags: str, slide: str = "-", data: dict[str, str] | None = None) -> NotebookNode:
    slideshow = {"slide_type": slide, "data": data or {}}
    return new_markdown_cell(
        with_marks(source, FORMULA), metadata={"tags": list(tags), "slideshow": slideshow}
    )


def written(block: Block, number: str = "") -> str:
    """A block as Markdown again."""
    match block.kind:
        case "math":
            tag = rf" \tag{{{number}}}" if number else ""
            return f"$$\n{block.text}{tag}\n$$"
        case "code":
            return f"```{block.title}\n{block.text}\n```"
        case "text" | "list" | "table":
            return block.text
        case "heading":
            return f"**{block.text}**"
        case "container":
            return block.text
        case "list-table":
            return listed(block.text)
        case "dropdown" | "admonition":
            return f"**{block.title}**\n\n{block.text}"
    raise ValueError(f"the directive {{{block.kind}}} has no plain form yet; add it to {Path(__file__).name}")


def listed(text: str) -> str:
    """A list of lists as a table."""
    rows = [
        [c.strip() for c in re.split(r"^  - ", row, flags=re.M)]
        for row in re.split(r"^\* - ", text, flags=re.M)[1:]
    ]
    lines = [f"| {' | '.join(cell.replace(chr(10), ' ') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def things(chapter: Chapter) -> list[Thing]:
    """What a chapter holds between its card and its exercises, in order."""
    found: list[Thing] = []
    section: tuple[str, ...] = ("",)
    for cell in chapter.notebook.cells[3:]:
        tags = tuple(cell.metadata.get("tags", []))
        if cell.cell_type == "code":
            if section[0] not in ("What we saw",):
                found += code_things(cell, section, tags)
            continue
        for block in blocks(cell.source):
            if block.kind == "heading":
                if block.text == "Exercises":
                    return found
                section = (block.text,) if block.level == 2 else (section[0], block.text)
            elif section[0] != "What we saw":
                kinds = {
                    "math": "equation" if block.label else "formula",
                    "admonition": "box",
                    "list-table": "table",
                }
                kinds |= {"list": "list", "table": "table", "container": "list", "code": "code"}
                found.append(Thing(kinds.get(block.kind, "text"), section, block=block, tags=tags))
    return found


def code_things(cell: NotebookNode, section: tuple[str, ...], tags: tuple[str, ...]) -> list[Thing]:
    if "remove-cell" in tags or "notebook.setup(" in cell.source:
        return []
    claims = [line for line in printed(cell) if line.startswith(CLAIM)]
    data = {mime: value for o in cell.outputs for mime, value in o.get("data", {}).items()}
    html = data.get("text/html", "")
    kit = any(tag.startswith("kit:") for tag in tags)
    if "image/png" in data:
        kind = "figure"
    elif "<script" in html:
        kind = "widget"
    elif "<table" in html:
        kind = "table"
    elif kit:
        kind = "kit"
    elif "hide-input" not in tags and cell.source.count("\n") < LONGEST_CODE:
        kind = "code" if re.search(r"^ *(def|class) ", cell.source, re.M) else "lines"
    else:
        kind = "claims" if claims else "none"
    return [Thing(kind, section, cell=cell, tags=tags, claims=claims)]


def chosen(book: Book, found: list[Thing], room: int) -> list[Thing]:
    """The things that get a slide: those worth most, with one of every section before the second of any."""
    rank: dict[tuple[str, ...], int] = {}
    worth: dict[int, float] = {}
    for i, thing in sorted(enumerate(found), key=lambda it: (-value(it[1]), it[0])):
        if value(thing) > 0:
            worth[i] = value(thing) - LESS * rank.get(thing.section, 0)
            rank[thing.section] = rank.get(thing.section, 0) + 1
    taken, left, least = [], room, LEAST - (MOST - room)
    for i in sorted(worth, key=lambda i: (-worth[i], i)):
        cost = len(pages(book, found[i]))
        if cost <= left and (worth[i] >= WORTHWHILE or room - left < least):
            taken.append(i)
            left -= cost
    return [found[i] for i in sorted(taken)]


def value(thing: Thing) -> float:
    if "no-slide" in thing.tags:
        return 0
    worth = WORTH.get(thing.kind, 0)
    return worth + 1000 if worth and "slide" in thing.tags else worth


def middle(book: Book, chapter: Chapter, room: int) -> list[Slide]:
    """A slide for each thing chosen, with what stands around it in the notes."""
    found = things(chapter)
    taken = {id(thing) for thing in chosen(book, found, room)}
    places = [i for i, thing in enumerate(found) if id(thing) in taken]
    cuts = [0, *(parted(found, a, b) for a, b in pairwise(places)), len(found)]
    parts = ((found[i], found[start:i], found[i + 1 : end]) for i, start, end in zip(places, cuts, cuts[1:]))
    return [made for part in parts for made in told(book, chapter, *part)]


def parted(found: list[Thing], a: int, b: int) -> int:
    """Where between two chosen things the notes of the first end: at the next section, or before the last paragraph."""
    section = found[b].section
    if found[a].section != section:
        return next(i for i in range(a + 1, b + 1) if found[i].section != found[a].section)
    return max((i for i in range(a + 1, b) if found[i].kind == "text"), default=b)


def told(book: Book, chapter: Chapter, thing: Thing, before: list[Thing], after: list[Thing]) -> list[Slide]:
    """The slides of one thing: what leads to it, the thing, what was claimed of it; in the notes all that is said."""
    kicker = " · ".join([chapter.title, *thing.section[:-1]]).replace("`", "")
    bodies = pages(book, thing)
    slides = [Slide(f"## {thing.section[-1]}", kicker, cells, kind=thing.kind) for cells in bodies]
    for later in slides[1:]:
        later.heading += ", continued"
    first, last = slides[0], slides[-1]
    lead = next((t.text for t in reversed(before) if t.kind == "text" and t.section == thing.section), "")
    if thing.kind not in ("figure", "widget"):
        first.cells[:0] = [text_cell(book.plain(sentence), "lead") for sentence in leading(lead)]
    tail = (
        after[0].text if after and after[0].kind == "text" and thing.kind in ("equation", "formula") else ""
    )
    if tail[:1].islower():
        last.cells.append(text_cell(book.plain(tail.split("\n")[0]), "lead"))
    claims = [line for t in (thing, *after) if t.section == thing.section for line in t.claims]
    shown = claims[
        : min(UNDER.get(thing.kind, 3), max(0, round((HEIGHT - sum(map(height, last.cells))) / 1.5)))
    ]
    if shown:
        items = "".join(f"<li>{escape(line)}</li>" for line in shown)
        last.cells.append(text_cell(f'<ul class="claims mathjax_ignore">{items}</ul>', "claimed"))
    section = thing.section
    for t in (*before, thing, *after):
        if t.section != section and (t.text or t.claims):
            first.notes.append(f"**{t.section[-1]}**")
            section = t.section
        first.notes.append(book.plain(t.text) if t is not thing else "")
        first.notes.append("\n".join(f"- {escape(line)}" for line in t.claims if line not in shown))
    return slides


def height(cell: NotebookNode) -> float:
    """About how many lines of code a cell is as high as."""
    if cell.cell_type == "markdown":
        rows = [line for line in cell.source.split("\n") if not line.startswith("| ---")]
        if cell.source.startswith("|"):
            return sum(map(row_height, rows))
        return (
            1.5 * (1 + len(cell.source) / 95)
            if "equation" not in cell.metadata.tags
            else 2 + 2 * len(rows) / 1.5
        )
    code = 0 if cell.metadata.get("transient") else cell.source.count("\n") + 2
    tables = [row for o in cell.outputs for row in re.findall(ROW, o.get("data", {}).get("text/html", ""))]
    return code + sum(map(row_height, tables)) + sum(o.get("text", "\n").count("\n") for o in cell.outputs)


def row_height(row: str) -> float:
    """The same of a row of a table, whose longest cell gets a share of the width as its length says."""
    cells = [re.sub("<.*?>", "", cell) for cell in re.split(r"</t[dh]>|\|", row)]
    lines = 1 + sum(map(len, cells)) // 95
    return 0.6 + 1.2 * lines


def leading(text: str) -> list[str]:
    """A paragraph's last sentence, which stands on a line of its own, with those before it that it needs; or nothing."""
    lines = [line for line in text.split("\n") if not line.startswith("(")] or [""]
    start = len(lines) - 1 - (len(lines) > 1 and len(lines[-1]) < SHORT)
    while start and LEANS.match(lines[start]):
        start -= 1
    leads = "\n".join(lines[start:]), lines[-1]
    stand = (lead for lead in leads if lead and not lead[0].islower() and not LEANS.match(lead))
    return [lead for lead in stand if len(lead) <= LONGEST_LEAD][:1]


def pages(book: Book, thing: Thing) -> list[list[NotebookNode]]:
    """The cells of a thing itself, page by page: what is too long for one slide goes on on the next."""
    if thing.block:
        number = book.numbers[thing.block.label].strip("()") if thing.kind == "equation" else ""
        source = book.plain(written(thing.block, number))
        if not source.startswith("|"):
            return [[text_cell(source, thing.kind)]]
        head, rows = source.split("\n")[:2], source.split("\n")[2:]
        return [[text_cell("\n".join([*head, *part]), thing.kind)] for part in evenly(rows, row_height)]
    if thing.kind == "claims":
        return [[]]
    cell = shown(book, thing)
    html = next((o for o in cell.outputs if "<table" in o.get("data", {}).get("text/html", "")), None)
    if html is not None and cell.metadata.get("transient"):
        head, *rows = re.findall(ROW, html.data["text/html"])
        made = []
        parts = evenly(rows, row_height)
        for part in parts:
            page, body = copy.deepcopy(cell), "\n".join(part)
            page.outputs[cell.outputs.index(html)].data["text/html"] = (
                f'<div class="results"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
            )
            if part is not parts[-1]:
                page.outputs = [o for o in page.outputs if o.output_type != "stream"]
            made.append([page])
        return made
    if cell.metadata.get("transient") or height(cell) <= HEIGHT + 4:
        made = [[cell]]
    else:
        definitions = re.split(r"\n\n(?=\S)", cell.source)
        parts = [*evenly(definitions, lambda part: part.count("\n") + 2)]
        made = [[copy.deepcopy(cell)] for _ in parts]
        for part, (page,) in zip(parts, made):
            page.source = "\n\n".join(part)
            page.outputs = cell.outputs if part is parts[-1] else []
    if kits := [tag.removeprefix("kit:") for tag in thing.tags if tag.startswith("kit:")]:
        names = " and ".join(f"`mamlkit.{name}`" for name in kits)
        made[-1].append(text_cell(f"{names} in the kit", "source"))
    return made


def evenly(parts: list[str], size: Callable[[str], float]) -> list[list[str]]:
    """The parts on as few pages as hold them, and about equally much on each."""
    whole = sum(map(size, parts))
    count = ceil(whole / HEIGHT)
    found: list[list[str]] = [[] for _ in range(count)]
    so_far = 0.0
    for part in parts:
        found[min(count - 1, int((so_far + size(part) / 2) / whole * count))].append(part)
        so_far += size(part)
    return [page for page in found if page]


def shown(book: Book, thing: Thing) -> NotebookNode:
    """A code cell with what a slide shows of it: its code where that is the point, its outputs without claims."""
    cell = copy.deepcopy(thing.cell)
    # what speaks to ruff or hands a value to the prose, and the second blank line, are no use here
    cell.source = re.sub(
        r"\n{3,}", "\n\n", re.sub(r" *# (?:noqa|fmt:).*|^glue\(.*\n?", "", cell.source, flags=re.M)
    )
    cell.metadata |= {"tags": [thing.kind], "slideshow": {"slide_type": "-"}}
    if figure := cell.metadata.get("mystnb", {}).get("figure"):
        figure["caption"] = (
            f"**{book.numbers[figure['name']]}** {with_marks(book.plain(figure['caption']), FORMULA)}"
        )
    cell.outputs = [o for o in cell.outputs if "data" in o and GLUED not in o.data]
    text = "\n".join(line for line in printed(thing.cell) if not line.startswith(CLAIM)).strip()
    cell.outputs += [new_output("stream", text=text)] if text and thing.kind != "figure" else []
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            wide, narrow = parted_twins(output.data["image/png"])
            if figure and is_stacked(size(narrow), size(wide)):
                figure["caption"] = with_sides(figure["caption"])
            output.data["image/png"], output.metadata["narrow"] = map(ascii_of, (wide, narrow))
    drawn = thing.kind in ("figure", "widget") or "hide-input" in thing.tags or "table(" in cell.source
    if cell.outputs and (drawn or height(cell) > HEIGHT + 5):
        cell.metadata["transient"] = {"remove_source": True}
    return cell


def printed(cell: NotebookNode) -> list[str]:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream").split("\n")


def ascii_of(png: bytes) -> str:
    return base64.b64encode(png).decode()


def parted_twins(png: str) -> tuple[bytes, bytes]:
    """A stored picture without what it carries for tests and phones, and its narrow twin."""
    data = base64.b64decode(png)
    kept = data[:8] + b"".join(whole for kind, _, whole in chunks(data) if kind not in OURS)
    twin = next((inside for kind, inside, _ in chunks(data) if kind == NARROW), kept)
    return kept, twin


def opening(book: Book, chapter: Chapter) -> list[Slide]:
    title = Slide(f"# {chapter.title}", f"{chapter.part} · chapter {chapter.number}", kind="title")
    title.cells = [text_cell(book.plain(chapter.promise), "promise")]
    title.notes = [f"{key}: {chapter.card[key]}." for key in ("Reading", "Running", "Device")]
    goals = Slide("## At a glance", chapter.title, kind="goals")
    goals.cells = [
        text_cell(f"**{key}** {book.plain(chapter.card[key])}.", "goal") for key in ("You will", "You need")
    ]
    return [title, goals]


def section(chapter: Chapter, name: str) -> list[Block]:
    """The blocks of one of a chapter's sections."""
    found = [b for text in chapter.markdown for b in blocks(text)]
    starts = [i for i, b in enumerate(found) if b.kind == "heading" and b.level == 2]
    start = next(i for i in starts if found[i].text.startswith(name))
    return found[start + 1 : next((i for i in starts if i > start), len(found))]


def summary(book: Book, chapter: Chapter) -> list[Slide]:
    """What we saw, on as many slides as it takes."""
    parts = [part for b in section(chapter, "What we saw") for part in points(b)]
    pages = max(1, round(sum(map(len, parts)) / FITS + 0.3))
    most, slides = sum(map(len, parts)) / pages, []
    for part in parts:
        if not slides or sum(len(c.source) for c in slides[-1].cells) + len(part) / 2 > most:
            slides.append(Slide("## What we saw", chapter.title, kind="saw"))
        slides[-1].cells.append(text_cell(book.plain(part), "point"))
    return slides


def points(block: Block) -> list[str]:
    return re.split(r"\n(?=- )", block.text) if block.kind == "list" else [written(block)]


def turns(book: Book, chapter: Chapter) -> list[Slide]:
    """A question to predict, and the shortest of the others that need no code on the slide."""
    asked = [b for b in section(chapter, "Exercises") if b.kind in ("exercise", "exercise-start")]
    asked = [b for b in asked if "*Debug*" not in b.text]
    asked.sort(key=lambda b: ("*Predict" not in b.text, len(b.text)))
    slides = []
    for block in asked[:2]:
        parts = blocks(block.text)
        made = Slide("## Your turn", chapter.title, kind="turn")
        kind, *ask = [p for p in parts if p.kind != "dropdown" and not p.text.startswith("It needs")]
        made.cells = [text_cell(f"### {block.title}", "name"), text_cell(kind.text, "kind")]
        made.cells += [text_cell(book.plain(written(p)), "ask") for p in ask]
        made.notes = [book.plain(written(p)) for p in parts if p not in (kind, *ask)]
        slides.append(made)
    return slides


def reading(book: Book, chapter: Chapter) -> Slide:
    """The first sentence of each note; the whole is said."""
    found = section(chapter, "Notes")
    last = Slide("## Further reading", chapter.title, kind="reading")
    heads = [
        re.split(r"(?<=\.)\s(?=[A-Z{])", part)[0] for b in found if b.kind == "list" for part in points(b)
    ]
    last.cells = [text_cell(book.plain(head), "point") for head in heads]
    last.notes = [book.plain(written(b)) for b in found]
    return last


def deck(book: Book, chapter: Chapter) -> list[Slide]:
    """The slides of a chapter."""
    first, saw, last = (
        opening(book, chapter),
        summary(book, chapter),
        [*turns(book, chapter), reading(book, chapter)],
    )
    whole = [*first, *middle(book, chapter, MOST - len(first) - len(saw) - len(last)), *saw, *last]
    remind(book, whole)
    return whole


def remind(book: Book, slides: list[Slide]) -> None:
    """Put a numbered formula that no slide shows under the first one that cites it."""
    words = [[said(cell) for cell in slide.cells] for slide in slides]
    shown = {f"({n})" for said_ in words for text in said_ for n in re.findall(r"\\tag\{([\d.]+)\}", text)}
    for slide, said_ in zip(slides, words, strict=True):
        for number in dict.fromkeys(n for text in said_ for n in CITED.findall(text)):
            if number in book.formulas and number not in shown:
                shown.add(number)
                formula = written(Block("math", book.formulas[number]), number.strip("()"))
                slide.cells.append(text_cell(formula, "cited"))


def said(cell: NotebookNode) -> str:
    """What a slide says in words: a text, or a figure's caption."""
    if cell.cell_type == "markdown":
        return cell.source
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")


def html(slides: list[Slide], chapter: Chapter) -> str:
    """The deck as nbconvert writes it."""
    cells = [cell for slide in slides for cell in slide]
    for i, cell in enumerate(cells):
        cell.id = f"part-{i}"
    notebook = new_notebook(cells=cells, metadata={"title": chapter.title})
    exporter = SlidesExporter(
        template_name="deck", extra_template_basedirs=[str(DECK.parent)], reveal_url_prefix="reveal"
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = exporter.exclude_anchor_links = True
    return exporter.from_notebook_node(notebook, {"chapter": chapter})[0]


def furnish(out: Path) -> None:
    """What all decks share: reveal.js, MathJax, their look and behaviour."""
    found = find_spec("sphinx_revealjs")
    if found is None:
        raise SystemExit(
            "The decks need reveal.js from sphinx-revealjs: `make course` installs it (course/requirements.txt)."
        )
    reveal, mathjax = (
        Path(find_spec(name).origin).parent for name in ("sphinx_revealjs", "sphinx-mathjax-offline")
    )
    for source, target, names in (
        (
            reveal / "_static" / "revealjs",
            "reveal",
            ("LICENSE", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js"),
        ),
        (mathjax / "static" / "mathjax", "mathjax", ("tex-chtml.js", "output/chtml/fonts/woff-v2")),
        (DECK, "deck", ("deck.css", "deck.js")),
    ):
        for name in names:
            (out / target / name).parent.mkdir(parents=True, exist_ok=True)
            copy_ = shutil.copytree if (source / name).is_dir() else shutil.copyfile
            copy_(
                source / name,
                out / target / name,
                **({"dirs_exist_ok": True} if copy_ is shutil.copytree else {}),
            )
    styles = [
        HtmlFormatter(style=f"a11y-high-contrast-{theme}").get_style_defs(
            f'html[data-theme="{theme}"] .highlight'
        )
        for theme in ("light", "dark")
    ]
    (out / "deck" / "code.css").write_text("\n".join(styles), encoding="utf-8")


def main(*arguments: str) -> None:
    out = Path(arguments[0] if arguments else ROOT / "_build" / "course" / "slides").resolve()
    book = Book.read()
    wanted = set(arguments[1:]) or {chapter.name for chapter in book.chapters}
    if unknown := wanted - {chapter.name for chapter in book.chapters}:
        raise SystemExit(
            f"no chapter is called {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in book.chapters)}"
        )
    furnish(out)
    decks = {chapter.name: deck(book, chapter) for chapter in book.chapters}
    for chapter in book.chapters:
        if chapter.name in wanted:
            (out / f"{chapter.name}.html").write_text(html(decks[chapter.name], chapter), encoding="utf-8")
    looks = Environment(loader=FileSystemLoader(DECK), autoescape=True)
    looks.filters["as_html"] = lambda text: Markup(markdown2html(text))
    index = looks.get_template("decks.html.j2")
    (out / "index.html").write_text(index.render(book=book, decks=decks), encoding="utf-8")
    print(f"{len(wanted)} decks: {out / 'index.html'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
