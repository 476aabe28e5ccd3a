"""A figure's narrow twin: what a phone shows."""

from __future__ import annotations

import base64
import io
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from mamlkit.page import figures
from mamlkit.page.drawn import NARROW, picture
from mamlkit.page.narrow import DPI, lay_out, narrow_picture, wrapped


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        figures.use()
        yield
        plt.close("all")


def two_panels():
    figure, axes = plt.subplots(1, 2, sharey=True)
    for i, ax in enumerate(axes):
        ax.plot([0, 1], [i, 1], label="a line")
        ax.set(xlabel="steps", title="a long title that no phone could show in one line")
    axes[0].set(ylabel="loss")
    axes[0].text(0.2, 0.5, "small print", fontsize=5)
    axes[1].legend(fontsize=6)
    return figure, axes


def draw_for_a_phone(figure):
    lay_out(figure)
    figure.canvas.draw()


def test_panels_stand_below_one_another_and_each_says_what_its_axes_are():
    figure, (left, right) = two_panels()
    draw_for_a_phone(figure)

    upper, lower = left.get_window_extent(), right.get_window_extent()
    assert lower.y1 < upper.y0
    assert lower.x0 == pytest.approx(upper.x0, abs=1)
    assert right.get_ylabel() == "loss"
    assert right.yaxis.get_ticklabels()[0].get_visible()


def test_no_text_is_smaller_than_nine_pixels_on_a_phone_or_leaves_the_picture():
    figure, _ = two_panels()
    draw_for_a_phone(figure)

    pixels = 342 / figure.get_size_inches()[0] / 72  # a point, where the page is 390 pixels wide
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() * pixels for text in texts) >= 9
    words = [text for text in texts if " " in text.get_text()]  # a tick beyond the axes is never drawn
    assert max(text.get_window_extent().x1 for text in words) <= figure.bbox.x1 + 1


def test_a_legend_stands_below_its_axes_and_covers_nothing():
    figure, (_, right) = two_panels()
    draw_for_a_phone(figure)

    assert right.get_legend().get_window_extent().y1 <= right.get_window_extent().y0


def test_points_with_error_bars_keep_their_points_in_the_legend():
    figure, ax = plt.subplots()
    ax.errorbar([0, 1], [0, 1], yerr=1, fmt="o", label="points")
    ax.plot([0, 1], [1, 0], label="a line")
    ax.legend()
    draw_for_a_phone(figure)

    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"points", "a line"}
    assert "o" in {line.get_marker() for line in ax.get_legend().findobj(Line2D)}


@pytest.mark.parametrize("y", [0.53, 0.47])
def test_a_label_that_wraps_stays_on_its_side_of_a_line(y):
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0.5, 0.5])
    ax.set_ylim(0, 1)
    figures.label_line(ax, "a name too long for one line", look="maml", x=0.2, y=y)
    draw_for_a_phone(figure)

    (label,) = ax.texts
    box, line = Text.get_window_extent(label).padded(-2), ax.transData.transform((0, 0.5))[1]
    assert "\n" in label.get_text()
    assert box.y0 > line if y > 0.5 else box.y1 < line


def test_names_below_an_axis_wrap_before_they_touch():
    figure, ax = plt.subplots()
    names = ["50 × 10", "100 × 100", "1000 × 100", "1000 × 1000", "nothing"]
    ax.bar(range(5), 1)
    ax.set_xticks(range(5), names)
    draw_for_a_phone(figure)

    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize("kind", ["text", "annotation", "annotation in data"])
def test_labels_that_would_lie_on_one_another_part(kind):
    figure, ax = plt.subplots()
    for x in (0.1, 0.3, 0.5):
        name = f"the label at {x}"
        if kind == "text":
            ax.text(x, 0.5, name)
        elif kind == "annotation in data":
            ax.annotate(name, (x, 0.5))
        else:
            ax.annotate(name, (x, 0.5), (3, 4), textcoords="offset points")
    draw_for_a_phone(figure)

    boxes = [Text.get_window_extent(text).padded(-2) for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())


@pytest.mark.parametrize("at", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_no_edge_of_the_phone_cuts_a_label(at):
    figure, ax = plt.subplots()
    ax.set_axis_off()
    label = ax.text(*at, "words that wrap into several lines on a phone", va="center", transform=ax.transAxes)
    lay_out(figure)

    box, edge = label.get_window_extent(), figure.bbox
    assert edge.x0 < box.x0 < box.x1 < edge.x1
    assert edge.y0 < box.y0 < box.y1 < edge.y1


def test_a_grid_of_bare_pictures_keeps_its_shape():
    figure, axes = plt.subplots(2, 5)
    for ax in axes.flat:
        ax.imshow([[0, 1], [1, 0]])
        ax.set(xticks=[], yticks=[])
    draw_for_a_phone(figure)

    corners = [axes[i, j].get_window_extent() for i, j in ((0, 0), (0, 4), (1, 0))]
    assert corners[0].y0 == pytest.approx(corners[1].y0, abs=1)
    assert corners[2].y1 < corners[0].y0


def test_the_twin_travels_inside_the_picture_and_is_about_as_wide_as_a_phone():
    figure, _ = two_panels()
    png = base64.b64decode(picture(figure))

    at = png.index(NARROW)
    size = int.from_bytes(png[at - 4 : at], "big")
    twin = Image.open(io.BytesIO(png[at + 4 : at + 4 + size]))
    assert twin.width == 684
    assert twin.height > twin.width
    assert Image.open(io.BytesIO(png)).width > 1000, "who knows nothing of twins reads the picture itself"


def test_a_figure_that_is_shown_twice_is_shown_twice_alike():
    figure, _ = two_panels()
    before = tuple(figure.get_size_inches())

    assert picture(figure) == picture(figure)
    assert tuple(figure.get_size_inches()) == before
    assert plt.get_fignums() == [figure.number], "the copy is no figure of the notebook's"


def test_the_copy_is_laid_out_as_the_figure_itself_would_be():
    figure, _ = two_panels()
    copied = Image.open(io.BytesIO(narrow_picture(figure))).convert("L")

    lay_out(figure)
    figure.savefig(drawn := io.BytesIO(), format="png", dpi=DPI)

    itself = Image.open(drawn).convert("L")
    assert copied.size == itself.size
    assert np.abs(np.asarray(copied, float) - np.asarray(itself, float)).mean() < 1


def test_a_figure_that_cannot_be_copied_is_shown_without_a_twin():
    figure, (left, _) = two_panels()
    left.xaxis.set_major_formatter(lambda x, _: f"{x} m")

    png = base64.b64decode(picture(figure))

    assert NARROW not in png
    assert Image.open(io.BytesIO(png)).width > 1000


def test_a_formula_is_not_torn():
    assert wrapped("where $a + b + c$ is", 8).split("\n") == ["where", "$a + b + c$", "is"]
