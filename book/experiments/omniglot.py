"""MAML on Omniglot: the papers' protocol, a harder one, what the traps are worth, and a version of it all for a laptop.

    python book/experiments/omniglot.py --help                 # the runs by name
    python book/experiments/omniglot.py paper-conv-5w1s        # one run, three seeds, and its record
    python book/experiments/omniglot.py ladder --minutes 60    # all GPU runs that have no record yet, as far as the time goes
    python book/experiments/omniglot.py laptop                 # the runs that a CPU finishes in some minutes each
    python book/experiments/omniglot.py cpu                    # those that it finishes in some hours each

A run meta-trains all its seeds at once, keeps for each the parameters that did best on meta-validation classes, and reports on
meta-test classes, which choose nothing. Killed or out of time, the same command goes on where it stopped; a run whose record is
there is skipped. Where the drawings come from: `mamlkit.data.image_sets.omniglot`.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from options import device, folder, minutes, whole
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import FlopCounterMode

from mamlkit.algorithms import dual, maml
from mamlkit.data.image_sets import omniglot, rotations
from mamlkit.intervals import mean_ci95
from mamlkit.meta import (
    Adapt,
    accuracy,
    evaluate,
    inductive_accuracy,
    meta_gradient,
    nearest_neighbour,
    predict,
    query_loss,
)
from mamlkit.models import conv4, in_bfloat16, initial_params, mlp
from mamlkit.page import records
from mamlkit.sampling import class_tasks
from mamlkit.tasks import Batch, Params, Task
from mamlkit.training import Trained, meta_train, stack_seeds

RECORDS = Path(__file__).parent.parent / "records"


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run."""

    protocol: str = "characters"
    """Split of the classes: 1,100, 100 and 423 random "characters" (Finn et al. 2017), or whole "alphabets"."""
    rotated_test: bool = True
    """Whether quarter turns of the meta-test classes are classes too, as in the MAML authors' code."""
    network: str = "conv"
    """"conv": four convolutions of stride 2 and a mean; "mlp": 256-128-64-64; both with batch norm."""
    channels: int = 64
    """Filters of each convolution."""
    n_way: int = 5
    """Classes in a task."""
    k_shot: int = 1
    """Support drawings per class, and query drawings per class, in meta-training and in the measured tasks."""
    inner_lr: float = 0.4
    """Step size inside a task."""
    inner_steps: int = 1
    """Steps inside a task in meta-training."""
    first_order: bool = False
    """Whether curvature is dropped."""
    meta_lr: float = 1e-3
    """Adam's rate across tasks."""
    meta_batch_size: int = 32
    """Tasks per meta-step and seed."""
    meta_steps: int = 60_000
    """Meta-steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each, all at once: initial weights and tasks of its own."""
    validate_every: int = 2_000
    """Meta-steps between two measurements on meta-validation classes."""
    n_validation_tasks: int = 200
    """Tasks that choose the best parameters and the number of test steps, the same ones for every seed."""
    n_test_tasks: int = 600
    """Tasks that measure, the same ones for every seed."""
    test_steps: tuple[int, ...] = (1, 2, 3, 5, 10)
    """Numbers of inner steps tried at test; meta-validation chooses."""
    precision: str = "float32"
    """"float32"; "tf32": products with 10 bits of mantissa on a GPU; "bf16": forward passes in bfloat16 by autocast."""


TWENTY_WAY = {"n_way": 20, "inner_lr": 0.1, "inner_steps": 5, "meta_batch_size": 16}
LAPTOP = Config(channels=32, meta_batch_size=16, meta_steps=2_000, validate_every=250)
HARDER = {"protocol": "alphabets", "rotated_test": False}
RUNS = {
    "paper-conv-5w1s": Config(),
    "paper-conv-5w5s": Config(k_shot=5),
    "paper-conv-20w1s": Config(**TWENTY_WAY),
    "paper-conv-20w5s": Config(**TWENTY_WAY, k_shot=5),
    "paper-mlp-5w1s": Config(network="mlp"),
    "paper-mlp-5w5s": Config(network="mlp", k_shot=5),
    "alphabets-conv-5w1s": Config(**HARDER),
    "alphabets-conv-20w1s": Config(**HARDER, **TWENTY_WAY),
    "first-order-conv-5w1s": Config(first_order=True),
    "first-order-conv-20w1s": Config(**TWENTY_WAY, first_order=True),
    "bf16-conv-5w1s": Config(precision="bf16"),
    "half-conv-5w1s": Config(channels=32, seeds=(0,)),
    "half-conv-20w1s": Config(**TWENTY_WAY, channels=32, meta_steps=1_000, validate_every=100, seeds=(0,)),
    "laptop-conv-5w1s": LAPTOP,
    "laptop-wide-5w1s": replace(LAPTOP, channels=64),
    "laptop-mlp-5w1s": replace(LAPTOP, network="mlp"),
    "laptop-alphabets-5w1s": replace(LAPTOP, **HARDER),
    "laptop-first-order-5w1s": replace(LAPTOP, first_order=True),
}
TRAPS = {
    "laptop-traps": ("laptop-conv-5w1s", "laptop-alphabets-5w1s"),
    "traps": ("paper-conv-5w1s", "alphabets-conv-5w1s"),
    "mlp-traps": ("paper-mlp-5w1s",),
}
GROUPS = {
    "ladder": [name for name in [*RUNS, *TRAPS] if not name.startswith(("laptop", "half", "mlp"))],
    "cpu": ["paper-mlp-5w1s", "paper-mlp-5w5s", "half-conv-5w1s", "half-conv-20w1s"],
    "laptop": [name for name in [*RUNS, *TRAPS] if name.startswith("laptop")],
}


class Setting(NamedTuple):
    """Where a command runs and how long it may."""

    device: torch.device
    plain: bool
    chunk_size: int | None
    folder: Path
    records: Path
    deadline: float
    shipped: bool = False


def compiles(config: Config, device: torch.device) -> bool:
    """Whether torch's compiler is worth its minutes: over a step of convolutions on a CPU only if the run is long."""
    return device.type == "cuda" or config.network == "mlp" or config.meta_steps >= 10_000


def network(config: Config, device: torch.device) -> nn.Module:
    """A freshly initialised network of the run."""
    if config.network == "mlp":
        model = mlp([28 * 28, 256, 128, 64, 64, config.n_way], batch_norm=True)
    else:
        patches = compiles(config, device)
        model = conv4(config.n_way, channels=config.channels, downsample="stride", patches=patches)
    model.to(device)
    return in_bfloat16(model) if config.precision == "bf16" else model


def images(config: Config, split: str, device: torch.device, *, rotated: bool) -> Tensor:
    """One split of the run as a tensor `(classes, 20, 1, 28, 28)` on the device, quarter turns as classes of their own or not."""
    data = omniglot(split, protocol=config.protocol)
    return (rotations(data) if rotated else data).images.to(device)


def draw(pictures: Tensor, n_tasks: int, config: Config, seed: int, *, k_query: int | None = None) -> Task:
    """A stack of measured tasks, the same for everybody who asks with the same numbers."""
    generator = torch.Generator(device=pictures.device).manual_seed(seed)
    shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": k_query or config.k_shot}
    return class_tasks(pictures, n_tasks, **shape, generator=generator)


def losses_of(
    config: Config, model: nn.Module
) -> tuple[Callable[[Params, Task], Tensor], Callable[[int], Adapt]]:
    """The loss of the run's tasks, one or, in the dual form, a stack of them, and its `adapt` by number of steps."""
    settings = {"inner_lr": config.inner_lr, "first_order": config.first_order}

    def adapt(steps: int) -> Adapt:
        return partial(maml.adapt, model, inner_steps=steps, **settings)

    def task_loss(params: Params, task: Task) -> Tensor:
        if in_dual_form(config):
            return dual.query_loss(
                model, params, task, inner_lr=config.inner_lr, inner_steps=config.inner_steps
            )
        return query_loss(model, adapt(config.inner_steps), params, task)

    return task_loss, adapt


def in_dual_form(config: Config) -> bool:
    """Whether meta-training writes no adapted weights down: the same meta-gradient, faster for the run's wide layers."""
    return config.network == "mlp" and not config.first_order and config.precision != "bf16"


def as_taken(config: Config, tasks: Task) -> Task:
    """Tasks as the run's loss takes them: in the dual form the stack of each seed is one."""
    if not in_dual_form(config):
        return tasks
    stacks: Task = tree_map(lambda t: t.unflatten(0, (-1, config.meta_batch_size)), tasks)
    return stacks


def noise(config: Config, device: torch.device) -> Task:
    """The tasks of one meta-step and seed, of noise pixels, which take as long as drawings."""
    return draw(torch.rand(40, 20, 1, 28, 28, device=device), config.meta_batch_size, config, 0)


def by_seed(measure: Callable[[Params], Tensor], params: Params) -> Tensor:
    """`measure` of each seed's parameters, seed after seed: in the memory of one."""
    n = len(next(iter(params.values())))
    return torch.stack([measure({name: p[seed] for name, p in params.items()}) for seed in range(n)])


def train(name: str, config: Config, at: Setting) -> tuple[nn.Module, Trained]:
    """All seeds of a run, meta-trained, resumed from the folder, where `kept` finds what is best."""
    initial, started = [], datetime.now(UTC)
    for seed in config.seeds:
        torch.manual_seed(seed)
        model = network(config, at.device)
        initial.append(initial_params(model))
    task_loss, adapt = losses_of(config, model)
    pictures = images(config, "meta-train", at.device, rotated=True)
    unseen = images(config, "meta-validation", at.device, rotated=config.rotated_test)
    validation = draw(unseen, config.n_validation_tasks, config, 2_000_000)

    def validate(params: Params) -> Tensor:
        measure = partial(
            evaluate, model, adapt(config.inner_steps), tasks=validation, metric=accuracy, chunk_size=50
        )
        return by_seed(lambda theta: measure(theta).mean(), params)

    shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": config.k_shot}
    n_tasks = config.meta_batch_size * len(config.seeds)
    trained = meta_train(
        task_loss,
        stack_seeds(initial),
        lambda generator: as_taken(config, class_tasks(pictures, n_tasks, **shape, generator=generator)),
        meta_steps=config.meta_steps,
        meta_optimizer=partial(torch.optim.Adam, lr=config.meta_lr),
        generator=torch.Generator(device=at.device).manual_seed(config.seeds[0]),
        chunk_size=at.chunk_size,
        n_seeds=len(config.seeds),
        compiled=not at.plain and compiles(config, at.device),
        validate=validate,
        validate_every=config.validate_every,
        checkpoint=at.folder / f"{name}.pt",
        max_seconds=at.deadline - time.monotonic(),
        config={**asdict(config), "run": name},
    )
    best = records.save_weights(trained.best, at.folder / f"{name}.safetensors")
    made = records.provenance(
        __file__, device=at.device, dtype=torch.float32, started=started, seconds=trained.seconds
    )
    record = records.Record(f"omniglot-{name}", asdict(config), {"seconds": trained.seconds}, made, best)
    records.save(record, at.folder / f"{name}.json", replace=True)
    return model, trained


def kept(name: str, at: Setting) -> Params:
    """The best parameters of all seeds, if the folder holds them as a run with these settings left them, or nothing.

    `--shipped` takes, in place of nothing, those of the first seed that are kept in half precision beside the run's record.
    """
    places = [(at.folder / f"{name}.json", True), *([(place_of(name, at), False)] if at.shipped else [])]
    for record, all_seeds in places:
        try:
            records.check_place(record, f"omniglot-{name}", asdict(RUNS[name]))
            weights = records.load_weights(record, device=at.device)
        except (OSError, ValueError):  # not there, other settings, or other bytes
            continue
        return weights if all_seeds else {key: p.float()[None] for key, p in weights.items()}
    return {}


def run(name: str, at: Setting) -> None:
    """One run from the first meta-step to its record."""
    config, started = RUNS[name], datetime.now(UTC)
    records.check_place(place_of(name, at), f"omniglot-{name}", asdict(config))
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    on_gpu = at.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(at.device)  # of the run before in the same ladder
    model, trained = train(name, config, at)
    task_loss, adapt = losses_of(config, model)
    peak = torch.cuda.max_memory_allocated(at.device) if on_gpu else None
    began = time.monotonic()

    unseen = images(config, "meta-validation", at.device, rotated=config.rotated_test)
    new = images(config, "meta-test", at.device, rotated=config.rotated_test)
    validation = draw(unseen, config.n_validation_tasks, config, 2_000_000)
    test = draw(new, config.n_test_tasks, config, 1_000_000)
    of_tasks = partial(evaluate, model, metric=accuracy, chunk_size=50)
    per_seed = []
    for i, seed in enumerate(config.seeds):
        theta = {key: p[i] for key, p in trained.best.items()}
        chosen = max(config.test_steps, key=lambda k: of_tasks(adapt(k), theta, validation).mean().item())
        by_steps = {k: of_tasks(adapt(k), theta, test) for k in (0, *config.test_steps)}
        inductive = inductive_accuracy(model, adapt(chosen), theta, test, chunk_size=10)
        per_seed.append(
            {
                "seed": seed,
                "test_steps": chosen,
                "transductive": by_steps[chosen].tolist(),
                "inductive": inductive.tolist(),
                "transductive_by_test_steps": {str(k): v.mean().item() for k, v in by_steps.items()},
                "validation": trained.validation[:, i].tolist(),
            }
        )
        print(
            f"{name}, seed {seed}: {chosen} test steps, {mean_ci95(by_steps[chosen])} transductive, ", end=""
        )
        print(f"{mean_ci95(inductive)} inductive")
    blocks = trained.losses.split(max(1, config.meta_steps // 100))
    metrics = {
        "per_seed": per_seed,
        "nearest_neighbour": nearest_neighbour(test).tolist(),
        "curve_steps": [(i + 1) * len(blocks[0]) for i in range(len(blocks))],
        "curve_loss": [block.mean(0).tolist() for block in blocks],
        "train_seconds": trained.seconds,
        "train_peak_bytes": peak,  # None on a CPU, where only a process of its own could tell
        "cost": cost(model, task_loss, as_taken(config, noise(config, at.device)), at.device),
        "n_parameters": sum(p.numel() for p in initial_params(model).values()),
    }
    weights = {}
    if name in SHIPPED:  # before the record, which says that the run is done
        first = {key: p[0].half() for key, p in trained.best.items()}
        weights = records.save_weights(first, place_of(name, at).with_suffix(".safetensors"))
    write(name, asdict(config), metrics, at, started, trained.seconds + time.monotonic() - began, weights)


SHIPPED = (
    *("paper-conv-5w1s", "paper-mlp-5w1s", "paper-mlp-5w5s"),
    *("half-conv-5w1s", "laptop-conv-5w1s", "laptop-mlp-5w1s"),
)
"""Runs whose first seed's parameters are kept beside the record, in half precision, for readers to adapt."""


class Bytes(TorchDispatchMode):
    """Counts the bytes that every operation reads and writes, as if nothing stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        views = {t.data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
        new = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor) and t.data_ptr() not in views]
        if new:
            touched = [t for t in tree_flatten((args, kwargs, new))[0] if isinstance(t, Tensor)]
            self.moved += sum(t.numel() * t.element_size() for t in touched)
        return result


PROBES = {"cuda": (8192, 2**28), "cpu": (2048, 2**25)}
"""Rows of the matrix and length of the vector that measure the device."""


def cost(
    model: nn.Module, loss: Callable[[Params, Task], Tensor], tasks: Task, device: torch.device
) -> dict[str, float]:
    """Operations and bytes of one meta-step of one seed, and what the device can do of each in a second, measured now."""
    with FlopCounterMode(display=False) as flops, Bytes() as traffic:
        # Task by task: of vmap's grouped convolutions the counter counts the zeros between the groups too.
        meta_gradient(loss, initial_params(model), tasks, chunk_size=1)

    def per_second(work: float, step: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(6):
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
        return work / best

    n, length = PROBES[device.type]
    square, long = torch.rand(n, n, device=device), torch.rand(length, device=device)
    return {
        "flop_per_meta_step": flops.get_total_flops(),
        "bytes_per_meta_step": traffic.moved,
        "device_flop_per_second": per_second(2 * n**3, lambda: square @ square),
        "device_bytes_per_second": per_second(8 * len(long), long.clone),
    }


NORMALISATIONS = {"transductive": (1, 5, 15), "inductive": (5,), "class by class": (5, 15)}
"""How batch norm sees the queries of a task, and with how many queries per class that is measured."""


def traps(name: str, at: Setting, *, n_tasks: int | None = None, n_of_orders: int = 20) -> None:
    """The trap grid: the same parameters, measured in all the ways in which papers and their reproductions differ."""
    started, began = datetime.now(UTC), time.monotonic()
    n_tasks = n_tasks or (600 if at.device.type == "cuda" else 200)
    settings = {of: asdict(RUNS[of]) for of in TRAPS[name]}
    records.check_place(place_of(name, at), f"omniglot-{name}", settings)
    best = {of: kept(of, at) for of in settings}
    if missing := [of for of in settings if not best[of]]:
        raise FileNotFoundError(
            f"it measures {' and '.join(missing)}, whose weights are not in {at.folder} as they were left; run first: "
            f"python book/experiments/omniglot.py {' '.join(missing)} --again"
        )
    cells, orders = [], []
    for of in TRAPS[name]:
        config = RUNS[of]
        model = network(config, at.device)
        _, adapt = losses_of(config, model)
        accuracies = {
            "transductive": partial(evaluate, model, metric=accuracy, chunk_size=20),
            "inductive": partial(inductive_accuracy, model, chunk_size=20),
            "class by class": partial(
                evaluate, model, metric=partial(class_by_class, config.n_way), chunk_size=20
            ),
        }
        for rotated in (True, False):
            pictures = images(config, "meta-test", at.device, rotated=rotated)
            for mode, k_queries in NORMALISATIONS.items():
                for k_query in k_queries:
                    tasks = draw(pictures, n_tasks, config, 1_000_000, k_query=k_query)
                    for steps in (1, 3, 10):
                        each = by_seed(partial(accuracies[mode], adapt(steps), tasks=tasks), best[of])
                        cell = {"run": of, "normalisation": mode, "rotated": rotated, "k_query": k_query}
                        cells.append({**cell, "test_steps": steps, **summary(each)})
                        print(cells[-1], flush=True)
        orders.append({"run": of, **label_orders(config, model, adapt(1), best[of], at, n_of_orders)})
    n_seeds = {of: len(next(iter(params.values()))) for of, params in best.items()}
    metrics = {"cells": cells, "label_orders": orders, "n_tasks": n_tasks, "n_seeds": n_seeds}
    write(name, settings, metrics, at, started, time.monotonic() - began)


def summary(each: Tensor) -> dict[str, list[float]]:
    """Of accuracies `(seeds, tasks)`, each seed's mean and the half-width of its 95 % interval over tasks."""
    of_seeds = [mean_ci95(values) for values in each]
    return {"mean": [s.mean for s in of_seeds], "half_width": [s.half_width for s in of_seeds]}


def class_by_class(n_way: int, model: nn.Module, params: Params, query: Batch) -> Tensor:
    """Accuracy when batch norm sees the queries of one class at a time, as an evaluation loop in class order would show them."""
    k = len(query.x) // n_way
    logits = torch.cat([predict(model, params, x) for x in query.x.split(k)])
    return (logits.argmax(-1) == query.y).float().mean()


def label_orders(
    config: Config, model: nn.Module, adapt: Adapt, best: Params, at: Setting, n_tasks: int
) -> dict[str, object]:
    """The same tasks with their labels in every order: the lowest, mean and highest accuracy of each task, by seed."""
    pictures = images(config, "meta-test", at.device, rotated=config.rotated_test)
    tasks = draw(pictures, n_tasks, config, 3_000_000, k_query=15)
    orders = torch.tensor(list(permutations(range(config.n_way))), device=at.device)

    def one(theta: Params) -> Tensor:
        def of_order(order: Tensor) -> Tensor:
            renamed = tree_map(lambda t: t if t.is_floating_point() else order[t], tasks)
            return evaluate(model, adapt, theta, renamed, metric=accuracy, chunk_size=20)

        return torch.stack([of_order(order) for order in orders])

    each = by_seed(one, best)  # (seeds, orders, tasks)
    spread = {"lowest": each.amin(1), "mean": each.mean(1), "highest": each.amax(1)}
    return {"n_orders": len(orders), **{what: values.tolist() for what, values in spread.items()}}


def place_of(name: str, at: Setting) -> Path:
    """Where a run's record is, beside all others."""
    return at.records / f"omniglot-{name}.json"


def write(
    name: str,
    settings: dict,
    metrics: dict,
    at: Setting,
    started: datetime,
    seconds: float,
    weights: dict | None = None,
) -> None:
    """The record of a run."""
    made = records.provenance(
        __file__, device=at.device, dtype=torch.float32, started=started, seconds=seconds
    )
    record = records.Record(f"omniglot-{name}", settings, _rounded(metrics), made, weights or {})
    records.save(record, place_of(name, at))
    print(f"wrote {place_of(name, at).name} after {seconds:.0f} s")


def _rounded(value):  # type: ignore[no-untyped-def]
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def main() -> None:
    names = [*RUNS, *TRAPS]
    listing = "runs:\n" + "\n".join(f"  {name}" for name in names)
    listing += "\n\ngroups of runs:\n" + "\n".join(f"  {g}: {', '.join(of)}" for g, of in GROUPS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=listing, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", choices=[*names, *GROUPS], metavar="RUN", help="see below")
    parser.add_argument(
        "--minutes", type=minutes, default=math.inf, help="stop after so long, default: never"
    )
    parser.add_argument(
        "--shipped",
        action="store_true",
        help="for traps: where the folder lacks a run's weights, its first seed's, which are kept beside its record",
    )
    parser.add_argument("--again", action="store_true", help="also runs whose record is there")
    parser.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--plain", action="store_true", help="neither compile the step nor, on a GPU, record it"
    )
    parser.add_argument(
        "--chunk-size",
        type=whole(1),
        help="tasks of a seed differentiated at once, default all; fewer need less memory; fully connected always all",
    )
    parser.add_argument(
        "--threads", type=whole(1), default=min(2, os.cpu_count() or 1), help="default %(default)s"
    )
    parser.add_argument(
        "--folder",
        type=folder,
        default=Path(__file__).parent / "runs",
        help="checkpoints, default %(default)s",
    )
    parser.add_argument("--records", type=folder, default=RECORDS, help="default %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    at = Setting(
        options.device,
        options.plain,
        options.chunk_size,
        options.folder,
        options.records,
        deadline,
        options.shipped,
    )
    for name in [n for wanted in options.runs for n in GROUPS.get(wanted, [wanted])]:
        if place_of(name, at).exists() and not options.again:
            print(f"{name}: its record is there, skipped; --again makes it anew")
            continue
        try:
            (traps if name in TRAPS else run)(name, at)
        except TimeoutError as why:
            print(f"{name}: {why}")
            return
        except OSError as why:  # no data, no run to measure, no place for the record
            raise SystemExit(f"{name}: {why}") from None


if __name__ == "__main__":
    main()
