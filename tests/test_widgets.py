"""The front end computes what torch and NumPy compute, and the stored HTML needs nothing from outside."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad

from mamlkit import widgets
from mamlkit.tasks import Batch, Task

W = np.array([[-2.0, 0.0], [2.0, 1.0], [0.5, -1.5]])
A = np.array([[[1.0, 0.2], [0.2, 4.0]], [[3.0, 0.5], [0.5, 1.0]], [[0.5, 0.0], [0.0, 0.5]]])


def network(sizes: tuple[int, ...] = (1, 40, 40, 1), seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for left, right in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(left, right), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def params_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def image_tasks(n_tasks: int = 3, n_way: int = 5, k_shot: int = 1) -> Task:
    generator = torch.Generator().manual_seed(0)
    support = torch.rand(n_tasks, n_way * k_shot, 1, 28, 28, generator=generator)
    labels = torch.arange(n_way).repeat_interleave(k_shot).repeat(n_tasks, 1)
    order = torch.stack([torch.randperm(n_way * k_shot, generator=generator) for _ in range(n_tasks)])
    support_y = labels.gather(1, order)
    query = support[:, :n_way] * 0.9
    return Task(Batch(support, support_y), Batch(query, support_y[:, :n_way]))


def all_figures() -> list[widgets.Figure]:
    return [
        widgets.gradient_descent(),
        widgets.two_tasks(W, A, inner_lr=0.1),
        widgets.sinusoid_adaptation(
            {"maml": params_of(network()), "joint": params_of(network(seed=1))}, inner_lr=0.01
        ),
        widgets.few_shot_game(image_tasks(20)),
    ]


@pytest.fixture(scope="module")
def javascript() -> Callable[..., Any]:
    """Evaluates an expression after the front-end files it needs: in node, else in a browser."""
    node, browser = shutil.which("node"), shutil.which("chromium") or shutil.which("google-chrome")
    if node:

        def run(expression: str, *files: str) -> Any:
            script = f"{widgets._source(*files)}\nconsole.log(JSON.stringify({expression}));"
            return json.loads(
                subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True).stdout
            )

        return run
    if browser and importlib.util.find_spec("playwright"):

        def run(expression: str, *files: str) -> Any:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as driver:
                page = driver.chromium.launch(
                    executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
                ).new_page()
                return json.loads(
                    page.evaluate(
                        f"(() => {{ {widgets._source(*files)}\nreturn JSON.stringify({expression}); }})()"
                    )
                )

        return run
    pytest.skip("no JavaScript here: install node, or chromium and the package playwright")


@pytest.mark.parametrize("sizes", [(1, 40, 40, 1), (1, 7, 1), (1, 5, 6, 4, 1)])
@pytest.mark.parametrize("inner_steps", [0, 1, 10])
def test_the_page_adapts_a_network_as_torch_does(
    javascript: Callable[..., Any], sizes: tuple[int, ...], inner_steps: int
) -> None:
    model = network(sizes)
    figure = widgets.sinusoid_adaptation({"maml": params_of(model)}, inner_lr=0.02)
    stored = figure.settings["networks"][0]
    x = torch.linspace(-4, 4.5, 7, dtype=torch.float64).unsqueeze(1)
    y, grid = 3 * torch.sin(x - 1), torch.linspace(-5, 5, 41, dtype=torch.float64).unsqueeze(1)

    params = {name: value.double() for name, value in params_of(model).items()}
    for _ in range(inner_steps):
        gradients = grad(lambda p: (functional_call(model, p, x) - y).square().mean())(params)
        params = {name: value - 0.02 * gradients[name] for name, value in params.items()}
    wanted = functional_call(model, params, grid).flatten()
    layers = f"unpack({json.dumps(stored['sizes'])}, {json.dumps(stored['weights'])})"
    support = f"{json.dumps(x.flatten().tolist())}, {json.dumps(y.flatten().tolist())}"
    found = javascript(
        f"predict(adapt({layers}, {support}, {stored['inner_lr']}, {inner_steps}), "
        f"{json.dumps(grid.flatten().tolist())})",
        "mlp.js",
    )

    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inner_lr", [0.0, 0.1, 0.2])
def test_the_page_finds_the_optima_in_closed_form(javascript: Callable[..., Any], inner_lr: float) -> None:
    after = np.stack([a @ np.linalg.matrix_power(np.eye(2) - inner_lr * a, 2) for a in A])
    joint = np.linalg.solve(A.sum(0), np.einsum("nij,nj->i", A, W))
    maml = np.linalg.solve(after.sum(0), np.einsum("nij,nj->i", after, W))

    given = f"const w = {W.tolist()}, A = {A.tolist()}"
    found = javascript(
        f"(() => {{ {given}; const after = A.map((a) => curvatureAfter(a, {inner_lr}));"
        "return [commonOptimum(A, w), commonOptimum(after, w)]; })()",
        "quadratics.js",
    )

    np.testing.assert_allclose(found, [joint, maml], rtol=1e-12)
    assert np.allclose(joint, maml) == (inner_lr == 0.0)


def test_no_other_start_is_better_after_a_step_than_the_maml_optimum(javascript: Callable[..., Any]) -> None:
    def after_a_step(theta: np.ndarray) -> float:
        ends = [theta - 0.15 * a @ (theta - w) for a, w in zip(A, W)]
        return float(np.mean([(e - w) @ a @ (e - w) / 2 for e, a, w in zip(ends, A, W)]))

    given = f"const w = {W.tolist()}, A = {A.tolist()}"
    best = np.array(
        javascript(
            f"(() => {{ {given}; return commonOptimum(A.map((a) => curvatureAfter(a, 0.15)), w); }})()",
            "quadratics.js",
        )
    )

    assert all(
        after_a_step(best) < after_a_step(best + 0.01 * d)
        for d in np.random.default_rng(0).normal(size=(50, 2))
    )


def test_each_corner_of_a_contour_has_the_same_loss(javascript: Callable[..., Any]) -> None:
    corners = np.array(javascript(f"ellipse({A[1].tolist()}, {W[1].tolist()}, 0.7)", "quadratics.js")) - W[1]

    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", corners, A[1], corners) / 2, 0.7, rtol=1e-12)


def test_no_single_initialisation_is_best_when_the_step_solves_every_task(
    javascript: Callable[..., Any],
) -> None:
    assert (
        javascript("commonOptimum([curvatureAfter([[2, 0], [0, 2]], 0.5)], [[1, 1]])", "quadratics.js")
        is None
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.4, "−0.400"),
        (1234.5, "1235"),
        (3.456, "3.46"),
        (2e-5, "2.0 × 10⁻⁵"),
        (9.4e12, "9.4 × 10¹²"),
        (-1e-15, "0"),
    ],
)
def test_numbers_are_written_for_readers(javascript: Callable[..., Any], value: float, text: str) -> None:
    assert javascript(f"number({value!r})", "page.js") == text


@pytest.mark.parametrize(
    ("step_size", "verdict"),
    [
        (0.3, "converges from one side"),
        (0.5, "one step lands"),
        (0.8, "side to side and converges"),
        (1.0, "for ever"),
        (1.05, "diverges"),
    ],
)
def test_the_step_size_decides_whether_gradient_descent_converges(
    javascript: Callable[..., Any], step_size: float, verdict: str
) -> None:
    last = javascript(f"Math.abs(descend(2, {step_size}, 12)[12])", "page.js", "gradient_descent.js")

    assert verdict in javascript(f"verdict({step_size})", "page.js", "gradient_descent.js")
    assert last == pytest.approx(2 * abs(1 - 2 * step_size) ** 12)


# As much of a page as a figure asks for when it draws itself where nobody looks.
PAGE = """
const node = (tag) => ({
  tag, style: { setProperty() {} }, kept: {}, children: [], addEventListener() {}, classList: { add() {} },
  setAttribute(key, value) { this.kept[key] = String(value); },
  append(...more) { this.children.push(...more); },
  replaceChildren(...all) { this.children = all; },
});
globalThis.document = { createElement: node, createElementNS: (_, tag) => node(tag) };
const drawn = (state) => {
  const el = node("div");
  render({ model: { get: (k) => state[k], set() {}, on() {}, save_changes() {} }, el });
  const paths = [];
  const walk = (n) => { if (n && n.kept?.d) paths.push(n.kept.d); for (const c of n?.children ?? []) walk(c); };
  walk(el);
  return paths.map((d) => d.slice(1).split("L").map((xy) => xy.split(" ").map(Number)));
};
"""


def test_what_gradient_descent_draws_is_the_parabola_and_the_common_logarithm(
    javascript: Callable[..., Any],
) -> None:
    figure = widgets.gradient_descent(step_size=0.3, start=2.0)
    state = {"settings": figure.settings, **{name: getattr(figure, name) for name in figure.reader_state}}
    drawn = javascript(
        f"(() => {{ {PAGE}; return drawn({json.dumps(state)}); }})()", "page.js", "gradient_descent.js"
    )
    curve, _, _, decay = (np.array(line)[:, 1] for line in drawn)  # how far down, of 420

    parabola, logarithms = np.linspace(-2.6, 2.6, 81) ** 2, np.log10(2 * 0.4 ** np.arange(13))
    np.testing.assert_allclose(curve, 420 * (6.25 - parabola) / (6.25 + 0.4), atol=0.02)
    np.testing.assert_allclose(decay, 420 * (2 - logarithms) / (2 + 4), atol=0.02)


class _Nesting(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_equal_figures_are_stored_as_equal_text() -> None:
    for first, second in zip(all_figures(), all_figures()):
        assert first.html == second.html
        assert first.model_id != second.model_id


def test_figures_differ_in_their_names() -> None:
    names = [
        re.findall(r'data-figure="(\w+)"', figure.html)
        for figure in [*all_figures(), widgets.gradient_descent(step_size=0.4)]
    ]

    assert len({name[0] for name in names}) == len(names)


def test_the_stored_html_needs_nothing_from_outside() -> None:
    for figure in all_figures():
        text = figure.html.replace("http://www.w3.org/2000/svg", "")
        nesting = _Nesting()
        nesting.feed(text)

        assert nesting.open == []
        assert not re.search(r"https?:|//cdn|\bimport\b|require\(|\bfetch\(|XMLHttpRequest", text)
        assert text.count("<script") == text.count("</script") == 2
        assert len(text.encode()) < 64_000


def test_a_caption_cannot_break_out_of_the_page() -> None:
    figure = widgets.gradient_descent(caption="</script><b>x</b>")

    assert "</script><b>" not in figure.html
    assert figure.settings["caption"] == "</script><b>x</b>"


def test_a_figure_shows_itself_as_a_widget_as_html_and_as_a_sentence() -> None:
    figure = widgets.gradient_descent()
    data, _ = figure._repr_mimebundle_()

    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["text/plain"] == "Interactive figure: Gradient descent on f(x) = x²"
    assert figure.alt.split(":")[0] in data["text/html"]
    assert figure._esm.endswith("export default { render };\n")


def test_python_reads_and_sets_what_the_reader_moves() -> None:
    figure = widgets.two_tasks(W, A, inner_lr=0.1)
    heard = []
    figure.observe(lambda change: heard.append(change["new"]), "theta")
    before = figure.html

    figure.theta = [1.0, 2.0]

    assert heard == [[1.0, 2.0]]
    assert '"theta":[1.0,2.0]' in figure.html != before
    assert {"theta", "optima", "inner_lr", "settings"} <= set(figure.get_state())


def test_the_state_keeps_its_types() -> None:
    import traitlets

    figure = widgets.two_tasks(W, A, inner_lr=0.1)

    with pytest.raises(traitlets.TraitError, match="inner_lr"):
        figure.inner_lr = "large"
    with pytest.raises(traitlets.TraitError, match="settings"):
        figure.settings = {}


def test_the_game_keeps_the_drawings_answers_and_the_nearest_neighbour(
    javascript: Callable[..., Any],
) -> None:
    tasks = image_tasks(n_tasks=4, n_way=3, k_shot=2)
    figure = widgets.few_shot_game(tasks)
    settings = figure.settings

    pixels = javascript(
        f"Array.from(unpackPixels({json.dumps(settings['drawings'])}, {4 * 7 * 28 * 28}))",
        "page.js",
        "few_shot_game.js",
    )
    drawings = torch.tensor(pixels).view(4, 7, 28, 28)
    for task in range(4):
        order = torch.argsort(tasks.support.y[task], stable=True)
        torch.testing.assert_close(
            drawings[task, :6], (tasks.support.x[task, order, 0].double() * 3).round().long()
        )
    assert (
        settings["answers"] == settings["rivals"][0]["guesses"]
    )  # each query is a paler copy of a support drawing
    assert len(set(settings["answers"])) > 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: widgets.gradient_descent(step_size=2.0), "step_size=2.0 lies outside 0.05 to 1.1"),
        (lambda: widgets.gradient_descent(start=float("nan")), "start=nan lies outside"),
        (lambda: widgets.two_tasks([1.0, 2.0], A, inner_lr=0.1), "optima has shape"),
        (lambda: widgets.two_tasks(W, A[:2], inner_lr=0.1), "curvatures has shape"),
        (lambda: widgets.two_tasks(W, -A, inner_lr=0.1), "positive eigenvalues"),
        (lambda: widgets.two_tasks(W * np.nan, A, inner_lr=0.1), "must be finite"),
        (lambda: widgets.two_tasks(W, A, inner_lr=-0.1), "inner_lr=-0.1 is not a step size"),
        (lambda: widgets.two_tasks(W, A, inner_lr=0.1, theta=[1.0]), "give 2 finite coordinates"),
        (lambda: widgets.two_tasks(W, A, inner_lr=0.1, names=["a"]), "1 names for 3 tasks"),
        (lambda: widgets.sinusoid_adaptation({}, inner_lr=0.1), "no networks"),
        (
            lambda: widgets.sinusoid_adaptation({"maml": params_of(network((2, 3, 1)))}, inner_lr=0.1),
            "parameters of maml have shapes",
        ),
        (
            lambda: widgets.sinusoid_adaptation(
                {"maml": {"w": torch.full((1, 1), torch.nan), "b": torch.zeros(1)}}, inner_lr=0.1
            ),
            "finite",
        ),
        (
            lambda: widgets.sinusoid_adaptation({"maml": params_of(network())}, inner_lr={"joint": 0.1}),
            "no rate for maml",
        ),
        (
            lambda: widgets.sinusoid_adaptation({"maml": params_of(network())}, inner_lr=0.1, inner_steps=11),
            "inner_steps=11",
        ),
        (
            lambda: widgets.few_shot_game(
                image_tasks()._replace(query=Batch(torch.zeros(1), torch.zeros(1)))
            ),
            "do not fit",
        ),
        (
            lambda: widgets.few_shot_game(Task(*(Batch(part.x * 255, part.y) for part in image_tasks()))),
            "scale the images",
        ),
        (
            lambda: widgets.few_shot_game(Task(*(Batch(part.x, part.y * 0 + 1) for part in image_tasks()))),
            "equally many drawings",
        ),
    ],
)
def test_wrong_input_is_named_with_its_cure(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_colour_without_a_look_is_named() -> None:
    with pytest.raises(KeyError, match="no look is called 'mine'"):
        widgets.sinusoid_adaptation({"mine": params_of(network())}, inner_lr=0.1)
