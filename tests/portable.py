"""Run the chapters as other machines would: older processors' instructions, one thread or two.

    python tests/portable.py                 every setting
    python tests/portable.py default-1       these settings
    python tests/portable.py --turn          one setting and a quarter of the chapters, others with every commit

A setting is named by its instructions (`native`, `avx2`, `default`: no vector instructions beyond those that
all have; `shaken`: every network starts a few roundings away, as on a processor that nobody has) and its threads.
Each keeps the compiled code of its own, because code compiled for one processor is wrong on another.
What differs from the page is printed; the exit status is 1 if anything does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# for torch and its compiler, for MKL's products, and for oneDNN's convolutions
INSTRUCTIONS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "shaken": {"MAMLKIT_SHAKEN": "1"},
}
SETTINGS = {
    f"{name}-{threads}": {**environment, "MAMLKIT_THREADS": str(threads)}
    for name, environment in INSTRUCTIONS.items()
    for threads in (1, 2)
}
QUARTERS = 4  # of the chapters, one in a turn
VARIABLES = {variable for environment in SETTINGS.values() for variable in environment}


def environment(name: str, folder: str) -> dict[str, str]:
    """The environment of one setting; its compiled code lies in `folder`, or beside the reader's own."""
    outside = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", folder)) / name.partition("-")[0]
    return {**outside, **SETTINGS[name], "TORCHINDUCTOR_CACHE_DIR": str(cache)}


def in_turn(n_commits: int, chapters: list[str]) -> tuple[str, list[str]]:
    """The setting and the chapters whose turn it is after so many commits: once all settings had theirs, the next quarter's."""
    quarter = n_commits // len(SETTINGS) % QUARTERS
    return list(SETTINGS)[n_commits % len(SETTINGS)], chapters[quarter::QUARTERS]


def run(name: str, chapters: list[str], folder: str) -> tuple[str, bool]:
    """Run the chapters once; a line of the table, and whether every cell agreed."""
    print(f"\n{name}: running", flush=True)
    start = time.perf_counter()
    pytest = (sys.executable, "-m", "pytest", "-q", "--nbval", "-n", "2", "--dist", "loadfile")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "check": False}
    done = subprocess.run([*pytest, *chapters], cwd=ROOT, env=environment(name, folder), **pipes)
    if done.returncode:
        print(done.stdout, flush=True)
    counts = Counter(
        {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error)", done.stdout[-300:])}
    )
    good = done.returncode == 0 and counts["passed"] > 0
    row = f"{name:10s} {time.perf_counter() - start:7.0f} {counts['passed']:7d}"
    return f"{row} {counts['failed'] + counts['error']:7d}  {'holds' if good else 'DIFFERS'}", good


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "names", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)} (default: all)"
    )
    parser.add_argument(
        "--turn", action="store_true", help="only the setting and the chapters whose turn it is"
    )
    parser.add_argument("--only", action="append", default=[], metavar="CHAPTER", help="run only this one")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in SETTINGS]:
        parser.error(f"no setting is called {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    names = options.names or list(SETTINGS)
    chapters = [str(ROOT / "book" / f"{Path(name).stem}.ipynb") for name in options.only]
    chapters = chapters or sorted(map(str, (ROOT / "book").glob("*.ipynb")))
    if options.turn:
        ask = ("git", "rev-list", "--count", "HEAD")
        count = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=False)
        done = int(count.stdout) if count.returncode == 0 else int(time.time()) // 86_400
        name, quarter = in_turn(done, chapters)
        names, chapters = [name], chapters if options.only else quarter
        print("chapters:", *(Path(chapter).stem for chapter in chapters))
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(name, chapters, folder) for name in names]
    print("\nsetting    seconds  passed  failed", *(row for row, _ in rows), sep="\n", flush=True)
    return 0 if all(good for _, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
