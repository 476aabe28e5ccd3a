"""The dual form: MAML's meta-gradient without a task's adapted weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from problems import alike, one, regression
from torch import nn
from torch.utils._pytree import tree_map

from mamlkit.algorithms import dual, maml
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import Network, conv4, initial_params, mlp
from mamlkit.tasks import Batch, Task
from mamlkit.training import meta_train, stack_seeds


def labelled(seed: int = 0, n_tasks: int = 3, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Task]:
    torch.manual_seed(seed)
    model = mlp([6, 5, 4, 3], batch_norm=True).to(dtype)
    batches = [
        Batch(torch.randn(n_tasks, 7, 2, 3, dtype=dtype), torch.randint(3, (n_tasks, 7))) for _ in range(2)
    ]
    return model, Task(*batches)


def stacks(tasks: Task, size: int) -> Task:
    return tree_map(lambda t: t.unflatten(0, (-1, size)), tasks)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_loss_and_meta_gradient_are_mamls(inner_steps, seed):
    model, tasks = labelled(seed)
    settings = {"inner_lr": 0.4, "inner_steps": inner_steps}
    params = initial_params(model)
    theirs = meta_gradient(partial(query_loss, model, partial(maml.adapt, model, **settings)), params, tasks)
    for chunk_size in (None, 1):
        loss = partial(dual.query_loss, model, **settings)
        ours = meta_gradient(loss, params, stacks(tasks, 3), chunk_size=chunk_size)
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-14)
        assert alike(ours[1], theirs[1])


def test_real_targets_and_layers_with_biases():
    model, params, tasks = regression((3, 8, 1))
    settings = {"inner_lr": 0.1, "inner_steps": 2}
    theirs = meta_gradient(partial(query_loss, model, partial(maml.adapt, model, **settings)), params, tasks)
    ours = meta_gradient(partial(dual.query_loss, model, **settings), params, stacks(tasks, 3))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-14)
    assert alike(ours[1], theirs[1])


def test_one_layer_in_two_places_and_a_norm_without_parameters():
    torch.manual_seed(0)
    norm, relu = nn.BatchNorm1d(5, affine=False, track_running_stats=False), nn.ReLU()
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), norm, relu, nn.Linear(5, 5), relu)
    model, tasks = Network(body, nn.Linear(5, 3)).double(), labelled()[1]
    settings, params = {"inner_lr": 0.4, "inner_steps": 1}, initial_params(model)
    theirs = meta_gradient(partial(query_loss, model, partial(maml.adapt, model, **settings)), params, tasks)
    ours = meta_gradient(partial(dual.query_loss, model, **settings), params, stacks(tasks, 3))
    assert alike(ours[1], theirs[1])


def test_seeds_learn_what_plain_maml_learns():
    model, _ = labelled()
    params = stack_seeds([initial_params(labelled(seed)[0]) for seed in range(2)])
    settings = {"inner_lr": 0.4, "inner_steps": 1}

    def run(loss, of_stacks):
        def sample(generator):
            sides = [
                Batch(
                    torch.randn(6, 7, 6, generator=generator, dtype=torch.float64),
                    torch.randint(3, (6, 7), generator=generator),
                )
                for _ in range(2)
            ]
            return stacks(Task(*sides), 3) if of_stacks else Task(*sides)

        generator, sgd = torch.Generator().manual_seed(0), partial(torch.optim.SGD, lr=0.1)
        how = {"meta_steps": 5, "n_seeds": 2, "meta_optimizer": sgd, "generator": generator}
        return meta_train(loss, params, sample, progress=False, **how)

    ours = run(partial(dual.query_loss, model, **settings), True)
    theirs = run(partial(query_loss, model, partial(maml.adapt, model, **settings)), False)
    torch.testing.assert_close(ours.losses, theirs.losses)
    assert alike(ours.params, theirs.params, rtol=1e-9, atol=1e-12)


def network(*layers: nn.Module) -> Network:
    return Network(nn.Sequential(nn.Flatten(), *layers), nn.Linear(6, 3)).double()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (conv4(3), r"body\.block1 is a Sequential"),
        (nn.Linear(6, 3), "model is a Linear"),
        (network(nn.LayerNorm(6)), r"body\.1 is a LayerNorm"),
        (network(nn.BatchNorm1d(6)), "track_running_stats=False"),
        (network(nn.Sequential(nn.ReLU())), r"body\.1 is a Sequential"),
    ],
)
def test_a_network_that_it_cannot_walk_through_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        dual.query_loss(model, initial_params(model), labelled()[1], inner_lr=0.4, inner_steps=1)


def test_bad_input_is_refused():
    model, tasks = labelled()
    params, settings = initial_params(model), {"inner_lr": 0.4, "inner_steps": 1}
    with pytest.raises(ValueError, match=r"lacks body\.1\.weight"):
        dual.query_loss(model, {"head.weight": params["head.weight"]}, tasks, **settings)
    with pytest.raises(ValueError, match=r"params has 'body\.1\.bias'"):
        dual.query_loss(model, params | {"body.1.bias": torch.zeros(5)}, tasks, **settings)
    with pytest.raises(ValueError, match="inner_steps=-1"):
        dual.query_loss(model, params, tasks, inner_lr=0.4, inner_steps=-1)
    with pytest.raises(TypeError, match="tasks is a list"):
        dual.query_loss(model, params, [one(tasks)], **settings)
    shares = tasks._replace(query=Batch(tasks.query.x, torch.eye(3).double()[tasks.query.y]))
    with pytest.raises(ValueError, match="one-hot"):
        dual.query_loss(model, params, shares, **settings)
