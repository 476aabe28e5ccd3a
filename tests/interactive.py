"""The interactive figures, small, and what one does to a page that shows them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from mamlkit.models import conv4, initial_params
from mamlkit.page import widgets
from mamlkit.tasks import Batch, Task

W = [[-2.0, 0.0], [2.0, 1.0], [0.5, -1.5]]
A = [[[1.0, 0.2], [0.2, 4.0]], [[3.0, 0.5], [0.5, 1.0]], [[0.5, 0.0], [0.0, 0.5]]]


def network(sizes=(1, 40, 40, 1), seed=0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for size in pairwise(sizes) for layer in (torch.nn.Linear(*size), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def image_tasks(n_tasks=3, n_way=5, k_shot=1) -> Task:
    """Random drawings; each query is a paler copy of a support drawing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_tasks, n_way * k_shot, 1, 28, 28, generator=generator)
    y = torch.stack([torch.randperm(n_way * k_shot, generator=generator) % n_way for _ in range(n_tasks)])
    return Task(Batch(x, y), Batch(x[:, :n_way] * 0.9, y[:, :n_way]))


descent = partial(widgets.gradient_descent, step_size=0.3, start=2.0, caption="</script><b>x</b>")
plane = partial(widgets.two_tasks, W, A, inner_lr=0.1)
NETWORKS = {"maml": network().state_dict(), "joint": network(seed=1).state_dict()}
sinusoid = partial(widgets.sinusoid_adaptation, NETWORKS, inner_lr=0.03)
game = partial(widgets.few_shot_game, image_tasks(20))
POLICY = ([[-0.76, -0.01], [0.02, -0.75]], [0.045, 0.022])
GOALS = [[0.45, 0.0], [0.0, 0.45], [-0.318, 0.318]]
navigation = partial(widgets.point_navigation, POLICY, GOALS, inner_lr=0.015)
prior = partial(widgets.prior_width, [1.0, -0.5], [2.2, 0.4], n=6)


def federations():
    """Two federations of three clients: curvatures, bottoms, shares."""
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(2, 3, 2, 2)))[0]
    scales = generator.uniform(0.05, 0.95, size=(2, 3, 2))
    shares = np.array([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    return turn @ (scales[..., None] * turn.swapaxes(-1, -2)), generator.normal(size=(2, 3, 2)), shares


FEDERATIONS = federations()
work = partial(widgets.local_work, *FEDERATIONS, start=[3.0, 3.0])


def alphabets(n_way=5, per_symbol=3):
    """Two sets of symbols, each a bow with a bar, drawn by an unsteady hand."""
    generator = np.random.default_rng(0)
    turn = np.linspace(0, 3, 9)

    def symbol(name, i, k):
        bow = [0.5 + 0.2 * np.cos(turn + i), 0.5 + 0.3 * np.sin((1 + i % 3) * turn + name)]
        wobble = generator.uniform(-0.02, 0.02, (9, 2))
        return [(np.array(bow).T + wobble).round(2).flatten().tolist(), [0.3, 0.2 + 0.1 * i, 0.6, 0.2]]

    draw = {"bows": 0, "bars": 1}
    return {
        word: [[symbol(name, i, k) for k in range(per_symbol)] for i in range(n_way)]
        for word, name in draw.items()
    }


def conv4_params(n_way=5, channels=4, seed=0):
    """First weights of the small network, as a page keeps them."""
    torch.manual_seed(seed)
    params = initial_params(conv4(n_way, channels=channels, downsample="stride"))
    return {name: p.half() for name, p in params.items()}


alphabet = partial(widgets.draw_alphabet, conv4_params(), alphabets(), inner_lr=0.4)
BATHS = {
    "support": [(-2.0, 0), (-1.0, 1), (0.0, 0), (1.0, 1), (2.0, 1)],
    "query": [(-1.5, 0), (-0.5, 0), (0.5, 0), (1.5, 1), (2.5, 1)],
}
backward = partial(widgets.double_backward, **BATHS, offset=-0.5, weight=-0.5, inner_lr=2.0)
RATES = [0.01, 0.02, 0.04, 0.08]
# two seeds: each step multiplies what is left by a number that is best at the first rate but one
LOSSES = {
    "maml": [[[3 * f**k for k in range(6)] for f in (0.7, s, 0.9, 1.3)] for s in (0.3, 0.4)],
    "joint": [[[3 * f**k for k in range(6)] for f in (0.95, 0.9, 0.85, 1.02)] for _ in range(2)],
}
for seed in LOSSES["maml"]:
    seed[2] = [3, 2, 3.5, 4, 5, 6]  # the first step helps, later ones harm
rates = partial(widgets.rate_map, LOSSES, RATES, trained_at=0.02, n_tasks=300)
VALLEYS = [[-2.0, -1.0], [2.0, 1.0]], [[[3.5, 1.0], [1.0, 2.5]], [[0.5, -0.2], [-0.2, 0.8]]]
cut = partial(widgets.curvature_cut, *VALLEYS, inner_lr=0.2, names=("steep", "flat"))
WARDS = {
    ward: {
        name: (
            np.linspace(9, 3 + i, 40) + np.arange(3)[:, None],
            np.linspace(9, 4 + (i > 1), 6) + np.arange(3)[:, None],
        )
        for i, name in enumerate(names)
    }
    for ward, names in {
        "waves": ("well", "early", "late", "twin", "last"),
        "plants": ("fit", "wilted", "wet", "dry"),
    }.items()
}
RED = {"early": {"slope"}, "late": {"slope", "order_of"}, "twin": {"slope"}, "last": {"close", "slope"}}
RED |= {"wilted": {"order_of"}, "wet": {"close"}, "dry": {"slope", "close"}}
SAYS = {name: f"is {name}" for name in RED}
clinic = partial(widgets.bug_clinic, WARDS, tests=["slope", "close", "order_of"], red=RED, says=SAYS)


def wave(n_tasks, k_shot=6):
    """Tasks with the targets 3 sin(x + i)."""
    x = torch.linspace(-4, 4.6, n_tasks * (k_shot + 20), dtype=torch.float64).view(n_tasks, -1, 1)
    y = 3 * torch.sin(x + torch.arange(n_tasks)[:, None, None])
    return Task(Batch(x[:, ::4][:, :k_shot], y[:, ::4][:, :k_shot]), Batch(x, y))


ORDERS = [torch.arange(39, -1, -1), torch.arange(40).roll(7)]
STARTS = [{name: p.double() for name, p in network(seed=seed).state_dict().items()} for seed in (0, 1)]
averages = partial(widgets.weight_averages, STARTS, wave(2), orders=ORDERS, inner_lr=0.02)
FINE = {name: p.double() for name, p in network((1, 5, 4, 1), seed=2).state_dict().items()}
ONE = Task(*(Batch(*(part[0] for part in batch)) for batch in wave(1)))
spring = partial(widgets.spring_strength, FINE, ONE)
NORMALS = [[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]
steps = partial(widgets.reptile_steps, NORMALS, [1.0, 0.5, 0.9], [1.0, 0.4, 0.5])
FIGURES = {
    "descent": descent,
    "plane": plane,
    "sinusoid": sinusoid,
    "game": game,
    "navigation": navigation,
    "prior": prior,
    "work": work,
    "alphabet": alphabet,
    "backward": backward,
    "rates": rates,
    "cut": cut,
    "clinic": clinic,
    "averages": averages,
    "spring": spring,
    "steps": steps,
}
FINDING = ".maml-finding"
every_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)


def middle(grip) -> tuple[float, float]:
    """Where a mouse or a finger takes a handle."""
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(grip, across: float, down: float) -> None:
    """Takes a handle with the mouse and lets it go elsewhere."""
    (x, y), mouse = middle(grip), grip.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + across, y + down, steps=5)
    mouse.up()


def said(page):
    return page.get_by_role("status").and_(page.locator(FINDING)).first.inner_text()


def grip(page, name):
    return page.get_by_role("slider", name=name, exact=True).and_(page.locator(".maml-grip"))


def slide(page, name, value):
    page.locator("input[type=range]").and_(page.get_by_label(name)).fill(str(value))


def click(page, name):
    page.get_by_role("button", name=name).click()


def rows(page):
    return [[cell.strip() for cell in row.split("\t")] for row in page.locator("tbody tr").all_inner_texts()]


def reached(page):
    return page.get_by_role("status").filter(has_text="Goal reached").is_visible()


def all_differ(page, *acts):
    texts = [said(page)]
    for act in acts:
        act()
        texts.append(said(page))
    return len(set(texts)) == len(texts)


OF_COLOUR = ("color-contrast", "link-in-text-block")
# Marks up to three texts of every look: equal colours have equal contrasts, and axe takes most of its time for those.
ONE_OF_EACH_LOOK = """() => {
  const looks = new Map(), plain = /^(rgba\\(0, 0, 0, 0\\)|none|normal|1)$/;
  document.querySelectorAll("[data-look]").forEach((node) => delete node.dataset.look);
  for (const node of document.body.querySelectorAll("*")) {
    const speaks = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
    if (!speaks && !node.matches("input, select, textarea")) continue;
    let seen = node.checkVisibility({ visibilityProperty: true });
    const own = getComputedStyle(node), parts = [own.color, own.fontSize, own.fontWeight, own.textShadow];
    for (let around = node; around && seen; around = around.parentElement) {
      const style = getComputedStyle(around), { width, height } = around.getBoundingClientRect();
      seen = (width > 1 && height > 1) || style.overflow === "visible";  // not what only a screen reader meets
      parts.push(style.backgroundColor, style.backgroundImage, style.opacity, style.filter, style.mixBlendMode);
    }
    if (!seen) continue;
    const look = node.closest(".maml-figure") ? node : parts.filter((part) => !plain.test(part)).join();
    looks.set(look, (looks.get(look) ?? 0) + 1);
    if (looks.get(look) <= 3) node.dataset.look = looks.size;
  }
  return looks.size;
}"""


def barriers(page, *excused: str) -> str:
    """What axe finds in the way of a reader with a keyboard, a screen reader or weak eyes."""
    rules = {rule: {"enabled": False} for rule in (*OF_COLOUR, *excused)}
    # a style sheet in a file can't be fetched, and the browser would say so
    return _axe(page, rules=rules, preload={"assets": ["media"]}) + faint(page)


def faint(page) -> str:
    """The texts that axe finds hard to see, against their ground or, links, in their line."""
    assert page.evaluate(ONE_OF_EACH_LOOK), "a page without a text"
    rules = {"type": "rule", "values": [*OF_COLOUR]}
    looks = ("[data-look]", "article p a", "article li a")
    return _axe(page, {"include": [[look] for look in looks]}, runOnly=rules, preload=False)


def _axe(page, context=None, **options) -> str:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page, context=context, options={"resultTypes": ["violations"], **options})
    return found.generate_report() if found.violations_count else ""
