from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from mamlkit import figures

INSIDE_A_TASK = {"before", "after", "truth", "support", "query"}


@pytest.fixture(autouse=True)
def house_style():
    figures.use()
    yield
    plt.close("all")


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_no_two_algorithms_share_a_look():
    looks = {name: look for name, look in figures.LOOK.items() if name not in INSIDE_A_TASK}

    for (a, one), (b, other) in combinations(looks.items(), 2):
        assert (one["color"], one["linestyle"]) != (other["color"], other["linestyle"]), f"{a} looks like {b}"


def test_every_colour_stands_out_from_the_card():
    for name, colour in figures.COLOURS.items():
        contrast = (luminance(figures.CARD) + 0.05) / (luminance(colour) + 0.05)
        assert contrast >= 3, f"{name} reaches {contrast:.2f} : 1 and a line needs 3 : 1 (WCAG 1.4.11)"


# Full dichromacy in linear RGB: Viénot, Brettel and Mollon (1999).
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("kind", DICHROMATS)
@pytest.mark.parametrize(
    "pair", [*combinations(["maml", "joint", "scratch", "oracle", "nearest_neighbour"], 2)]
)
def test_what_is_drawn_together_differs_for_colour_blind_readers(kind, pair):
    def seen(name):
        rgb = np.array(to_rgb(figures.LOOK[name]["color"]))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return np.clip(np.array(DICHROMATS[kind]) @ linear, 0, 1) ** (1 / 2.2)

    distance = np.abs(seen(pair[0]) - seen(pair[1])).max()

    same_line = figures.LOOK[pair[0]]["linestyle"] == figures.LOOK[pair[1]]["linestyle"]
    assert distance > (0.2 if same_line else 0.05), f"{pair} differ by {distance:.2f} under {kind}"


def test_an_unknown_look_lists_those_there_are():
    with pytest.raises(KeyError, match=r"no look is called 'mmal'; there are .*maml"):
        figures.LOOK["mmal"]


def test_the_style_does_not_depend_on_what_was_set_before():
    plt.rcParams["axes.titlesize"] = 40
    plt.rcParams["lines.markersize"] = 40

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
    predictions = labels.clone()
    predictions[1] = 2

    figure = figures.task_grid((images[:3], labels[:3]), (images, labels), predictions)

    verdicts = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert sorted(verdicts) == ["✓"] * 5 + ["✗ taken for C"]
    (wrong,) = (ax for ax in figure.axes if ax.get_xlabel().startswith("✗"))
    assert wrong.spines["top"].get_linestyle() == "--"
    assert [ax.get_title() for ax in figure.axes[:3]] == ["A", "B", "C"]


def test_a_task_grid_shows_at_most_the_queries_asked_for():
    images, labels = torch.rand(20, 8, 8), torch.arange(2).repeat(10)

    figure = figures.task_grid((images[:2], labels[:2]), (images, labels), per_class=2)

    assert sum(len(ax.images) for ax in figure.axes) == 2 + 2 * 2
