"""Run the chapters with other seeds: a claim about training that holds for one seed only is no claim.

    python tests/seeds.py                         every chapter, five other seeds each
    python tests/seeds.py book/reptile.ipynb      one chapter
    python tests/seeds.py --seeds 10 ...          more of them
    python tests/seeds.py --skip 5 ...            others than the five that a chapter was written with

Every `manual_seed(s)`, `default_rng(s)` and `notebook.setup(seed=s)` of a chapter becomes s + shift; its cells run from top
to bottom, and each claim and exercise is noted with whether it held. What fails for a shift must say less, or stand with a
reason in `tests/seeds_examples.txt`: it speaks of the one example that is printed, not of training.
"""

from __future__ import annotations

import argparse
import ast
import linecache
import multiprocessing
import os
import re
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import nbformat
import refresh

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "tests" / "seeds_examples.txt"


class Shift(ast.NodeTransformer):
    """Adds a number to every seed that a chapter sets."""

    def __init__(self, by: int):
        self.by = by

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("manual_seed", "default_rng") and node.args:
            node.args[0] = self._more(node.args[0])
        for keyword in node.keywords:
            if name == "setup" and keyword.arg == "seed":
                keyword.value = self._more(keyword.value)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str):  # a script that the chapter writes to a file
            more = lambda m: f"manual_seed({int(m[1]) + self.by})"  # noqa: E731
            node.value = re.sub(r"manual_seed\((\d+)\)", more, node.value)
        return node

    def _more(self, seed: ast.expr) -> ast.expr:
        return ast.BinOp(seed, ast.Add(), ast.Constant(self.by))


def words(sentence: str) -> str:
    """A sentence with its numbers as #, which differ from seed to seed; the label of an exercise as it is."""
    if sentence.startswith("ex-"):
        return sentence
    return re.sub(r"[-−+]?\d[\d.,]*(e[-+]?\d+)?", "#", sentence).strip()


def run(path: Path, shift: int) -> list[tuple[str, bool, str]]:
    """Each claim and exercise of a chapter whose seeds are shifted: its words, whether it held, and what was said instead."""
    os.environ.update(MPLBACKEND="agg", TQDM_DISABLE="1")
    os.chdir(path.parent)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, for the whole process
    import matplotlib.pyplot as plt
    from IPython.display import display

    from mamlkit.page import checks

    noted: list[tuple[str, bool, str]] = []

    def claim(sentence: str, condition: object) -> None:
        noted.append((words(sentence), checks._truth(condition), sentence))

    def exercise(label: str, condition) -> None:
        held = False
        with suppress(Exception):
            outcome = condition()
            held = outcome is not None and checks._truth(outcome)
        noted.append((label, held, label))

    checks.claim, checks.exercise = claim, exercise
    names: dict[str, object] = {"__name__": "__main__", "display": display}
    for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            tree = ast.fix_missing_locations(Shift(shift).visit(ast.parse(cell.source)))
            source, where = ast.unparse(tree), f"<{path.stem}, cell {i}>"
            # what shows its own source reads it here
            linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
            try:
                exec(compile(source, where, "exec"), names)
            except Exception as error:
                if "raises-exception" not in cell.metadata.get("tags", []):
                    noted.append((f"cell {i} runs", False, f"{type(error).__name__}: {error}"[:300]))
            plt.close("all")
    return noted


def examples(text: str) -> set[tuple[str, str]]:
    """The claims and exercises, by chapter, that `seeds_examples.txt` lists as speaking of one example."""
    rows = [
        [part.strip() for part in line.split(" | ")] for line in text.splitlines() if line and line[0] != "#"
    ]
    return {(row[0].removesuffix(".ipynb"), words(row[1])) for row in rows}


def judged(name: str, runs: list[tuple[int, list]], listed: set[tuple[str, str]]) -> bool:
    """Whether everything a chapter says held for each shift, or speaks of an example; what did not is printed."""
    # the same words may stand twice in a chapter: the how-manieth is part of the name
    held: dict[tuple[str, int], list[tuple[int, bool, str]]] = defaultdict(list)
    for shift, noted in runs:
        count: Counter[str] = Counter()
        for sentence, truth, said in noted:
            held[sentence, count[sentence]].append((shift, truth, said))
            count[sentence] += 1
    last = dict(sorted(held))
    bad = 0
    for (sentence, nth), results in held.items():
        wrong = [(shift, said) for shift, truth, said in results if not truth]
        unsolved_yet = sentence.startswith("ex-") and nth != last[sentence]  # solved at its last attempt
        if wrong and not unsolved_yet and (name, sentence) not in listed:
            bad += 1
            print(f"{name}: holds for {len(results) - len(wrong)} of {len(results)} seeds: {sentence}")
            print("".join(f"    shift {shift}: {said}\n" for shift, said in wrong), end="")
    print(f"{name}: {len(held)} claims and checks, {bad} without margin", flush=True)
    return not bad


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("chapters", nargs="*", help="by name or path, default: all")
    parser.add_argument("--seeds", type=int, default=5, help="how many shifts (default %(default)s)")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out so many shifts before (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default %(default)s)")
    options = parser.parse_args()
    chapters = [refresh.find(name) for name in options.chapters] or refresh.chapters()
    listed = examples(EXAMPLES.read_text(encoding="utf-8"))
    shifts = [1000 * (options.skip + i + 1) for i in range(options.seeds)]
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        jobs = {path: [(s, pool.apply_async(run, (path, s))) for s in shifts] for path in chapters}
        verdicts = [
            judged(path.stem, [(shift, job.get()) for shift, job in runs], listed)
            for path, runs in jobs.items()
        ]
    return int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())
