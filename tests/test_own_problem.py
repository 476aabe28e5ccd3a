"""Problems that are not ours, each through the kit's own `adapt`, `query_loss`, `meta_train` and `evaluate`, small."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from problems import alike, one, regression
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

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
from mamlkit.tasks import Batch, Params, Task, part
from mamlkit.training import meta_train, stack_seeds

Adam = partial(torch.optim.Adam, lr=0.01)


def seeded(seed: int = 0) -> torch.Generator:
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def train(task_loss, params: Params, draw: Callable[[torch.Generator], object], steps: int = 20, **more):
    settings = {"meta_steps": steps, "meta_optimizer": Adam, "generator": seeded(), "progress": False}
    return meta_train(task_loss, params, draw, **{**settings, **more})


def labelled(n_tasks: int = 4) -> Task:
    """Noise of four numbers in three classes."""
    return Task(*(Batch(torch.randn(n_tasks, 6, 4), torch.arange(3).repeat(n_tasks, 2)) for _ in range(2)))


def one_step(model: nn.Module) -> partial:
    return partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)


def objective(model: nn.Module) -> partial:
    return partial(query_loss, model, one_step(model))


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
    task_loss = objective(model)

    with sdpa_kernel(SDPBackend.MATH):
        assert falls(train(task_loss, initial_params(model), lambda g: draw(generator=g), 40).losses)
    with pytest.raises(RuntimeError) as caught:
        meta_gradient(task_loss, initial_params(model), draw(generator=generator), chunk_size=1)
    assert "sdpa_kernel(SDPBackend.MATH)" in caught.value.__notes__[0]


def test_in_eval_the_fast_path_of_a_transformer_is_named_and_can_be_left() -> None:
    generator, model = seeded(), Reader().eval()
    words = {"ids": torch.randint(5, (6, 4, 5)), "mask": torch.arange(5).expand(6, 4, 5) < 4}
    tasks = class_tasks(words, 4, n_way=3, k_shot=1, k_query=2, generator=generator)
    task_loss = objective(model)

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

    task_loss = partial(query_loss, model, adapt, loss=loss)
    trained = train(task_loss, initial_params(model), lambda g: draw(generator=g), 60)

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

    together, alone = (
        meta_gradient(task_loss, initial_params(model), tasks, chunk_size=n)[1] for n in (None, 1)
    )
    assert alike(together, alone, rtol=1e-4, atol=1e-5)


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

    loss, by_list = meta_gradient(task_loss, theta, tasks)
    same, by_mask = meta_gradient(with_mask, theta, stack)

    assert loss.item() == pytest.approx(same.item(), rel=1e-12)
    assert alike(by_list, by_mask, rtol=1e-9, atol=1e-12)
    each = evaluate(model, partial(maml.adapt, model, **inner), theta, tasks)
    assert each.mean().item() == pytest.approx(loss.item(), rel=1e-12)
    draw = partial(group_tasks, rows, who, 4, k_shot=3, k_query=None)
    assert falls(train(task_loss, theta, lambda g: draw(generator=g), 30).losses)


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
    theta, own, tasks = initial_params(model), copy.deepcopy(model.state_dict()), labelled()
    adapt = one_step(model)

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
    model, tasks = make(), labelled()
    task_loss = objective(model)

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
    theta, tasks = initial_params(keeps), labelled()

    kept, forgotten = (
        meta_gradient(objective(model), theta, tasks, chunk_size=1)[1] for model in (keeps, forgets)
    )
    for steps in (0, 1):
        adapt = partial(maml.adapt, keeps, inner_lr=0.1, inner_steps=steps)
        evaluate(keeps, adapt, theta, tasks, chunk_size=1)

    assert alike(kept, forgotten, atol=1e-6, rtol=1e-5)
    assert keeps[1].num_batches_tracked == 0
    assert not keeps[1].running_mean.any()


net, judge = mlp([1, 16, 1]), mlp([2, 8, 1])


def several_layers(params: Params, support: Batch) -> Params:
    return maml.adapt(net, params, support, inner_lr=0.01, inner_steps=1, only=("head", "body.1.b"))


def learned_rate(params: Params, support: Batch) -> Params:
    return maml.adapt(net, part(params, "model."), support, inner_lr=params["rate"].exp(), inner_steps=1)


def learned_loss(params: Params, support: Batch) -> Params:
    def judged(model: nn.Module, at: Params, batch: Batch) -> Tensor:
        pair = torch.cat([predict(model, at, batch.x), batch.y], dim=-1)
        return predict(judge, part(params, "judge."), pair).square().mean()

    return maml.adapt(net, part(params, "model."), support, inner_lr=0.1, inner_steps=1, loss=judged)


START = {f"model.{name}": p for name, p in initial_params(net).items()}
RELATIVES = [
    (several_layers, initial_params(net)),
    (learned_rate, START | {"rate": torch.tensor(-4.0)}),
    (learned_loss, START | {f"judge.{name}": p for name, p in initial_params(judge).items()}),
]


@pytest.mark.parametrize(
    ("adapt", "start"), RELATIVES, ids=["several layers", "a learned rate", "a learned loss"]
)
def test_relatives_of_maml_ride_in_params_and_meta_learn(adapt, start) -> None:
    draw = partial(sinusoid_tasks, 8, k_shot=10, k_query=10)
    trained = train(partial(query_loss, net, adapt), start, lambda g: draw(generator=g), 80)

    assert trained.losses[-20:].mean() < trained.losses[:20].mean()
    assert all(not torch.equal(p, trained.params[key]) for key, p in start.items())


ALGORITHMS = [maml.adapt, reptile.adapt, partial(imaml.adapt, strength=1.0)]


@pytest.mark.parametrize("adapt", ALGORITHMS, ids=["maml", "reptile", "imaml"])
def test_every_algorithm_takes_rates_by_name_and_lowers_the_loss_that_it_is_given(adapt) -> None:
    model, theta, tasks = regression()
    moved = partial(adapt, model, theta, one(tasks.support))
    thrice = lambda *given: 3 * batch_loss(*given)  # noqa: E731

    by_name = moved(inner_lr={name: p.new_tensor(0.1) for name, p in theta.items()}, inner_steps=2)

    assert alike(by_name, moved(inner_lr=0.1, inner_steps=2), rtol=0, atol=0)
    once = partial(moved, inner_steps=1)
    assert alike(once(inner_lr=0.1, loss=thrice), once(inner_lr=0.3), rtol=1e-10)


def test_first_order_takes_shared_layers_as_constants_too() -> None:
    model, theta, tasks = regression(n_tasks=1)
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1, only="head", first_order=True)

    _, slope = meta_gradient(partial(query_loss, model, adapt), theta, tasks)

    adapted = adapt(theta, one(tasks.support))
    at_adapted = torch.func.grad(partial(batch_loss, model))(adapted, one(tasks.query))
    assert alike(slope, at_adapted)


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
    with pytest.raises((ValueError, TypeError), match=word):
        meta_gradient(objective(model), initial_params(model), tasks, chunk_size=chunk_size)
    with pytest.raises((ValueError, RuntimeError, AttributeError)):
        accuracy(model, initial_params(model), batch)


def test_an_adapted_network_is_a_module_to_save_to_copy_and_to_export() -> None:
    seeded()
    model = odd_modules()["tied"]
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


MAKERS = [
    (lambda: mlp([4, 3], batch_norm=True), (5, 4)),
    (lambda: conv4(3, channels=2, image_size=16), (5, 1, 16, 16)),
]


@pytest.mark.parametrize(("make", "shape"), MAKERS, ids=["mlp", "conv4"])
@pytest.mark.parametrize("in_half", [False, True])
def test_copies_and_pickles_of_the_kits_networks_obey_the_params_they_are_given(make, shape, in_half) -> None:
    seeded()
    model = in_bfloat16(make()) if in_half else make()
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
    model, tasks = Last(nn.GRU(4, 3, batch_first=True)), labelled(2)
    adapt = one_step(model)
    settings = (model, adapt, initial_params(model), tasks)

    shares = inductive_accuracy(*settings, chunk_size=1)

    assert torch.equal(shares, evaluate(*settings, metric=accuracy, chunk_size=1))


def test_what_a_hook_keeps_of_an_evaluation_can_be_read_and_metrics_may_be_many() -> None:
    seeded()
    model, kept, tasks = mlp([4, 8, 3]), [], labelled(2)
    model.body.register_forward_hook(lambda module, inputs, out: kept.append(out))
    both = lambda m, p, b: {"loss": batch_loss(m, p, b), "right": accuracy(m, p, b)}  # noqa: E731

    adapt = one_step(model)
    measured = evaluate(model, adapt, initial_params(model), tasks, metric=both)

    assert {name: values.shape for name, values in measured.items()} == {"loss": (2,), "right": (2,)}
    assert math.isfinite(kept[-1].mean().item())


def test_seeds_share_a_list_of_unequal_tasks_one_after_the_other() -> None:
    (rows, who), model = patients(), mlp([2, 8, 1])
    task_loss, theta = objective(model), initial_params(model)
    draw = partial(group_tasks, rows, who, 6, k_shot=3, k_query=None)

    both = train(task_loss, stack_seeds([theta, theta]), lambda g: draw(generator=g), 4, n_seeds=2)

    for seed in range(2):
        part_of_it = slice(3 * seed, 3 * seed + 3)
        alone = train(task_loss, theta, lambda g, s=part_of_it: draw(generator=g)[s], 4)
        assert torch.allclose(both.losses[:, seed], alone.losses, rtol=1e-5)
    with pytest.raises(ValueError, match="can't be compiled"):
        train(task_loss, theta, lambda g: draw(generator=g), 2, compiled=True)
