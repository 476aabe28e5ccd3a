"""The chapters as notebooks that any notebook program shows, packed for those who learn and for those who teach.

    python course/editions.py OUT            OUT/maml-book-student.zip and OUT/maml-book-teacher.zip
    python course/editions.py OUT offline    OUT/maml-book-offline.zip: the built pages, chapters, kit
    python course/editions.py OUT hosted     OUT/*.ipynb whose first cell fetches the kit: what a launch button opens

Everything is made from the notebooks in `book/`; equal sources give equal archives.
For `hosted`, BOOK_REPOSITORY is the address on GitHub, as https://github.com/OWNER/NAME.
"""

from __future__ import annotations

import ast
import base64
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pybtex
from nbformat import NotebookNode, from_dict, writes
from plain import EXPLICIT, GLUED, LABELLED, ROOT, Book, Chapter

# Pages beside the chapters that chapters lead to; the others speak of the repository, or only Sphinx can write them.
PAGES = ("empirical-bayes", "notation", "glossary", "bibliography")
KINDS = ("student", "teacher", "reader")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
OPENING = re.compile(r"(`{3,}|:{3,})(?:\{([\w-]+)\})?[ ]*(.*)")
OPTION = re.compile(r":([\w-]+):[ ]*(.*)")
MARKER = re.compile(r"^`{3,}\{solution-(start|end)\}[ ]*(.*)\n(?::.*\n)*`{3,}$", re.M)
SPOKEN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LABEL = re.compile(r"^:label:[ ]*(ex-\S+)$", re.M)
HANDED = "# No module named 'mamlkit'? Run `pip install -r requirements.txt` here; README.md says more."
LOCAL = "# No module named 'mamlkit'? In the book's folder `make lab` opens the chapters with all they need."
CARRIED = "# No module named 'mamlkit'? Take this chapter from the folder `notebooks`; README.md there says how to run it."
FETCHED = """\
# The book as it was when this page was made, and its library mamlkit; a local copy of the book needs none of this.
!mkdir -p ~/maml-book && curl -sSL {repository}/archive/{commit}.tar.gz | tar xz -C ~/maml-book --strip-components 1
%cd -q ~/maml-book/book
%pip install --quiet "..[data,page]"
"""
EPOCH = (2026, 1, 1, 0, 0, 0)


class Shelf(Book):
    """The book, with links that lead to the notebooks beside the one in hand."""

    here = ""

    def __init__(self, chapters: list[Chapter]) -> None:
        super().__init__(chapters)
        self.pages = {name: (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}
        for text in self.pages.values():  # these have no number of their own
            self.numbers |= {label: f"({i})" for i, label in enumerate(LABELLED.findall(text), 1)}

    def _said(self, role: str, text: str) -> str:
        shown, target = EXPLICIT.fullmatch(text).groups() if EXPLICIT.fullmatch(text) else ("", text)
        there = {chapter.name for chapter in self.chapters} | self.pages.keys()
        if role == "doc":
            title = shown or f"*{self.titles[target]}*"
            return f"[{title}]({target}.ipynb)" if target in there else title
        if role == "term" and self.here != "glossary":
            return f"[{shown or target}](glossary.ipynb)"
        said = super()._said(role, text)
        if role in ("eq", "numref", "ref"):
            home = next((c.name for c in self.chapters if re.search(rf"\b{c.number}\.\d", said)), self.here)
            return said if home == self.here else f"[{said}]({home}.ipynb)"
        return said

    def markdown(self, source: str, here: str) -> str:
        """What only Sphinx understands said in Markdown that any notebook program shows."""
        self.here = here
        tagged = re.sub(
            r"[ ]*\n?\$\$[ ]*\(([\w-]+)\)$",
            lambda m: f"\n\\tag{{{self.numbers[m[1]].strip('()')}}}\n$$",
            self.plain(source),
            flags=re.M,
        )
        return "\n".join(self._unfolded(tagged.split("\n")))

    def _unfolded(self, lines: list[str]) -> Iterator[str]:
        lines = lines[:]
        while lines:
            line = lines.pop(0)
            fence = OPENING.fullmatch(line)
            if not fence:
                yield line
                continue
            end = next((i for i, other in enumerate(lines) if other.strip() == fence[1]), len(lines))
            body, lines = lines[:end], lines[end + 1 :]
            if not fence[2]:
                yield from (line, *body, fence[1])
                continue
            options = {}
            while body and (option := OPTION.fullmatch(body[0])):
                options[option[1]] = option[2]
                body.pop(0)
            inside = "\n".join(self._unfolded(body)).strip("\n")
            yield from self._said_plainly(fence[2], fence[3], options, inside).split("\n")

    def _said_plainly(self, kind: str, title: str, options: dict[str, str], inside: str) -> str:
        if kind == "exercise":
            return f"### {self.numbers[options['label']]}: {title}\n\n{inside}"
        if kind == "dropdown" or "dropdown" in options.get("class", ""):
            return details(title or kind.title(), inside)
        if kind == "list-table":
            rows = [
                re.split(r"\n  - ", row.removeprefix("- ")) for row in inside.removeprefix("* ").split("\n* ")
            ]
            rows = [[" ".join(cell.split()) for cell in row] for row in rows]
            rows.insert(1, ["---"] * len(rows[0]))
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        if kind == "glossary":
            entries = re.findall(r"^(\S.*(?:\n\S.*)*)\n((?:[ ].*\n?)+)", inside, re.M)
            entries = sorted(
                ((t.split("\n"), " ".join(s.split())) for t, s in entries), key=lambda e: e[0][0].casefold()
            )
            return "\n\n".join(f"**{terms[0]}** {' · '.join(terms[1:])}  \n{said}" for terms, said in entries)
        if kind == "bibliography":
            return str(
                pybtex.format_from_file(str(ROOT / "book/references.bib"), "plain", output_backend="markdown")
            )
        if title or kind in ("note", "warning", "tip", "important"):
            return quoted(f"**{title or kind.title()}**\n\n{inside}")
        return inside


def details(summary: str, inside: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def markdown_cell(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source.strip("\n")}


def notebook_of(cells: list[dict]) -> NotebookNode:
    cells = [{**cell, "id": f"cell-{i:02d}"} for i, cell in enumerate(cells)]
    return from_dict({"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})


def segments(chapter: Chapter) -> Iterator[tuple[dict, str]]:
    """The cells of a chapter, cut where a solution begins or ends; beside each the exercise that it solves, or nothing."""
    solves = ""
    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            yield cell, solves
            continue
        before, *rest = MARKER.split(cell.source)
        yield markdown_cell(before), solves
        for which, label, text in zip(rest[::3], rest[1::3], rest[2::3]):
            solves = label if which == "start" else ""
            yield markdown_cell(text), solves


def edition(chapter: Chapter, book: Shelf, kind: str, setup: str = "") -> tuple[NotebookNode, dict[str, str]]:
    """One chapter for a kind of reader, and of a student's the checks by exercise, which know the answers.

    Args:
        kind: "student" (no solutions), "teacher" (solutions and common wrong answers) or "reader" (solutions, folded).
        setup: a first line for the first code cell.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}, but there are {', '.join(KINDS)}; choose one")
    cells, checks, asked, told = [], {}, "", set()
    for cell, solves in segments(chapter):
        if solves and kind == "student":
            continue
        if cell["cell_type"] == "markdown":
            asked = found[1] if (found := LABEL.search(cell["source"])) else asked
            text = book.markdown(cell["source"], chapter.name).strip("\n")
            if solves:
                text = solution_text(text, book.numbers[solves], kind, first=solves not in told)
                told.add(solves)
            cells += [markdown_cell(text)] if text else []
            continue
        if solves:
            cells += solution_code(cell, kind, second=cells[-1]["cell_type"] == "code")
            continue
        code = code_cell(cell)
        if setup and "notebook.setup(" in code["source"]:
            code["metadata"], code["source"], setup = {}, f"{setup}\n{code['source']}", ""
        if kind == "student" and asked and f'"{asked}"' in code["source"]:
            code["source"], checks[asked] = sealed(code["source"], asked, chapter)
        cells += [code] if code["source"] else []
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            number = book.numbers[figure["name"]].removeprefix("Fig. ")
            cells.append(
                markdown_cell(f"**Figure {number}.** {book.markdown(figure['caption'], chapter.name)}")
            )
    return notebook_of(cells), checks


def solution_text(text: str, name: str, kind: str, *, first: bool) -> str:
    """A part of a solution's text: under a title for a teacher, folded for a reader."""
    title = f"Solution to {name}" + ("" if first else ", continued")
    if kind == "reader":
        return details(title, text) if text else ""
    return f"**{title}**\n\n{text}" if first else text


def solution_code(cell: NotebookNode, kind: str, *, second: bool) -> list[dict]:
    """A solution's code: folded for a reader; for a teacher what the page keeps back, too, each under a title."""
    code, kept_back = code_cell(cell), "remove-cell" in cell.metadata.get("tags", [])
    if kind == "reader":  # a folded cell still shows its first line
        folded = {"source_hidden": True, "outputs_hidden": True}
        code |= {"metadata": {"jupyter": folded}, "source": f"# The solution\n{code['source']}"}
        return [] if kept_back else [code]
    if not kept_back:  # what comes after the answer only looks at it
        answers = second and 'exercise("' in cell.source
        return [*([markdown_cell("**The right answer**")] if answers else []), code]
    right = any("✓ " in output.get("text", "") for output in cell.outputs)
    title = "Another right answer" if right else "A common wrong answer"
    return [markdown_cell(f"**{title}**, and what the check says to it"), code]


def code_cell(cell: NotebookNode) -> dict:
    """A code cell without what speaks to Sphinx alone: tags, glued values, names of figures."""
    outputs = [output for output in cell.outputs if GLUED not in output.get("data", {})]
    folded = "hide-input" in cell.metadata.get("tags", [])
    return {
        "cell_type": "code",
        "metadata": {"jupyter": {"source_hidden": True}} if folded else {},
        "execution_count": cell.execution_count,
        "outputs": outputs,
        "source": without(cell.source, glues(cell.source)),
    }


def glues(source: str) -> list[ast.stmt]:
    """The statements that only hand values to the prose, which holds them here."""

    def only(node: ast.stmt) -> bool:
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id="glue"))) | ast.ImportFrom(module="myst_nb"):
                return True
            case ast.For():
                return all(map(only, node.body))
        return False

    statements = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.stmt)]
    return [node for node in statements if only(node)]


def parsed(source: str) -> ast.Module:
    return ast.parse(re.sub(r"(?m)^[%!].*", "pass", source))


def lines_of(node: ast.stmt) -> range:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return range(first - 1, node.end_lineno)


def without(source: str, statements: list[ast.stmt]) -> str:
    gone = {i for node in statements for i in lines_of(node)}
    kept = "\n".join(line for i, line in enumerate(source.split("\n")) if i not in gone)
    return re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n")


def names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def bound(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a cell gives to later ones."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def sealed(source: str, label: str, chapter: Chapter) -> tuple[str, str]:
    """The cell of an exercise without its check, and the check.

    What stands above the place for the answer stays, and so does what a text or another cell names.
    """
    statements = parsed(source).body
    [call] = [
        s
        for s in statements
        if isinstance(s, ast.Expr) and "exercise" in names(s) and label in ast.unparse(s)
    ]
    judge = names(call) & {s.name for s in statements if isinstance(s, ast.FunctionDef)}
    answers, wanted = set(), set()
    for cell, solves in segments(chapter):
        if cell["cell_type"] == "markdown":
            wanted |= {word for said in SPOKEN.findall(cell["source"]) for word in re.findall(r"\w+", said)}
        elif cell["source"] != source and solves in ("", label):
            tree = parsed(cell["source"]).body
            here = {name for s in tree for name in bound(s)}
            if solves:
                answers |= here
            else:
                wanted |= set().union(*map(names, tree)) - here
    place = next(i for i, s in enumerate(statements) if bound(s) & answers)
    stays: list[ast.stmt] = []
    while True:
        kept = [
            s
            for i, s in enumerate(statements)
            if s is not call
            and not bound(s) & judge
            and (i <= place or not bound(s) or bound(s) & (answers | wanted))
        ]
        if len(kept) == len(stays):
            break
        stays = kept
        wanted |= set().union(*map(names, stays))
    moved = [s for s in statements if s not in stays]
    lines = source.split("\n")
    program = "\n\n".join("\n".join(lines[i] for i in lines_of(s)) for s in moved)
    return f"{without(source, moved)}\n\n\n%run -i checks/{label}.py", program


def packed(program: str, label: str) -> str:
    """A file that runs `program` and does not show it."""
    text = base64.b85encode(zlib.compress(program.encode(), 9)).decode()
    rows = "\n".join(f'    b"{text[i : i + 90]}"' for i in range(0, len(text), 90))
    return (
        f"# The check of {label}, packed so that nobody reads its answer by accident.\n"
        f'exec(__import__("zlib").decompress(__import__("base64").b85decode(\n{rows}\n)))\n'
    )


def pages(book: Shelf) -> dict[str, NotebookNode]:
    """The pages beside the chapters, and a first one that lists the chapters in their order."""
    found = {
        name: notebook_of([markdown_cell(book.markdown(part, name)) for part in re.split(r"\n(?=## )", text)])
        for name, text in book.pages.items()
    }
    rows, part = ["# The MAML Book"], ""
    for chapter in book.chapters:
        if chapter.part != part:
            part = chapter.part
            rows.append(f"\n## {part}\n")
        rows.append(
            f"{chapter.number}. [{chapter.title}]({chapter.name}.ipynb): {book.markdown(chapter.promise, '')}"
        )
    rows.append("\n## Reference\n")
    rows += [f"- [{book.titles[name]}]({name}.ipynb)" for name in book.pages]
    return found | {"index": notebook_of([markdown_cell("\n".join(rows))])}


def teaching(book: Shelf) -> NotebookNode:
    """What a teacher plans with: the syllabi of the page `teach`, and each chapter in short, from it and `teaching.toml`."""
    known = tomllib.loads((ROOT / "course" / "teaching.toml").read_text(encoding="utf-8"))
    page = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
    syllabi = page[page.index("## Three syllabi") : page.index("## Chapter by chapter")]
    cells = ["# Teach with it", *re.split(r"\n(?=###? )", syllabi), "## Chapter by chapter"]
    for chapter in book.chapters:
        about = known[chapter.name]
        cells.append("\n\n".join(_lesson(chapter, about["wrong"])))
        for i, asked in enumerate(about["exam"], 1):
            question = f"**Question {chapter.number}.{i}.** {asked['question']}"
            cells.append(f"{question}\n\n**Solution.** {asked['solution']}")
    return notebook_of([markdown_cell(book.markdown(cell, "teaching")) for cell in cells])


def _lesson(chapter: Chapter, wrong: list[str]) -> Iterator[str]:
    yield f"### {chapter.number}. {{doc}}`{chapter.title} <{chapter.name}>`"
    yield f"**Objectives.** Students {chapter.card['You will']}.\n\n**Reading.** {chapter.card['Reading']}."
    row = "| {i}. {title} | {kind} | {minutes} | {stars} |"
    rows = [row.format(i=i, **exercise) for i, exercise in enumerate(chapter.exercises, 1)]
    yield "\n".join(["| exercise | kind | minutes | level |", "| :-- | :-- | --: | :-- |", *rows])
    yield "**What students get wrong.**"
    yield "\n".join(f"- {line}" for line in wrong)


def contents(kind: str, book: Shelf, wheel: Path) -> dict[str, bytes]:
    """Every file of one edition, by its path in the folder."""
    notebooks, files = pages(book), {}
    if kind == "teacher":
        notebooks["teaching"] = teaching(book)
        notebooks["index"].cells.append(
            from_dict(
                {**markdown_cell("## For teachers\n\n- [Teach with it](teaching.ipynb)"), "id": "cell-01"}
            )
        )
    for chapter in book.chapters:
        notebooks[chapter.name], checks = edition(chapter, book, kind, HANDED)
        files |= {f"checks/{label}.py": packed(program, label).encode() for label, program in checks.items()}
    files |= {f"{name}.ipynb": (writes(notebook) + "\n").encode() for name, notebook in notebooks.items()}
    files |= {f"records/{path.name}": path.read_bytes() for path in (ROOT / "book" / "records").iterdir()}
    files |= {name: (ROOT / name).read_bytes() for name in ("LICENSE", "LICENSE-TEXT", "CITATION.cff")}
    files[wheel.name] = wheel.read_bytes()
    files["versions.txt"] = (ROOT / "requirements.txt").read_bytes()
    files["requirements.txt"] = f"-c versions.txt\n./{wheel.name}[data,page]\njupyterlab\n".encode()
    about = [(ROOT / "course" / f"{part}.md").read_text(encoding="utf-8") for part in (kind, "start")]
    files["README.md"] = "\n".join(about).encode()
    return files


def for_a_reader(setup: str = "") -> dict[str, str]:
    """The chapters with their solutions folded, and the pages beside them, as the text of a notebook by its name."""
    book = Shelf.read()
    chapters = {chapter.name: edition(chapter, book, "reader", setup)[0] for chapter in book.chapters}
    return {name: writes(notebook) + "\n" for name, notebook in (chapters | pages(book)).items()}


def archive(path: Path, files: dict[str, bytes]) -> None:
    """Write a zip that depends on what is in it and on nothing else: sorted, all of one time, in a folder of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed_files:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            packed_files.writestr(entry, files[name])
    print(f"{path.name}: {len(files)} files, {path.stat().st_size / 1e6:.0f} MB")


def carried(page: str) -> str:
    """A page or a notebook that was built beside the Makefile, for a folder that has none."""
    there = r"\1<strong>Run it</strong> in the folder <code>notebooks</code>, as its README.md says\2"
    page = re.sub(r'(<p class="run-it">).*?(</p>)', there, page, flags=re.S)
    return page.replace(LOCAL, CARRIED)


def built_wheel(folder: Path) -> Path:
    subprocess.run([sys.executable, str(ROOT / ".ci" / "tasks.py"), "wheel", str(folder)], check=True)
    return next(folder.glob("mamlkit-*.whl"))


def repository() -> str:
    """Where the book's repository is, from BOOK_REPOSITORY; nothing where it is not set.

    Raises:
        ValueError: it is no repository on GitHub, the only place from which Colab opens notebooks.
    """
    address = os.environ.get("BOOK_REPOSITORY", "").removesuffix("/").removesuffix(".git")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(
            f"BOOK_REPOSITORY={address!r} is not of the form https://github.com/OWNER/NAME; mend or unset it"
        )
    return address


def fetching() -> str:
    """The lines that make a hosted machine ready, or nothing where no address is known."""
    address = repository()
    if not address:
        return ""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    return FETCHED.format(repository=address, commit=commit)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], ["offline"], ["hosted"]):
        print(__doc__)
        return 2
    out, what, book = Path(arguments[0]), arguments[1:], Shelf.read()
    if what == ["hosted"]:
        if not fetching():
            print("BOOK_REPOSITORY is not set; a hosted chapter must know where to fetch the book from")
            return 1
        (out / "book").mkdir(parents=True, exist_ok=True)
        for name, notebook in for_a_reader(fetching()).items():
            (out / "book" / f"{name}.ipynb").write_text(notebook, encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        wheel = built_wheel(Path(folder))
        if not what:
            for kind in ("student", "teacher"):
                archive(out / f"maml-book-{kind}.zip", contents(kind, book, wheel))
            return 0
        site = ROOT / "_build" / "html"
        if not (site / "index.html").is_file():
            print(f"there are no pages in {site}; run `make book` first")
            return 1
        files = {f"notebooks/{name}": data for name, data in contents("reader", book, wheel).items()}
        kept = (
            path
            for path in site.rglob("*")
            if path.is_file() and path.name not in (".buildinfo", ".nojekyll")
        )
        for path in kept:
            data = path.read_bytes()
            if path.suffix in (".html", ".ipynb"):
                data = carried(data.decode()).encode()
            files[f"pages/{path.relative_to(site).as_posix()}"] = data
        files["start.html"] = (ROOT / "course" / "start.html").read_bytes()
        archive(out / "maml-book-offline.zip", files)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
