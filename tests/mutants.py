"""Break the kit on purpose: every break must turn a test red.

    python tests/mutants.py            # a share of them, another one after each commit
    python tests/mutants.py --all
    python tests/mutants.py --list
    python tests/mutants.py "swap support and query"

A mutant is one edit, listed in `mutants.toml` and made in a copy. No test is chosen for it: the whole unit suite of the kit
runs until its first failure (pytest's exit code 1; an error while collecting is not counted), beginning with the file that is
nearest to the module by its name, then with what turned red before; elsewhere, what starts other processes comes last. One
process imports the heavy packages and forks for each mutant. At the end the tests that turned red must pass on the unbroken
kit, or they would show nothing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARE, WORKERS, PATIENCE = 30, 2, 900  # mutants a run, processes side by side, seconds for one mutant
# what tests the book, its gates or the race, and not the kit
BOOK = ("site", "browser", "gates", "hygiene", "same_code", "comparison", "guide", "pdf")
COURSE = ("editions", "slides", "assignments")
OTHERS = (*BOOK, *COURSE, "benchmark", "environment")
NEAREST = {
    "checkpoints": "training",
    "omniglot_files": "datasets",
    "letters": "datasets",
    "image_sets": "datasets",
    "compiling": "training",
    "calls": "bad_input",
    "scaffold": "fedavg",
    # the long runs' scripts
    **dict.fromkeys(("omniglot", "sinusoids", "options"), "experiments"),
    **dict.fromkeys(("family", "transfer"), "races"),
}
SLOW = ("subprocess", "spawn", "Popen", "torch.compile", "compiled", "show(")  # the last opens a browser


class Mutant(NamedTuple):
    """An edit `old -> new` of one file, the only place where `old` stands."""

    name: str
    file: str
    old: str
    new: str


EDITS = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text(encoding="utf-8"))
MUTANTS = [Mutant(name, file, *edit) for file, edits in EDITS.items() for name, edit in edits.items()]


def place(mutant: Mutant, root: Path) -> Path:
    """The file it edits."""
    return root / mutant.file if mutant.file.startswith("book/") else root / "mamlkit" / mutant.file


def stale(mutant: Mutant) -> str:
    """Why the edit can't be made, or nothing."""
    path = place(mutant, ROOT)
    if not path.is_file():
        return f"there is no file {mutant.file}"
    times = path.read_text(encoding="utf-8").count(mutant.old)
    return "" if times == 1 else f"{mutant.old!r} stands {times} times in {mutant.file}, not once"


class Watch:
    """A pytest plugin: the order of the tests, and the name of the one that failed."""

    def __init__(self, file: str, killers: list[str], report: Path):
        stem = Path(file).stem
        own = ("widgets", "interactive") if "widgets/" in file else (NEAREST.get(stem, stem),)
        self.stems, self.killers, self.report = (*own, "own_problem"), killers, report

    def pytest_collection_modifyitems(self, items: list) -> None:
        def late(item) -> tuple[bool, int, bool, bool]:
            source = inspect.getsource(item.function) if hasattr(item, "function") else ""
            far = len(self.stems)
            nearness = next((i for i, word in enumerate(self.stems) if word in item.path.stem), far)
            slow = any(word in source for word in SLOW)
            return slow and nearness == far, nearness, slow, item.nodeid not in self.killers

        items.sort(key=late)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.report.write_text(report.nodeid)


def start(folder: Path, base: Path, mutant: Mutant | None, killers: list[str], tests: list[str]) -> int:
    """Forks a process that runs the tests on a copy of `base`; its exit code is pytest's."""
    if pid := os.fork():
        return pid
    os.setsid()
    signal.alarm(PATIENCE if mutant else 0)
    code = 70
    try:
        shutil.copytree(base, folder)
        if mutant:
            path = place(mutant, folder)
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        others = [p for p in sys.path if p and not Path(p).is_relative_to(ROOT / "tests")]
        sys.path[:] = [str(folder), *others]
        with open(folder / "log.txt", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        import pytest

        watch = Watch(mutant.file if mutant else "", killers, folder / "killer.txt")
        once = ["-x"] if mutant else []
        code = int(pytest.main([*once, "-q", "-p", "no:cacheprovider", *tests], plugins=[watch]))
    finally:
        os._exit(code)


def warm(base: Path) -> None:
    """Copies what the tests need to `base` and imports what takes long; nothing here may start a thread."""
    leave = shutil.ignore_patterns("__pycache__", "*.ipynb", "mutants.*")
    for part in ("mamlkit", "tests", "book"):
        shutil.copytree(ROOT / part, base / part, ignore=leave)
    for page in (ROOT / "book").glob("*.ipynb"):
        (base / "book" / page.name).symlink_to(page)
    shutil.copy(ROOT / "pyproject.toml", base)
    for package in ("matplotlib.pyplot", "pytest", "torch.func", "torch._dynamo", "anywidget", "nbformat"):
        importlib.import_module(package)
    sys.dont_write_bytecode = True
    for ending in ("INT", "TERM"):
        signal.signal(getattr(signal, f"SIG{ending}"), lambda *_: sys.exit(1))


def run(chosen: list[Mutant]) -> list[str]:
    """What went wrong, a line each."""
    began, survivors, killers, running, waiting = time.monotonic(), [], [], {}, list(chosen)
    suite = ["tests", "mamlkit", "--doctest-modules", *(f"--ignore=tests/test_{name}.py" for name in OTHERS)]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        warm(base)
        try:
            while waiting or running:
                if waiting and len(running) < WORKERS:
                    mutant, folder = waiting.pop(0), Path(name) / f"{len(waiting)}"
                    running[start(folder, base, mutant, killers, suite)] = (mutant, folder, time.monotonic())
                    continue
                pid, status = os.wait()
                mutant, folder, since = running.pop(pid)
                code, killer = os.waitstatus_to_exitcode(status), folder / "killer.txt"
                if hangs := code == -signal.SIGALRM:
                    with suppress(ProcessLookupError):  # what its tests have started
                        os.killpg(pid, signal.SIGKILL)
                by = killer.read_text() if code == 1 and killer.is_file() else ""
                said = "red  " if by else "GREEN" if code == 0 else "hangs" if hangs else f"exit {code}"
                print(f"{said} {time.monotonic() - since:4.0f} s  {mutant.name}  {by}", flush=True)
                (killers if by else survivors).append(by or mutant.name)
                if said.startswith("exit"):
                    print((folder / "log.txt").read_text()[-2000:])
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)
        if killers:
            folder, again = Path(name) / "unbroken", [*dict.fromkeys(killers), "--doctest-modules"]
            if os.waitpid(start(folder, base, None, [], again), 0)[1]:
                print((folder / "log.txt").read_text()[-3000:])
                survivors.append("the unbroken kit fails these tests too: mend that first")
    print(f"{time.monotonic() - began:.0f} s; {len({*killers})} tests turned red")
    return survivors


def drawn() -> list[Mutant]:
    """A share of the mutants in a fixed mixed order; with each commit the next share, so that all have their turn."""
    git = ["git", "rev-list", "--count", "HEAD"]
    count = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    mixed = random.Random(0).sample(MUTANTS, len(MUTANTS))
    first = int(count or 0) * SHARE % len(mixed)
    return (mixed + mixed)[first : first + min(SHARE, len(mixed))]


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", help=f"mutants to try; a share of {SHARE} by default")
    parser.add_argument("--all", action="store_true", help="try every mutant")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    options = parser.parse_args()
    unknown = set(options.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; --list names them")
    if options.list:
        print("\n".join(m.name for m in MUTANTS))
        return 0
    named = [m for m in MUTANTS if m.name in options.names]
    chosen = MUTANTS if options.all else named or drawn()
    # an edit that can't be made tests nothing: it is red here whether it was drawn or not
    spent = [f"{m.name}: {why}" for m in named or MUTANTS if (why := stale(m))]
    print("\n".join(spent), end="\n" * bool(spent))
    print(f"{len(chosen)} of {len(MUTANTS)} mutants", flush=True)
    failed = run([m for m in chosen if not stale(m)]) if not spent or options.all or named else []
    failed += [f"{line}; mend the edit" for line in spent]
    print("".join(f"not red: {line}\n" for line in failed), end="")
    print(f"mutants: {len(chosen) - len(failed)} passed, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    # before torch and NumPy are imported: a process with threads can't be forked safely
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
