"""Networks and the tasks drawn for them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import one
from torch import nn

from mamlkit.algorithms import maml
from mamlkit.gradients import hvp
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import PatchConv2d, conv4, in_bfloat16, initial_params, mlp
from mamlkit.sampling import class_tasks, draw_sinusoids, group_tasks, sinusoid, sinusoid_tasks
from mamlkit.tasks import Batch


def test_hvp_is_the_hessian_times_the_vector() -> None:
    torch.manual_seed(0)
    loss = lambda p: (p["a"] ** 3).sum() * p["b"].sum() + p["b"].exp().sum()  # noqa: E731
    params = {"a": torch.randn(3).double(), "b": torch.randn(2).double()}
    vector = {"a": torch.randn(3).double(), "b": torch.randn(2).double()}

    ours = hvp(loss, params, vector)

    flat = lambda p: torch.cat([p["a"], p["b"]])  # noqa: E731
    hessian = torch.autograd.functional.hessian(lambda v: loss({"a": v[:3], "b": v[3:]}), flat(params))
    assert torch.allclose(flat(ours), hessian @ flat(vector), rtol=1e-12)


def test_hvp_can_be_differentiated_again() -> None:
    x = {"w": torch.tensor([2.0]).double()}

    third = torch.func.grad(lambda p: hvp(lambda q: (q["w"] ** 4).sum(), p, x)["w"].sum())(x)

    assert third["w"].item() == pytest.approx(24 * 2 * 2)  # f''' v


def test_the_networks_have_the_papers_sizes_and_a_body_and_a_head() -> None:
    sinusoid, *images = map(initial_params, (mlp([1, 40, 40, 1]), conv4(5), conv4(5, downsample="stride")))

    assert sum(p.numel() for p in sinusoid.values()) == 1 * 40 + 40 + 40 * 40 + 40 + 40 + 1
    for params in (sinusoid, *images):
        assert [n for n in params if not n.startswith("body.")] == ["head.weight", "head.bias"]
    assert [params["head.weight"].shape for params in images] == [(5, 64), (5, 64)]


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_conv4_equals_the_textbook_network_with_biases(downsample: str) -> None:
    # Ours leaves out conv biases and pools before ReLU; batch norm and monotony make both harmless. Its batch norm takes the
    # batch at hand when it predicts, too.
    torch.manual_seed(0)
    ours = conv4(3, channels=4, downsample=downsample).double().eval()
    pooled = downsample == "pool"
    blocks = []
    for i in range(4):
        conv = nn.Conv2d(4 if i else 1, 4, 3, padding=1, stride=1 if pooled else 2)
        conv.weight = getattr(ours.body, f"block{i + 1}")[0].weight
        blocks += [conv, nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), *[nn.MaxPool2d(2)] * pooled]
    textbook = nn.Sequential(*blocks, nn.AvgPool2d(1 if pooled else 2), nn.Flatten(), ours.head).double()
    x = torch.rand(6, 1, 28, 28).double()

    assert torch.allclose(ours(x), textbook(x), atol=1e-10)

    of_patches = conv4(3, channels=4, downsample=downsample, patches=True).double().eval()
    of_patches.load_state_dict(ours.state_dict())
    assert torch.allclose(ours(x), of_patches(x), atol=1e-10)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_mlp_equals_the_textbook_network(batch_norm: bool) -> None:
    torch.manual_seed(0)
    ours = mlp([4, 8, 6, 3], batch_norm=batch_norm).double().eval()
    x = torch.randn(7, 2, 2).double()

    hidden = x.flatten(1)
    for layer in (layer for layer in ours.body if isinstance(layer, nn.Linear)):
        hidden = layer(hidden)
        if batch_norm:
            hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = hidden.clamp(min=0)
    assert torch.allclose(ours(x), ours.head(hidden), rtol=1e-10)
    assert [layer.bias is None for layer in ours.body if isinstance(layer, nn.Linear)] == [batch_norm] * 2


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_a_convolution_of_patches_is_a_convolution(stride: int, padding: int) -> None:
    torch.manual_seed(0)
    ours = PatchConv2d(3, 5, 3, stride=stride, padding=padding, bias=False).double()
    x = torch.rand(2, 3, 9, 12, dtype=torch.float64, requires_grad=True)

    theirs = F.conv2d(x, ours.weight, stride=stride, padding=padding)

    assert torch.allclose(ours(x), theirs, atol=1e-12)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
    slopes = (torch.autograd.grad(y.square().sum(), (x, ours.weight)) for y in (ours(x), theirs))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*slopes, strict=True))


@pytest.mark.parametrize(
    "more",
    [
        {"bias": True},
        {"groups": 3},
        {"dilation": 2},
        {"padding": (1, 0)},
        {"padding": "same"},
        {"padding_mode": "circular"},
    ],
)
def test_patches_refuse_what_they_do_not_compute(more: dict) -> None:
    with pytest.raises(ValueError, match=r"neither bias, groups nor dilation.*take nn\.Conv2d"):
        PatchConv2d(3, 6, 3, **{"bias": False, "padding": 1} | more)


@pytest.mark.parametrize("first_order", [True, False])
def test_in_bfloat16_the_meta_gradient_keeps_its_direction(first_order: bool) -> None:
    torch.manual_seed(0)
    model = mlp([16, 32, 3], batch_norm=True)
    generator = torch.Generator().manual_seed(0)
    tasks = class_tasks(torch.rand(6, 8, 1, 4, 4), 8, n_way=3, k_shot=4, k_query=4, generator=generator)
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1, first_order=first_order)

    def gradient() -> torch.Tensor:
        _, gradients = meta_gradient(partial(query_loss, model, adapt), initial_params(model), tasks)
        return torch.cat([g.flatten() for g in gradients.values()])

    exact = gradient()
    in_bfloat16(model)
    rounded = gradient()

    assert rounded.dtype == torch.float32
    assert 0.99 < F.cosine_similarity(exact, rounded, dim=0) < 1 - 1e-6


def test_initial_params_are_copies() -> None:
    model = mlp([1, 2])

    initial_params(model)["head.weight"].zero_()

    assert model.head.weight.abs().max() > 0


def test_sinusoids_fill_the_papers_ranges_and_no_more() -> None:
    draw = partial(sinusoid_tasks, 9999, k_shot=10, k_query=10, generator=torch.Generator().manual_seed(0))
    amplitude, phase = draw_sinusoids(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, half = draw(), draw(support_range=(0.0, 5.0))

    ranges = [(amplitude, 0.1, 5.0), (phase, 0.0, math.pi), (half.support.x, 0, 5), (half.query.x, -5, 5)]
    for values, low, high in (*ranges, (whole.support.x, -5, 5), (whole.query.x, -5, 5)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.05)


def test_support_and_query_of_a_sinusoid_lie_on_one_curve_that_its_phase_delays() -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = sinusoid_tasks(50, k_shot=6, k_query=4, generator=generator, dtype=torch.float64)

    # y = a sin x + b cos x: two unknowns, fitted on the support, must give the query.
    design = lambda x: torch.cat([x.sin(), x.cos()], -1)  # noqa: E731
    fit = torch.linalg.lstsq(design(tasks.support.x), tasks.support.y).solution
    assert torch.allclose(design(tasks.query.x) @ fit, tasks.query.y, atol=1e-6)
    assert (fit[:, 1] <= 0).all()  # a sin(x - phase) = a cos(phase) sin x - a sin(phase) cos x
    assert sinusoid(*torch.tensor([2.0, 3.0, 2 - math.pi / 2])).item() == pytest.approx(3)


def labelled_images(classes: int = 9, per_class: int = 6) -> torch.Tensor:
    # Each drawing holds its class and its own number, so that a test can read them back.
    code = torch.stack(torch.meshgrid(torch.arange(classes), torch.arange(per_class), indexing="ij"), -1)
    return code.float()[:, :, None, None, :]  # (classes, per_class, 1, 1, 2)


@pytest.mark.parametrize("mask", [torch.ones(6, 7), torch.ones(5, 3)])
def test_class_tasks_refuse_tensors_of_other_classes_or_items(mask: torch.Tensor) -> None:
    items = {"ids": torch.ones(5, 4, 3), "mask": mask}
    with pytest.raises(ValueError, match="must have the same classes and items"):
        class_tasks(items, 2, n_way=2, k_shot=1, k_query=1, generator=torch.Generator())


def test_class_tasks_label_classes_and_never_share_a_drawing() -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = class_tasks(labelled_images(), 40, n_way=5, k_shot=2, k_query=3, generator=generator)

    assert tasks.support.x.shape == (40, 10, 1, 1, 2)
    assert tasks.query.y.shape == (40, 15)
    for task in (one(tasks, i) for i in range(40)):
        classes, drawings = torch.cat([task.support.x, task.query.x]).flatten(1).long().T.tolist()
        labels = torch.cat([task.support.y, task.query.y]).tolist()
        assert len({*zip(labels, classes)}) == len({*labels}) == len({*classes}) == 5
        assert len({*zip(classes, drawings)}) == 25


def test_every_class_and_drawing_is_drawn_and_classes_draw_apart() -> None:
    draw = partial(class_tasks, labelled_images(), 200, n_way=3, k_shot=1, k_query=1)
    tasks, again = (draw(generator=torch.Generator().manual_seed(0)) for _ in range(2))

    for batch in tasks:
        classes, drawings = batch.x.flatten(2).long().unbind(-1)
        assert len(torch.unique(torch.stack([classes, drawings]).flatten(1), dim=1).T) == 9 * 6
        # Three classes agree on their drawing's number in one task of 36.
        assert (drawings == drawings[:, :1]).all(1).float().mean() < 0.1
    assert torch.equal(tasks.query.x, again.query.x)


def test_labels_are_dealt_anew_for_every_task() -> None:
    tasks = class_tasks(
        labelled_images(5), 4000, n_way=5, k_shot=1, k_query=1, generator=torch.Generator().manual_seed(0)
    )

    classes = tasks.support.x[:, :, 0, 0, 0].long()
    counts = torch.stack([F.one_hot(classes[:, label], 5).sum(0) for label in range(5)])
    assert (counts - 800).abs().max() < 5 * math.sqrt(4000 * 0.2 * 0.8)


def test_every_row_of_a_group_may_be_asked_or_shown_and_every_group_drawn() -> None:
    rows = Batch(torch.arange(12.0)[:, None], torch.arange(12.0)[:, None])
    group = torch.tensor([7] * 5 + [2] * 7)

    tasks = group_tasks(rows, group, 200, k_shot=2, k_query=2, generator=torch.Generator().manual_seed(0))

    for batch in tasks:
        assert sorted(batch.x.unique().tolist()) == list(range(12))
        assert torch.equal(batch.x, batch.y)
    together = torch.cat([batch.x for batch in tasks], dim=1)[..., 0]
    assert all(len(task.unique()) == 4 for task in together)
    assert ((together < 5).all(1) | (together >= 5).all(1)).all()
    assert 0.4 < (together[:, 0] < 5).float().mean() < 0.6
