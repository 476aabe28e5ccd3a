"""What a chapter must be, checked on the file alone: each function returns the list of what is wrong.

`problems` looks at one notebook, `book_problems` at all of them together, `kit_problems` at the cells that
claim to be the kit's own source. `tests/test_gates.py` shows that each rule turns red when it is broken.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent

LONGEST_CELL = 30  # lines
EXERCISES = (3, 5)  # per chapter
LARGEST_FILE = 1_500_000  # bytes

TAGS = {
    "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell",
    "full-width", "margin", "nbval-ignore-output", "raises-exception",
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
NOT_YET, SOLVED = (
    re.compile(r"^… (ex-[\w-]+): not yet \((.*)\)$", re.M),
    re.compile(r"^✓ (ex-[\w-]+): solved$", re.M),
)
NO_ANSWER = "no answer so far"
HUGE = 1e3  # no claim of this book needs a larger constant to compare with
CARD = ("You will", "You need", "Reading", "Running", "Device")


def problems(notebook: NotebookNode, name: str, *, allowed: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong with one chapter, a sentence each that begins with the notebook's name and the cell.

    Args:
        name: the file's name, `inner-loop.ipynb`.
        allowed: reasons by (file name, first line of the cell), as `allow_list` reads them.
    """
    found = [
        *_outputs(notebook, name, allowed),
        *_sizes(notebook),
        *_anatomy(notebook),
        *_exercises(notebook, name),
        *_checks(notebook),
    ]
    return [f"{name}: {problem}" for problem in found]


def stdout(cell: NotebookNode) -> str:
    """What a code cell printed."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return list(cell.metadata.get("tags", []))


def first_line(cell: NotebookNode) -> str:
    """The first line of a cell's source."""
    return cell.source.strip().split("\n")[0].strip()


def _code(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    return ((i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")


def _outputs(notebook: NotebookNode, name: str, allowed: Mapping[tuple[str, str], str]) -> Iterator[str]:
    for count, (i, cell) in enumerate(_code(notebook), 1):
        here = f"cell {i}"
        if cell.execution_count != count:
            yield f"{here} has execution count {cell.execution_count}, not {count}: refresh the chapter"
        errors = [o for o in cell.outputs if o.output_type == "error"]
        announced = "raises-exception" in tags(cell)
        if errors and not announced:
            yield f"{here} stores an error without the tag raises-exception"
        if announced and not errors:
            yield f"{here} is tagged raises-exception but stores no error"
        if any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs):
            yield f"{here} stores stderr; mend the warning or say why in the text"
        text = "\n".join(_texts(cell))
        for pattern, what in UNSTABLE.items():
            if match := pattern.search(text):
                yield f"{here} stores {what}, {text[max(0, match.start() - 20) : match.end() + 20]!r}"
        ignored = "nbval-ignore-output" in tags(cell)
        if TIMERS.search(cell.source) and DURATION.search(text) and not ignored:
            yield f"{here} prints a time; tag it nbval-ignore-output and list it among the allowed"
        if ignored and (name, first_line(cell)) not in allowed:
            yield f"{here} is tagged nbval-ignore-output but not listed in allowed_ignored_outputs.txt"
        if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.M):
            yield f"{here} speaks to nbval in a comment; use a tag"
        for tag in tags(cell):
            if tag not in TAGS and not tag.startswith("kit:"):
                known = ", ".join(sorted(TAGS))
                yield f"{here} has the tag {tag!r}, which nothing reads; there are {known}, kit:..."
        yield from (f"{here} {problem}" for problem in _figure(cell))
    if "widgets" in notebook.metadata:
        yield "stores the state of live widgets: refresh the chapter"


def _texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield output.evalue
        else:
            for mime, value in output.data.items():
                if mime.startswith("text/") and not (mime == "text/html" and "<script" in value):
                    yield value


def _figure(cell: NotebookNode) -> Iterator[str]:
    pictures = sum("image/png" in o.get("data", {}) for o in cell.outputs)
    settings = cell.metadata.get("mystnb", {})
    image, figure = settings.get("image", {}), settings.get("figure", {})
    if any("image/svg+xml" in o.get("data", {}) or "image/jpeg" in o.get("data", {}) for o in cell.outputs):
        yield "stores a picture that is no PNG, so it cannot be compared"
    if pictures > 1:
        yield f"draws {pictures} pictures, but alt text and caption are one each; give each figure its cell"
    if pictures:
        for key, text in (("image.alt", image.get("alt", "")), ("figure.caption", figure.get("caption", ""))):
            if len(text.strip()) < 20:
                yield f"draws a picture, but mystnb.{key} is {text!r}; say in a sentence what is seen"
        if not re.fullmatch(r"fig-[a-z0-9-]+", figure.get("name", "")):
            yield f"draws a picture, but mystnb.figure.name is {figure.get('name', '')!r}; name it fig-..."
    elif figure or image:
        yield "has a caption or alt text, but draws no picture; does it end with plt.show()?"


def _sizes(notebook: NotebookNode) -> Iterator[str]:
    for i, cell in _code(notebook):
        lines = len(cell.source.split("\n"))
        if lines > LONGEST_CELL:
            yield f"cell {i} has {lines} lines, {LONGEST_CELL} at most"


def _anatomy(notebook: NotebookNode) -> Iterator[str]:
    markdown = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    opening = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    if not re.match(r"# \S.*\n+[^\n#`:].*\.\s*(\n|$)", opening):
        yield "it opens with neither title nor the one sentence on what the reader will be able to do"
    if len(re.findall(r"^# \S", re.sub(r"(?ms)^`{3,}.*?^`{3,}$", "", markdown), re.M)) != 1:
        yield "it has not exactly one title (a line with one #)"
    card = "\n".join(cell.source for cell in notebook.cells[:3] if cell.cell_type == "markdown")
    if "{admonition} At a glance" not in card or ":class: glance" not in card:
        yield "it has no card ({admonition} At a glance with :class: glance) in its first cells"
    else:
        missing = [key for key in CARD if f"**{key}**" not in card]
        if missing:
            yield f"its card does not say {', '.join(missing)}"
    setup = next((cell for _, cell in _code(notebook)), None)
    if setup is None or "notebook.setup(" not in setup.source or "hide-input" not in tags(setup):
        yield "its first code cell is not notebook.setup(...) with the tag hide-input"
    for heading in ("## Exercises", "## Notes"):
        if not re.search(rf"^{heading}", markdown, re.M):
            yield f"it has no section {heading!r}"
    claims = [
        line for _, cell in _code(notebook) for line in stdout(cell).split("\n") if line.startswith("✓ ")
    ]
    if not any(not SOLVED.match(line) for line in claims):
        yield "it claims nothing: no cell prints ✓ and a sentence"


def _exercises(notebook: NotebookNode, name: str) -> Iterator[str]:
    # every directive of the page in order: its kind, its title or target, its text, its cell
    page = [
        (match[1], match[2].strip(), cell.source[match.end() : following], i)
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for match, following in _with_next(list(DIRECTIVE.finditer(cell.source)), len(cell.source))
    ]
    asked: dict[str, int] = {}
    for kind, title, body, i in page:
        if kind.startswith("exercise"):
            label = re.search(r"^:label:\s*(\S+)", body, re.M)
            if label is None:
                yield f"cell {i}: the exercise {title!r} has no :label:"
            elif label[1] in asked:
                yield f"cell {i}: the label {label[1]} stands twice"
            else:
                asked[label[1]] = i
                if not re.fullmatch(rf"ex-{Path(name).stem}-\d+", label[1]):
                    yield f"cell {i}: the label {label[1]} is not of the form ex-{Path(name).stem}-1"
                if not re.search(r"\{dropdown\}[ \t]*Hint", body):
                    yield f"cell {i}: {label[1]} has no hint ({{dropdown}} Hint)"
    low, high = EXERCISES
    if not low <= len(asked) <= high:
        yield f"it has {len(asked)} exercises, {low} to {high} make a chapter"
    solved = {target: (i, body) for kind, target, body, i in page if kind in ("solution", "solution-start")}
    for target in solved.keys() - asked.keys():
        yield f"cell {solved[target][0]}: a solution to {target}, which no exercise is called"
    starts, ends = (sum(kind == k for kind, *_ in page) for k in ("solution-start", "solution-end"))
    if starts != ends:
        yield f"it has {starts} solution-start and {ends} solution-end"
    said = [
        (i, "" if solved else unsolved[2], (solved or unsolved)[1])
        for i, solved, unsolved in _verdicts(notebook)
    ]
    for _, cell in _code(notebook):
        for label in re.findall(r"\bexercise\(\s*[\"']([^\"']+)", cell.source):
            if label not in asked:
                yield f"a cell checks {label}, which no exercise is called"
    for label, where in asked.items():
        if label not in solved:
            yield f"cell {where}: {label} has no solution"
            continue
        start, body = solved[label]
        if not re.search(r"^:class:.*\bdropdown\b", body, re.M):
            yield f"cell {start}: the solution to {label} is not collapsed (:class: dropdown)"
        mine = [(i, reason) for i, reason, of in said if of == label]
        before, after = [m for m in mine if m[0] < start], [m for m in mine if m[0] > start]
        if not any(where < i and reason for i, reason in before):
            yield f"{label}: between the exercise and its solution no cell prints 'not yet'"
        if any(not reason for _, reason in before):
            yield f"{label}: it is solved before its solution"
        if not after or after[-1][1]:
            yield f"{label}: its solution does not print 'solved', so nothing shows that the check can pass"
        if not any(
            reason not in ("", NO_ANSWER) and "remove-cell" in tags(notebook.cells[i])
            for i, reason in after[:-1]
        ):
            yield (
                f"{label}: no cell tagged remove-cell in its solution gives a plausible wrong answer that the check "
                "refuses, so nothing shows that the check can fail"
            )


def _with_next(matches: list[re.Match[str]], end: int) -> Iterator[tuple[re.Match[str], int]]:
    yield from zip(matches, [m.start() for m in matches[1:]] + [end] * bool(matches), strict=True)


def _verdicts(notebook: NotebookNode) -> Iterator[tuple[int, Any, Any]]:
    for i, cell in _code(notebook):
        for line in stdout(cell).split("\n"):
            solved, not_yet = SOLVED.match(line), NOT_YET.match(line)
            if solved or not_yet:
                yield i, solved, not_yet


def _checks(notebook: NotebookNode) -> Iterator[str]:
    """Claims and exercises' checks that can't fail, and ticks that no claim printed."""
    trees = {
        i: ast.parse(
            "\n".join("pass" if re.match("[%!]", line) else line for line in cell.source.split("\n"))
        )
        for i, cell in _code(notebook)
    }
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.Lambda))
    ]
    # a function that claims, so that a call of it prints ticks too
    claiming = {f.name for f in functions if isinstance(f, ast.FunctionDef) and list(_calls(f))}
    for i, tree in trees.items():
        calls = list(_calls(tree))
        for call in calls:
            name, condition = call.func.id, call.args[1] if len(call.args) == 2 else None
            if condition is None or any(isinstance(a, ast.Starred) for a in call.args):
                yield f"cell {i}: {name} wants two arguments by position, so that the second can be read here"
                continue
            bodies = [condition]
            if name == "exercise":
                bodies = [condition.body] if isinstance(condition, ast.Lambda) else []
                if isinstance(condition, ast.Name):
                    bodies = [f for f in functions if getattr(f, "name", "") == condition.id]
            for body in bodies:
                yield from (
                    f"cell {i}: the check of {name}({ast.unparse(call.args[0])}) {why}"
                    for why in _vacuous(body)
                )
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "✓" in node.value:
                yield f"cell {i} writes a tick by itself; write claim('what holds', condition)"
        lines = [line for line in stdout(notebook.cells[i]).split("\n") if re.match("✓ |… ex-", line)]
        inside = [
            node
            for node in ast.walk(tree)
            if isinstance(
                node, (ast.For, ast.While, ast.FunctionDef, ast.If, ast.Try, ast.ListComp, ast.GeneratorExp)
            )
        ]
        repeated = {id(call) for node in inside for call in _calls(node)}
        once = sum(id(call) not in repeated for call in calls)
        helpers = any(isinstance(n, ast.Name) and n.id in claiming for n in ast.walk(tree))
        if len(lines) < once or (len(lines) > once and not repeated and not helpers):
            yield f"cell {i} prints {len(lines)} verdicts, but claims and exercises are called {once} times"


def _calls(tree: ast.AST) -> Iterator[Any]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("claim", "exercise")
        ):
            yield node


def _vacuous(check: ast.AST) -> Iterator[str]:
    """Why a condition, or a function that is one, can't fail or can't be trusted to."""
    names = [node for node in ast.walk(check) if isinstance(node, (ast.Name, ast.Call))]
    if isinstance(check, ast.Constant) or (not names and not isinstance(check, ast.FunctionDef)):
        yield "looks at nothing that was computed"
    if isinstance(check, ast.FunctionDef):
        simple = [
            s for s in check.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        ]
        if isinstance(simple[0], ast.Return) and isinstance(simple[0].value, ast.Constant):
            yield f"returns {ast.unparse(simple[0].value)} whatever the answer is"
        elif not any(isinstance(s, (ast.If, ast.For, ast.While, ast.Try)) for s in ast.walk(check)) and all(
            isinstance(r.value, ast.Constant) for r in ast.walk(check) if isinstance(r, ast.Return)
        ):
            yield "returns the same whatever the answer is"
        if any(isinstance(node, ast.Assert) for node in ast.walk(check)):
            yield "uses assert, which python -O leaves out; return the condition"
    for node in ast.walk(check):
        if isinstance(node, ast.BoolOp) and any(
            isinstance(v, ast.Constant) and v.value is not None for v in node.values
        ):
            yield f"has a constant beside {'or' if isinstance(node.op, ast.Or) else 'and'}: {ast.unparse(node)!r}"
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if not any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node)):
                yield f"compares constants: {ast.unparse(node)!r}"
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
                less, more = (left, right) if isinstance(op, (ast.Lt, ast.LtE)) else (right, left)
                easy = isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) and (
                    _value(more) > HUGE or _value(less) < -HUGE
                )
                if easy:
                    yield f"compares with a number that hardly any other reaches: {ast.unparse(node)!r}"


def _value(node: ast.expr) -> float:
    """What a constant expression is, 0 for everything else."""
    if any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node)):
        return 0.0
    try:
        value = eval(compile(ast.Expression(node), "", "eval"), {"__builtins__": {}})
    except (TypeError, ZeroDivisionError):
        return 0.0
    return float(value) if isinstance(value, (int, float)) else 0.0


def allow_list(text: str) -> dict[tuple[str, str], str]:
    """Reasons by (file name, first line of the cell), from `notebook.ipynb | first line | reason`, one a
    line.

    Raises:
        ValueError: a line without its three parts.
    """
    reasons = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split(" | ")]
            if len(parts) < 3 or not all(parts):
                raise ValueError(f"not of the form 'notebook.ipynb | first line | reason': {line!r}")
            reasons[parts[0], " | ".join(parts[1:-1])] = parts[-1]
    return reasons


def book_problems(notebooks: Mapping[str, NotebookNode], allowed: Mapping[tuple[str, str], str]) -> list[str]:
    """What is wrong between chapters: figure names and exercise labels used twice, allowances that nothing
    uses."""
    found, figures = [], {}
    used = set()
    for name, notebook in notebooks.items():
        for i, cell in _code(notebook):
            if "nbval-ignore-output" in tags(cell):
                used.add((name, first_line(cell)))
            figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            if figure in figures:
                found.append(f"{name}: cell {i} is called {figure}, and so is {figures[figure]}")
            elif figure:
                figures[figure] = f"{name}, cell {i}"
    found += [
        f"allowed_ignored_outputs.txt: no such cell, {key[0]} | {key[1]}" for key in allowed.keys() - used
    ]
    return found


def toc_notebooks(toc: str, root: Path) -> set[str]:
    """The notebooks that `_toc.yml` names, as paths from `root`; a page that is neither notebook nor
    markdown is an error."""

    def pages(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                yield from pages(value)
        elif isinstance(node, list):
            for value in node:
                yield from pages(value)

    found = set()
    for page in pages(yaml.safe_load(toc)):
        stem = re.sub(r"\.(ipynb|md)$", "", page)
        if (root / f"{stem}.md").is_file() and not page.endswith(".ipynb"):
            continue
        found.add(f"{stem}.ipynb")
    return found


def kit_problems(notebook: NotebookNode, name: str, *, kit: Path = ROOT / "mamlkit") -> list[str]:
    """Where a cell tagged `kit:module.function` is not the kit's source less annotations, docstrings and
    imports."""
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
        here = [_bare(node) for node in _statements(ast.parse(cell.source))]
        if [ast.dump(node) for node in here] != [ast.dump(node) for node in wanted]:
            sides = ["\n\n".join(ast.unparse(node) for node in side).split("\n") for side in (wanted, here)]
            lines = difflib.unified_diff(
                *sides, f"mamlkit {', '.join(targets)}", f"{name}, cell {i}", lineterm=""
            )
            found.append(f"{name}: cell {i} is not the kit's source\n" + "\n".join(lines))
    return found


def _definition(target: str, kit: Path) -> ast.stmt:
    *module, function = target.split(".")
    path = kit.joinpath(*module).with_suffix(".py") if module else kit / "__init__.py"
    if not path.is_file():
        raise LookupError(f"the kit has no module {'.'.join(module)!r}")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == function:
            return _bare(node)
    raise LookupError(f"{'.'.join(module)} defines no {function!r}")


def _statements(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]


class _Bare(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else None

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._without_docstring(node)

    def _without_docstring(self, node: Any) -> Any:
        # the check of what a call was given stands before the algorithm, not in it
        node.decorator_list = [
            d for d in node.decorator_list if not (isinstance(d, ast.Name) and d.id == "checked")
        ]
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node


def _bare(node: ast.stmt) -> ast.stmt:
    return _Bare().visit(node)
