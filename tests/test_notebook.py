from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import refresh
import torch
from nbformat.v4 import new_code_cell, new_notebook

import mamlkit
from mamlkit import figures, notebook


@pytest.fixture(autouse=True)
def leave_settings_as_they_were():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_printoptions(profile="default")
    np.set_printoptions(precision=8, suppress=False, linewidth=75)


def test_setup_prints_one_line_with_versions_and_device(capsys):
    assert notebook.setup(seed=0) is None

    torch_version = torch.__version__.split("+")[0]
    assert capsys.readouterr().out == f"mamlkit {mamlkit.__version__} · torch {torch_version} · cpu\n"


def test_setup_repeats_every_global_generator():
    def draw():
        notebook.setup(seed=7)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()


def test_setup_fixes_threads_and_style():
    notebook.setup(seed=0, threads=1)

    assert torch.get_num_threads() == 1
    assert plt.rcParams["axes.facecolor"] == figures.CARD
    assert repr(torch.tensor(1 / 3, dtype=torch.float64)) == "tensor(0.3333, dtype=torch.float64)"


def test_setup_refuses_a_kit_of_another_version():
    with pytest.raises(RuntimeError, match=r"written for mamlkit 99\.0 but"):
        notebook.setup(seed=0, kit="99.0")
    notebook.setup(seed=0, kit=".".join(mamlkit.__version__.split(".")[:2]))


def test_a_version_is_compared_part_by_part(monkeypatch):
    monkeypatch.setattr(mamlkit, "__version__", "0.10.0")

    with pytest.raises(RuntimeError, match=r"0\.1 but 0\.10\.0"):
        notebook.setup(seed=0, kit="0.1")


@pytest.mark.parametrize(
    "settings", [{"seed": -1}, {"seed": 2**32}, {"seed": 0, "threads": 0}, {"seed": 0, "device": "abacus"}]
)
def test_setup_refuses_what_does_not_exist(settings):
    with pytest.raises(ValueError, match=r"seed=|threads=|device="):
        notebook.setup(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_setup_says_so_when_there_is_no_gpu():
    with pytest.raises(ValueError, match="device='cuda' is not usable here"):
        notebook.setup(seed=0, device="cuda")


FIRST = "from mamlkit import notebook\nnotebook.setup(seed=0)"
DRAW = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"
FIGURE = {"mystnb": {"figure": {"name": "fig-line", "caption": "A line, from nought to one."}}}


def executed(folder, *sources):
    """The outputs of cells, the last of which is a figure's."""
    cells = [new_code_cell(source) for source in sources]
    cells[-1].metadata = FIGURE
    return [cell.outputs for cell in refresh.execute(new_notebook(cells=cells), folder).cells]


def test_a_figure_is_drawn_in_the_page_whatever_the_shell_says(tmp_path, monkeypatch):
    monkeypatch.setattr(
        refresh,
        "kernel_environment",
        lambda: {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(refresh.ROOT)},
    )

    outputs = executed(tmp_path, FIRST, DRAW)

    assert ["image/png" in o.data for o in outputs[1]] == [True]


def test_no_setting_of_the_users_reaches_a_kernel_whose_outputs_are_stored(tmp_path, monkeypatch):
    profile = tmp_path / ".ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "mine.py").write_text("print('mine')\nmine = 1")
    (profile / "ipython_kernel_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'all'")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("~/.cache").expanduser()))
    for name in ("HOME", "PYTHONPATH", "MATPLOTLIBRC"):
        monkeypatch.setenv(name, str(tmp_path))
    for name, value in {"MPLBACKEND": "Agg", "PYTHONOPTIMIZE": "1", "OMP_NUM_THREADS": "7"}.items():
        monkeypatch.setenv(name, value)

    asked = """import os, matplotlib
1
print(__debug__, 'mine' in dir(), os.environ.get('OMP_NUM_THREADS'), matplotlib.rcParams['lines.linewidth'])"""
    outputs = executed(profile, asked, DRAW)

    assert [o.text for o in outputs[0]] == ["True False None 1.5\n"]
    assert ["image/png" in o.data for o in outputs[1]] == [True]


def test_a_chapter_that_lost_a_picture_is_not_written(tmp_path):
    path = tmp_path / "a.ipynb"
    cell = new_code_cell("x = 1", metadata=FIGURE)
    path.write_text(nbformat.writes(new_notebook(cells=[cell])))
    before = path.read_bytes()

    with pytest.raises(refresh.RefreshError, match="cell 0 has a caption, but drew no picture"):
        refresh.refresh(path)
    assert path.read_bytes() == before


def test_setup_refuses_a_python_in_which_assert_checks_nothing():
    done = subprocess.run([sys.executable, "-O", "-c", FIRST], capture_output=True, text=True)

    assert "RuntimeError: Python runs with -O" in done.stderr
    assert "unset PYTHONOPTIMIZE" in done.stderr


@pytest.mark.parametrize(("told", "threads"), [("1", 1), ("3", 3), ("", 2)])
def test_a_machine_may_set_another_number_of_threads(monkeypatch, told, threads):
    monkeypatch.setenv("MAMLKIT_THREADS", told)

    notebook.setup(seed=0, threads=2)

    assert torch.get_num_threads() == threads


def test_a_number_of_threads_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("MAMLKIT_THREADS", "many")

    with pytest.raises(ValueError, match="MAMLKIT_THREADS='many' is no number"):
        notebook.setup(seed=0)
