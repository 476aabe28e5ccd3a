"""Run the chapters as other machines would run them: what the pages show must hold there too.

    python tests/portable.py              every setting
    python tests/portable.py default-1    these settings
    python tests/portable.py --turn       one of them, another one after each commit
    python tests/portable.py --list

A setting is a set of vector instructions and a number of threads. PyTorch, oneDNN and MKL each choose their instructions by
themselves, so each is told; compiled code is kept apart, because torch's cache does not ask which instructions it was made with.
Chapters are compared as in `make notebooks`. The commit's own setting, nothing told and the chapters' own threads, is not here:
that is `make notebooks`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTIONS = {
    "own": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
SETTINGS = {
    f"{name}-{threads}": {**told, "MAMLKIT_THREADS": str(threads)}
    for name, told in INSTRUCTIONS.items()
    for threads in (1, 2)
}


def run(setting: str, chapters: list[Path]) -> tuple[int, str, float]:
    """pytest's exit code, its last line, and the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--nbval",
            "-n",
            "2",
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
        ]
        environment = {**os.environ, **SETTINGS[setting], "TORCHINDUCTOR_CACHE_DIR": cache}
        done = subprocess.run(
            [*command, *map(str, chapters)],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        print(done.stdout[-20_000:], done.stderr[-4_000:], sep="\n", flush=True)
    return done.returncode, (done.stdout.strip().splitlines() or ["nothing"])[-1], time.monotonic() - began


def in_turn() -> str:
    """The setting of this commit."""
    count = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return list(SETTINGS)[int(count.stdout or 0) % len(SETTINGS)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(SETTINGS)}; default: all")
    parser.add_argument("--turn", action="store_true", help="one setting, by the number of commits")
    parser.add_argument("--list", action="store_true", help="name the settings and stop")
    parser.add_argument(
        "--only", action="append", default=[], metavar="CHAPTER", help="these chapters, by name"
    )
    options = parser.parse_args()
    chosen = options.settings or ([in_turn()] if options.turn else list(SETTINGS))
    if unknown := set(chosen) - set(SETTINGS):
        parser.error(f"no setting is called {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    if options.list:
        print("\n".join(f"{name:10} {told}" for name, told in SETTINGS.items()))
        return 0
    chapters = [ROOT / "book" / f"{name}.ipynb" for name in options.only] or sorted(
        (ROOT / "book").glob("*.ipynb")
    )
    failed = 0
    for setting in chosen:
        code, said, seconds = run(setting, chapters)
        failed += code != 0
        counts = ", ".join(re.findall(r"\d+ (?:passed|failed|error|skipped)\w*", said)) or said
        print(
            f"{setting:10} {seconds:5.0f} s  {'held' if code == 0 else 'DID NOT HOLD':12}  {counts}",
            flush=True,
        )
    print(f"settings: {len(chosen) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
