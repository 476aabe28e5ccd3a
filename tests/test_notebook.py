from __future__ import annotations

import os
import random
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import refresh
import torch
from nbformat.v4 import new_code_cell, new_notebook

import mamlkit
from mamlkit.page import figures, notebook


@pytest.fixture(autouse=True)
def leave_settings_as_they_were():
    threads = torch.get_num_threads()
    with np.printoptions():
        yield
    torch.set_num_threads(threads)
    torch.set_printoptions(profile="default")


def test_setup_repeats_every_generator_sets_threads_and_style_and_prints_one_line(capsys):
    def draw():
        assert notebook.setup(seed=7, threads=1, kit=mamlkit.__version__.rpartition(".")[0]) is None
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()
    assert torch.initial_seed() == 7
    assert torch.get_num_threads() == 1
    assert plt.rcParams["axes.facecolor"] == figures.CARD
    assert repr(torch.tensor(1 / 3, dtype=torch.float64)) == "tensor(0.3333, dtype=torch.float64)"
    line = f"mamlkit {mamlkit.__version__} · torch {torch.__version__.split('+')[0]} · cpu\n"
    assert capsys.readouterr().out == 2 * line


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kit": "99.0"}, RuntimeError, r"written for mamlkit 99\.0 but 0\.10\.0"),
        ({"kit": "0.1"}, RuntimeError, r"written for mamlkit 0\.1 but 0\.10\.0"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": 2**32}, ValueError, "seed=4294967296"),
        ({"threads": 0}, ValueError, "threads=0"),
        ({"device": "abacus"}, ValueError, "device='abacus' is not usable here"),
        ({"device": "cuda:99"}, ValueError, "device='cuda:99' is not usable here"),
    ],
)
def test_setup_refuses_what_does_not_exist(monkeypatch, settings, error, message):
    monkeypatch.setattr(mamlkit, "__version__", "0.10.0")

    with pytest.raises(error, match=message):
        notebook.setup(**{"seed": 0, **settings})


@pytest.mark.parametrize(("told", "threads"), [("1", 1), ("3", 3), ("", 2)])
def test_a_machine_may_set_another_number_of_threads_but_only_a_number(monkeypatch, told, threads):
    monkeypatch.setenv("MAMLKIT_THREADS", told)
    notebook.setup(seed=0, threads=2)
    assert torch.get_num_threads() == threads

    monkeypatch.setenv("MAMLKIT_THREADS", "many")
    with pytest.raises(ValueError, match="MAMLKIT_THREADS='many' is no number"):
        notebook.setup(seed=0)


FIRST = "from mamlkit.page import notebook\nnotebook.setup(seed=0)"
DRAW = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"
FIGURE = {"mystnb": {"figure": {"name": "fig-line", "caption": "A line, from nought to one."}}}


def executed(folder, *sources):
    """The outputs of cells, and whether the last of them, a figure's, is a picture."""
    cells = [new_code_cell(source) for source in sources]
    cells[-1].metadata = FIGURE
    return [cell.outputs for cell in refresh.execute(new_notebook(cells=cells), folder).cells]


def test_a_figure_is_drawn_in_the_page_whatever_the_shell_says(tmp_path, monkeypatch):
    shell = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(refresh.ROOT)}
    monkeypatch.setattr(refresh, "kernel_environment", lambda: shell)

    assert ["image/png" in o.data for o in executed(tmp_path, FIRST, DRAW)[1]] == [True]


def test_no_setting_of_the_users_reaches_a_kernel_whose_outputs_are_stored(tmp_path, monkeypatch):
    profile = tmp_path / ".ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "mine.py").write_text("print('mine')\nmine = 1")
    (profile / "ipython_kernel_config.py").write_text("c.InteractiveShell.ast_node_interactivity = 'all'")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9")
    mine = {"XDG_CACHE_HOME": Path("~/.cache").expanduser(), "PYTHONOPTIMIZE": 1, "OMP_NUM_THREADS": 7}
    for name, value in {**mine, **dict.fromkeys(("HOME", "PYTHONPATH", "MATPLOTLIBRC"), tmp_path)}.items():
        monkeypatch.setenv(name, str(value))

    asked = """import os, matplotlib
1
print(__debug__, 'mine' in dir(), os.environ.get('OMP_NUM_THREADS'), matplotlib.rcParams['lines.linewidth'])"""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    outputs = executed(profile, asked, DRAW)

    assert [o.text for o in outputs[0]] == ["True False None 1.5\n"]
    assert ["image/png" in o.data for o in outputs[1]] == [True]


def test_a_chapter_that_lost_a_picture_is_not_written(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(nbformat.writes(new_notebook(cells=[new_code_cell("x = 1", metadata=FIGURE)])))
    before = path.read_bytes()

    with pytest.raises(refresh.RefreshError, match="cell 0 has a caption, but drew no picture"):
        refresh.refresh(path)
    assert path.read_bytes() == before


def test_setup_refuses_a_python_in_which_assert_checks_nothing():
    module = {"__name__": "notebook"}
    source = Path(notebook.__file__).read_text(encoding="utf-8")
    exec(compile(source, notebook.__file__, "exec", optimize=1), module)

    with pytest.raises(RuntimeError, match=r"(?s)Python runs with -O.*unset PYTHONOPTIMIZE"):
        module["setup"](seed=0)
