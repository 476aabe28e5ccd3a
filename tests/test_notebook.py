from __future__ import annotations

import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

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
