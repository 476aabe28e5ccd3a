"""Twelve small worlds, four ways to learn: MAML, joint training with fine-tuning, a fit per task, a linear mixed model.

    python book/experiments/worlds.py --help
    python book/experiments/worlds.py                   # every world that has no result yet, then the record

Ten worlds are generated (`mamlkit.data.worlds`); patients and writers are data, read from the folder that MAMLKIT_DATA names.
Each seed has its own tasks to train on, to choose on and to be measured on; of the patients about a third is held out in each
seed, so that each is measured once. The networks take the same steps on the same tasks, and each seed chooses every learner's
settings on its own validation tasks. What is done is kept in the folder, world by world.
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
from mamlkit.meta import batch_loss, evaluate, query_loss
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
    """Queries of a task, in a generated world and of the patients."""
    k_patient: int = 10
    """Rows in a patient's support set."""
    known_until: int = 75
    """Days of which a patient's support rows are; the middle visit of each is later."""
    asked_from: int = 150
    """The first day of which a patient is asked; the middle visit of each is earlier."""
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


@cache
def patient_rows() -> tuple[Tensor, ...]:
    """Of each patient the rows `(n, 2 + d)` in the order of time: day, score, and what a voice is described by."""
    path = data_folder() / "parkinsons_motor.csv.gz"
    text = gzip.decompress(path.read_bytes())
    if hashlib.sha256(text).hexdigest() != PATIENTS:
        raise SystemExit(f"{path} holds another table than the experiment's; get it again")
    lines = list(csv.DictReader(io.StringIO(text.decode())))
    inputs = [name for name in lines[0] if name not in ("task", "y")]
    of: dict[str, list[list[float]]] = {}
    for line in lines:
        of.setdefault(line["task"], []).append([float(line[name]) for name in ("test_time", "y", *inputs)])
    names = sorted(of, key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    return tuple(torch.tensor(sorted(of[name]), dtype=torch.float64) for name in names)


def middle_visit(rows: Tensor) -> int | None:
    """The day on which the scores of `rows` go on in another straight line, or None where one line holds all of them.

    Scores were measured at three visits and interpolated between them, to three digits.
    """
    day, score = rows[:, 0], rows[:, 1]
    knots = torch.arange(math.ceil(day[0]) + 1, math.floor(day[-1]), dtype=day.dtype)
    hinges = (day - knots[:, None]).clamp(min=0)
    pieces = torch.stack([torch.ones_like(hinges), day.expand_as(hinges), hinges], -1)

    def misses(design: Tensor) -> Tensor:
        fitted = design @ torch.linalg.lstsq(design, score[:, None].expand(*design.shape[:-1], 1)).solution
        return (fitted[..., 0] - score).abs().amax(-1)

    if misses(pieces[0, :, :2]) < 0.01:
        return None
    missed = misses(pieces)
    if missed.min() > 0.01:
        raise ValueError("the scores of a patient do not lie on two straight lines")
    return int(knots[missed.argmin()])


def visited() -> list[tuple[Tensor, int]]:
    """The patients whose middle visit shows in their scores, with its day."""
    found = [(rows, middle_visit(rows)) for rows in patient_rows()]
    return [(rows, visit) for rows, visit in found if visit is not None]


def patients(config: Config, seed: int) -> Data:
    """A patient a task: rows before the middle visit are known, rows long after it are asked.

    Until the middle visit a score is interpolated between the first and the middle one, so all of that is known on the day of
    the middle visit; what is asked lies later and hangs on the last visit. Where no middle visit shows, this can't be said.
    """
    tasks = []
    for rows, visit in visited():
        if not config.known_until < visit < config.asked_from:
            raise ValueError(
                f"a middle visit on day {visit} is not between {config.known_until} and {config.asked_from}"
            )
        halves = rows[rows[:, 0] < config.known_until], rows[rows[:, 0] >= config.asked_from]
        counts = config.k_patient, config.k_query
        picked = [half[torch.linspace(0, len(half) - 1, k).long()] for half, k in zip(halves, counts)]
        tasks.append(torch.cat(picked))
    every = torch.stack(tasks)  # (patients, k_patient + k_query, 2 + d)
    fold = torch.arange(len(every)) % 6
    held, chosen = 2 * seed, (2 * seed + 2) % 6
    test, validation = (fold == held) | (fold == held + 1), fold == chosen
    train = ~test & ~validation
    mean, spread = every[train].mean((0, 1)), every[train].std((0, 1))
    every = ((every - mean) / spread).clamp(-3, 3).float()  # a few voices lie ten deviations off

    def stack(which: Tensor) -> Task:
        known, asked = every[which].split((config.k_patient, config.k_query), 1)
        return Task(*(Batch(rows[..., 2:], rows[..., 1:2]) for rows in (known, asked)))

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


def last_score(tasks: Task) -> Tensor:
    """The rule that repeats a patient's last known score."""
    return (tasks.support.y[:, -1:] - tasks.query.y).square().mean((1, 2))


def straight_on(tasks: Task) -> Tensor:
    """The rule that extends the line through a patient's known scores; days are the third of the inputs."""
    days = [columns(batch.x[..., 2:3]) for batch in tasks]
    return errors(torch.linalg.lstsq(days[0], tasks.support.y.double()).solution, days[1], tasks.query.y)


RULES = {"patients": {"last": last_score, "line": straight_on}}
"""What needs no training, of a world that has such a rule."""


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


def careful(config: Config, d: int, *, rate: float, steps: int) -> Any:
    """A network and its `adapt`, which takes steps back that end with more support loss than they began with, or with none."""
    model = network(config, d)

    def adapt(params: Params, support: Batch) -> Params:
        moved = maml.adapt(model, params, support, inner_lr=rate, inner_steps=steps)
        fell = batch_loss(model, moved, support) <= batch_loss(model, params, support)  # False if not finite
        return {name: torch.where(fell, moved[name], params[name]) for name in params}

    return model, adapt


def stepped(config: Config, params: Params, knob: dict[str, Any], tasks: Task) -> Tensor:
    """One seed's errors after such steps."""
    model, adapt = careful(config, tasks.support.x.shape[-1], **knob)
    return evaluate(model, adapt, params, tasks)


def taken_back(config: Config, params: Params, knob: dict[str, Any], tasks: Task) -> int:
    """How many of the tasks stay at the start."""
    model, adapt = careful(config, tasks.support.x.shape[-1], **knob)

    def stayed(_: Any, adapted: Params, __: Batch) -> Tensor:
        return torch.stack([(adapted[name] == params[name]).all() for name in params]).all()

    return int(evaluate(model, adapt, params, tasks, metric=stayed).sum()) if knob["steps"] else 0


class Try(NamedTuple):
    """A learner with settings, ready for one seed's tasks."""

    settings: dict[str, Any]
    judge: Callable[[Task], Tensor]
    """From tasks to the error on each."""
    taken_back: Callable[[Task], int] | None = None
    """From tasks to the number of those whose steps were taken back."""


def tries(config: Config, data: list[Data]) -> dict[str, list[list[Try]]]:
    """Of each learner, for each seed, all that is tried."""
    seeds, d = range(len(data)), data[0].train.support.x.shape[-1]
    kinds: dict[str, Any] = {"columns": columns}
    if 1 + d + d * (d + 1) // 2 <= config.most_features:
        kinds["products"] = products
    grid = [
        {"rate": rate, "steps": steps}
        for rate in config.test_lrs
        for steps in config.test_steps
        if steps or rate == config.test_lrs[0]
    ]
    middle = config.meta_lrs[len(config.meta_lrs) // 2]
    ways: dict[str, list[dict[str, Any]]] = {
        "MAML": [{"inner_lr": lr, "meta_lr": middle} for lr in config.inner_lrs],
        "joint": [{"inner_lr": None, "meta_lr": lr} for lr in config.meta_lrs],
    }
    found: dict[str, list[list[Try]]] = {of: [[] for _ in seeds] for of in (*ways, "alone", "mixed")}
    for learner, ways_of in ways.items():
        for settings in ways_of:
            params = trained(config, data, **settings)
            for i in seeds:
                own = {k: p[i] for k, p in params.items()}
                for knob in grid:
                    of = config, own, knob
                    one = Try(settings | knob, partial(stepped, *of), partial(taken_back, *of))
                    found[learner][i].append(one)
    for i in seeds:
        for kind, features in kinds.items():
            found["alone"][i] += [
                Try({"features": kind, "ridge": ridge}, ridge_alone(features, ridge))
                for ridge in config.ridges
            ]
            found["mixed"][i].append(Try({"features": kind}, mixed_model(config, features, data[i])))
    return found


def chosen(tried: list[Try], validation: Task) -> Try:
    """What has the least error on a seed's validation tasks."""
    return min(tried, key=lambda one: one.judge(validation).mean().item())


def compete(name: str, config: Config) -> dict[str, Any]:
    """All learners in one world."""
    began = time.process_time()
    data = [SOURCES[name](config, seed) for seed in config.seeds]
    results: dict[str, Any] = {}
    kept: dict[str, list[Tensor]] = {}

    def keep(of: str, each: list[Tensor], **more: Any) -> None:
        ci = mean_ci95(torch.cat(each))
        seeds = [round(e.mean().item(), 5) for e in each]
        results[of] = {
            "mean": round(ci.mean, 5),
            "half_width": round(ci.half_width, 5),
            "seeds": seeds,
            **more,
        }
        kept[of] = each

    for learner, by_seed in tries(config, data).items():
        best = [chosen(tried, one.validation) for tried, one in zip(by_seed, data)]
        each = [one.judge(of.test).double() for one, of in zip(best, data)]
        more = {"settings": [one.settings for one in best]}
        if all(one.taken_back for one in best):
            more["taken_back"] = [one.taken_back(of.test) for one, of in zip(best, data)]
        keep(learner, each, **more)
    for rule, judge in RULES.get(name, {}).items():
        keep(rule, [judge(one.test).double() for one in data])
    rivals = [learner for learner in kept if learner != "MAML"]
    keep("mean", [(one.test.query.y - of_rows(one.train).y.mean()).square().mean((1, 2)) for one in data])
    floors = [one.floor for one in data if one.floor is not None]
    if floors:
        carried = torch.cat([one.carried for one in data if one.carried is not None])
        keep("floor", floors, carried=round(carried.median().item(), 1))
    for rival in rivals:
        keep(f"MAML less {rival}", [a - b for a, b in zip(kept["MAML"], kept[rival])])
    results["tasks"] = [len(one.train.support.x) for one in data]
    results["k_shot"], results["columns"] = data[0].train.support.x.shape[1:]
    results["measured"] = sum(len(one.test.support.x) for one in data)
    if name == "patients":
        visits = [visit for _, visit in visited()]
        results["middle_visits"] = [min(visits), max(visits)]
        results["left_out"] = len(patient_rows()) - len(visits)
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
