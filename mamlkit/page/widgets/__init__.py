"""The interactive figures: one JavaScript front end for the live notebook and for the published page.

Beside a kernel a `Figure` is an ipywidget (anywidget), and what the reader moves can be read and set from
Python. Its stored output is HTML that holds the same front end and the same state, so that a page without a
kernel, a server or a network is as interactive. The HTML depends on nothing but the figure's content.
"""

from mamlkit.page.widgets.bug_clinic import bug_clinic
from mamlkit.page.widgets.curvature_cut import curvature_cut
from mamlkit.page.widgets.double_backward import double_backward
from mamlkit.page.widgets.draw_alphabet import draw_alphabet
from mamlkit.page.widgets.few_shot_game import few_shot_game
from mamlkit.page.widgets.figure import Figure
from mamlkit.page.widgets.gradient_descent import gradient_descent
from mamlkit.page.widgets.local_work import local_work
from mamlkit.page.widgets.point_navigation import point_navigation
from mamlkit.page.widgets.prior_width import prior_width
from mamlkit.page.widgets.rate_map import rate_map
from mamlkit.page.widgets.reptile_steps import reptile_steps
from mamlkit.page.widgets.sinusoid_adaptation import sinusoid_adaptation
from mamlkit.page.widgets.spring_strength import spring_strength
from mamlkit.page.widgets.two_tasks import two_tasks
from mamlkit.page.widgets.weight_averages import weight_averages

__all__ = [
    "Figure",
    "bug_clinic",
    "curvature_cut",
    "double_backward",
    "draw_alphabet",
    "few_shot_game",
    "gradient_descent",
    "local_work",
    "point_navigation",
    "prior_width",
    "rate_map",
    "reptile_steps",
    "sinusoid_adaptation",
    "spring_strength",
    "two_tasks",
    "weight_averages",
]
