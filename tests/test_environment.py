"""The commands cannot deceive: an environment that fits, nothing deleted that is another's, no foreign settings."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import editions
import pytest
import refresh

SITE = ".venv/lib/python3.11/site-packages"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """`.ci/tasks.py`, at work in a folder with a finished environment of one package."""
    spec = importlib.util.spec_from_file_location("tasks", refresh.ROOT / ".ci" / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, place in {**vars(module)}.items():
        if isinstance(place, Path):
            monkeypatch.setattr(module, name, tmp_path / place.relative_to(refresh.ROOT))
    (tmp_path / "requirements.txt").write_text("tqdm==4.0\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for info, top in {"tqdm-4.0": "tqdm", "pip-26.0": "pip", "mamlkit-0.1": "mamlkit.pth"}.items():
        record = tmp_path / SITE / f"{info}.dist-info" / "RECORD"
        record.parent.mkdir(parents=True)
        record.write_text(f"{top}/__init__.py,,\n../../../bin/{top},,\n")
        (tmp_path / SITE / top).mkdir()
    (tmp_path / ".venv/bin").mkdir()
    (tmp_path / "book").mkdir()
    module.PY.symlink_to(sys.executable)
    (tmp_path / ".venv/pyvenv.cfg").touch()
    module.STAMP.write_text(json.dumps(module.wanted()))
    return module


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("true", ""),
        ("rm -r .venv", "there is none yet"),
        ("rm .venv/.made-for", "was not made here, or not to its end"),
        ("echo tqdm==4.1 > requirements.txt", "another state of requirements.txt"),
        ("echo > pyproject.toml", "another state of pyproject.toml"),
        ("sed -i '/folder/s/pytest/other/' .venv/.made-for", "another state of the folder"),
        ("sed -i 's/Python.: .[0-9]/&0/' .venv/.made-for", "another state of Python"),
        ("ln -sf /nowhere .venv/bin/python", "its Python does not start"),
        ("ln -sf /bin/echo .venv/bin/python", "its Python is another one"),
        (f"rm -r {SITE}/pip {SITE}/pip-26.0.dist-info", "it lacks pip"),
        (f"rm -r {SITE}/tqdm", "it lacks tqdm"),
        (f"mv {SITE}/tqdm-4.0.dist-info {SITE}/tqdm-3.9.dist-info", "it lacks tqdm"),
    ],
)
def test_an_environment_that_does_not_fit_is_made_anew(tasks, tmp_path, broken, why):
    subprocess.run(broken, shell=True, check=True, cwd=tmp_path)
    assert why in tasks.fault()
    assert bool(why) == bool(tasks.fault())


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ("rm .venv/pyvenv.cfg", "no pyvenv.cfg"),
        ("mv .venv elsewhere; ln -s elsewhere .venv", "it is a link to"),
        ("rm -r .venv; touch .venv", "it is a file"),
    ],
)
def test_what_is_not_the_books_own_is_not_deleted(tasks, tmp_path, capsys, theirs, why):
    subprocess.run(f"{theirs}; echo x >> requirements.txt", shell=True, check=True, cwd=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert tasks.environment() == tasks.clean() == 1
    assert capsys.readouterr().out.count(why) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_readers_copy_gains_chapters_and_loses_nothing(tasks, tmp_path, monkeypatch):
    there = {}
    monkeypatch.setattr(editions, "for_a_reader", lambda: there)
    for name, text in (("a", "first"), ("b", "new")):
        (tmp_path / f"book/{name}.ipynb").touch()
        there[name] = text
        tasks.work()
        (tmp_path / "work/a.ipynb").write_text("mine")
    tasks.clean()
    assert [(tmp_path / "work" / n).read_text() for n in ("a.ipynb", "b.ipynb")] == ["mine", "new"]
    assert not (tmp_path / ".venv").exists()


def test_what_was_skipped_is_one_line_with_its_cure(tasks, capsys):
    tasks.SKIPPED.parent.mkdir()
    tasks.SKIPPED.write_text("no browser on this machine\nno omniglot here; set MAMLKIT_DATA\n" * 2)
    tasks.skipped()
    assert capsys.readouterr().out == (
        "Not run here: 2 × no browser on this machine (install chromium or Google Chrome); "
        "2 × no omniglot here; set MAMLKIT_DATA\n"
    )


def test_make_passes_on_where_things_are_and_not_how_they_are_done(tmp_path):
    theirs = {"MPLBACKEND", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTEST_ADDOPTS", "JUPYTER_PATH"}
    theirs |= {"OMP_NUM_THREADS", "TORCH_LOGS", "LC_ALL"}
    passes = {"PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "SSL_CERT_FILE", "MAMLKIT_DATA"}
    (tmp_path / "probe").write_text("include Makefile\nshow:\n\t@env; echo VENV is $(PY)\n")
    here = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    here |= dict.fromkeys(theirs | passes | {"VENV"}, "/x")
    command = ["make", "-f", tmp_path / "probe", "show"]
    said = subprocess.check_output(command, cwd=refresh.ROOT, env=here, text=True)
    names = {line.partition("=")[0] for line in said.splitlines()}
    assert not names & theirs
    assert names >= passes
    assert "VENV is .venv/bin/python" in said
