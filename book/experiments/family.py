"""MAML and its relatives raced on the same tasks: as many meta-steps, as many trials to tune, the same network for each.

    python book/experiments/family.py --help              # the races and the learners by name
    python book/experiments/family.py glyphs-5w1s         # every learner that has no result yet, then the record
    python book/experiments/family.py glyphs-5w1s --only MAML ANIL --folder F   # some; another process may do the others

Every learner gets nine trials, three rates across tasks by three values of its own knob, judged on meta-validation classes; while
the best value of the knob lies at an end, one more is tried there. The best trial's settings are then trained whole, seed by
seed, or the next best trial's for all seeds where one diverges, and measured on meta-test classes, which choose nothing. The
races after the first are shorter and for fewer: a learner keeps the rate that it found in the first, and gets three trials of its
knob. Batch norm sees a task's queries together, for all alike. What is done is kept in the folder, learner by learner: a race
that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from options import folder, whole
from torch import Tensor, nn
from torch.func import grad
from torch.profiler import ProfilerActivity, profile

from mamlkit.algorithms import (
    cavia,
    learned_optimiser,
    leo,
    maml,
    mamlpp,
    meta_curvature,
    meta_sgd,
    protonet,
    ridge,
)
from mamlkit.data.image_sets import glyphs, omniglot
from mamlkit.intervals import mean_ci95
from mamlkit.meta import (
    Adapt,
    TaskLoss,
    accuracy,
    batch_loss,
    evaluate,
    meta_gradient,
    meta_step,
    nearest_neighbour,
    query_loss,
)
from mamlkit.models import Network, conv4, initial_params
from mamlkit.page import records
from mamlkit.sampling import class_tasks
from mamlkit.tasks import Batch, Params, Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a race."""

    data: str = "glyphs"
    """"glyphs", letters of fonts, or "omniglot" with whole alphabets held out."""
    n_way: int = 5
    """Classes in a task."""
    k_shot: int = 1
    """Support drawings per class."""
    k_query: int = 5
    """Query drawings per class."""
    channels: int = 16
    """Filters of each of the four convolutions, which have stride 2."""
    inner_steps: int = 3
    """Steps inside a task, in meta-training and at test, of whoever takes steps."""
    meta_batch_size: int = 4
    """Tasks per meta-step."""
    meta_steps: int = 2_000
    """Meta-steps of a seed."""
    trial_steps: int = 300
    """Meta-steps of a trial."""
    meta_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Adam's rates across tasks that are tried; none: the one that the learner found in the race `FIRST`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Initial weights and tasks of each; trials have a seed of their own."""
    trial_seed: int = 100
    """Seed of every trial."""
    n_validation_tasks: int = 200
    """Tasks that judge a trial."""
    n_test_tasks: int = 600
    """Tasks that measure, the same ones for every learner and seed."""


FIRST = "glyphs-5w1s"
LATER = (
    "MAML",
    "first-order MAML",
    "ANIL",
    "MAML++",
    "ProtoNet",
    "R2-D2",
    "pretrained, new head",
    "pretrained, prototypes",
)
"""Who runs the other races, too: those between whom the book's chart of questions chooses."""
SHORT: dict[str, Any] = {"meta_steps": 600, "trial_steps": 200, "meta_lrs": ()}
RACES = {
    FIRST: Config(),
    "glyphs-5w5s": Config(k_shot=5, **SHORT),
    "glyphs-20w1s": Config(n_way=20, k_query=2, **SHORT),
    "omniglot-5w1s": Config(data="omniglot", **SHORT),
    "omniglot-20w1s": Config(data="omniglot", n_way=20, k_query=2, **SHORT),
}


class Learner(NamedTuple):
    """One way to learn from tasks, ready to begin."""

    model: nn.Module
    params: Params
    adapt: Adapt
    loss: Callable[[float], TaskLoss] | None = None
    """The loss on a task by the share of the run that is over, if it is not the query loss after `adapt`."""


def network(config: Config) -> Network:
    """The network of the race, freshly initialised."""
    return conv4(config.n_way, channels=config.channels, downsample="stride")


def plain(algorithm: Any, config: Config, rate: float, **settings: Any) -> Learner:
    """MAML, and whoever differs from it in `adapt` alone."""
    model = network(config)
    begin = getattr(algorithm, "initial_params", initial_params)
    steps = {"inner_lr": rate, "inner_steps": config.inner_steps}
    return Learner(model, begin(model), partial(algorithm.adapt, model, **steps, **settings))


def of_protonet(config: Config, scale: float) -> Learner:
    """Prototypical networks; the knob multiplies the features, and with its square the logits."""
    model = network(config)
    model.body.append(Scale(scale))
    return Learner(model, initial_params(model), partial(protonet.adapt, model))


class Scale(nn.Module):
    """Multiplies by a number."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x


def of_proto_maml(config: Config, rate: float) -> Learner:
    """MAML whose head starts at the prototypes."""
    learner = plain(maml, config, rate)

    def adapt(params: Params, support: Batch) -> Params:
        return learner.adapt(protonet.adapt(learner.model, params, support), support)

    return learner._replace(adapt=adapt)


def of_ridge(config: Config, strength: float) -> Learner:
    """R2-D2; the knob is where the strength of its ridge starts."""
    model = network(config)
    start = ridge.initial_params(model, strength=strength, scale=10.0)
    return Learner(model, start, partial(ridge.adapt, model))


def of_meta_sgd(config: Config, rate: float) -> Learner:
    """Meta-SGD; the knob is where every rate starts."""
    model = network(config)
    start = meta_sgd.initial_params(model, inner_lr=rate)
    return Learner(model, start, partial(meta_sgd.adapt, model, inner_steps=config.inner_steps))


def of_mamlpp(config: Config, rate: float) -> Learner:
    """MAML++: rates and batch norm by step, and over the first third of the run the loss of every step."""
    model = network(config)
    steps = config.inner_steps
    path = partial(mamlpp.trajectory, model, inner_steps=steps)

    def loss(over: float) -> TaskLoss:
        shares = mamlpp.annealed_weights(int(300 * over), inner_steps=steps, annealing_steps=100)
        return partial(mamlpp.task_loss, model, path, step_weights=shares)

    start = mamlpp.initial_params(model, inner_steps=steps, inner_lr=rate)
    return Learner(model, start, partial(mamlpp.adapt, model, inner_steps=steps), loss)


def of_cavia(config: Config, rate: float, *, block: int = 3) -> Learner:
    """CAVIA: a context of 16 numbers scales and shifts one block's maps."""
    model = network(config)
    model.body.get_submodule(f"block{block}").insert(-1, cavia.Film(config.channels, size=16))
    adapt = partial(cavia.adapt, model, inner_lr=rate, inner_steps=config.inner_steps)
    return Learner(model, initial_params(model), adapt)


def of_leo(config: Config, rate: float) -> Learner:
    """LEO with a code of 16 numbers a class, its body trained along, which the paper's is not."""
    model = network(config)
    steps = {"inner_lr": rate, "inner_steps": config.inner_steps}
    weights = {"kl_weight": 1e-3, "encoder_weight": 1e-5, "orthogonality_weight": 0.1}
    noisy = partial(leo.task_loss, model, generator=torch.Generator().manual_seed(0), **steps, **weights)
    return Learner(
        model, leo.initial_params(model, latent=16), partial(leo.adapt, model, **steps), lambda over: noisy
    )


SAME = (0.03, 0.1, 0.3)
LEARNERS: dict[str, tuple[Callable[[Config, float], Learner], tuple[float, ...]]] = {
    "MAML": (partial(plain, maml), SAME),
    "first-order MAML": (partial(plain, maml, first_order=True), SAME),
    "ANIL": (partial(plain, maml, only="head"), (0.3, 1.0, 3.0)),
    "BOIL": (partial(plain, maml, only="body"), SAME),
    "Meta-SGD": (of_meta_sgd, SAME),
    "MAML++": (of_mamlpp, SAME),
    "Meta-Curvature": (partial(plain, meta_curvature), SAME),
    "CAVIA": (of_cavia, (0.3, 1.0, 3.0)),
    "CAVIA, last block": (partial(of_cavia, block=4), (0.3, 1.0, 3.0)),
    "LEO": (of_leo, (0.3, 1.0, 3.0)),
    "learned optimiser": (partial(plain, learned_optimiser), (0.003, 0.01, 0.03)),
    "ProtoNet": (of_protonet, (1.0, 3.0, 9.0)),
    "Proto-MAML": (of_proto_maml, (0.03, 0.1, 0.3)),
    "R2-D2": (of_ridge, (0.1, 1.0, 10.0)),
}
"""Who takes part, and the values of each one's knob that are tried first."""


def transfer(config: Config, rate: float, *, only: str) -> Learner:
    """What plain pretraining is followed by on a task: steps from a head of zeros, of the head alone or of all."""
    model = network(config)

    def adapt(params: Params, support: Batch) -> Params:
        zeros = {name: torch.zeros_like(p) for name, p in model.head.named_parameters()}
        start = params | {f"head.{name}": p for name, p in zeros.items()}
        return maml.adapt(model, start, support, inner_lr=rate, inner_steps=TRANSFER_STEPS, only=only)

    return Learner(model, initial_params(model), adapt)


TRANSFER_STEPS = 50
"""Steps on a task after pretraining, more than those that meta-learned starts take."""
TRANSFERS: dict[str, tuple[Callable[[Config, float], Learner], tuple[float, ...]]] = {
    "pretrained, new head": (partial(transfer, only="head"), (0.1, 0.3, 1.0)),
    "pretrained, fine-tuned": (partial(transfer, only=""), (0.01, 0.03, 0.1)),
    "pretrained, prototypes": (of_protonet, (1.0,)),
}
"""Who trains one classifier of all training classes, on as many drawings as the others, and what it does on a task."""


def pictures(config: Config, split: Any) -> Tensor:
    """One split as `(classes, 20, 1, 28, 28)`."""
    return (glyphs(split) if config.data == "glyphs" else omniglot(split)).images


def draw(images: Tensor, n_tasks: int, config: Config, generator: torch.Generator) -> Task:
    """A stack of tasks of the race."""
    shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": config.k_query}
    return class_tasks(images, n_tasks, **shape, generator=generator)


def meta_trained(
    config: Config, learner: Learner, images: Tensor, *, meta_lr: float, meta_steps: int, seed: int
) -> Params:
    """The learner's parameters after so many meta-steps."""
    generator = torch.Generator().manual_seed(seed)
    params = learner.params
    optimizer = torch.optim.Adam(params.values(), lr=meta_lr)
    usual = partial(query_loss, learner.model, learner.adapt)
    for step in range(meta_steps):
        loss = learner.loss(step / meta_steps) if learner.loss else usual
        meta_step(loss, params, draw(images, config.meta_batch_size, config, generator), optimizer)
    return params


def pretrained(config: Config, images: Tensor, *, meta_lr: float, meta_steps: int, seed: int) -> Params:
    """The body of a classifier of all classes, after as many drawings as the learners see in so many meta-steps."""
    generator = torch.Generator().manual_seed(seed)
    n_classes, per_class = images.shape[:2]
    model = conv4(n_classes, channels=config.channels, downsample="stride")
    params = initial_params(model)
    optimizer = torch.optim.Adam(params.values(), lr=meta_lr)
    n = config.meta_batch_size * config.n_way * (config.k_shot + config.k_query)
    for _ in range(meta_steps):
        label = torch.randint(n_classes, (n,), generator=generator)
        which = torch.randint(per_class, (n,), generator=generator)
        gradients = grad(partial(batch_loss, model, batch=Batch(images[label, which], label)))(params)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
    return {name: p for name, p in params.items() if name.startswith("body.")}


def gradient_of(learner: Learner, tasks: Task) -> Callable[[], object]:
    """One meta-gradient, to be called."""
    loss = learner.loss(0) if learner.loss else partial(query_loss, learner.model, learner.adapt)
    return partial(meta_gradient, loss, learner.params, tasks)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that tensors made by `work` hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


MOST_KNOBS = 7
"""Values of a knob, at most."""


def compete(name: str, config: Config, before: dict[str, float] | None = None) -> dict[str, Any]:
    """All trials of one learner, then its seeds, measured; `before` is what it chose in the race `FIRST`."""
    begin, knobs = (LEARNERS | TRANSFERS)[name]
    meta_lrs = config.meta_lrs
    if before:
        meta_lrs = (before["meta_lr"],)
        knobs = tuple(before["knob"] / knobs[len(knobs) // 2] * knob for knob in knobs)
    splits = {split: pictures(config, f"meta-{split}") for split in ("train", "validation", "test")}
    unseen = draw(
        splits["validation"], config.n_validation_tasks, config, torch.Generator().manual_seed(2_000_000)
    )
    new = draw(splits["test"], config.n_test_tasks, config, torch.Generator().manual_seed(1_000_000))

    def train(meta_lr: float, knob: float, steps: int, seed: int) -> Params:
        settings = {"meta_lr": meta_lr, "meta_steps": steps, "seed": seed}
        torch.manual_seed(seed)
        if name in TRANSFERS:
            return pretrained(config, splits["train"], **settings)
        return meta_trained(config, begin(config, knob), splits["train"], **settings)

    def measured(params: Params, knob: float, tasks: Task) -> Tensor:
        learner = begin(config, knob)
        fitting = {n: p for n, p in learner.params.items() if n not in params} | params
        return evaluate(learner.model, learner.adapt, fitting, tasks, metric=accuracy, chunk_size=20)

    trials: list[dict[str, float]] = []
    shared: dict[float, Params] = {}  # what is pretrained is the same for every knob

    def attempt(meta_lr: float, knob: float) -> float:
        try:
            params = shared.get(meta_lr) or train(meta_lr, knob, config.trial_steps, config.trial_seed)
        except FloatingPointError:
            return 0.0  # it diverged
        if name in TRANSFERS:
            shared[meta_lr] = params
        return measured(params, knob, unseen).mean().item()

    while True:
        for knob in knobs:
            for meta_lr in meta_lrs:
                if not any((t["meta_lr"], t["knob"]) == (meta_lr, knob) for t in trials):
                    found = attempt(meta_lr, knob)
                    trials.append({"meta_lr": meta_lr, "knob": knob, "accuracy": found})
                    print(name, trials[-1], flush=True)
        best = max(trials, key=lambda trial: trial["accuracy"])
        if len(knobs) == 1 or best["knob"] not in (knobs[0], knobs[-1]) or len(knobs) == MOST_KNOBS:
            break
        ratio = knobs[1] / knobs[0]
        knobs = (knobs[0] / ratio, *knobs) if best["knob"] == knobs[0] else (*knobs, knobs[-1] * ratio)

    def whole(meta_lr: float, knob: float) -> list[dict[str, Any]]:
        per_seed = []
        for seed in config.seeds:
            each = measured(train(meta_lr, knob, config.meta_steps, seed), knob, new)
            per_seed.append({"seed": seed, "accuracy": each.tolist()})
            print(f"{name}, seed {seed}: {mean_ci95(each)}", flush=True)
        return per_seed

    diverged = []
    for best in sorted(trials, key=lambda trial: -trial["accuracy"]):
        try:
            per_seed = whole(best["meta_lr"], best["knob"])
            break
        except FloatingPointError:  # which a short trial did not meet
            diverged.append(best)
    else:
        raise FloatingPointError(f"{name} diverged with the settings of every trial; try smaller ones")
    learner = begin(config, best["knob"])
    tasks = draw(splits["train"], config.meta_batch_size, config, torch.Generator().manual_seed(0))
    memory = None if name in TRANSFERS else peak_bytes(gradient_of(learner, tasks))
    n_learned = sum(p.numel() for p in learner.params.values())
    return {
        "trials": trials,
        "diverged": diverged,
        "chosen": best,
        "per_seed": per_seed,
        "peak_bytes": memory,  # of one meta-gradient; plain pretraining has none
        "n_learned": n_learned,
    }


def rounded(value: Any) -> Any:
    """Numbers to five digits, which is more than any of them means."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def save(
    place: Path,
    name: str,
    settings: dict,
    metrics: dict,
    started: datetime,
    seconds: float,
    script: str = __file__,
) -> None:
    """A record of this machine and this code."""
    cpu = torch.device("cpu")
    made = records.provenance(script, device=cpu, dtype=torch.float32, started=started, seconds=seconds)
    records.save(records.Record(name, settings, rounded(metrics), made), place)


ROUNDS = 15
"""Bursts that a cost is the median of."""


def costs(config: Config, knobs: dict[str, float]) -> dict[str, dict[str, float]]:
    """Processor milliseconds of everybody's meta-gradient and of a new task, in turns, so that a busy machine is so to all.

    Whoever is pretrained has the gradient of a step's drawings in place of the first.
    """
    images = pictures(config, "meta-train")
    tasks, new = (
        draw(images, n, config, torch.Generator().manual_seed(0)) for n in (config.meta_batch_size, 20)
    )
    jobs: dict[tuple[str, str], Callable[[], object]] = {}
    for name, knob in knobs.items():
        learner = (LEARNERS | TRANSFERS)[name][0](config, knob)
        if name in TRANSFERS:
            jobs[name, "meta_step_ms"] = partial(
                pretrained, config, images, meta_lr=1e-3, meta_steps=1, seed=0
            )
        else:
            jobs[name, "meta_step_ms"] = gradient_of(learner, tasks)
        measure = partial(evaluate, learner.model, learner.adapt, learner.params, new, metric=accuracy)
        jobs[name, "task_ms"] = partial(measure, chunk_size=20)
    spent: dict[tuple[str, str], list[float]] = {job: [] for job in jobs}
    for _ in range(ROUNDS + 1):
        for job, work in jobs.items():
            began = time.process_time()
            work()
            spent[job].append(1000 * (time.process_time() - began))
    found: dict[str, dict[str, float]] = {name: {} for name in knobs}
    for (name, what), each in spent.items():
        found[name][what] = median(each[1:]) / (20 if what == "task_ms" else 1)
    return found


def summary(part: records.Record, config: Config) -> dict[str, Any]:
    """What the record keeps of one learner: each seed's mean, and of each task the right answers of all seeds together."""
    of_task = torch.tensor([seed["accuracy"] for seed in part.metrics["per_seed"]])  # (seeds, tasks)
    right = (of_task.sum(0) * config.n_way * config.k_query).round().int()
    per_seed = [
        {"seed": seed["seed"], "accuracy": mean}
        for seed, mean in zip(part.metrics["per_seed"], of_task.mean(1).tolist())
    ]
    return (
        {"diverged": []}
        | part.metrics
        | {"per_seed": per_seed, "right": right.tolist(), "commit": part.provenance.commit}
    )


def race(name: str, only: list[str], parts: Path, folder_of_records: Path) -> None:
    """Whoever has no result yet; and when all have one, the record of the race."""
    config, first = RACES[name], {}
    if not config.meta_lrs:
        if not (before := folder_of_records / f"family-{FIRST}.json").exists():
            raise SystemExit(f"{name} takes its rates from a record that is not there: run {FIRST} first")
        first = records.load(before).metrics["learners"]

    def run(of: str) -> dict[str, Any]:
        return compete(of, config, first[of]["chosen"] if first else None)

    def whole_race(results: dict[str, records.Record]) -> dict[str, Any]:
        images, luck = pictures(config, "meta-test"), torch.Generator().manual_seed(1_000_000)
        test = draw(images, config.n_test_tasks, config, luck)
        return {
            "learners": {of: summary(part, config) for of, part in results.items()},
            "cost": costs(config, {of: part.metrics["chosen"]["knob"] for of, part in results.items()}),
            "nearest_neighbour": nearest_neighbour(test).tolist(),
        }

    every = [of for of in [*LEARNERS, *TRANSFERS] if not first or of in LATER]
    gather(f"family-{name}", config, every, only, run, whole_race, parts, folder_of_records)


def gather(
    name: str,
    config: Config,
    every: list[str],
    only: list[str],
    run: Callable[[str], dict[str, Any]],
    whole_race: Callable[[dict[str, records.Record]], dict[str, Any]],
    parts: Path,
    folder_of_records: Path,
    script: str = __file__,
) -> None:
    """The results of `only` that are not there yet, by `run`; when `every` one has, the record that `whole_race` makes."""
    done = folder_of_records / f"{name}.json"
    records.check_place(done, name, asdict(config))
    if done.exists():
        print(f"{name}: its record is there, skipped; remove it to run the race anew")
        return
    started, results = datetime.now(UTC), {}
    for of in every:
        part = f"{name}-{of.lower().replace(' ', '-').replace(',', '').replace('+', 'p')}"
        place = parts / f"{part}.json"
        records.check_place(place, part, asdict(config))
        if not place.exists() and of in only:
            now, began = datetime.now(UTC), time.monotonic()
            found = run(of)
            save(place, part, asdict(config), found, now, time.monotonic() - began, script)
        if place.exists():
            results[of] = records.load(place)
    if missing := [of for of in every if of not in results]:
        print(f"{name}: still without a result: {', '.join(missing)}")
        return
    seconds = sum(part.provenance.seconds for part in results.values())
    save(done, name, asdict(config), whole_race(results), started, seconds, script)
    print(f"wrote {done.name}")


def command_line(
    words: str | None,
    races: dict[str, Any],
    every: list[str],
    run: Callable[[str, list[str], Path, Path], None],
) -> None:
    """What the scripts with races ask for: which of them, whose part in it, and where the results go."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("races", nargs="+", choices=races, metavar="RACE", help=", ".join(races))
    parser.add_argument(
        "--only", nargs="+", choices=every, default=every, metavar="LEARNER", help=", ".join(every)
    )
    parser.add_argument(
        "--folder", type=folder, default=HERE / "runs", help="results of each, default %(default)s"
    )
    parser.add_argument("--records", type=folder, default=HERE.parent / "records", help="default %(default)s")
    parser.add_argument("--threads", type=whole(1), default=1, help="default %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.races:
        run(name, options.only, options.folder, options.records)


def main() -> None:
    command_line(__doc__, RACES, [*LEARNERS, *TRANSFERS], race)


if __name__ == "__main__":
    main()
