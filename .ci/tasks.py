"""What `make` does that takes more than a line; the Makefile calls each task by its name.

    environment     make .venv, or say that it is up to date
    peers           install what only the tests and the course need
    pages           build the pages and say where they are (--fresh: from nothing)
    kit             build the library's wheel, and try it in an empty environment
    wheel FOLDER    build the library's wheel; equal sources give equal bytes
    work            put the chapters that are not there yet into work/, the reader's own folder
    skipped         say what the tests did not run, and what would run it
    clean           remove what was built, and the environment

Needs nothing but Python 3.11: when it starts, there may be no environment yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PY = VENV / "bin" / "python"
STAMP, PEERS = VENV / ".made-for", VENV / ".peers"
REQUIREMENTS = ROOT / "requirements.txt"
PEER_REQUIREMENTS = ROOT / "tests" / "requirements.txt", ROOT / "course" / "requirements.txt"
SKIPPED = ROOT / ".pytest_cache" / "skipped"
BUILT = ("_build", "mamlkit.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache")
# Of what a shell tells pip, only where to fetch from and how: not where to install, nor what.
PIP_MAY = """INDEX_URL EXTRA_INDEX_URL NO_INDEX FIND_LINKS TRUSTED_HOST CERT CLIENT_CERT PROXY CACHE_DIR NO_CACHE_DIR
CONFIG_FILE TIMEOUT DEFAULT_TIMEOUT RETRIES RESUME_RETRIES KEYRING_PROVIDER CONSTRAINT USE_FEATURE PREFER_BINARY"""
# What runs a test that was skipped, by a word of its reason, where the reason itself does not say so.
CURES = {
    "browser": "install chromium or Google Chrome",
    "playwright": "`make peers` with a network",
    "axe": "`make peers` with a network",
    "reveal": "`make peers` with a network",
    "nbgrader": "`make peers` with a network",
    "GPU": "use a machine with a GPU",
    "compiler": "install a C++ compiler",
}


def say(what: str) -> None:
    print(f"\n\033[1m==> {what}\033[0m", flush=True)


def run(*command: object) -> int:
    """The exit status of a command in the book's folder; it keeps the lock should this process be killed."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, pass_fds=_held).returncode


_held: list[int] = []


@contextmanager
def alone() -> Iterator[None]:
    """Let one make at a time change this folder; the system frees the lock of one that died."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another make is at work in this folder; waiting for it")
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    _held.append(folder)
    yield
    _held.remove(folder)
    os.close(folder)


def pip(*arguments: object) -> int:
    """Install into .venv and nowhere else, whatever the user's settings of pip are."""
    may = {f"PIP_{name}" for name in PIP_MAY.split()}
    for name in [name for name in os.environ if name.startswith("PIP_") and name not in may]:
        del os.environ[name]
    quiet = ("--quiet", "--disable-pip-version-check")
    return run(PY, "-m", "pip", *quiet, "install", "--no-user", *arguments)


def pins() -> dict[str, str]:
    """The version of each package that requirements.txt names."""
    return dict(line.split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)


def lost() -> list[str]:
    """The pinned packages that are not in .venv, or not in their version, or not whole."""
    site = next(VENV.glob("lib/python*/site-packages"), VENV)
    there: dict[str, str] = {}
    for info in site.glob("*.dist-info"):
        name, version = info.name.removesuffix(".dist-info").split("-")
        if all((site / top).exists() for top in _tops(info / "RECORD")):
            there[_plain(name)] = version.split("+")[0]
    wrong = {name for name, version in pins().items() if there.get(_plain(name)) != version}
    return sorted(wrong | {"pip", "mamlkit"} - there.keys())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _tops(record: Path) -> set[str]:
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else ["no RECORD"]
    return {line.partition("/")[0].partition(",")[0] for line in lines} - {"..", ""}


def wanted() -> dict[str, str]:
    """What an environment is made for; with any other value it is another environment."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
             for path in (REQUIREMENTS, ROOT / "pyproject.toml")}  # fmt: skip
    return {"the folder": str(ROOT), "Python": sys.version, **files}


def fault() -> str:
    """Why .venv must be made anew, or nothing."""
    if not os.path.lexists(VENV):
        return "there is none yet"
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "what is there was not made here, or not to its end"
    changed = [name for name, value in wanted().items() if stamp.get(name) != value]
    if changed:
        return f"it was made for another state of {', '.join(changed)}"
    try:
        inside = subprocess.check_output([PY, "-I", "-c", "import sys; print(sys.version)"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "its Python does not start"
    if inside.strip() != sys.version.strip():
        return "its Python is another one"
    return f"it lacks {', '.join(gone)}" if (gone := lost()) else ""


def foreign() -> str:
    """Why .venv is not ours to delete, or nothing."""
    if VENV.is_symlink():
        return f"it is a link to {VENV.resolve()}: remove the link, or empty that folder"
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").is_file():
        return "it has files but is no environment (no pyvenv.cfg): move it elsewhere"
    return "it is a file: move it elsewhere" if VENV.exists() and not VENV.is_dir() else ""


def discard(path: Path) -> None:
    """Remove a folder, first taking it away whole: half of one must not be taken for another's."""
    going = ROOT / ".venv-discarded"
    for old in (going, path):
        if old.is_symlink():
            old.unlink()
        elif old.is_dir():
            shutil.rmtree(old if old == going else old.rename(going))


def environment() -> int:
    with alone():
        why = fault()
        if not why:
            say("The environment in .venv is up to date")
            return 0
        if VENV.is_symlink() and VENV.is_dir() and not any(VENV.iterdir()):
            pass  # on a larger disk, say
        elif hands_off := foreign():
            print(f"The book needs its environment in .venv, but {hands_off}.")
            return 1
        else:
            discard(VENV)
        if not (find_spec("venv") and find_spec("ensurepip")):
            print("This Python has no venv module: install it (on Debian and Ubuntu: apt install python3-venv), "
                  "then run make again.")  # fmt: skip
            return 1
        say(f"Making the environment in .venv with Python {sys.version.split()[0]}, since {why}: "
            f"{len(pins())} pinned packages, some minutes the first time")  # fmt: skip
        failed = (
            run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", VENV)
            or pip("-r", REQUIREMENTS)
            or pip("--no-deps", "--no-build-isolation", "--editable", ".")
        )
        if failed:
            return 1
        if gone := lost():
            print(f"pip reports success, but .venv lacks {', '.join(gone)}: see `pip config list`")
            return 1
        STAMP.write_text(json.dumps(wanted(), indent=1), encoding="utf-8")
        return 0


def peers() -> int:
    with alone():
        listed = "\n".join(path.read_text(encoding="utf-8") for path in PEER_REQUIREMENTS)
        state = hashlib.sha256(listed.encode() + REQUIREMENTS.read_bytes()).hexdigest()
        if PEERS.is_file() and PEERS.read_text() == state:
            return 0
        say("Installing what only the tests and the course need")
        missing = False
        for peer in listed.splitlines():
            if peer.strip() and not peer.startswith("#"):
                failed = pip(peer, "-c", REQUIREMENTS)
                missing = missing or bool(failed)
                print(f"NOT INSTALLED: {peer}; the tests that need it will be skipped, not passed" if failed
                      else f"installed {peer}", flush=True)  # fmt: skip
        if not missing:
            PEERS.write_text(state)
        return 0


def pages(*options: str) -> int:
    with alone():
        if "--fresh" in options:
            discard(ROOT / "_build")
        say("Building the pages; a warning is an error")
        book = "from jupyter_book.cli.main import main; main()"  # it cannot be called with -m
        if run(PY, "-c", book, "build", ".", "-W", "-n", "--keep-going", "-q"):
            shutil.rmtree(ROOT / "_build" / ".doctrees", ignore_errors=True)
            return 1
    print(
        f"\nThe book is ready. Open this in a browser:\n\n    {(ROOT / '_build/html').as_uri()}/index.html\n"
    )
    return 0


SMOKE = """
import sys
from functools import partial
import torch
from mamlkit.algorithms import maml
from mamlkit.intervals import mean_ci95
from mamlkit.meta import evaluate, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import sinusoid_tasks
from mamlkit.training import meta_train

model, draw = mlp([1, 40, 40, 1]), partial(sinusoid_tasks, k_shot=10, k_query=10)
adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
trained = meta_train(partial(query_loss, model, adapt), initial_params(model), lambda g: draw(25, generator=g), meta_steps=300,
                     meta_optimizer=partial(torch.optim.Adam, lr=1e-3), generator=torch.Generator(), progress=False)
after = evaluate(model, adapt, trained.params, draw(100, generator=torch.Generator().manual_seed(1)))
assert trained.losses[-20:].mean() < trained.losses[:20].mean(), "meta-training did not learn"
assert not {"matplotlib", "anywidget", "PIL", "safetensors"} & set(sys.modules), "the kit alone imports what only pages need"
print("The wheel alone meta-trains: loss after one step", mean_ci95(after))
"""


def wheel(folder: str | Path) -> int:
    """Build the wheel into a folder from a copy of what belongs to it; equal sources give equal bytes."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "source")
        shutil.copytree(ROOT / "mamlkit", source / "mamlkit", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        os.environ["SOURCE_DATE_EPOCH"] = "1767225600"
        options = ("--quiet", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation")
        return run(sys.executable, "-m", "pip", *options, "--wheel-dir", Path(folder).resolve(), source)


def kit() -> int:
    """Build the wheel, and meta-train with it in an environment that holds nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        say("Building the wheel")
        if wheel(ROOT / "dist"):
            return 1
        built = max((ROOT / "dist").glob("mamlkit-*.whl"), key=lambda path: path.stat().st_mtime)
        say(f"Trying dist/{built.name} in an empty environment; it fetches PyTorch")
        python = Path(folder, "venv", "bin", "python")
        if run(PY, "-m", "venv", python.parent.parent) or run(
            python, "-m", "pip", "--quiet", "install", "-c", REQUIREMENTS, built
        ):
            return 1
        return subprocess.run([python, "-I", "-c", SMOKE], cwd=folder, check=False).returncode


def work() -> int:
    folder = ROOT / "work"
    folder.mkdir(exist_ok=True)
    new = sorted(p.stem for p in (ROOT / "book").glob("*.ipynb") if not os.path.lexists(folder / p.name))
    if new:  # as any notebook program shows them, with solutions folded
        sys.path.append(str(Path(__file__).resolve().parent.parent / "course"))
        from editions import for_a_reader

        for name, notebook in for_a_reader().items():
            if not os.path.lexists(copy := folder / f"{name}.ipynb"):
                copy.write_text(notebook, encoding="utf-8")
    for shared in ("experiments", "records", "_static"):
        if not os.path.lexists(folder / shared):
            (folder / shared).symlink_to(Path("..", "book", shared))
    if new:
        print(f"New in work/, which is yours to write in: {', '.join(new)}")
    return 0


def skipped() -> int:
    reasons = Counter(SKIPPED.read_text(encoding="utf-8").splitlines() if SKIPPED.is_file() else [])
    for reason, n in list(reasons.items()):
        cure = next((cure for word, cure in CURES.items() if word in reason), "")
        reasons[f"{reason}{f' ({cure})' if cure else ''}"] = reasons.pop(reason) and n
    if reasons:
        print("Not run here: " + "; ".join(f"{n} × {reason}" for reason, n in sorted(reasons.items())))
    return 0


def clean() -> int:
    with alone():
        for name in BUILT:
            discard(ROOT / name)
        for folder in ("mamlkit", "tests", "book", ".ci"):
            for cache in list((ROOT / folder).rglob("__pycache__")):
                discard(cache)
        if hands_off := foreign():
            print(f".venv stays: {hands_off}.")
            return 1
        discard(VENV)
        return 0


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (environment, peers, pages, kit, wheel, work, skipped, clean)}
    sys.exit(tasks[sys.argv[1]](*sys.argv[2:]))
