"""What a chapter must be, checked on the file alone: each function returns the list of what is wrong.

`problems` looks at one notebook, `book_problems` at all of them together, `kit_problems` at the cells that
claim to be the kit's own source. `tests/test_gates.py` shows that each rule turns red when it is broken.
"""

from __future__ import annotations

import ast
import base64
import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_data

from mamlkit.page.checks import NO_ANSWER
from mamlkit.page.drawn import NARROW as TWIN
from mamlkit.page.widgets.figure import FRONT, SLOT, source

ROOT = Path(__file__).resolve().parent.parent

LONGEST_CELL = 30  # lines
EXERCISES = (3, 5)  # per chapter
QUESTIONS, ANSWERS = 3, (3, 4)  # of `Check yourself`, per chapter and per question
LARGEST_FILE = 1_500_000  # bytes

TAGS = {
    "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell",
    "full-width", "margin", "nbval-ignore-output", "raises-exception", "slide", "no-slide",
}  # fmt: skip
TIMERS = re.compile(r"perf_counter|process_time|timeit|time\.time\(|%time|synchronize\(|Timer\(")
DURATION = re.compile(r"\d\s?(ns|µs|us|ms|s|sec|seconds|min|minutes)\b")
UNSTABLE = {
    re.compile(r"\b0x[0-9a-fA-F]{6,}"): "an address",
    re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|var|opt|mnt|work|private|Users)/\w"): "a machine's path",
    re.compile(r"\b[A-Z]:\\\w"): "a machine's path",
    re.compile(r"\d(it|s)/(s|it)\b|\?it/s"): "a progress bar",
}
DIRECTIVE = re.compile(
    r"^[ >]*(?:`{3,}|:{3,})\{(exercise|exercise-start|solution|solution-start|solution-end)\}[ \t]*(.*)$",
    re.M,
)
VERDICT = re.compile(r"(?:✓ (ex-[\w-]+): solved|… (ex-[\w-]+): not yet \((.*)\))$")
KINDS = "Predict, then run", "Code", "Proof, with a check", "Debug"
KIND = re.compile(rf"^\*({'|'.join(KINDS)})\* · \d+ minutes · (★☆☆|★★☆|★★★)$", re.M)
HUGE = 1e3  # no claim of this book needs a larger constant to compare with
# what a card may say of a run: `make costs` measures and rounds up
SECONDS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300)
GIGABYTES = (0.5, 1, 1.5, 2, 3, 4, 6)
RUNNING = re.compile(r"\*\*Running\*\* (\d+) s and ([\d.]+) GB on two CPU cores$", re.M)
CARD = ("You will", "You need", "Reading", "Running", "Device")
REPEATED = (ast.For, ast.While, ast.FunctionDef, ast.If, ast.Try, ast.ListComp, ast.GeneratorExp)


def problems(notebook: NotebookNode, name: str, *, allowed: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong with one chapter, a sentence each that begins with the notebook's name and the cell.

    Args:
        name: the file's name, `inner-loop.ipynb`.
        allowed: reasons by (file name, first line of the cell), as `allow_list` reads them.
    """
    found = (
        _cells(notebook, name, allowed),
        _anatomy(notebook),
        _exercises(notebook, name),
        _questions(notebook, name),
        _checks(notebook),
    )
    return [f"{name}: {problem}" for problem in chain(*found)]


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return list(cell.metadata.get("tags", []))


def first_line(cell: NotebookNode) -> str:
    """The first line of a cell's source."""
    return cell.source.strip().split("\n")[0].strip()


def _code(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    return ((i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")


def _lines(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Every line that was printed, after the number of its cell."""
    outputs = [(i, output) for i, cell in _code(notebook) for output in cell.outputs]
    return [(i, line) for i, o in outputs if o.get("name") == "stdout" for line in o.text.split("\n")]


def _broken(rules: Mapping[str, object]) -> Iterator[str]:
    """The complaints whose condition does not hold."""
    return (complaint for complaint, holds in rules.items() if not holds)


def _cells(notebook: NotebookNode, name: str, allowed: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for count, (i, cell) in enumerate(_code(notebook), 1):
        if cell.execution_count != count:
            yield f"cell {i} has execution count {cell.execution_count}, not {count}: refresh the chapter"
        found = chain(_outputs(cell, (name, first_line(cell)) in allowed), _figure(cell))
        yield from (f"cell {i} {problem}" for problem in found)


def _outputs(cell: NotebookNode, listed: bool) -> Iterator[str]:
    lines, text = cell.source.count("\n") + 1, "\n".join(_texts(cell))
    raised, announced = any(o.output_type == "error" for o in cell.outputs), "raises-exception" in tags(cell)
    compared = "nbval-ignore-output" not in tags(cell)
    timed = TIMERS.search(cell.source) and DURATION.search(text)
    outdated = any(_is_outdated(html) for html in _interactive(cell))
    told = re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.M)
    warned = any(output.get("name") == "stderr" for output in cell.outputs)
    rules = {
        f"has {lines} lines, {LONGEST_CELL} at most": lines <= LONGEST_CELL,
        "stores an error without the tag raises-exception": announced or not raised,
        "is tagged raises-exception but stores no error": raised or not announced,
        "stores stderr; mend the warning or say why in the text": not warned,
        "prints a time; tag it nbval-ignore-output and list it among the allowed": not (timed and compared),
        "is tagged nbval-ignore-output but not listed in allowed_ignored_outputs.txt": listed or compared,
        "speaks to nbval in a comment; use a tag": not told,
        "stores an interactive figure with another front end than the kit's; refresh the chapter": not outdated,
    }
    yield from _broken(rules)
    for pattern, what in UNSTABLE.items():
        if match := pattern.search(text):
            yield f"stores {what}, {text[max(0, match.start() - 20) : match.end() + 20]!r}"
    for tag in tags(cell):
        if tag not in TAGS and not tag.startswith("kit:"):
            yield f"has the tag {tag!r}, which nothing reads; there are {', '.join(sorted(TAGS))}, kit:..."


def _texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        printed = output.get("text", output.get("evalue", ""))
        for mime, value in {"text/plain": printed, **output.get("data", {})}.items():
            if mime.startswith("text/") and not (mime == "text/html" and "<script" in value):
                yield value


def _interactive(cell: NotebookNode) -> Iterator[str]:
    pages = (output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return (page for page in pages if SLOT in page)


def _is_outdated(figure: str) -> bool:
    """Whether anything but whole files of the front end stands where they go: running the chapter says so minutes later."""
    places = r"<style>\n(.*)</style>.*\"use strict\";\n(.*)for \(const slot of"
    if not (match := re.search(places, figure, re.S)):
        return True
    style, script = match.groups()
    for part in FRONT.glob("*.js"):
        script = script.replace(source(part.name), "")
    return bool(script) or style != source("figure.css")


def _figure(cell: NotebookNode) -> Iterator[str]:
    stored = [mime for output in cell.outputs for mime in output.get("data", {})]
    settings = cell.metadata.get("mystnb", {})
    image, figure = settings.get("image", {}), settings.get("figure", {})
    pictures, name = stored.count("image/png"), figure.get("name", "")
    if "image/svg+xml" in stored or "image/jpeg" in stored:
        yield "stores a picture that is no PNG, so it cannot be compared"
    if pictures > 1:
        yield f"draws {pictures} pictures, but alt text and caption are one each; give each figure its cell"
    if pictures:
        for key, text in (("image.alt", image.get("alt", "")), ("figure.caption", figure.get("caption", ""))):
            if len(text.strip()) < 20:
                yield f"draws a picture, but mystnb.{key} is {text!r}; say in a sentence what is seen"
        if re.search(r"\b(black|white)\b", figure.get("caption", ""), re.I):
            yield "has a caption that speaks of black or white, which trade places in the dark; name the shape"
        if re.search(r"[;,.] (?:left|right)\b|\bon the (?:left|right)\b(?! of)", figure.get("caption", "")):
            yield "names a side in mid-sentence; begin with Left or Right, or write (left): a phone stacks panels"
        if not re.fullmatch(r"fig-[a-z0-9-]+", name):
            yield f"draws a picture, but mystnb.figure.name is {name!r}; name it fig-..."
        if "hide-input" not in tags(cell):
            yield "draws a picture before the reader's eyes are on it; tag the cell hide-input, the page folds its code"
        if not any(_has_twin(output) for output in cell.outputs):
            yield "stores a picture without its narrow twin; refresh the chapter"
    elif figure or image:
        yield "has a caption or alt text, but draws no picture; does it end with plt.show()?"


def _has_twin(output: NotebookNode) -> bool:
    return TWIN in base64.b64decode(output.get("data", {}).get("image/png", ""))[:2_000_000]


def _anatomy(notebook: NotebookNode) -> Iterator[str]:
    pages = [cell.source if cell.cell_type == "markdown" else "" for cell in notebook.cells]
    markdown, card = "\n\n".join(pages), "\n".join(pages[:3])
    sentence = re.match(r"# \S.*\n+[^\n#`:].*\.\s*(\n|$)", "".join(pages[:1]))
    titles = re.findall(r"^# \S", re.sub(r"(?ms)^`{3,}.*?^`{3,}$", "", markdown), re.M)
    glance = "{admonition} At a glance" in card and ":class: glance" in card
    missing = [key for key in CARD if f"**{key}**" not in card] if glance else []
    first = next((cell for _, cell in _code(notebook)), None)
    running = RUNNING.search(card)
    setup = first is not None and "notebook.setup(" in first.source and "hide-input" in tags(first)
    claims = [line for _, line in _lines(notebook) if line.startswith("✓ ") and not VERDICT.match(line)]
    rules = {
        "it opens with neither title nor the one sentence on what the reader will be able to do": sentence,
        "it has not exactly one title (a line with one #)": len(titles) == 1,
        "it has no card ({admonition} At a glance with :class: glance) in its first cells": glance,
        f"its card does not say {', '.join(missing)}": not missing,
        "its card does not say what `make costs` measured, as in '**Running** 20 s and 1 GB on two CPU cores'": (
            running and float(running[1]) in SECONDS and float(running[2]) in GIGABYTES
        ),
        "its first code cell is not notebook.setup(...) with the tag hide-input": setup,
        "it has no section '## Exercises'": re.search(r"^## Exercises", markdown, re.M),
        "it has no section '## Notes'": re.search(r"^## Notes", markdown, re.M),
        "it claims nothing: no cell prints ✓ and a sentence": claims,
    }
    yield from _broken(rules)


def _exercises(notebook: NotebookNode, name: str) -> Iterator[str]:
    # every directive of the page in order: its kind, its title or target, its text, its cell
    page = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            _, *parts = DIRECTIVE.split(cell.source)
            page += zip(parts[::3], map(str.strip, parts[1::3]), parts[2::3], repeat(i))
    asked: dict[str, int] = {}
    for kind, title, body, i in page:
        if kind.startswith("exercise"):
            label = (re.search(r"^:label:\s*(\S+)", body, re.M) or ["", "(none)"])[1]
            form = rf"ex-{Path(name).stem}-\d+"
            rules = {
                f"the label {label} stands twice": label not in asked,
                f"the label {label} of {title!r} is not of the form {form}": re.fullmatch(form, label),
                f"{label} has no hint ({{dropdown}} Hint)": re.search(r"\{dropdown\}[ \t]*Hint", body),
                f"{label} does not say its kind, minutes and stars, as in '*Code* · 10 minutes · ★★☆'": KIND.search(
                    body
                ),
            }
            yield from (f"cell {i}: {complaint}" for complaint in _broken(rules))
            asked[label] = i
    (low, high), kinds = EXERCISES, [kind for kind, *_ in page]
    starts, ends = kinds.count("solution-start"), kinds.count("solution-end")
    solved = {target: (i, body) for kind, target, body, i in page if kind in ("solution", "solution-start")}
    sources = "\n".join(cell.source for _, cell in _code(notebook))
    checked = re.findall(r"\bexercise\(\s*[\"']([^\"']+)", sources)
    rules = {
        f"it has {len(asked)} exercises, {low} to {high} make a chapter": low <= len(asked) <= high,
        f"it has {starts} solution-start and {ends} solution-end": starts == ends,
        **{f"a solution to {label}, which no exercise is called": label in asked for label in solved},
        **{f"a cell checks {label}, which no exercise is called": label in asked for label in checked},
    }
    yield from _broken(rules)
    said = [(i, m[1] or m[2], m[3] or "") for i, line in _lines(notebook) if (m := VERDICT.match(line))]
    hidden = {i for i, cell in _code(notebook) if "remove-cell" in tags(cell)}
    for label, where in asked.items():
        if label not in solved:
            yield f"cell {where}: {label} has no solution"
            continue
        start, body = solved[label]
        before = [(i, reason) for i, of, reason in said if of == label and i < start]
        after = [(i, reason) for i, of, reason in said if of == label and i > start]
        open_first = any(where < i and reason for i, reason in before)
        collapsed = re.search(r"^:class:.*\bdropdown\b", body, re.M)
        passed = after and not after[-1][1]
        refused = {i for i, reason in after[:-1] if reason not in ("", NO_ANSWER)}
        silent = [i for i, of, reason in said if of == label and reason == "the check is false"]
        rules = {
            "it refuses an answer without a reason (see judged, chosen, close)": not silent,
            "its solution is not collapsed (:class: dropdown)": collapsed,
            "between the exercise and its solution no cell prints 'not yet'": open_first,
            "it is solved before its solution": all(reason for _, reason in before),
            "its solution does not print 'solved', so nothing shows that the check can pass": passed,
            "no cell tagged remove-cell in its solution gives a plausible wrong answer that the check refuses, "
            "so nothing shows that the check can fail": hidden & refused,
        }
        yield from (f"{label}: {complaint}" for complaint in _broken(rules))


def _questions(notebook: NotebookNode, name: str) -> Iterator[str]:
    pages = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    sections = re.findall(r"^## (Exercises|Check yourself|Notes)", pages, re.M)
    page = re.search(r"^## Check yourself.*?(?=^## |\Z)", pages, re.M | re.S)
    asked = BeautifulSoup(page[0] if page else "", "html.parser").select("div.check")
    right = [[answer["class"] == ["right"] for answer in one.select("details")] for one in asked]
    rules = {
        "'## Check yourself' does not stand between exercises and notes": sections
        == ["Exercises", "Check yourself", "Notes"],
        f"it asks {len(asked)} questions to check oneself, {QUESTIONS} make a chapter": len(asked)
        == QUESTIONS,
        "its right answers all stand in one place": len({row.index(True) for row in right if any(row)}) != 1,
    }
    yield from _broken(rules)
    for i, (one, marks) in enumerate(zip(asked, right), 1):
        label, (low, high) = f"check-{Path(name).stem}-{i}", ANSWERS
        said = [
            (a["class"][0], a.summary.text, a.text.removeprefix(a.summary.text))
            for a in one.select("details")
        ]
        named = one.h3 and one.h3.get("id") == one.get("aria-labelledby") == label
        rules = {
            f"question {i} is not named {label} by its heading": named,
            f"{label} has {len(said)} answers, {low} to {high} make a question": low <= len(said) <= high,
            f"{label} has {sum(marks)} right answers, not one": sum(marks) == 1,
            f"{label} has a backtick where Markdown is not read: write <code>": not any(
                "`" in part.text for part in (one.h3 or one, *one.select("summary"))
            ),
            f"{label} has an answer twice": len({text for _, text, _ in said}) == len(said),
        }
        for kind, text, why in said:
            word = "Right" if kind == "right" else "No"
            begins = re.match(rf"\s*\*\*{word}:\*\* \S.{{20}}", why)
            rules[f"{label}: {text!r} does not open with '**{word}:**' and say why"] = begins
        yield from _broken(rules)


def _checks(notebook: NotebookNode) -> Iterator[str]:
    """Claims and exercises' checks that can't fail, and ticks that no claim printed."""
    trees = {i: ast.parse(re.sub("(?m)^[%!].*", "pass", cell.source)) for i, cell in _code(notebook)}
    functions = [f for tree in trees.values() for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    # a function that claims, so that a call of it prints ticks too
    claiming = {f.name for f in functions if _calls(f)}
    verdicts = [i for i, line in _lines(notebook) if re.match("✓ |… ex-", line)]
    for i, tree in trees.items():
        nodes, calls = list(ast.walk(tree)), _calls(tree)
        for line in nodes:
            if isinstance(line, ast.Expr) and line is not tree.body[-1] and _called(line.value) == "table":
                yield f"cell {i} makes a table that nobody sees; make it the cell's last line"
        for call in calls:
            if len(call.args) != 2 or any(isinstance(a, ast.Starred) for a in call.args):
                yield f"cell {i}: {call.func.id} wants two arguments by position, so that the second can be read here"
                continue
            said, condition = call.args
            bodies = [condition]
            if call.func.id == "exercise":
                named = [f for f in functions if f.name == getattr(condition, "id", "")]
                bodies = [condition.body] if isinstance(condition, ast.Lambda) else named
            for why in chain(*map(_vacuous, bodies)):
                yield f"cell {i}: the check of {call.func.id}({ast.unparse(said)}) {why}"
        if any(isinstance(node, ast.Constant) and "✓" in str(node.value) for node in nodes):
            yield f"cell {i} writes a tick by itself; write claim('what holds', condition)"
        printed = verdicts.count(i)
        repeated = {id(call) for node in nodes if isinstance(node, REPEATED) for call in _calls(node)}
        once = sum(id(call) not in repeated for call in calls)
        helpers = any(isinstance(node, ast.Name) and node.id in claiming for node in nodes)
        if printed < once or (printed > once and not repeated and not helpers):
            yield f"cell {i} prints {printed} verdicts, but claims and exercises are called {once} times"


def _called(node: ast.expr) -> str:
    return getattr(getattr(node, "func", None), "id", "")


def _calls(tree: ast.AST) -> list[Any]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if getattr(call.func, "id", "") in ("claim", "exercise")]


def _vacuous(check: ast.AST) -> Iterator[str]:
    """Why a condition, or a function that is one, can't fail or can't be trusted to."""
    nodes = list(ast.walk(check))
    if isinstance(check, ast.FunctionDef):
        body = check.body[ast.get_docstring(check) is not None :]
        reached = body[:1] if isinstance(body[0], ast.Return) else body
        inside = [node for statement in reached for node in ast.walk(statement)]
        if not any(isinstance(node, (ast.If, ast.For, ast.While, ast.Try)) for node in inside) and all(
            isinstance(node.value, ast.Constant) for node in inside if isinstance(node, ast.Return)
        ):
            yield "returns the same whatever the answer is"
        if any(isinstance(node, ast.Assert) for node in nodes):
            yield "uses assert, which python -O leaves out; return the condition"
    elif not _computed(check):
        yield "looks at nothing that was computed"
    for node in nodes:
        if isinstance(node, ast.BoolOp) and any(
            isinstance(v, ast.Constant) and v.value is not None for v in node.values
        ):
            yield f"has a constant beside {'or' if isinstance(node.op, ast.Or) else 'and'}: {ast.unparse(node)!r}"
        if isinstance(node, ast.Compare):
            if not _computed(node):
                yield f"compares constants: {ast.unparse(node)!r}"
            sides = [node.left, *node.comparators]
            for left, op, right in zip(sides, node.ops, sides[1:]):
                less, more = (left, right) if isinstance(op, (ast.Lt, ast.LtE)) else (right, left)
                ordered = isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE))
                if ordered and (_value(more) > HUGE or _value(less) < -HUGE):
                    yield f"compares with a number that hardly any other reaches: {ast.unparse(node)!r}"


def _computed(node: ast.AST) -> bool:
    return any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node))


def _value(node: ast.expr) -> float:
    """What a constant expression is, 0 for everything else."""
    try:
        value = 0 if _computed(node) else eval(ast.unparse(node))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0
    return value if isinstance(value, (int, float)) else 0


def allow_list(text: str) -> dict[tuple[str, str], str]:
    """Reasons by (file name, first line of the cell), from lines `notebook.ipynb | first line | reason`.

    Raises:
        ValueError: a line without its three parts.
    """
    reasons = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, *first, reason = parts = [part.strip() for part in line.split(" | ")]
            if not first or not all(parts):
                raise ValueError(f"not of the form 'notebook.ipynb | first line | reason': {line!r}")
            reasons[name, " | ".join(first)] = reason
    return reasons


def book_problems(notebooks: Mapping[str, NotebookNode], allowed: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong between chapters: figure names used twice, allowances that nothing uses."""
    cells = [(name, i, cell) for name, notebook in notebooks.items() for i, cell in _code(notebook)]
    used = {(name, first_line(cell)) for name, _, cell in cells if "nbval-ignore-output" in tags(cell)}
    found = [f"allowed_ignored_outputs.txt: no such cell, {' | '.join(k)}" for k in allowed.keys() - used]
    places = defaultdict(list)
    for name, i, cell in cells:
        figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        places[figure].append(f"{name}, cell {i}")
    return found + [
        f"{' and '.join(at)} are both called {f}" for f, at in places.items() if f and len(at) > 1
    ]


def toc_notebooks(toc: str, root: Path) -> set[str]:
    """The notebooks that `_toc.yml` names, as paths from `root`: every page that is no markdown there."""
    pages = map(Path, parse_toc_data(yaml.safe_load(toc)))
    return {
        page.with_suffix(".ipynb").as_posix()
        for page in pages
        if page.suffix == ".ipynb" or not (root / page).with_suffix(".md").is_file()
    }


def kit_problems(notebook: NotebookNode, name: str, *, kit: Path = ROOT / "mamlkit") -> list[str]:
    """Where a cell tagged `kit:module.function` is not the kit's source as `_Bare` leaves it."""
    found = []
    for i, cell in _code(notebook):
        targets = [tag.removeprefix("kit:") for tag in tags(cell) if tag.startswith("kit:")]
        if not targets:
            continue
        try:
            wanted = [_definition(target, kit) for target in targets]
        except LookupError as error:
            found.append(f"{name}: cell {i} is tagged kit:{', kit:'.join(targets)}, but {error.args[0]}")
            continue
        here = _Bare().visit(ast.parse(cell.source)).body
        sides = ["\n\n".join(map(ast.unparse, side)).split("\n") for side in (wanted, here)]
        diff = difflib.unified_diff(*sides, f"mamlkit {', '.join(targets)}", f"{name}, cell {i}", lineterm="")
        if lines := "\n".join(diff):
            found.append(f"{name}: cell {i} is not the kit's source\n{lines}")
    return found


def _definition(target: str, kit: Path) -> ast.stmt:
    *module, function = target.split(".")
    path = kit.joinpath(*module).with_suffix(".py") if module else kit / "__init__.py"
    if not path.is_file():
        raise LookupError(f"the kit has no module {'.'.join(module)!r}")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == function:
            return _Bare().visit(node)
    raise LookupError(f"{'.'.join(module)} defines no {function!r}")


class _Bare(ast.NodeTransformer):
    """Takes off annotations, docstrings, imports and the check of what a call was given."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else None

    def visit_Import(self, node: ast.AST) -> None:
        return None

    def visit_FunctionDef(self, node: Any) -> Any:
        node.returns = None
        node.decorator_list = [d for d in node.decorator_list if getattr(d, "id", "") != "checked"]
        node.body = node.body[ast.get_docstring(node) is not None :]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    visit_ImportFrom, visit_ClassDef = visit_Import, visit_FunctionDef
