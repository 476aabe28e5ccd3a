"""Draw your own alphabet: the page sees, adapts and answers as the kit does, and mouse, finger and keyboard move it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from interactive import (
    all_differ,
    alphabet,
    alphabets,
    barriers,
    click,
    conv4_params,
    drag,
    reached,
    rows,
    said,
)

from mamlkit.algorithms import maml
from mamlkit.meta import predict
from mamlkit.models import conv4
from mamlkit.page import widgets
from mamlkit.page.widgets.draw_alphabet import pixels
from mamlkit.tasks import Batch

BOOK = Path(__file__).resolve().parents[1] / "book"
DRAWINGS = [symbol[0] for symbol in alphabets()["bows"]]
ODD = [[[0.5, 0.5]], [[0.1, 0.2, 0.1, 0.2, 0.9, 0.4], [0.3, 0.3]], [[0, 0.501, 1, 0.501]]]


def test_the_page_inks_a_drawing_as_python_does_wherever_and_however_large_it_is(front):
    pen = alphabet().settings["pen"]
    drawings = [*DRAWINGS, *ODD, []]
    found = front(
        alphabet, "given.drawings.map((d) => Array.from(pixels(d, given.pen)))", drawings=drawings, pen=pen
    )
    seen = torch.stack([pixels(drawing) for drawing in drawings])
    smaller = [[round(0.1 + value / 2, 6) for value in stroke] for stroke in DRAWINGS[0]]

    np.testing.assert_allclose(np.reshape(found, seen.shape), seen, atol=1e-6)
    assert pixels(smaller).sub(seen[0]).abs().mean() < 1e-3
    assert seen[-1].sum() == 0 < seen[:-1].flatten(1).sum(1).min()


@pytest.mark.parametrize(("n_way", "channels"), [(5, 4), (5, 32), (3, 7)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_page_adapts_and_answers_as_the_kit_does(front, n_way, channels, dtype, tolerance):
    params = conv4_params(n_way, channels, seed=1)
    params["head.weight"] *= 3  # a step that moves
    kind = alphabets(n_way)
    settings = widgets.draw_alphabet(params, kind, inner_lr=0.4).settings
    x = torch.stack([pixels(symbol[0]) for symbol in kind["bows"]]).to(dtype)
    query = pixels(kind["bows"][1][1]).to(dtype)

    model = conv4(n_way, channels=channels, downsample="stride")
    theta = {name: p.to(dtype) for name, p in params.items()}
    phi = maml.adapt(model, theta, Batch(x, torch.arange(n_way)), inner_lr=0.4, inner_steps=1)
    wanted = [predict(model, p, torch.cat([x, query[None]]))[-1].softmax(0) for p in (theta, phi)]
    net = "unpackConv4(given.weights, given.channels, given.n_way)"
    step = f"[{net}].map((net) => [net, stepConv4(net, joined(given.x), given.x.map((_, i) => i), 0.4)])[0]"
    images = {"x": x.flatten(1).tolist(), "query": query.flatten().tolist()}
    found = front(
        alphabet, f"{step}.map((net) => confidences(net, given.x, given.query))", **images, **settings
    )

    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), rtol=tolerance, atol=tolerance)
    assert (wanted[0] - wanted[1]).abs().max() > 0.01
    cosine = front(alphabet, "given.x.map((image) => cosine(image, given.query))", **images)
    np.testing.assert_allclose(cosine, F.cosine_similarity(x.flatten(1), query.flatten()[None]), rtol=1e-5)


def test_half_precision_is_read_to_the_bit(front):
    bits = np.arange(0, 2**16, 7, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]

    assert front(alphabet, "given.bits.map(fromHalf)", bits=bits.tolist()) == bits.view(np.float16).tolist()


def scribble(page, *places):
    """A stroke with the mouse through places of the pad, in shares of its side."""
    pad = page.get_by_role("img", name="pad for")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*at[0])
    page.mouse.down()
    for place in at[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def test_the_reader_draws_every_box_with_the_mouse_and_is_told_what_is_missing(show):
    page = show(alphabet().html, width=1000)
    click(page, "Clear all")
    assert "A, B, C, D, E are still empty" in said(page)
    for i in range(5):
        scribble(page, (0.2, 0.2), (0.8, 0.2 + 0.15 * i))
        scribble(page, (0.2 + 0.1 * i, 0.8), (0.8, 0.9))
        click(page, "Next box")
    assert "Open the box ?" in said(page)
    assert all(row[1] == "–" for row in rows(page))
    scribble(page, (0.2, 0.2), (0.8, 0.5))
    assert "after one step on the 5 examples" in said(page)
    assert all_differ(
        page, lambda: scribble(page, (0.4, 0.8), (0.8, 0.9)), lambda: click(page, "Clear this box")
    )


def test_strokes_add_up_in_a_box_of_ones_own_and_replace_what_is_ready_made(show):
    page = show(alphabet().html)
    ink = page.get_by_role("img", name="pad for").locator("path")

    for count in (1, 2):
        scribble(page, (0.2, 0.2), (0.8, 0.3 * count))
        assert ink.get_attribute("d").count("M") == count
    click(page, "Reset")
    scribble(page, (0.2, 0.2), (0.8, 0.9))
    assert ink.get_attribute("d").count("M") == 1


def test_the_table_holds_the_kits_confidence_before_and_after_the_step(show):
    figure, model = alphabet(), conv4(5, channels=4, downsample="stride")
    x = torch.stack([pixels(drawing) for drawing in figure.alphabet])
    theta = {name: p.float() for name, p in conv4_params().items()}
    phi = maml.adapt(model, theta, Batch(x, torch.arange(5)), inner_lr=0.4, inner_steps=1)
    images = torch.cat([x, pixels(figure.query)[None]])
    wanted = 100 * torch.stack([predict(model, p, images)[-1].softmax(0) for p in (theta, phi)], 1)

    shown = [[float(cell.removesuffix(" %")) for cell in row[1:3]] for row in rows(show(figure.html))]
    np.testing.assert_allclose(shown, wanted.numpy(), atol=0.6)
    assert wanted.diff().abs().max() > 2


def test_the_keyboard_fills_every_box_and_reaches_the_goal_or_not_as_the_answers_say(show):
    page = show(alphabet().html)
    tab = page.get_by_role("button", name="Clear all")
    tab.focus()
    page.keyboard.press("Enter")
    page.get_by_label("ready-made drawings").select_option("bars")
    page.get_by_role("button", name="Fill A to E").press("Enter")
    page.get_by_role("button", name="query", exact=True).press("Enter")
    for i in range(10):
        page.get_by_role("button", name="Fill this box").press("Enter")
        assert f"drawn as {'ACEBDBDACE'[i]}" in said(page)
        sure = [float(row[2].removesuffix(" %")) for row in rows(page)]
        named, nearest = np.argmax(sure), np.argmax([float(row[3]) for row in rows(page)])
        assert reached(page) == (max(sure) > 90 and "agrees" not in said(page))
        assert named == nearest or "agrees" not in said(page)


def test_a_finger_draws_on_a_phone_and_the_page_stays(show):
    page = show(alphabet().html, "<p style='height: 99rem'></p>", width=390, has_touch=True, is_mobile=True)
    pad = page.get_by_role("img", name="pad for")
    pad.scroll_into_view_if_needed()
    before, scrolled, box = said(page), page.evaluate("scrollY"), pad.bounding_box()
    finger = page.context.new_cdp_session(page)
    for kind, far in (("Start", 20), ("Move", 60), ("Move", 110), ("Move", 150), ("End", None)):
        points = [] if far is None else [{"x": box["x"] + far, "y": box["y"] + far}]
        finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    assert said(page) != before
    assert page.evaluate("scrollY") == scrolled


make = partial(widgets.draw_alphabet, inner_lr=0.4)
good, kinds = conv4_params(), alphabets()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: make({}, kinds), "give those of conv4"),
        (lambda: make(good | {"head.bias": torch.zeros(4)}, kinds), "other shapes than conv4's"),
        (lambda: make(good | {"head.bias": torch.zeros(5) / 0}, kinds), "not all finite"),
        (lambda: make(good, {}), "give at least one set"),
        (lambda: make(good, {"few": kinds["bows"][:4]}), "not 5 symbols of at least two"),
        (lambda: make(good, {"once": [symbol[:1] for symbol in kinds["bows"]]}), "one to ask about"),
        (lambda: make(good, {"wide": [[[[0, 1.5]]] * 2] * 5}), "numbers from 0 to 1"),
        (lambda: make(good, {"odd": [[[[0, 1, 0.5]]] * 2] * 5}), "x, y, x, y"),
        (lambda: make(good, kinds, inner_lr=-1.0), "inner_lr=-1.0 lies outside"),
    ],
)
def test_wrong_input_is_named_with_its_cure(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_thinned_and_followed_a_drawing_is_its_lines_again():
    import alphabet as follower

    lines = [[0.2, 0.2, 0.8, 0.8], [0.8, 0.2, 0.2, 0.8], [0.5, 0.1, 0.9, 0.1]]
    y, x = np.mgrid[:105, :105] / 105
    far = [(x - a) * (d - b) - (y - b) * (c - a) for a, b, c, d in lines]
    within = [
        (np.minimum(a, c) <= x) & (x <= np.maximum(a, c)) & (min(b, d) - 0.01 <= y) & (y <= max(b, d) + 0.01)
        for a, b, c, d in lines
    ]
    ink = np.any([(np.abs(f) < 0.012) & w for f, w in zip(far, within)], axis=0)
    strokes = follower.follow(follower.thin(ink[None])[0], 0.8)

    assert 3 <= len(strokes) <= 5
    assert (pixels(strokes) - pixels(lines)).abs().mean() < 0.02


HERO = re.search(r'<div class="hero">.*?</div>\n(?=```)', (BOOK / "index.md").read_text(), re.DOTALL)[0]


def hills(page):
    """The three ellipses' middles and curvatures as they stand, and θ."""
    found = page.locator(".hills > g").evaluate_all(
        "gs => gs.map(g => [g, g.lastElementChild]).map(([g, e]) => "
        "[g.getAttribute('transform'), e.getAttribute('rx'), e.getAttribute('ry')])"
    )
    middles, curvatures = [], []
    for place, rx, ry in found:
        x, y, angle = map(float, re.findall(r"-?[\d.]+", place))
        turn = np.deg2rad(angle)
        q = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middles.append([x, y])
        curvatures.append(q @ np.diag([1, (float(rx) / float(ry)) ** 2]) @ q.T)
    theta = page.locator(".theta").evaluate(
        "c => [Number(c.getAttribute('cx')), Number(c.getAttribute('cy'))]"
    )
    return np.array(middles), np.array(curvatures), np.array(theta)


def deepest(w, a, rate=0.65):
    """Where the mean loss after one step is least."""
    m = np.eye(2) - rate * a
    b = m @ a @ m
    return np.linalg.solve(b.sum(0), np.einsum("nij,nj->i", b, w))


def ends(page):
    heads = page.locator(".head").evaluate_all("ps => ps.map(p => p.getAttribute('d'))")
    return np.array([[float(value) for value in re.findall(r"-?[\d.]+", d)[:2]] for d in heads])


def test_the_picture_of_the_front_page_is_true_and_its_arrows_follow_what_one_moves(show):
    page = show(HERO, f"<script>{(BOOK / '_static/hero.js').read_text()}</script>", width=1000, height=1200)
    w, a, theta = hills(page)
    np.testing.assert_allclose(theta, deepest(w, a), atol=1)
    still = ends(page)
    said_by = page.locator(".said")

    def slid(name):
        return page.get_by_role("slider", name=name, exact=True)

    slid("start θ").press("ArrowLeft")
    slid("start θ").press("ArrowRight")
    np.testing.assert_allclose(ends(page), still, atol=1)
    page.get_by_role("button", name="Other tasks").click()
    drag(slid("optimum of task 2"), 40, -30)
    slid("optimum of task 1").press("Shift+ArrowDown")
    w, a, theta = hills(page)
    np.testing.assert_allclose(ends(page), theta - 0.65 * np.einsum("nij,nj->ni", a, theta - w), atol=0.1)
    assert "Goal: put θ" in said_by.inner_text()
    scale = page.locator("svg").first.bounding_box()["width"] / 480
    drag(slid("start θ"), *(scale * (deepest(w, a) - theta)))
    assert "✓" in said_by.inner_text()
    m = np.eye(2) - 0.65 * a
    for _ in range(12):
        slid("start θ").press("ArrowRight")
        off = [np.einsum("nij,nj->ni", m, at - w) for at in (hills(page)[2], deepest(w, a))]
        now, least = (np.einsum("ni,nij,nj->", u, a, u) for u in off)
        assert ("✓" in said_by.inner_text()) == (now < 1.05 * least)
    assert "Goal" in said_by.inner_text()
    page.get_by_role("button", name="Reset").click()
    np.testing.assert_allclose(ends(page), still, atol=1)
    assert not barriers(page)


def test_the_front_page_counts_on_where_the_three_optima_are_one(show):
    page = show(HERO, f"<script>{(BOOK / '_static/hero.js').read_text()}</script>", width=1000, height=1200)
    for name in ("optimum of task 1", "optimum of task 2", "optimum of task 3", "start θ"):
        assert "NaN" not in page.locator(".said").inner_text()
        for _ in range(24):
            for key in ("Shift+ArrowLeft", "Shift+ArrowUp"):
                page.get_by_role("slider", name=name, exact=True).press(key)
        assert ("over a hundred times" in page.locator(".said").inner_text()) == (name[-1] == "3")
    assert "✓" in page.locator(".said").inner_text()


def test_without_scripts_the_front_page_keeps_its_picture(show):
    page = show(HERO, java_script_enabled=False)

    assert page.get_by_role("img", name="What MAML learns").is_visible()
    assert page.locator(".said, .turn, .grip").count() == 0
