"""Eight problems that are not ours, each through the kit's own `adapt`, `query_loss`, `meta_train` and `evaluate`, small."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from mamlkit import checkpoints
from mamlkit.algorithms import imaml, maml, reptile
from mamlkit.meta import (
    accuracy,
    batch_loss,
    evaluate,
    inductive_accuracy,
    meta_gradient,
    predict,
    query_loss,
)
from mamlkit.models import adapted_module, conv4, in_bfloat16, initial_params, mlp
from mamlkit.sampling import class_tasks, group_tasks, sinusoid_tasks
from mamlkit.tasks import Batch, Params, Task, one_by_one, part
from mamlkit.training import meta_train, read_checkpoint, stack_seeds

Adam = partial(torch.optim.Adam, lr=0.01)


def seeded(seed: int = 0) -> torch.Generator:
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def train(task_loss, params: Params, draw: Callable[[torch.Generator], object], steps: int = 20, **more):
    settings = {"meta_steps": steps, "meta_optimizer": Adam, "generator": seeded(), "progress": False}
    return meta_train(task_loss, params, draw, **{**settings, **more})


def falls(losses: Tensor) -> bool:
    return bool(losses.isfinite().all() and losses[-5:].mean() < losses[:5].mean())


class Reader(nn.Module):
    """A transformer that reads token ids with their mask."""

    def __init__(self, n_way: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, n_way)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.body(self.embed(ids), src_key_padding_mask=~mask).mean(1))


def test_a_text_is_read_by_a_transformer_from_ids_and_mask() -> None:
    generator, model = seeded(), Reader()
    ids = torch.randint(5, (6, 4, 5)) + 2 * torch.arange(6)[:, None, None]
    words = {"ids": ids, "mask": torch.arange(5).expand(6, 4, 5) < 4}
    draw = partial(class_tasks, words, 4, n_way=3, k_shot=1, k_query=2)
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))

    with sdpa_kernel(SDPBackend.MATH):
        assert falls(train(task_loss, initial_params(model), lambda g: draw(generator=g), 40).losses)
    with pytest.raises(RuntimeError) as caught:
        meta_gradient(task_loss, initial_params(model), draw(generator=generator), chunk_size=1)
    assert "sdpa_kernel(SDPBackend.MATH)" in caught.value.__notes__[0]


def test_in_eval_the_fast_path_of_a_transformer_is_named_and_can_be_left() -> None:
    generator, model = seeded(), Reader().eval()
    words = {"ids": torch.randint(5, (6, 4, 5)), "mask": torch.arange(5).expand(6, 4, 5) < 4}
    tasks = class_tasks(words, 4, n_way=3, k_shot=1, k_query=2, generator=generator)
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))

    with pytest.raises(RuntimeError) as caught:
        meta_gradient(task_loss, initial_params(model), tasks)
    assert "set_fastpath_enabled(False)" in caught.value.__notes__[0]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            gradients = meta_gradient(task_loss, initial_params(model), tasks)[1]
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert gradients["body.layers.0.linear1.weight"].any()


def gaussian(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    """The negative log-likelihood of a normal law with the predicted mean and log variance."""
    mean, log_variance = predict(model, params, batch.x).split(1, dim=-1)
    return 0.5 * (log_variance + (batch.y - mean) ** 2 / log_variance.exp()).mean()


def huber(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    return F.huber_loss(predict(model, params, batch.x), batch.y)


def patients(n: int = 12) -> tuple[Batch, Tensor]:
    who = torch.arange(n).repeat_interleave(torch.arange(n) % 4 + 6)  # six to nine visits each
    x = torch.randn(len(who), 2)
    return Batch(x, x[:, :1] * (1 + who[:, None] % 3) + 0.1 * torch.randn(len(who), 1)), who


@pytest.mark.parametrize(("loss", "outputs"), [(gaussian, 2), (huber, 1)])
def test_a_table_of_patients_is_fitted_by_a_likelihood_or_a_robust_loss(loss, outputs) -> None:
    generator = seeded()
    (rows, who), model = patients(), mlp([2, 16, outputs])
    draw = partial(group_tasks, rows, who, 6, k_shot=4, k_query=2)
    adapt = partial(maml.adapt, model, inner_lr=0.05, inner_steps=2, loss=loss)

    trained = train(
        partial(query_loss, model, adapt, loss=loss), initial_params(model), lambda g: draw(generator=g), 60
    )

    assert falls(trained.losses)
    measured = evaluate(model, adapt, trained.params, draw(generator=generator), metric=loss)
    assert measured.shape == (6,)
    assert measured.isfinite().all()


class Episodes(NamedTuple):
    noise: Tensor  # (episodes, steps, 2)
    goal: Tensor  # (2,)


def surrogate(model: nn.Module, params: Params, episodes: Episodes) -> Tensor:
    """REINFORCE on a walk to a goal in the plane: log-probability of each move times the return from there on."""
    at, reward, log_p = torch.zeros_like(episodes.noise[:, 0]), [], []
    for noise in episodes.noise.unbind(1):
        mean = predict(model, params, at)
        move = (mean + 0.1 * noise).detach()
        log_p.append(-((move - mean) ** 2).sum(-1) / (2 * 0.1**2))
        at = at + move
        reward.append(-((at - episodes.goal) ** 2).sum(-1))
    to_go = torch.stack(reward).flip(0).cumsum(0).flip(0)
    return -(torch.stack(log_p) * (to_go - to_go.mean(1, keepdim=True))).mean()


def test_a_policy_gradient_goes_through_the_kits_own_loop() -> None:
    seeded()
    model = mlp([2, 8, 2])
    goals = torch.randn(5, 2)
    tasks = Task(*(Episodes(torch.randn(5, 7, 3, 2), goals) for _ in range(2)))
    adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1, loss=surrogate)
    task_loss = partial(query_loss, model, adapt, loss=surrogate)

    (_, together), (_, alone) = (
        meta_gradient(task_loss, initial_params(model), tasks, chunk_size=n) for n in (None, 1)
    )
    assert all(torch.allclose(together[name], alone[name], rtol=1e-4, atol=1e-5) for name in together)


def masked(model: nn.Module, params: Params, batch: Batch) -> Tensor:
    kept = batch.x["mask"]
    return ((predict(model, params, batch.x["item"]) - batch.y)[..., 0] ** 2 * kept).sum() / kept.sum()


def test_users_with_unequal_numbers_of_ratings_come_as_a_list_equal_to_padding_with_a_mask() -> None:
    generator = seeded()
    (rows, who), model = patients(), mlp([2, 8, 1]).double()
    rows = Batch(*(t.double() for t in rows))
    tasks = group_tasks(rows, who, 4, k_shot=3, k_query=None, generator=generator)
    assert len({len(task.query.y) for task in tasks}) > 1

    def padded(batch: Batch, n: int = 8) -> Batch:
        x, y = (F.pad(t, (0, 0, 0, n - len(t))) for t in batch)
        return Batch({"item": x, "mask": (torch.arange(n) < len(batch.y)).double()}, y)

    stack = Task(*(tree_map(lambda *t: torch.stack(t), *sides)
                   for sides in zip(*((padded(t.support), padded(t.query)) for t in tasks), strict=True)))  # fmt: skip
    inner = {"inner_lr": 0.1, "inner_steps": 2}
    task_loss = partial(query_loss, model, partial(maml.adapt, model, **inner))
    with_mask = partial(query_loss, model, partial(maml.adapt, model, loss=masked, **inner), loss=masked)
    theta = initial_params(model)

    (loss, one), (same, other) = (
        meta_gradient(task_loss, theta, tasks),
        meta_gradient(with_mask, theta, stack),
    )
    assert loss.item() == pytest.approx(same.item(), rel=1e-12)
    assert all(torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12) for name in one)
    each = evaluate(model, partial(maml.adapt, model, **inner), theta, tasks)
    assert each.mean().item() == pytest.approx(loss.item(), rel=1e-12)
    drawn = train(
        task_loss, theta, lambda g: group_tasks(rows, who, 4, k_shot=3, k_query=None, generator=g), 30
    )
    assert falls(drawn.losses)


def odd_modules() -> dict[str, nn.Module]:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.head = nn.Linear(4, 3), nn.Linear(4, 3)
            self.head.weight = self.emb.weight
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + self.scale * self.emb(x)

    frozen = mlp([4, 8, 3])
    frozen.body.requires_grad_(False)
    dropout = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
    return {"tied": Tied(), "frozen": frozen, "dropout": dropout}


@pytest.mark.parametrize("name", ["tied", "frozen", "dropout"])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_frozen_tied_and_random_layers_and_buffers_work(name: str, chunk_size: int | None) -> None:
    seeded()
    model = odd_modules()[name]
    theta, own = initial_params(model), copy.deepcopy(model.state_dict())
    tasks = Task(*(Batch(torch.randn(4, 6, 4), torch.arange(3).repeat(4, 2)) for _ in range(2)))
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)

    _, gradients = meta_gradient(partial(query_loss, model, adapt), theta, tasks, chunk_size=chunk_size)
    evaluate(model, adapt, theta, tasks, chunk_size=chunk_size)

    assert all(g.any() for g in gradients.values())
    assert name != "frozen" or [*theta] == ["head.weight", "head.bias"]
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


CURED = {  # what torch refuses, whether task by task too, and a word of the cure
    "embedding that rescales": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Embedding(3, 3, max_norm=1.0)), True, "max_norm"),
    "running batch norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), False, "track_running_stats"),
    "GRU": (lambda: Last(nn.GRU(4, 3, batch_first=True)), False, "chunk_size=1"),
    "checkpointed": (lambda: Applied(lambda f, x: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False)), True,
                     "leave it out"),
    "own function": (lambda: Applied(lambda f, x: Twice.apply(f(x))), True, "setup_context"),
    "no second derivative": (lambda: Applied(lambda f, x: F.hardsigmoid(f(x))), True, "first_order=True"),
    "sparse": (lambda: Applied(lambda f, x: torch.eye(6).to_sparse() @ f(x)), False, "COO"),
}  # fmt: skip


class Last(nn.Module):
    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x[:, None])[0][:, -1]


class Applied(nn.Module):
    def __init__(self, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.how = nn.Linear(4, 3), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.linear, x)


@pytest.mark.parametrize("name", CURED)
def test_what_torch_refuses_ends_in_its_message_and_the_line_that_cures_it(name: str) -> None:
    make, alone_too, word = CURED[name]
    seeded()
    model = make()
    tasks = Task(*(Batch(torch.randn(4, 6, 4), torch.arange(3).repeat(4, 2)) for _ in range(2)))
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))

    for chunk_size in (None, 1) if alone_too else (None,):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            meta_gradient(task_loss, initial_params(model), tasks, chunk_size=chunk_size)
        assert word in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    if not alone_too:
        _, gradients = meta_gradient(task_loss, initial_params(model), tasks, chunk_size=1)
        assert all(g.isfinite().all() for g in gradients.values())


def test_running_batch_norm_uses_the_batch_at_hand_and_leaves_nothing_behind() -> None:
    seeded()
    keeps, forgets = (
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=keep)) for keep in (True, False)
    )
    theta = initial_params(keeps)
    tasks = Task(*(Batch(torch.randn(4, 6, 4), torch.arange(3).repeat(4, 2)) for _ in range(2)))

    one, other = (
        meta_gradient(partial(query_loss, net, partial(maml.adapt, net, inner_lr=0.1, inner_steps=1)), theta, tasks,
                      chunk_size=1)[1]
        for net in (keeps, forgets)
    )  # fmt: skip
    for steps in (0, 1):
        evaluate(
            keeps,
            partial(maml.adapt, keeps, inner_lr=0.1, inner_steps=steps),
            theta,
            tasks,
            chunk_size=1,
        )

    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert keeps[1].num_batches_tracked == 0
    assert not keeps[1].running_mean.any()


net = mlp([1, 16, 1])


def own(params: Params) -> Params:
    return part(params, "model.")


def own_rate(params: Params, support: Batch) -> Params:
    return maml.adapt(net, own(params), support, inner_lr=params["rate"].exp(), inner_steps=1)


def meta_sgd(params: Params, support: Batch) -> Params:
    return maml.adapt(net, own(params), support, inner_lr=part(params, "rate."), inner_steps=1)


def learned_loss(params: Params, support: Batch) -> Params:
    def judged(model: nn.Module, at: Params, batch: Batch) -> Tensor:
        pair = torch.cat([predict(model, at, batch.x), batch.y], dim=-1)
        return predict(JUDGE, part(params, "judge."), pair).square().mean()

    return maml.adapt(net, own(params), support, inner_lr=0.1, inner_steps=1, loss=judged)


def cavia(params: Params, support: Batch) -> Params:
    return maml.adapt(CONTEXT, params, support, inner_lr=0.5, inner_steps=2, only="context")


class Context(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.context, self.body = nn.Parameter(torch.zeros(4)), mlp([5, 16, 1])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.cat([x, self.context.expand(len(x), -1)], dim=-1))


JUDGE, CONTEXT = mlp([2, 8, 1]), Context()
START = {f"model.{name}": p for name, p in initial_params(net).items()}
RELATIVES = {
    "ANIL": (net, partial(maml.adapt, net, inner_lr=0.01, inner_steps=1, only="head"), lambda: initial_params(net)),
    "several layers": (net, partial(maml.adapt, net, inner_lr=0.01, inner_steps=1, only=("head", "body.1.b")),
                       lambda: initial_params(net)),
    "a learned rate": (net, own_rate, lambda: START | {"rate": torch.tensor(-4.0)}),
    "Meta-SGD": (net, meta_sgd, lambda: START | {f"rate.{n}": torch.full_like(p, 0.01) for n, p in own(START).items()}),
    "a learned loss": (net, learned_loss, lambda: START | {f"judge.{n}": p for n, p in initial_params(JUDGE).items()}),
    "CAVIA": (CONTEXT, cavia, lambda: initial_params(CONTEXT)),
}  # fmt: skip


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_of_maml_ride_in_params_and_meta_learn(name: str) -> None:
    model, adapt, start = RELATIVES[name]
    draw = partial(sinusoid_tasks, 8, k_shot=10, k_query=10)
    trained = train(partial(query_loss, model, adapt), start(), lambda g: draw(generator=g), 80)

    assert trained.losses[-20:].mean() < trained.losses[:20].mean()
    assert all(not torch.equal(p, trained.params[key]) for key, p in start().items())


def test_equal_rates_by_name_are_one_rate_and_a_missing_one_is_named() -> None:
    generator = seeded()
    task = one_by_one(sinusoid_tasks(1, k_shot=4, k_query=4, generator=generator))[0]
    rates = {name: torch.tensor(0.1) for name in initial_params(net)}
    for algorithm, more in ((maml, {}), (reptile, {}), (imaml, {"strength": 1.0})):
        by_name, by_number = (
            algorithm.adapt(net, initial_params(net), task.support, inner_lr=lr, inner_steps=2, **more)
            for lr in (rates, 0.1)
        )
        assert all(torch.equal(p, by_number[name]) for name, p in by_name.items())
    del rates["head.bias"]
    with pytest.raises(ValueError, match=r"lacks head\.bias"):
        maml.adapt(net, initial_params(net), task.support, inner_lr=rates, inner_steps=1)


@pytest.mark.parametrize("algorithm", [maml, reptile, imaml])
def test_every_algorithm_lowers_the_loss_that_it_is_given(algorithm) -> None:
    generator = seeded()
    task = one_by_one(sinusoid_tasks(1, k_shot=4, k_query=4, generator=generator))[0]
    held = {"strength": 1.0} if algorithm is imaml else {}
    loss = lambda model, params, batch: 3 * batch_loss(model, params, batch)  # noqa: E731
    theta = initial_params(net)

    same = algorithm.adapt(net, theta, task.support, inner_lr=0.1, inner_steps=1, loss=loss, **held)
    thrice = algorithm.adapt(net, theta, task.support, inner_lr=0.3, inner_steps=1, **held)

    assert all(torch.allclose(p, thrice[name], atol=1e-6) for name, p in same.items())


def test_first_order_takes_shared_layers_as_constants_too() -> None:
    generator = seeded()
    task = one_by_one(sinusoid_tasks(1, k_shot=4, k_query=4, generator=generator))[0]
    theta = {name: p.double() for name, p in initial_params(net).items()}
    task = Task(*(Batch(*(t.double() for t in side)) for side in task))
    adapt = partial(maml.adapt, net, inner_lr=0.1, inner_steps=1, only="head", first_order=True)

    slope = torch.func.grad(partial(query_loss, net, adapt))(theta, task)

    adapted = adapt(theta, task.support)
    at_adapted = torch.func.grad(lambda at: batch_loss(net, at, task.query))(adapted)
    assert all(torch.allclose(slope[name], at_adapted[name], rtol=1e-12) for name in slope)


@pytest.mark.parametrize(
    ("y", "word"),
    [
        (F.one_hot(torch.arange(3), 3).float(), "one-hot"),
        (torch.full((3, 3), 1 / 3), "one-hot"),
        (torch.ones(3, dtype=torch.bool), "loss="),
        (torch.ones(3, 3, dtype=torch.complex64), "loss="),
        ({"a": torch.ones(3)}, "loss="),
    ],
)
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_targets_that_squared_error_does_not_mean_are_refused(y, word, chunk_size) -> None:
    model = mlp([2, 3])
    batch = Batch(torch.rand(3, 2), y)
    tasks = tree_map(lambda t: torch.stack([t, t]), Task(batch, batch))
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))
    with pytest.raises((ValueError, TypeError), match=word):
        meta_gradient(task_loss, initial_params(model), tasks, chunk_size=chunk_size)
    with pytest.raises((ValueError, RuntimeError, AttributeError)):
        accuracy(model, initial_params(model), batch)


def test_an_adapted_network_is_a_module_to_save_to_copy_and_to_export() -> None:
    generator, model = seeded(), odd_modules()["tied"]
    support = Batch(torch.randn(6, 4), torch.arange(3).repeat(2))
    phi = maml.adapt(model, initial_params(model), support, inner_lr=0.1, inner_steps=3)

    own = copy.deepcopy(model.state_dict())
    served = adapted_module(model, phi)
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())

    expected = predict(model, phi, support.x)
    assert served.head.weight is served.emb.weight
    for copied in (served, copy.deepcopy(served), torch.export.export(served, (support.x,)).module()):
        assert torch.equal(copied(support.x), expected)
    again = odd_modules()["tied"]
    again.load_state_dict(served.state_dict())
    assert torch.equal(again(support.x), expected)
    with pytest.raises(ValueError, match="shape"):
        adapted_module(model, phi | {"head.bias": torch.ones(2)})
    assert generator


@pytest.mark.parametrize(
    "make", [lambda: mlp([4, 3], batch_norm=True), lambda: conv4(3, channels=2, image_size=16)]
)
@pytest.mark.parametrize("in_half", [False, True])
def test_copies_and_pickles_of_the_kits_networks_obey_the_params_they_are_given(make, in_half: bool) -> None:
    seeded()
    model = in_bfloat16(make()) if in_half else make()
    shape = (5, 4) if "Linear" in str(model.body) or not hasattr(model.body, "block1") else (5, 1, 16, 16)
    other = {name: torch.randn_like(p) for name, p in initial_params(model).items()}
    x = torch.rand(shape)
    expected = predict(model, other, x)

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        assert torch.equal(predict(twin, other, x), expected)
        assert not torch.equal(twin(x), model(x))


def test_one_query_at_a_time_goes_without_vmap_where_that_is_asked_for() -> None:
    seeded()
    model = Last(nn.GRU(4, 3, batch_first=True))
    tasks = Task(*(Batch(torch.randn(2, 6, 4), torch.arange(3).repeat(2, 2)) for _ in range(2)))
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)

    shares = inductive_accuracy(model, adapt, initial_params(model), tasks, chunk_size=1)

    assert torch.equal(
        shares, evaluate(model, adapt, initial_params(model), tasks, metric=accuracy, chunk_size=1)
    )


def test_what_a_hook_keeps_of_an_evaluation_can_be_read_and_metrics_may_be_many() -> None:
    seeded()
    model, kept = mlp([4, 8, 3]), []
    model.body.register_forward_hook(lambda module, inputs, out: kept.append(out))
    tasks = Task(*(Batch(torch.randn(2, 6, 4), torch.arange(3).repeat(2, 2)) for _ in range(2)))
    both = lambda m, p, b: {"loss": batch_loss(m, p, b), "right": accuracy(m, p, b)}  # noqa: E731

    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)
    measured = evaluate(model, adapt, initial_params(model), tasks, metric=both)

    assert {name: values.shape for name, values in measured.items()} == {"loss": (2,), "right": (2,)}
    assert math.isfinite(kept[-1].mean().item())


def cosine(step: int) -> float:
    return min(1.0, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / 20))


def wave_settings(n_seeds: int = 2) -> dict:
    starts = [{name: p * (1 + seed) for name, p in initial_params(net).items()} for seed in range(n_seeds)]
    return {
        "task_loss": partial(query_loss, net, partial(maml.adapt, net, inner_lr=0.01, inner_steps=1)),
        "params": stack_seeds(starts),
        "draw": partial(sinusoid_tasks, 4 * n_seeds, k_shot=5, k_query=5),
        "n_seeds": n_seeds,
        "clip": 0.5,
        "schedule": cosine,
        "meta_optimizer": partial(torch.optim.AdamW, lr=0.01),
    }


def long_run(steps: int = 20, **more):
    settings = wave_settings() | more
    draw = settings.pop("draw")
    return train(draw=lambda g: draw(generator=g), steps=steps, **settings)


def test_a_schedule_and_clipping_go_on_to_the_bit_and_act_on_each_seed_alone(tmp_path) -> None:
    whole = long_run()
    long_run(9, checkpoint=tmp_path / "run.pt")
    resumed = long_run(checkpoint=tmp_path / "run.pt")
    alone = [
        long_run(n_seeds=None, params={name: p[seed] for name, p in wave_settings()["params"].items()},
                 draw=lambda generator, seed=seed: tree_map(lambda t: t[4 * seed : 4 * seed + 4], wave_settings()["draw"](
                     generator=generator)))
        for seed in range(2)
    ]  # fmt: skip

    for name, p in whole.params.items():
        assert torch.equal(resumed.params[name], p)
        for seed in range(2):
            assert torch.allclose(alone[seed].params[name], p[seed], rtol=1e-4, atol=1e-6)
    kept = read_checkpoint(tmp_path / "run.pt")
    assert all(torch.equal(kept.params[name], p) for name, p in whole.params.items())
    assert torch.equal(kept.losses, whole.losses)
    assert long_run(clip=1e-6).losses[-1].sum() != whole.losses[-1].sum()


def test_the_first_step_follows_the_schedule_and_the_clipped_gradient() -> None:
    more = {
        "n_seeds": None,
        "meta_optimizer": partial(torch.optim.SGD, lr=0.1),
        "params": initial_params(net),
    }
    one, two = (long_run(1, clip=0.01, schedule=lambda _, f=f: f, **more).params for f in (1.0, 0.5))

    moves = [torch.cat([(p - net_p).flatten() for p, net_p in zip(run.values(), more["params"].values(), strict=True)])
             for run in (one, two)]  # fmt: skip
    assert moves[0].norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert moves[1].norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_dropout_is_resumed_to_the_bit(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(), nn.Linear(8, 1))
    adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
    draw = partial(sinusoid_tasks, 4, k_shot=5, k_query=5)
    start, settings = initial_params(model), {"chunk_size": 1}

    def run(steps, **more):
        return train(
            partial(query_loss, model, adapt), start, lambda g: draw(generator=g), steps, **settings, **more
        )

    torch.manual_seed(7)
    whole = run(8)
    torch.manual_seed(7)
    run(3, checkpoint=tmp_path / "run.pt")
    torch.manual_seed(99)
    assert torch.equal(run(8, checkpoint=tmp_path / "run.pt").losses, whole.losses)


def test_seeds_share_a_list_of_unequal_tasks_one_after_the_other() -> None:
    (rows, who), model = patients(), mlp([2, 8, 1])
    task_loss = partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1))
    draw = partial(group_tasks, rows, who, 6, k_shot=3, k_query=None)
    theta = initial_params(model)

    both = train(task_loss, stack_seeds([theta, theta]), lambda g: draw(generator=g), 4, n_seeds=2)
    alone = [
        train(task_loss, theta, lambda g, s=s: draw(generator=g)[3 * s : 3 * s + 3], 4) for s in range(2)
    ]

    for seed, run in enumerate(alone):
        assert torch.allclose(both.losses[:, seed], run.losses, rtol=1e-5)
    with pytest.raises(ValueError, match="can't be compiled"):
        train(task_loss, theta, lambda g: draw(generator=g), 2, compiled=True)


REFUSED = {
    "an optimiser that mixes seeds": ({"meta_optimizer": partial(torch.optim.Adafactor, lr=0.01)}, "disturb each other"),
    "a rate of zero": ({"meta_optimizer": partial(torch.optim.SGD, lr=0.0), "schedule": None}, "moves none of params"),
    "a start at a flat point": (
        {"task_loss": lambda p, _: (p["w"] ** 2).sum(), "params": {"w": torch.zeros(2, 3)}, "schedule": None},
        "exactly 0 there; start somewhere else",
    ),
    "a loader that ends": ({"draw": partial(next, iter(()))}, "ran out at meta-step 0"),
    "a clip of nothing": ({"clip": 0.0}, "clip=0.0"),
    "a schedule that is a number": ({"schedule": 0.5}, "schedule is a float"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_could_not_be_meant_is_refused(name: str) -> None:
    more, words = REFUSED[name]
    settings = wave_settings() | more
    draw = settings.pop("draw")
    with pytest.raises(ValueError, match=re.escape(words)):
        train(draw=(lambda g: draw()) if "loader" in name else lambda g: draw(generator=g), **settings)


def test_a_checkpoint_knows_the_settings_of_its_task_loss_but_lets_the_order_rise(tmp_path) -> None:
    def run(steps, file, **inner):
        task_loss = partial(
            query_loss, net, partial(maml.adapt, net, **({"inner_lr": 0.01, "inner_steps": 1} | inner))
        )
        draw = partial(sinusoid_tasks, 4, k_shot=5, k_query=5)
        return train(
            task_loss, initial_params(net), lambda g: draw(generator=g), steps, checkpoint=tmp_path / file
        )

    run(4, "a.pt")
    with pytest.raises(ValueError, match=r"inner_lr 0\.01, here 2\.0"):
        run(4, "a.pt", inner_lr=2.0)
    run(2, "b.pt", first_order=True)
    assert run(4, "b.pt").losses.isfinite().all()
    with pytest.raises(ValueError, match="first_order"):
        run(4, "b.pt", first_order=True)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        read_checkpoint(tmp_path / "bad.pt")


def test_each_factor_of_a_schedule_is_on_the_rate_that_the_optimiser_began_with() -> None:
    made = []

    def remembered(tensors: list[Tensor]) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(tensors, lr=0.1))
        return made[-1]

    long_run(
        3,
        n_seeds=None,
        params=initial_params(net),
        meta_optimizer=remembered,
        schedule=lambda step: 1 / (step + 1),
    )

    assert made[0].param_groups[0]["lr"] == pytest.approx(0.1 / 3)


def test_what_a_checkpoint_knows_of_a_loss_is_its_settings_and_not_the_kits_wording() -> None:
    adjacency, rate = torch.eye(3).to_sparse(), torch.tensor(0.1)

    def ours(params: Params, task: Task) -> Tensor:
        later = ours if adjacency is None else None  # refers to itself
        return query_loss(net, partial(maml.adapt, net, inner_lr=rate, inner_steps=1), params, task), later

    def line(task_loss) -> str:
        return checkpoints.settings(None, torch.optim.SGD([torch.ones(1)]), None, task_loss, {})

    kits = partial(query_loss, net, partial(maml.adapt, net, inner_lr=0.1, inner_steps=1))
    before, others = line(ours), (line(partial(kits, loss=gaussian)), line(kits))
    assert "give a torch.nn.Module" not in others[1], "the words of an error are no setting"
    assert '"inner_lr": 0.1' in others[1]
    assert len({before, *others}) == 3
    rate.fill_(0.2)
    assert line(ours) != before
