"""Plain transfer raced against meta-learning: the same network, the same CPU seconds, in domain and out of it.

    python book/experiments/transfer.py --help                # the races and the learners by name
    python book/experiments/transfer.py glyphs-5w1s           # every learner that has no result yet, then the record
    python book/experiments/transfer.py glyphs-5w1s --only SimCLR --folder F      # some; another process may do the others

Every learner trains six times for a few seconds, two rates of Adam by three values of its own knob, and meta-validation classes
of its own domain judge; while the best value lies at an end of its grid, one more is tried there. The best settings are trained
whole, seed by seed. What a learner does on a task, its reading, may have a setting too, chosen on the same meta-validation tasks.
Meta-test classes of both domains choose nothing. Seconds are the process's on one thread, the drawing of batches included and
measuring left out. Batch norm sees a task's queries together, for all alike. What is done is kept, learner by learner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import family
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from mamlkit.algorithms import maml, protonet
from mamlkit.intervals import mean_ci95
from mamlkit.meta import (
    accuracy,
    batch_loss,
    evaluate,
    meta_step,
    nearest_neighbour,
    predict,
    query_loss,
)
from mamlkit.models import Network, conv4, initial_params
from mamlkit.page import records
from mamlkit.tasks import Batch, Params, Task, part

OTHER = {"glyphs": "omniglot", "omniglot": "glyphs"}
"""The domain that a learner never sees in training."""


@dataclass(frozen=True)
class Config(family.Config):
    """Everything that decides the numbers of a race; from the other race its tasks and its network."""

    meta_steps: int = 0
    """No number of steps ends a training here; seconds do."""
    trial_steps: int = 0
    """Nor a trial."""
    meta_lrs: tuple[float, ...] = (3e-3, 1e-2)
    """Adam's rates that are tried first; seconds are few, so these are not small."""
    seconds: tuple[float, ...] = (2.5, 5.0, 10.0, 20.0)
    """CPU seconds of training after which a learner is measured."""
    trial_seconds: float = 3.75
    """CPU seconds of a trial."""
    n_validation_tasks: int = 120
    """Tasks that judge a trial."""
    n_test_tasks: int = 200
    """Tasks that measure in each domain, the same ones for every learner and seed."""
    fine_tuned_tasks: int = 60
    """The first so many of them, or of those that judge, measure fine-tuning, which costs fifty steps of the whole network."""
    degrees: float = 20.0
    """A copy of strength 1 is its drawing rotated by at most so much,"""
    pixels: float = 2.5
    """shifted by at most so much,"""
    scaling: float = 1.25
    """and made larger or smaller by at most this factor."""


RACES = {"glyphs-5w1s": Config(), "omniglot-5w1s": Config(data="omniglot", seconds=(2.5, 5.0, 10.0))}


def augmented(
    x: Tensor, generator: torch.Generator, *, degrees: float, pixels: float, scaling: float
) -> Tensor:
    """Copies of drawings `(n, 1, h, w)`, each rotated, scaled and shifted at random, by so much at most."""
    turn, size, right, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    angle, factor, side = math.radians(degrees) * turn, scaling**-size, 2 * pixels / x.shape[-1]
    cos, sin = factor * angle.cos(), factor * angle.sin()
    where = torch.stack([cos, -sin, side * right, sin, cos, side * down], -1).view(-1, 2, 3)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def contrastive_loss(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of two views `(n, d)` of n drawings: each of the 2n has to find its twin among the other 2n - 1."""
    z = F.normalize(torch.cat([one, other]), dim=-1)
    n = len(one)
    similar = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    twin = torch.arange(2 * n).roll(n)
    return F.cross_entropy(similar, twin)


def distillation_loss(logits: Tensor, teacher: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Half the loss on the labels and half on the teacher's answers, both softened by the temperature (Hinton et al. 2015)."""
    soft = F.cross_entropy(logits / temperature, (teacher / temperature).softmax(-1))
    return (F.cross_entropy(logits, y) + temperature**2 * soft) / 2


Step = Callable[[Params, torch.optim.Optimizer], object]


def by_examples(loss: Callable[[Params], Tensor]) -> Step:
    """One step on a loss of single drawings."""

    def step(params: Params, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss(params).backward()
        optimizer.step()

    return step


class Setting:
    """What all learners of a race train on and are measured on."""

    def __init__(self, config: Config):
        self.config = config
        self.images = family.pictures(config, "meta-train")
        n_classes, per_class = self.images.shape[:2]
        self.drawings = self.images.flatten(0, 1)
        self.labels = torch.arange(n_classes).repeat_interleave(per_class)
        self.validation = self.draw("meta-validation", config.data, config.n_validation_tasks, 2_000_000)
        self.test = {
            where: self.draw("meta-test", where, config.n_test_tasks, 1_000_000)
            for where in (config.data, OTHER[config.data])
        }

    def draw(self, split: str, where: str, n: int, seed: int) -> Task:
        images = family.pictures(family.Config(data=where), split)
        return family.draw(images, n, self.config, torch.Generator().manual_seed(seed))

    def copies(self, x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        c = self.config
        most = {
            "degrees": strength * c.degrees,
            "pixels": strength * c.pixels,
            "scaling": c.scaling**strength,
        }
        return augmented(x, generator, **most)

    def some(self, n: int, generator: torch.Generator) -> Batch:
        """Drawings of all training classes."""
        which = torch.randint(len(self.labels), (n,), generator=generator)
        return Batch(self.drawings[which], self.labels[which])


def classifier(of: Setting, knob: float, generator: torch.Generator) -> tuple[Params, Step]:
    """One classifier of all training classes; the knob is how many drawings a step takes."""
    model = conv4(len(of.images), channels=of.config.channels, downsample="stride")

    def loss(params: Params) -> Tensor:
        return batch_loss(model, params, of.some(round(knob), generator))

    return initial_params(model), by_examples(loss)


USUAL = 120
"""Drawings a step, of whoever has another knob; the tasks of a meta-step have as many."""


def classifier_of_copies(of: Setting, knob: float, generator: torch.Generator) -> tuple[Params, Step]:
    """The same on copies, whose strength is the knob."""
    model = conv4(len(of.images), channels=of.config.channels, downsample="stride")

    def loss(params: Params) -> Tensor:
        x, y = of.some(USUAL, generator)
        return batch_loss(model, params, Batch(of.copies(x, knob, generator), y))

    return initial_params(model), by_examples(loss)


def student(
    of: Setting, knob: float, generator: torch.Generator, *, teacher: Params | None = None
) -> tuple[Params, Step]:
    """A new classifier that is also taught by an older one's answers; the knob is their temperature."""
    model = conv4(len(of.images), channels=of.config.channels, downsample="stride")

    def loss(params: Params) -> Tensor:
        x, y = of.some(USUAL, generator)
        with torch.no_grad():
            answers = predict(model, teacher, x)
        return distillation_loss(predict(model, params, x), answers, y, knob)

    return initial_params(model), by_examples(loss)


def simclr(of: Setting, knob: float, generator: torch.Generator) -> tuple[Params, Step]:
    """No label: two copies of a drawing find each other among those of all; the knob is the copies' strength."""
    model = conv4(32, channels=of.config.channels, downsample="stride")  # its head is the projection

    def loss(params: Params) -> Tensor:
        x = of.some(USUAL, generator).x
        views = predict(model, params, of.copies(torch.cat([x, x]), knob, generator))
        return contrastive_loss(*views.chunk(2), 0.3)

    return initial_params(model), by_examples(loss)


def of_tasks(
    of: Setting,
    knob: float,
    generator: torch.Generator,
    *,
    begin: Callable[..., family.Learner],
    own: float | None = None,
    labels: bool = True,
) -> tuple[Params, Step]:
    """A meta-learner; with a knob of its `own`, on copies of the strength `knob`; without labels every drawing is a class."""
    c = of.config
    learner = begin(c, own or knob)
    loss = partial(query_loss, learner.model, learner.adapt)

    def step(params: Params, optimizer: torch.optim.Optimizer) -> None:
        images = of.images
        if not labels:  # as many classes as a step needs, whose drawings are one drawing
            x = of.some(c.meta_batch_size * c.n_way, generator).x[:, None]
            images = x.expand(-1, c.k_shot + c.k_query, -1, -1, -1)
        tasks = family.draw(images, c.meta_batch_size, c, generator)
        if own:
            tasks = Task(
                *(Batch(of.copies(b.x.flatten(0, 1), knob, generator).view_as(b.x), b.y) for b in tasks)
            )
        meta_step(loss, params, tasks, optimizer)

    return learner.params, step


def trained(
    begin: Callable[..., tuple[Params, Step]], seconds: tuple[float, ...], meta_lr: float
) -> Iterator[tuple[Params, int]]:
    """The parameters, and the steps taken, after each of so many CPU seconds; the clock stands while they are looked at."""
    began = time.process_time()
    params, step = begin()
    for p in params.values():
        p.requires_grad_()
    optimizer = torch.optim.Adam(params.values(), lr=meta_lr)
    steps = 0
    for end in seconds:
        while time.process_time() - began < end:
            step(params, optimizer)
            steps += 1
        now = time.process_time()
        yield {name: p.detach().clone() for name, p in params.items()}, steps
        began += time.process_time() - now


MAML = partial(of_tasks, begin=partial(family.plain, maml))
PROTONET = partial(of_tasks, begin=family.of_protonet)
STRENGTHS = (0.25, 0.5, 1.0)
LEARNERS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "classifier": (classifier, (60.0, 120.0, 240.0)),
    "classifier, augmented": (classifier_of_copies, STRENGTHS),
    "self-distilled": (student, (1.0, 2.0, 4.0)),
    "SimCLR": (simclr, STRENGTHS),
    "ProtoNet": (PROTONET, (1.0, 3.0, 9.0)),
    "ProtoNet, augmented": (partial(PROTONET, own=3.0), STRENGTHS),
    "ProtoNet, no labels": (partial(PROTONET, own=3.0, labels=False), STRENGTHS),
    "MAML": (MAML, (0.03, 0.1, 0.3)),
    "MAML, augmented": (partial(MAML, own=0.1), STRENGTHS),
    "MAML, no labels": (partial(MAML, own=0.1, labels=False), STRENGTHS),
}
"""Who takes part: how it begins, and the values of its knob that are tried first."""


def over_time(
    name: str, of: Setting, knob: float, meta_lr: float, seconds: tuple[float, ...], seed: int
) -> Iterator[tuple[Params, int]]:
    """A learner's parameters after each of so many CPU seconds; of self-distillation, half of them each generation's."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    begin = LEARNERS[name][0]
    if begin is not student:
        yield from trained(partial(begin, of, knob, generator), seconds, meta_lr)
        return
    halves = tuple(end / 2 for end in seconds)
    for half, (teacher, before) in zip(
        halves, trained(partial(classifier, of, USUAL, generator), halves, meta_lr), strict=True
    ):
        for params, steps in trained(
            partial(student, of, knob, generator, teacher=teacher), (half,), meta_lr
        ):
            yield params, before + steps


def features(config: Config, params: Params, tasks: Task) -> Task:
    """The body's answers, of each task's support and queries apart."""
    body = family.network(config).body
    look = vmap(partial(predict, body, part(params, "body.")), chunk_size=50)
    with torch.no_grad():
        return Task(*(Batch(look(half.x), half.y) for half in tasks))


def on_features(config: Config, adapt: Callable[..., Params], seen: Task) -> Tensor:
    """The accuracy on each task of a head alone."""
    head = Network(nn.Identity(), nn.Linear(config.channels, config.n_way))
    params = {name: torch.zeros_like(p) for name, p in initial_params(head).items()}
    return evaluate(head, partial(adapt, head), params, seen, metric=accuracy, chunk_size=100)


def centroids(config: Config, params: Params, tasks: Task, knob: float, power: float) -> Tensor:
    """The nearest centroid, of features over their length to the power: 0 leaves them, 1 compares directions."""
    seen = Task(*(Batch(half.x / half.x.norm(dim=-1, keepdim=True).clamp(min=1e-8) ** power, half.y)
                  for half in features(config, params, tasks)))  # fmt: skip
    return on_features(config, protonet.adapt, seen)


def new_head(config: Config, params: Params, tasks: Task, knob: float, rate: float) -> Tensor:
    """Fifty steps of a linear head from zeros, as `family.transfer` takes them, on a body that is at rest."""
    steps = {"inner_lr": rate, "inner_steps": family.TRANSFER_STEPS}
    return on_features(config, partial(maml.adapt, **steps), features(config, params, tasks))


def fine_tuned(config: Config, params: Params, tasks: Task, knob: float, rate: float) -> Tensor:
    """Fifty steps of everything from a head of zeros, on the first tasks."""
    learner = family.transfer(config, rate, only="")
    few = Task(
        *(Batch(half.x[: config.fine_tuned_tasks], half.y[: config.fine_tuned_tasks]) for half in tasks)
    )
    body = {f"body.{name}": p for name, p in part(params, "body.").items()}
    return evaluate(learner.model, learner.adapt, body, few, metric=accuracy, chunk_size=20)


def own_steps(
    config: Config, params: Params, tasks: Task, knob: float, steps: float, *, own: float | None = None
) -> Tensor:
    """MAML's own steps, or more of them than in training."""
    model = family.network(config)
    adapt = partial(maml.adapt, model, inner_lr=own or knob, inner_steps=int(steps))
    return evaluate(model, adapt, params, tasks, metric=accuracy, chunk_size=20)


Reading = tuple[Callable[[Config, Params, Task, float, float], Tensor], tuple[float, ...]]
OF_BODIES: dict[str, Reading] = {
    "nearest centroid": (centroids, (0.0, 1.0)),
    "new head": (new_head, (0.1, 0.3, 1.0, 3.0, 10.0)),
    "fine-tuned": (fine_tuned, (0.01, 0.03, 0.1, 0.3)),
}
"""What is done with a body on a task, and the settings among which meta-validation chooses. The first judges trials."""


def readings(name: str) -> dict[str, Reading]:
    """What a learner does on a task."""
    if name.startswith("ProtoNet"):
        return {"nearest centroid": (centroids, (0.0,))}
    if name.startswith("MAML"):
        own = LEARNERS[name][0].keywords.get("own")
        return {"own steps": (partial(own_steps, own=own), (3.0, 5.0, 10.0))}
    return OF_BODIES


MOST_TRIALS = 10
"""Trials of a learner, at most: six and those beyond the ends."""


def compete(name: str, config: Config) -> dict[str, Any]:
    """All trials of one learner, then its seeds, measured in both domains."""
    of, knobs, rates = Setting(config), list(LEARNERS[name][1]), list(config.meta_lrs)
    ways = readings(name)
    first = next(iter(ways))
    [*over_time(name, of, knobs[1], rates[0], (0.5,), 0)]  # torch's first steps are slow ones
    trials: list[dict[str, float]] = []
    bodies: list[Params] = []

    def chosen(way: str, params: Params, knob: float) -> tuple[float, float]:
        measure, settings = ways[way]
        found = [(measure(config, params, of.validation, knob, s).mean().item(), s) for s in settings]
        return max(found, key=lambda pair: pair[0])

    def attempt(meta_lr: float, knob: float) -> None:
        seconds, seed = (config.trial_seconds,), config.trial_seed
        try:
            [(params, steps)] = over_time(name, of, knob, meta_lr, seconds, seed)
            found = chosen(first, params, knob)[0]
        except FloatingPointError:  # it diverged
            params, steps, found = {}, 0, 0.0
        bodies.append(params)
        trials.append({"meta_lr": meta_lr, "knob": knob, "accuracy": found, "steps": steps})
        print(name, trials[-1], flush=True)

    for knob in knobs:
        for meta_lr in rates:
            attempt(meta_lr, knob)
    while True:
        at = max(range(len(trials)), key=lambda i: trials[i]["accuracy"])
        best = trials[at]
        beside = beyond(rates, best["meta_lr"]), beyond(knobs, best["knob"])
        if not any(beside) or len(trials) >= MOST_TRIALS:
            break
        if beside[0]:
            attempt(beside[0], best["knob"])
        if beside[1]:
            attempt(best["meta_lr"], beside[1])
    settings = {way: chosen(way, bodies[at], best["knob"])[1] for way in ways}
    right: dict[str, dict[str, Tensor]] = {where: {} for where in of.test}
    per_seed = []
    for seed in config.seeds:
        curves: dict[str, dict[str, list[float]]] = {where: {way: [] for way in ways} for where in of.test}
        taken = []
        course = over_time(name, of, best["knob"], best["meta_lr"], config.seconds, seed)
        for end, (params, steps) in zip(config.seconds, course, strict=True):
            taken.append(steps)
            for where, tasks in of.test.items():
                for way, setting in settings.items():
                    if way == "fine-tuned" and end != config.seconds[-1]:
                        continue  # it is dear
                    each = ways[way][0](config, params, tasks, best["knob"], setting)
                    curves[where][way].append(each.mean().item())
                    if end == config.seconds[-1]:
                        n = (each * config.n_way * config.k_query).round()
                        right[where][way] = right[where].get(way, 0) + n
                        print(f"{name}, {way}, {where}, seed {seed}: {mean_ci95(each)}", flush=True)
        per_seed.append({"seed": seed, "steps": taken, "accuracy": curves})
    return {
        "trials": trials,
        "chosen": best | settings,
        "per_seed": per_seed,
        "right": {
            where: {way: n.int().tolist() for way, n in of_way.items()} for where, of_way in right.items()
        },
    }


def beyond(grid: list[float], best: float) -> float | None:
    """One value more, put into the grid, if the best is at an end of it."""
    if best == max(grid):
        grid.append(max(grid) ** 2 / sorted(grid)[-2])
    elif best == min(grid):
        grid.append(min(grid) ** 2 / sorted(grid)[1])
    else:
        return None
    return grid[-1]


def race(name: str, only: list[str], parts: Path, folder_of_records: Path) -> None:
    """Whoever has no result yet; and when all have one, the record of the race."""
    config = RACES[name]

    def whole_race(results: dict[str, records.Record]) -> dict[str, Any]:
        n = config.n_way * config.k_query
        floors = {where: nearest_neighbour(tasks) for where, tasks in Setting(config).test.items()}
        return {
            "learners": {of: part.metrics for of, part in results.items()},
            "nearest_neighbour": {where: (n * x).round().int().tolist() for where, x in floors.items()},
        }

    run, every = partial(compete, config=config), [*LEARNERS]
    family.gather(
        f"transfer-{name}", config, every, only, run, whole_race, parts, folder_of_records, __file__
    )


def main() -> None:
    family.command_line(__doc__, RACES, [*LEARNERS], race)


if __name__ == "__main__":
    main()
