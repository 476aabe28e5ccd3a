from __future__ import annotations

import pytest
import torch

from mamlkit.intervals import mean_ci95
from mamlkit.page.tables import table


def test_a_table_is_marked_up_for_a_voice_and_aligned_for_an_eye():
    shown = table(
        [("a < b", mean_ci95([1.0, 2.0, 3.0])), ("`f(a < b)`", "0.20")], columns=("", "loss")
    )._repr_html_()

    assert '<tr><td style="text-align: left"></td><th scope="col"' in shown, "an empty head is none"
    assert '<th scope="row" style="text-align: left">a &lt; b</th>' in shown
    assert '<th scope="row" style="text-align: left"><code>f(a &lt; b)</code></th>' in shown
    assert '<td style="text-align: right">2.000 ± 2.484</td>' in shown
    assert shown.count("\n") == 5, "a row is a line, so that a difference names its row"


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([("a",)], ValueError),
        ([], ValueError),
        ([("a", 0.3)], TypeError),
        ([("a", torch.ones(()))], TypeError),
    ],
)
def test_a_table_that_nobody_could_read_is_refused(rows, error):
    with pytest.raises(error, match=r"give each row one cell|how many digits"):
        table(rows, columns=("", "loss"))
