"""The only writer of stored outputs: run the chapters, normalise them, write them whole or not at all.

    python tests/refresh.py                  every chapter
    python tests/refresh.py inner-loop ...   these chapters
    python tests/refresh.py --check          run nothing; fail where a file is not in normal form
    python tests/refresh.py --format         run nothing; write the normal form
    python tests/refresh.py --costs ...      run, store no outputs; write seconds and memory onto the card

A chapter is written only when every cell ran, nothing went to stderr and the file did not change meanwhile.
Then it says what the gates will find in it.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import gates
import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
SECONDS_PER_CELL = 600

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("mystnb", "slideshow", "tags")
# What a kernel may take over from the shell that starts it: where things are, not how they are done.
KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TEMP|TMP|XDG_(CACHE_HOME|RUNTIME_DIR)|(LD|DYLD)_\w*PATH|(HTTPS?|NO|ALL)_PROXY"
    r"|SSL_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|CC|CXX|CUDA_\w+|NVIDIA_\w+|MAMLKIT_\w+|PYTEST_\w+"
    r"|TORCHINDUCTOR_CACHE_DIR"
    # which of a processor's instructions to use: tests/portable.py sets these on purpose, the Makefile lets none in
    r"|ATEN_CPU_CAPABILITY|MKL_CBWR|MKL_ENABLE_INSTRUCTIONS|ONEDNN_MAX_CPU_ISA",
    re.IGNORECASE,
)
# A live view's name is random and needs a kernel; the interactive figures store HTML beside it.
LIVE_ONLY = ("application/vnd.jupyter.widget-view+json",)


class RefreshError(Exception):
    """Why a notebook was not written."""


def chapters() -> list[Path]:
    """Every notebook of the book, sorted."""
    return sorted(BOOK.glob("*.ipynb"))


def normalised(notebook: NotebookNode) -> NotebookNode:
    """The notebook in its normal form: what differs from run to run or editor to editor is gone."""
    cells, counts = [], itertools.count(1)
    for position, cell in enumerate(notebook.cells):
        metadata = {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
        cells.append({"cell_type": cell.cell_type, "id": f"cell-{position:02d}", "metadata": metadata})
        cells[-1]["source"] = cell.source.rstrip("\n")
        if cell.cell_type == "code":
            count = None if cell.execution_count is None else next(counts)
            cells[-1] |= {"execution_count": count, "outputs": _outputs(cell.outputs, count)}
    return nbformat.from_dict({"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})


def _outputs(outputs: list[NotebookNode], count: int | None) -> list[dict]:
    fresh: list[dict] = []
    for output in outputs:
        kind = output.output_type
        if kind == "stream" and fresh and fresh[-1].get("name") == output.name:
            fresh[-1]["text"] += output.text
            continue
        fresh.append({"output_type": kind})
        if kind == "stream":
            fresh[-1] |= {"name": output.name, "text": output.text}
        elif kind == "error":
            # The traceback holds paths and colours; the page needs the error.
            line = f"{output.ename}: {output.evalue}"
            fresh[-1] |= {"ename": output.ename, "evalue": output.evalue, "traceback": [line]}
        else:
            data = {mime: value for mime, value in output.data.items() if mime not in LIVE_ONLY}
            pictures = {mime: v.strip() for mime, v in data.items() if mime.startswith("image/")}
            glued = {key: value for key, value in output.metadata.items() if key == "scrapbook"}
            fresh[-1] |= {"data": data | pictures, "metadata": glued}
        if kind == "execute_result":
            fresh[-1]["execution_count"] = count
    return fresh


def text(notebook: NotebookNode) -> str:
    """The file's text for a notebook in its normal form."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def execute(notebook: NotebookNode, folder: Path, **environment: str) -> NotebookNode:
    """A copy with fresh outputs, run from top to bottom in `folder` by this very Python.

    Raises:
        RefreshError: a cell failed, took too long, wrote to stderr, or did not raise or draw what it announced.
    """
    fresh = nbformat.from_dict(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    specs = NbvalKernelspecManager()
    manager = AsyncKernelManager(kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=specs)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(fresh, km=manager, timeout=SECONDS_PER_CELL, record_timing=False, resources=where)
    try:
        client.execute(env=kernel_environment() | environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise RefreshError(str(error).strip()) from error
    for position, cell in enumerate(fresh.cells):
        if why := _unclean(cell) if cell.cell_type == "code" else "":
            raise RefreshError(f"cell {position} {why}")
    return fresh


def _unclean(cell: NotebookNode) -> str:
    """Why what a cell did is not stored, or nothing."""
    wants = any(key in cell.metadata.get("mystnb", {}) for key in ("figure", "image"))
    if noise := "".join(o.text for o in cell.outputs if o.get("name") == "stderr"):
        return f"wrote to stderr:\n{noise.strip()}"
    if wants and not any("image/png" in o.get("data", {}) for o in cell.outputs):
        return "has a caption, but drew no picture; does it end with plt.show()?"
    if "raises-exception" in gates.tags(cell) and all(o.output_type != "error" for o in cell.outputs):
        return "is tagged raises-exception and raised nothing"
    return ""


def kernel_environment() -> dict[str, str]:
    """The environment of a kernel whose outputs are stored or compared, the same whoever starts it."""
    (matplotlib,) = find_spec("matplotlib").submodule_search_locations
    shaken = [str(ROOT / "tests" / "shaken")] if "MAMLKIT_SHAKEN" in os.environ else []
    return (
        {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        | {
            "IPYTHONDIR": _no_profile(),
            "MATPLOTLIBRC": str(Path(matplotlib, "mpl-data", "matplotlibrc")),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "NO_COLOR": "1",
            "OMP_WAIT_POLICY": "passive",  # two chapters run at once: threads that wait must not keep the others' cores
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join((*shaken, str(ROOT))),
            "PYTHONUTF8": "1",
            "TQDM_DISABLE": "1",
        }
    )


@cache
def _no_profile() -> str:
    folder = tempfile.mkdtemp(prefix="no-profile-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def refresh(path: Path) -> str:
    """Run and write one chapter; a line on what was done.

    Raises:
        RefreshError: nothing was written, and why.
    """
    before, start = path.read_bytes(), time.perf_counter()
    fresh = execute(nbformat.reads(before.decode(), as_version=4), path.parent)
    seconds = time.perf_counter() - start
    if path.read_bytes() != before:
        raise RefreshError("the file changed while it ran; save it and refresh again")
    n_code = sum(cell.cell_type == "code" for cell in fresh.cells)
    return f"{n_code} code cells in {seconds:.0f} s, {_write(path, fresh)}{_card(fresh, seconds)}"


def _card(notebook: NotebookNode, seconds: float) -> str:
    """A remark where the card promises another time than was measured."""
    card = gates.RUNNING.search("\n".join(c.source for c in notebook.cells[:3]))
    off = card is not None and seconds > 1.5 * int(card[1])
    return f" (its card says {card[1]} s: `make costs ONLY=…`, with nothing else running)" if off else ""


def costs(path: Path) -> str:
    """Run one chapter as on its first day, write what it took onto its card, rounded up, and nothing else; a line on it.

    Raises:
        RefreshError: the chapter failed, or has no card.
    """
    notebook = nbformat.read(path, as_version=4)
    card = next((cell for cell in notebook.cells[:3] if "**Running**" in cell.source), None)
    if card is None:
        raise RefreshError("its first three cells have no card with **Running**")
    with_peak = nbformat.from_dict({**notebook, "cells": [*notebook.cells, _PEAK]})
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as nothing_compiled:
        ran = execute(with_peak, path.parent, TORCHINDUCTOR_CACHE_DIR=nothing_compiled)
    seconds = time.perf_counter() - start
    gigabytes = int(ran.cells[-1].outputs[0].text) * 1024 / 1e9
    said = f"**Running** {_up(seconds, gates.SECONDS)} s and {_up(gigabytes, gates.GIGABYTES)} GB on two CPU cores"
    card.source = re.sub(r"\*\*Running\*\*.*", said, card.source)
    return f"{seconds:.0f} s, {gigabytes:.2f} GB, {_write(path, notebook)}"


_PEAK = nbformat.v4.new_code_cell(
    """import resource, sys
from pathlib import Path
try:  # ru_maxrss remembers the process that started this one
    print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))"""
)
"""Prints the most memory that the kernel has held, in KiB."""


def _up(value: float, steps: tuple[float, ...]) -> float:
    for step in steps:
        if value <= step:
            return step
    raise RefreshError(f"it takes {value:.1f}, a card says at most {steps[-1]}: make the chapter smaller")


def _write(path: Path, notebook: NotebookNode) -> str:
    """Write the normal form whole or not at all; its size."""
    content, partial = text(normalised(notebook)), path.with_suffix(".ipynb.partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
    return f"{len(content.encode()) / 1000:.0f} kB"


def is_normal(path: Path) -> bool:
    """Whether the file holds exactly its normal form."""
    content = path.read_text(encoding="utf-8")
    return content == text(normalised(nbformat.reads(content, as_version=4)))


def _to_mend(path: Path) -> list[str]:
    allowed = gates.allow_list((ROOT / "tests/allowed_ignored_outputs.txt").read_text(encoding="utf-8"))
    notebook = nbformat.read(path, as_version=4)
    return gates.problems(notebook, path.name, allowed=allowed) + gates.kit_problems(notebook, path.name)


def find(name: str) -> Path:
    """A chapter by its name or its path; who names none is told the names."""
    for path in (Path(name), BOOK / name, BOOK / f"{name}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    names = ", ".join(path.stem for path in chapters()) or "none"
    raise SystemExit(f"no chapter is called {name!r}; there are: {names}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("names", nargs="*", help="chapters, by name or path (default: all)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing, fail where a file is not normal")
    mode.add_argument("--costs", action="store_true", help="write only what a run costs onto the card")
    mode.add_argument("--format", action="store_true", help="run nothing, write the normal form")
    options = parser.parse_args(arguments)
    paths = [find(name) for name in options.names] or chapters()
    failed = False
    for path in paths:
        try:
            if options.check and not is_normal(path):
                raise RefreshError(f"not in its normal form; run `make refresh ONLY={path.stem}`")
            if options.check:
                done = "normal"
            elif options.format:
                done = _write(path, nbformat.read(path, as_version=4))
            else:
                print(f"{path.stem}: running", flush=True)
                done = costs(path) if options.costs else refresh(path)
            print(f"{path.stem}: {done}", flush=True)
            for problem in [] if options.format else _to_mend(path):
                print(f"    to mend: {problem}", flush=True)
        except RefreshError as error:
            failed = True
            print(f"{path.stem}: NOT WRITTEN. {error}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
