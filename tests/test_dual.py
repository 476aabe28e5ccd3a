"""The dual form: MAML's meta-gradient without a task's adapted weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import alike, regression
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


def test_it_takes_the_squared_error_and_layers_with_biases():
    model, params, tasks = regression((3, 8, 1))
    settings = {"inner_lr": 0.1, "inner_steps": 2}
    loss = partial(dual.query_loss, model, **settings, loss=F.mse_loss)
    theirs = meta_gradient(partial(query_loss, model, partial(maml.adapt, model, **settings)), params, tasks)
    ours = meta_gradient(loss, params, stacks(tasks, 3))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-14)
    assert alike(ours[1], theirs[1])


def test_seeds_in_turn_and_compiled_learn_what_plain_maml_learns():
    model, _ = labelled(dtype=torch.float32)
    params = [initial_params(labelled(seed, dtype=torch.float32)[0]) for seed in range(2)]
    settings = {"inner_lr": 0.4, "inner_steps": 1}

    def run(loss, sample, **how):
        return meta_train(
            loss,
            stack_seeds(params),
            sample,
            meta_steps=5,
            meta_optimizer=partial(torch.optim.SGD, lr=0.1),
            generator=torch.Generator().manual_seed(0),
            n_seeds=2,
            progress=False,
            **how,
        )

    def sample(generator):
        batches = [
            Batch(torch.randn(6, 7, 6, generator=generator), torch.randint(3, (6, 7), generator=generator))
            for _ in range(2)
        ]
        return Task(*batches)

    ours = run(
        partial(dual.query_loss, model, **settings),
        lambda generator: stacks(sample(generator), 3),
        chunk_size=1,
        compiled=True,
    )
    theirs = run(partial(query_loss, model, partial(maml.adapt, model, **settings)), sample)
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-3, atol=1e-5)


def test_what_it_does_not_know_is_refused():
    model, tasks = labelled()
    params, settings = initial_params(model), {"inner_lr": 0.4, "inner_steps": 1}
    with pytest.raises(ValueError, match="is a PatchConv2d"):
        dual.query_loss(conv4(3), initial_params(conv4(3)), tasks, **settings)
    with pytest.raises(ValueError, match=r"lacks body\.1\.weight"):
        dual.query_loss(model, {"head.weight": params["head.weight"]}, tasks, **settings)
    with pytest.raises(ValueError, match="inner_steps=-1"):
        dual.query_loss(model, params, tasks, inner_lr=0.4, inner_steps=-1)
    own = Network(nn.Sequential(nn.Flatten(), nn.LayerNorm(6)), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"body\.1 is a LayerNorm"):
        dual.query_loss(own, initial_params(own), tasks, **settings)
