from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba_array

from mamlkit.page import figures

INSIDE_A_TASK = {"before", "after", "truth", "support", "query"}
TOGETHER = [*combinations(["maml", "joint", "scratch", "oracle", "nearest_neighbour"], 2)]


@pytest.fixture(autouse=True)
def house_style():
    figures.use()
    yield
    plt.close("all")


def linear(*colours):
    rgb = to_rgba_array(colours)[:, :3]
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def test_no_two_algorithms_share_a_look_and_an_unknown_one_lists_those_there_are():
    looks = [(x["color"], x["linestyle"]) for name, x in figures.LOOK.items() if name not in INSIDE_A_TASK]

    assert len(looks) == len(set(looks))
    with pytest.raises(KeyError, match=r"no look is called 'mmal'; there are .*maml"):
        figures.LOOK["mmal"]


def test_every_colour_stands_out_from_the_card():
    card, *colours = linear(figures.CARD, *figures.COLOURS.values()) @ [0.2126, 0.7152, 0.0722] + 0.05

    assert card / max(colours) >= 3, "a line needs 3 : 1 (WCAG 1.4.11)"


# Full dichromacy in linear RGB: Viénot, Brettel and Mollon (1999).
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("kind", DICHROMATS)
@pytest.mark.parametrize("pair", TOGETHER)
def test_what_is_drawn_together_differs_for_colour_blind_readers(kind, pair):
    one, other = (figures.LOOK[name] for name in pair)
    seen = np.clip(linear(one["color"], other["color"]) @ np.transpose(DICHROMATS[kind]), 0, 1) ** (1 / 2.2)

    least = 0.2 if one["linestyle"] == other["linestyle"] else 0.05
    assert np.abs(seen[0] - seen[1]).max() > least


def test_the_style_does_not_depend_on_what_was_set_before():
    plt.rcParams.update({"axes.titlesize": 40, "lines.markersize": 40})

    figures.use()

    assert plt.rcParams["axes.titlesize"] == 11
    assert plt.rcParams["lines.markersize"] == plt.rcParamsDefault["lines.markersize"]
    assert plt.rcParams["figure.facecolor"] == figures.CARD


def test_a_band_is_the_mean_and_its_interval_and_says_n():
    _, ax = plt.subplots()
    values = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=torch.float64)

    figures.band(ax, [0, 1], values, look="maml", label="MAML")

    (line,) = ax.lines
    assert line.get_label() == "MAML (n = 3)"
    np.testing.assert_allclose(line.get_ydata(), [2, 5])
    vertices = ax.collections[0].get_paths()[0].vertices
    half = 4.30265 / 3**0.5  # Student's t for 2 degrees of freedom; the sample's standard deviation is 1
    np.testing.assert_allclose(sorted({v[1] for v in vertices if v[0] == 0}), [2 - half, 2 + half], rtol=1e-4)
    np.testing.assert_allclose([v[1] for v in vertices if v[0] == 1], 5)


def test_a_task_grid_marks_right_and_wrong_by_more_than_colour():
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(3).repeat(2)
    predictions = torch.tensor([0, 2, 2, 0, 1, 2])

    figure = figures.task_grid((images[:3], labels[:3]), (images, labels), predictions)

    verdicts = [(ax.get_xlabel(), ax.spines["top"].get_linestyle()) for ax in figure.axes if ax.get_xlabel()]
    assert sorted(verdicts) == [("✓", "-")] * 5 + [("✗ taken for C", "--")]
    assert [ax.get_title() for ax in figure.axes[:3]] == ["A", "B", "C"]


def test_a_task_grid_shows_at_most_the_queries_asked_for():
    images, labels = torch.rand(20, 8, 8), torch.arange(2).repeat(10)

    figure = figures.task_grid((images[:2], labels[:2]), (images, labels), per_class=2)
    assert sum(len(ax.images) for ax in figure.axes) == 2 + 2 * 2
