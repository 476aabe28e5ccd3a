"""Twelve small worlds, four ways to learn: MAML, joint training with fine-tuning, a fit per task, a linear mixed model.

    python book/experiments/worlds.py --help
    python book/experiments/worlds.py                   # every world that has no result yet, then the record

Ten worlds are generated (`mamlkit.data.worlds`); patients and writers are data, read from the folder that MAMLKIT_DATA names.
Each seed has its own tasks to train on, to choose on and to be measured on; of the patients a third is held out in each seed, so
that each is measured once. The networks take the same steps on the same tasks, and each learner's rates are chosen on
meta-validation tasks. What is done is kept in the folder, world by world.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from options import folder
from torch import Tensor
from torch.utils._pytree import tree_map

from mamlkit.algorithms import maml
from mamlkit.data import omniglot_files, worlds
from mamlkit.files import write_atomically
from mamlkit.intervals import mean_ci95
from mamlkit.meta import evaluate, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.page import records
from mamlkit.tasks import Batch, Params, Task
from mamlkit.training import meta_train, stack_seeds

HERE = Path(__file__).parent
PATIENTS = "e45e2b1635e5fd539ad467f088bb743dd8f4760d3ed71d1e529358db21880cce"
"""`sha256` of the table of patients, unpacked."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers."""

    n_train: int = 100
    """Tasks to train on, in a generated world and of the writers."""
    n_validation: int = 50
    """Tasks to choose rates on."""
    n_test: int = 200
    """Tasks to be measured on, in each seed."""
    k_query: int = 10
    """Queries of a task."""
    hidden: int = 32
    """Units in each of the two hidden layers."""
    meta_steps: int = 500
    """Meta-steps, or steps of joint training."""
    meta_batch_size: int = 16
    """Tasks a step."""
    inner_steps: int = 3
    """Inner steps in meta-training."""
    inner_lrs: tuple[float, ...] = (0.03, 0.1, 0.3)
    """MAML's inner rates in meta-training that are tried, at the middle of `meta_lrs`."""
    meta_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Adam's rates that are tried for joint training."""
    test_lrs: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Rates of the steps on a new task that are tried, for MAML and after joint training alike."""
    test_steps: tuple[int, ...] = (0, 1, 3, 10, 30)
    """Numbers of such steps that are tried."""
    ridges: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    """Strengths of the ridge in a fit per task that are tried."""
    most_features: int = 40
    """Squares and products of the columns are tried where they and the columns are no more than this."""
    em_steps: int = 60
    """Steps of EM for the mixed model."""
    n_draws: int = 20_000
    """Latents drawn for the Bayes predictor."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Initial weights and tasks of each."""


class Data(NamedTuple):
    """One seed's tasks."""

    train: Task
    validation: Task
    test: Task
    floor: Tensor | None = None
    """Of each test task the Bayes predictor's error."""
    carried: Tensor | None = None
    """How many draws carry it."""


def generated(name: str, config: Config, seed: int) -> Data:
    world = worlds.WORLDS[name]
    sizes = (config.n_train, config.n_validation, config.n_test)
    generator = torch.Generator().manual_seed(1_000 + seed)
    train, validation, test = (
        worlds.draw(world, n, k_query=config.k_query, generator=generator)[0] for n in sizes
    )
    answers, carried = worlds.bayes(world, test, n_draws=config.n_draws, generator=generator)
    return Data(train, validation, test, (answers - test.query.y).square().mean((1, 2)), carried)


def data_folder() -> Path:
    place = os.environ.get("MAMLKIT_DATA")
    if not place:
        raise SystemExit("patients and writers are data; set MAMLKIT_DATA to the folder that holds them")
    return Path(place)


def patients(config: Config, seed: int) -> Data:
    """A patient a task: ten rows of the first 60 days to learn from, the queries from day 90 on."""
    path = data_folder() / "parkinsons_motor.csv.gz"
    text = gzip.decompress(path.read_bytes())
    if hashlib.sha256(text).hexdigest() != PATIENTS:
        raise SystemExit(f"{path} holds another table than the experiment's; get it again")
    lines = list(csv.DictReader(io.StringIO(text.decode())))
    inputs = [name for name in lines[0] if name not in ("task", "y")]
    of: dict[str, list[list[float]]] = {}
    for line in lines:
        of.setdefault(line["task"], []).append([float(line[name]) for name in ("test_time", "y", *inputs)])
    tasks = []
    for name in sorted(of, key=lambda n: hashlib.sha256(n.encode()).hexdigest()):
        rows = torch.tensor(sorted(of[name]), dtype=torch.float64)
        halves = rows[rows[:, 0] < 60], rows[rows[:, 0] >= 90]
        counts = 10, 2 * config.k_query
        picked = [half[torch.linspace(0, len(half) - 1, k).long()] for half, k in zip(halves, counts)]
        tasks.append(torch.cat(picked))
    every = torch.stack(tasks)  # (42, 30, 2 + d)
    fold = torch.arange(len(every)) % 6
    held, chosen = 2 * seed, (2 * seed + 2) % 6
    test, validation = (fold == held) | (fold == held + 1), fold == chosen
    train = ~test & ~validation
    mean, spread = every[train].mean((0, 1)), every[train].std((0, 1))
    every = ((every - mean) / spread).clamp(-3, 3).float()  # a few voices lie ten deviations off

    def stack(which: Tensor) -> Task:
        y, x = every[which][..., 1:2], every[which][..., 2:]
        return Task(Batch(x[:, :10], y[:, :10]), Batch(x[:, 10:], y[:, 10:]))

    return Data(stack(train), stack(validation), stack(test))


def strokes(ink: Tensor) -> Tensor:
    """Eleven plain measurements of drawings `(..., 105, 105)`: amount, place, size, slant, thickness, edges."""
    ink = ink.float()
    total = ink.sum((-2, -1)).clamp(min=1)
    at = torch.linspace(-1, 1, 105)
    x, y = (ink.sum(-2) @ at) / total, (ink.sum(-1) @ at) / total
    xx, yy = (ink.sum(-2) @ at**2) / total - x**2, (ink.sum(-1) @ at**2) / total - y**2
    xy = torch.einsum("...ij,i,j->...", ink, at, at) / total - x * y
    across = (ink[..., 1:] != ink[..., :-1]).float().sum((-2, -1)) / total
    down = (ink[..., 1:, :] != ink[..., :-1, :]).float().sum((-2, -1)) / total
    wide, tall = ((ink.amax(axis) > 0).float().mean(-1) for axis in (-2, -1))
    return torch.stack([total / 1000, x, y, xx, yy, xy, across, down, wide, tall, across - down], -1)


@cache
def hands() -> tuple[omniglot_files.Drawings, Tensor]:
    """Omniglot, and of each drawing its measurements, `(classes, 20, 11)`."""
    drawings = omniglot_files.read(data_folder())
    found = [
        strokes(torch.from_numpy(drawings.images[i : i + 50])) for i in range(0, len(drawings.images), 50)
    ]
    return drawings, torch.cat(found)


def writers(config: Config, seed: int) -> Data:
    """A hand a task: is this drawing by the one writer, or by another of the alphabet? Alphabets are held out."""
    drawings, found = hands()
    names = sorted(set(drawings.alphabets))
    of = {name: [i for i, a in enumerate(drawings.alphabets) if a == name] for name in names}
    background = [name for name in names if drawings.background[of[name][0]]]
    generator = torch.Generator().manual_seed(2_000 + seed)
    splits = background[:22], background[22:], [name for name in names if name not in background]
    background_rows = [i for name in background[:22] for i in of[name]]
    seen = found[background_rows].flatten(0, 1)
    found = ((found - seen.mean(0)) / seen.std(0)).clamp(-3, 3)

    def stack(some: list[str], n: int) -> Task:
        xs = []
        for _ in range(n):
            rows = of[some[int(torch.randint(len(some), (), generator=generator))]]
            characters = torch.tensor(rows)[torch.randperm(len(rows), generator=generator)[:14]]
            writer = int(torch.randint(20, (), generator=generator))
            others = (writer + torch.randint(1, 20, (14,), generator=generator)) % 20
            xs.append(torch.stack([found[characters, writer], found[characters, others]], 1).flatten(0, 1))
        x = torch.stack(xs)
        y = torch.tensor([1.0, 0.0]).repeat(14)[None, :, None].expand(n, -1, -1)
        return Task(Batch(x[:, :14], y[:, :14]), Batch(x[:, 14:], y[:, 14:]))

    sizes = config.n_train, config.n_validation, config.n_test
    return Data(*(stack(some, n) for some, n in zip(splits, sizes)))


SOURCES: dict[str, Callable[[Config, int], Data]] = {
    "patients": patients,
    **{name: partial(generated, name) for name in worlds.WORLDS},
    "writers": writers,
}


def columns(x: Tensor) -> Tensor:
    """The columns and a one."""
    return torch.cat([torch.ones_like(x[..., :1]), x], -1).double()


def products(x: Tensor) -> Tensor:
    """The columns, their squares and products, and a one."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    return torch.cat([columns(x), (x[..., i] * x[..., j]).double()], -1)


def fit_mixed(X: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and noise of a linear mixed model by EM, from `(tasks, n, p)` and `(tasks, n, 1)`."""
    eye = torch.eye(X.shape[-1], dtype=X.dtype)
    gram, moment = X.mT @ X, X.mT @ y
    mu = torch.linalg.solve(gram.sum(0) + 1e-3 * eye, moment.sum(0))
    variance = (y - X @ mu).square().mean()
    sigma = variance * eye / X.square().mean()
    for _ in range(steps):
        precision = torch.linalg.inv(sigma)
        cov = torch.linalg.inv(gram / variance + precision)
        w = cov @ (moment / variance + precision @ mu)
        mu = w.mean(0)
        away = w - mu
        sigma = (cov + away @ away.mT).mean(0) + 1e-9 * eye
        left = (y - X @ w).square().sum((1, 2)) + (gram * cov).sum((1, 2))
        variance = left.mean() / X.shape[1]
    return mu, sigma, variance


def blup(mu: Tensor, sigma: Tensor, variance: Tensor, X: Tensor, y: Tensor) -> Tensor:
    """The best linear unbiased prediction of each task's weights, `(tasks, p, 1)`."""
    V = X @ sigma @ X.mT + variance * torch.eye(X.shape[-2], dtype=X.dtype)
    return mu + sigma @ X.mT @ torch.linalg.solve(V, y - X @ mu)


def errors(w: Tensor, Q: Tensor, y: Tensor) -> Tensor:
    return (Q @ w - y).square().mean((1, 2))


def of_rows(task: Task) -> Batch:
    return Batch(*(torch.cat([a, b], 1) for a, b in zip(*task)))


def mixed_model(config: Config, features: Any, data: Data) -> Callable[[Task], Tensor]:
    rows = of_rows(data.train)
    fitted = fit_mixed(features(rows.x), rows.y.double(), config.em_steps)

    def judge(tasks: Task) -> Tensor:
        w = blup(*fitted, features(tasks.support.x), tasks.support.y.double())
        return errors(w, features(tasks.query.x), tasks.query.y)

    return judge


def ridge_alone(features: Any, strength: float) -> Callable[[Task], Tensor]:
    """Ridge regression on one support set; what shrinks is all but the level."""

    def judge(tasks: Task) -> Tensor:
        X, y = features(tasks.support.x), tasks.support.y.double()
        spring = torch.eye(X.shape[-1], dtype=X.dtype)
        spring[0, 0] = 1e-6
        w = torch.linalg.solve(X.mT @ X + strength * spring, X.mT @ y)
        return errors(w, features(tasks.query.x), tasks.query.y)

    return judge


def network(config: Config, d: int) -> Any:
    return mlp([d, config.hidden, config.hidden, 1])


def trained(config: Config, data: list[Data], *, inner_lr: float | None, meta_lr: float) -> Params:
    """All seeds at once, MAML's start or, without an inner rate, joint training's."""
    d = data[0].train.support.x.shape[-1]
    model = network(config, d)
    if inner_lr is None:
        adapt: Any = lambda params, support: params  # noqa: E731
    else:
        adapt = partial(maml.adapt, model, inner_lr=inner_lr, inner_steps=config.inner_steps)
    starts = []
    for seed in config.seeds:
        torch.manual_seed(seed)
        starts.append(initial_params(network(config, d)))

    def draw(generator: torch.Generator) -> Task:
        some = []
        for one in data:
            n = len(one.train.support.x)
            which = torch.randint(n, (config.meta_batch_size,), generator=generator)
            task = tree_map(lambda t, which=which: t[which], one.train)
            if inner_lr is None:  # joint training learns from the support rows too
                task = Task(task.support, of_rows(task))
            some.append(task)
        return tree_map(lambda *t: torch.cat(t), *some)

    return meta_train(
        partial(query_loss, model, adapt),
        stack_seeds(starts),
        draw,
        meta_steps=config.meta_steps,
        n_seeds=len(data),
        meta_optimizer=partial(torch.optim.Adam, lr=meta_lr),
        clip=1.0,
        progress=False,
        generator=torch.Generator().manual_seed(0),
        schedule=lambda step: min(1.0, 2 - 2 * step / config.meta_steps),
    ).params


def stepped(config: Config, params: Params, tasks: list[Task], rate: float, steps: int) -> list[Tensor]:
    model = network(config, tasks[0].support.x.shape[-1])
    adapt = partial(maml.adapt, model, inner_lr=rate, inner_steps=steps)
    found = [
        evaluate(model, adapt, {k: p[i] for k, p in params.items()}, task) for i, task in enumerate(tasks)
    ]
    return [e.nan_to_num(math.inf) for e in found]


def joined(errors_: list[Tensor]) -> float:
    return torch.cat(errors_).mean().item()


def compete(name: str, config: Config) -> dict[str, Any]:
    """All learners in one world."""
    began = time.process_time()
    data = [SOURCES[name](config, seed) for seed in config.seeds]
    validation, test = [d.validation for d in data], [d.test for d in data]
    kinds = {"columns": columns}
    d = data[0].train.support.x.shape[-1]
    if 1 + d + d * (d + 1) // 2 <= config.most_features:
        kinds["products"] = products
    results: dict[str, Any] = {}

    def keep(learner: str, each: list[Tensor], settings: dict[str, Any]) -> None:
        ci = mean_ci95(torch.cat(each))
        results[learner] = {
            "mean": round(ci.mean, 5),
            "half_width": round(ci.half_width, 5),
            "seeds": [round(e.mean().item(), 5) for e in each],
            **settings,
        }
        kept[learner] = torch.cat(each).double()

    kept: dict[str, Tensor] = {}
    grid = [
        (rate, steps)
        for rate in config.test_lrs
        for steps in config.test_steps
        if steps or rate == config.test_lrs[0]
    ]
    middle = config.meta_lrs[len(config.meta_lrs) // 2]
    ways = {
        "MAML": [{"inner_lr": lr, "meta_lr": middle} for lr in config.inner_lrs],
        "joint": [{"inner_lr": None, "meta_lr": lr} for lr in config.meta_lrs],
    }
    for learner, tries in ways.items():
        best: tuple[float, Any, Any, Any] = (math.inf, None, None, None)
        for settings in tries:
            params = trained(config, data, **settings)
            for rate, steps in grid:
                e = joined(stepped(config, params, validation, rate, steps))
                if e < best[0]:
                    best = (e, params, settings, (rate, steps))
        _, params, settings, (rate, steps) = best
        keep(learner, stepped(config, params, test, rate, steps), {**settings, "rate": rate, "steps": steps})
    alone = {(k, r): ridge_alone(f, r) for k, f in kinds.items() for r in config.ridges}
    kind, ridge = min(alone, key=lambda key: joined([alone[key](t) for t in validation]))
    keep("alone", [alone[kind, ridge](t) for t in test], {"features": kind, "ridge": ridge})
    mixed = {k: [mixed_model(config, f, one) for one in data] for k, f in kinds.items()}
    kind = min(mixed, key=lambda k: joined([m(t) for m, t in zip(mixed[k], validation)]))
    keep("mixed", [m(t) for m, t in zip(mixed[kind], test)], {"features": kind})
    mean = [(one.test.query.y - of_rows(one.train).y.mean()).square().mean((1, 2)) for one in data]
    keep("mean", mean, {})
    if data[0].floor is not None:
        keep("floor", [one.floor for one in data], {})
        results["floor"]["carried"] = round(torch.cat([one.carried for one in data]).median().item(), 1)
    off = mean_ci95(kept["MAML"] - kept["mixed"])
    results["MAML less mixed"] = {"mean": round(off.mean, 5), "half_width": round(off.half_width, 5)}
    off = mean_ci95(kept["MAML"] - kept["joint"])
    results["MAML less joint"] = {"mean": round(off.mean, 5), "half_width": round(off.half_width, 5)}
    train = data[0].train
    results["tasks"] = len(train.support.x)
    results["k_shot"], results["columns"] = train.support.x.shape[1], d
    results["measured"] = sum(len(t.support.x) for t in test)
    results["seconds"] = round(time.process_time() - began, 1)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=SOURCES, default=list(SOURCES), help="worlds, default all"
    )
    parser.add_argument(
        "--folder", type=folder, default=HERE / "runs", help="results of each, default %(default)s"
    )
    parser.add_argument("--records", type=folder, default=HERE.parent / "records", help="default %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, started = Config(), datetime.now(UTC)
    records.check_place(options.records / "worlds.json", "worlds", asdict(config))
    settings = hashlib.sha256(repr(config).encode()).hexdigest()[:12]
    options.folder.mkdir(parents=True, exist_ok=True)
    metrics = {}
    for name in SOURCES:
        path = options.folder / f"worlds-{name.replace(' ', '-')}-{settings}.json"
        if not path.exists() and name in options.only:
            write_atomically(path, json.dumps(compete(name, config)).encode())
            print(name, path.read_text(), flush=True)
        if path.exists():
            metrics[name] = json.loads(path.read_text())
    if len(metrics) < len(SOURCES):
        print(f"{len(metrics)} of {len(SOURCES)} worlds are done; the record waits for the others")
        return
    seconds = sum(m["seconds"] for m in metrics.values())
    where = records.provenance(__file__, device="cpu", dtype=torch.float32, started=started, seconds=seconds)
    records.save(records.Record("worlds", asdict(config), metrics, where), options.records / "worlds.json")


if __name__ == "__main__":
    main()
