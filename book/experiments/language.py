"""Requests of CLINC150 told apart from few examples: MAML, what of it adapts, and the baselines that count words.

    python book/experiments/language.py --help                 # the races and the learners by name
    python book/experiments/language.py intents domains        # every learner that has no result yet, then the records
    python book/experiments/language.py intents --only MAML --folder F       # some; another process may do the others

In "intents" the classes of meta-test are new, in "domains" their whole domain is. Every trained learner gets trials, two rates of
Adam by three values of its own knob, judged on meta-validation classes; while the best knob lies at an end, one more is tried.
The best settings are trained whole, seed by seed, and measured on meta-test classes, which choose nothing. All see as many texts
in training. Who counts words trains nothing: its rarities come from the training split, its rate from meta-validation. The races
with five examples a class have only those learners that differ in more than in what adapts. What is done is kept, learner by
learner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import family
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from mamlkit.algorithms import maml, protonet
from mamlkit.data.texts import clinc150, token_ids
from mamlkit.intervals import mean_ci95
from mamlkit.meta import (
    Adapt,
    accuracy,
    batch_loss,
    evaluate,
    meta_step,
    nearest_neighbour,
    predict,
    query_loss,
)
from mamlkit.models import Network, initial_params
from mamlkit.page import records
from mamlkit.sampling import class_tasks
from mamlkit.tasks import Batch, Params, Task, part


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a race."""

    split: str = "intents"
    """"intents", where test classes are new, or "domains", where their domains are."""
    n_way: int = 5
    """Classes in a task."""
    k_shot: int = 1
    """Support texts per class."""
    k_query: int = 5
    """Query texts per class."""
    length: int = 16
    """Words of a text that are read."""
    n_ids: int = 4096
    """Ids that words are hashed to."""
    width: int = 64
    """Numbers of a word vector, and of a feature."""
    heads: int = 2
    """Heads of the one layer of attention."""
    inner_steps: int = 1
    """Steps of MAML inside a task, in meta-training and at test."""
    head_steps: int = 50
    """Steps of a new head on features that stand still."""
    meta_batch_size: int = 4
    """Tasks per meta-step; the classifiers see as many texts in a step."""
    meta_steps: int = 600
    """Meta-steps of a seed."""
    trial_steps: int = 100
    """Meta-steps of a trial."""
    meta_lrs: tuple[float, ...] = (3e-3, 1e-2)
    """Adam's rates that are tried."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Initial weights and tasks of each; trials have a seed of their own."""
    trial_seed: int = 100
    """Seed of every trial."""
    n_validation_tasks: int = 200
    """Tasks that judge a trial."""
    n_test_tasks: int = 400
    """Tasks that measure, the same ones for every learner and seed."""


RACES = {
    "intents": Config(),
    "domains": Config(split="domains"),
    "intents-5shot": Config(k_shot=5, meta_steps=300),
    "domains-5shot": Config(split="domains", k_shot=5, meta_steps=300),
}


class Encoder(nn.Module):
    """Word vectors, one layer of attention over the words that are there, and their mean; without attention, the mean alone."""

    def __init__(self, config: Config, *, attends: bool = True):
        super().__init__()
        d = config.width
        self.embedding = nn.Embedding(config.n_ids, d)
        self.attends, self.heads = attends, config.heads
        if attends:
            self.position = nn.Parameter(0.1 * torch.randn(config.length, d))
            self.norm = nn.LayerNorm(d)
            self.qkv = nn.Linear(d, 3 * d, bias=False)
            self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        there = x > 0
        h = self.embedding(x)
        if self.attends:
            q, k, v = (
                t.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
                for t in self.qkv(self.norm(h + self.position)).chunk(3, dim=-1)
            )
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(~there[..., None, None, :], -math.inf).softmax(-1)
            h = h + self.out((weights @ v).transpose(-2, -3).flatten(-2))
        n = there[..., None].to(h.dtype)
        return (h * n).sum(-2) / n.sum(-2)


class Scale(nn.Module):
    """A body whose features are multiplied by a number."""

    def __init__(self, body: nn.Module, by: float):
        super().__init__()
        self.inner, self.by = body, by

    def forward(self, x: Tensor) -> Tensor:
        return self.by * self.inner(x)


def splits(config: Config) -> dict[str, Tensor]:
    """The token ids `(classes, 150, length)` of each split: 90, 30 and 30 intents."""
    data = clinc150()
    ids = token_ids(data.texts, length=config.length, n_ids=config.n_ids)
    luck = torch.Generator().manual_seed(0)
    if config.split == "intents":
        order = torch.randperm(len(ids), generator=luck)
    else:
        domains = sorted(set(data.groups))
        mixed = [domains[i] for i in torch.randperm(len(domains), generator=luck)]
        order = torch.tensor([i for domain in mixed for i, g in enumerate(data.groups) if g == domain])
    parts = dict(zip(("train", "validation", "test"), order.split([90, 30, 30]), strict=True))
    return {name: ids[rows] for name, rows in parts.items()}


def draw(texts: Tensor, n: int, config: Config, generator: torch.Generator) -> Task:
    """A stack of tasks of the race."""
    shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": config.k_query}
    return class_tasks(texts, n, **shape, generator=generator)


def counts(x: Tensor, n_ids: int) -> Tensor:
    """How often each id occurs in texts `(..., length)`, `(..., n_ids)`; 0, which is no word, never."""
    found = torch.zeros(*x.shape[:-1], n_ids).scatter_add(-1, x, torch.ones(x.shape))
    found[..., 0] = 0
    return found


def rarity(texts: Tensor, n_ids: int) -> Tensor:
    """The logarithm of how many texts there are to one with the word (Spärck Jones 1972); both numbers plus one."""
    n_with = (counts(texts.flatten(0, -2), n_ids) > 0).sum(0)
    return -((n_with + 1) / (texts.flatten(0, -2).shape[0] + 1)).log()


def as_features(look: Callable[[Tensor], Tensor], tasks: Task) -> Task:
    """The tasks with features in place of texts."""
    with torch.no_grad():
        return Task(*(Batch(look(half.x), half.y) for half in tasks))


def new_head(config: Config, rate: float, seen: Task) -> Tensor:
    """The accuracy on each task of a linear head after steps from zeros, on features of length one: logistic regression."""
    width = seen.support.x.shape[-1]
    head = Network(nn.Identity(), nn.Linear(width, config.n_way))
    zeros = {name: torch.zeros_like(p) for name, p in initial_params(head).items()}
    unit = as_features(partial(nn.functional.normalize, dim=-1), seen)
    adapt = partial(maml.adapt, head, inner_lr=rate, inner_steps=config.head_steps)
    return evaluate(head, adapt, zeros, unit, metric=accuracy, chunk_size=20)


Measure = Callable[[Params, float, Task], Tensor]
Train = Callable[[float, float, int, int], Params]
"""`(rate of Adam, knob, steps, seed) -> params`"""


def of_tasks(
    config: Config, texts: Tensor, begin: Callable[..., tuple[nn.Module, Adapt]]
) -> tuple[Train, Measure]:
    """A meta-learner: how it trains, and how it is measured."""

    def train(meta_lr: float, knob: float, steps: int, seed: int) -> Params:
        torch.manual_seed(seed)
        model, adapt = begin(config, knob)
        params, generator = initial_params(model), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(params.values(), lr=meta_lr)
        for _ in range(steps):
            tasks = draw(texts, config.meta_batch_size, config, generator)
            meta_step(partial(query_loss, model, adapt), params, tasks, optimizer)
        return params

    def measure(params: Params, knob: float, tasks: Task) -> Tensor:
        model, adapt = begin(config, knob)
        return evaluate(model, adapt, params, tasks, metric=accuracy, chunk_size=20)

    return train, measure


def of_texts(config: Config, texts: Tensor, *, attends: bool) -> tuple[Train, Measure]:
    """One classifier of all training classes, whose head is thrown away; the knob is a new head's rate."""
    n_classes, per_class = texts.shape[:2]
    n = config.meta_batch_size * config.n_way * (config.k_shot + config.k_query)

    def train(meta_lr: float, knob: float, steps: int, seed: int) -> Params:
        torch.manual_seed(seed)
        model = Network(Encoder(config, attends=attends), nn.Linear(config.width, n_classes))
        params, generator = initial_params(model), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(params.values(), lr=meta_lr)
        for _ in range(steps):
            label = torch.randint(n_classes, (n,), generator=generator)
            which = torch.randint(per_class, (n,), generator=generator)
            gradients = grad(partial(batch_loss, model, batch=Batch(texts[label, which], label)))(params)
            for name, p in params.items():
                p.grad = gradients[name]
            optimizer.step()
        return params

    def measure(params: Params, knob: float, tasks: Task) -> Tensor:
        body = Encoder(config, attends=attends)
        look = vmap(partial(predict, body, part(params, "body.")), chunk_size=50)
        return new_head(config, knob, as_features(look, tasks))

    return train, measure


def begin_maml(config: Config, rate: float, *, only: str | tuple[str, ...] = "") -> tuple[nn.Module, Adapt]:
    """MAML, of all parameters or of some."""
    model = Network(Encoder(config), nn.Linear(config.width, config.n_way))
    steps = {"inner_lr": rate, "inner_steps": config.inner_steps, "only": only}
    return model, partial(maml.adapt, model, **steps)


def begin_protonet(config: Config, scale: float) -> tuple[nn.Module, Adapt]:
    """Prototypes; the knob multiplies the features."""
    model = Network(Scale(Encoder(config), scale), nn.Linear(config.width, config.n_way))
    return model, partial(protonet.adapt, model)


RATES = (1.0, 3.0, 10.0)
ATTENTION = ("head", "body.qkv", "body.out", "body.norm", "body.position")
LEARNERS: dict[str, tuple[Callable[..., tuple[Train, Measure]], tuple[float, ...]]] = {
    "MAML": (partial(of_tasks, begin=begin_maml), RATES),
    "MAML, head": (partial(of_tasks, begin=partial(begin_maml, only="head")), RATES),
    "MAML, attention": (partial(of_tasks, begin=partial(begin_maml, only=ATTENTION)), RATES),
    "MAML, word vectors": (partial(of_tasks, begin=partial(begin_maml, only=("head", "body.embedding"))), RATES),
    "ProtoNet": (partial(of_tasks, begin=begin_protonet), (0.3, 1.0, 3.0)),
    "classifier, new head": (partial(of_texts, attends=True), (1.0, 3.0, 10.0)),
    "mean word vector, new head": (partial(of_texts, attends=False), (1.0, 3.0, 10.0)),
}  # fmt: skip
"""Who is trained, and the values of each one's knob that are tried first. "MAML, attention" moves it and the head, and so on."""
COUNTS = ("bag of words", "tf-idf", "tf-idf, logistic")
"""Who counts words: the nearest neighbour by cosine, the same with rare words weighing more, and logistic regression on those."""
MOST_KNOBS = 5
"""Values of a knob, at most."""


def learners(config: Config) -> list[str]:
    """Who takes part."""
    return [*(name for name in LEARNERS if config.k_shot == 1 or not name.startswith("MAML,")), *COUNTS]


def tried(
    found: Callable[[float, float], float], lrs: tuple[float, ...], knobs: tuple[float, ...]
) -> list[dict]:
    """All trials; while the best knob is at an end, one beyond it is among them."""
    trials: list[dict[str, float]] = []
    while True:
        for knob in knobs:
            for lr in lrs:
                if not any((t["meta_lr"], t["knob"]) == (lr, knob) for t in trials):
                    trials.append({"meta_lr": lr, "knob": knob, "accuracy": found(lr, knob)})
        best = max(trials, key=lambda t: t["accuracy"])["knob"]
        if len(knobs) == MOST_KNOBS or best not in (knobs[0], knobs[-1]):
            return trials
        ratio = knobs[1] / knobs[0]
        knobs = (knobs[0] / ratio, *knobs) if best == knobs[0] else (*knobs, knobs[-1] * ratio)


def compete(name: str, config: Config) -> dict[str, Any]:
    """The trials of one learner, then its seeds, measured."""
    texts = splits(config)
    judge = draw(
        texts["validation"], config.n_validation_tasks, config, torch.Generator().manual_seed(2_000_000)
    )
    new = draw(texts["test"], config.n_test_tasks, config, torch.Generator().manual_seed(1_000_000))
    seeds = config.seeds
    if name in COUNTS:
        rare = rarity(texts["train"], config.n_ids) if name != "bag of words" else 1.0
        knobs: tuple[float, ...] = (3.0, 10.0, 30.0) if name.endswith("logistic") else ()

        def counted(rate: float, tasks: Task) -> Tensor:
            seen = as_features(lambda x: counts(x, config.n_ids) * rare, tasks)
            return new_head(config, rate, seen) if knobs else nearest_neighbour(seen)

        trials = tried(lambda lr, rate: counted(rate, judge).mean().item(), (0.0,), knobs) if knobs else []
        best = max(trials, key=lambda t: t["accuracy"], default={"meta_lr": 0.0, "knob": 0.0})
        results = {seeds[0]: counted(best["knob"], new)}
    else:
        begin, knobs = LEARNERS[name]
        train, measure = begin(config, texts["train"])
        shared: dict[float, Params] = {}

        def attempt(meta_lr: float, knob: float) -> float:
            try:
                params = shared.get(meta_lr) or train(meta_lr, knob, config.trial_steps, config.trial_seed)
            except FloatingPointError:  # it diverged
                return 0.0
            if begin.func is of_texts:
                shared[meta_lr] = params  # trained alike for every knob
            return measure(params, knob, judge).mean().item()

        trials = tried(attempt, config.meta_lrs, knobs)
        best = max(trials, key=lambda t: t["accuracy"])
        results = {
            seed: measure(train(best["meta_lr"], best["knob"], config.meta_steps, seed), best["knob"], new)
            for seed in seeds
        }
    for seed, each in results.items():
        print(f"{name}, seed {seed}: {mean_ci95(each)}", flush=True)
    n = config.n_way * config.k_query
    return {
        "trials": trials,
        "chosen": best,
        "per_seed": [{"seed": seed, "accuracy": each.mean().item()} for seed, each in results.items()],
        "right": (torch.stack([*results.values()]).sum(0) * n).round().int().tolist(),
    }


def race(name: str, only: list[str], parts: Path, folder_of_records: Path) -> None:
    """Whoever has no result yet; and when all have one, the record of the race."""
    config = RACES[name]

    def whole_race(results: dict[str, records.Record]) -> dict[str, Any]:
        return {"learners": {of: part.metrics for of, part in results.items()}}

    run, every = partial(compete, config=config), learners(config)
    family.gather(
        f"language-{name}", config, every, only, run, whole_race, parts, folder_of_records, __file__
    )


def main() -> None:
    family.command_line(__doc__, RACES, learners(Config()), race)


if __name__ == "__main__":
    main()
