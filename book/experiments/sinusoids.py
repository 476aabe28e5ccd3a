"""MAML on sinusoids with the paper's protocol, and one model for all tasks trained just as long.

    python book/experiments/sinusoids.py           # then book/records/sinusoids.json and sinusoid-maml.safetensors
    python book/experiments/sinusoids.py --help

Finn et al. (2017), section 5.1. The chapter trains the same live; this keeps one set of weights, so that the page's interactive
figure is the same everywhere, and trains the baseline for as many steps as MAML. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from options import folder, whole
from torch.func import vmap

from mamlkit.algorithms import maml
from mamlkit.meta import batch_loss, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.page import records
from mamlkit.sampling import sinusoid_tasks
from mamlkit.tasks import Params, Task
from mamlkit.training import Trained, meta_train, stack_seeds

HERE = Path(__file__).parent
MODEL = mlp([1, 40, 40, 1])
CURVE = 70
"""Points of a learning curve in the record, each the mean of as many meta-steps."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers."""

    meta_steps: int = 70_000
    """Meta-steps, the paper's; the baseline takes as many."""
    meta_batch_size: int = 25
    """Tasks per meta-step and seed, as in the paper's code."""
    k_shot: int = 10
    """Support points per task in meta-training, the paper's."""
    k_query: int = 10
    """Query points per task in meta-training, as in the paper's code."""
    inner_lr: float = 0.01
    """Step size inside a task, the paper's."""
    inner_steps: int = 1
    """Steps inside a task in meta-training, the paper's."""
    meta_lr: float = 1e-3
    """Adam's rate across tasks, the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One initialisation each; all are trained at once on tasks of their own."""
    k_shots_test: tuple[int, ...] = (5, 10, 20)
    """Support points per task at test, the paper's."""
    inner_steps_test: int = 10
    """Steps inside a task at test, the paper's."""
    n_validation_tasks: int = 600
    """Tasks that choose the baseline's step size, for each number of shots."""
    n_test_tasks: int = 1000
    """Tasks that measure, the same ones for every seed."""
    k_query_test: int = 50
    """Query points per task at test."""
    rates: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
    """Step sizes the baseline may choose from."""
    cap: float = 25.0
    """An error counts as at most this much, so that one task that diverged can't hide the others."""
    dtype: str = "float32"
    """Precision of everything."""


def train(config: Config, *, inner_steps: int, name: str, folder: Path) -> Trained:
    """All seeds after meta-training with so many inner steps (0 is one model for all tasks), resumed from `folder`."""
    initial = []
    for seed in config.seeds:
        torch.manual_seed(seed)
        initial.append(initial_params(mlp([1, 40, 40, 1])))
    adapt = partial(maml.adapt, MODEL, inner_lr=config.inner_lr, inner_steps=inner_steps)
    n_tasks = len(config.seeds) * config.meta_batch_size
    return meta_train(
        partial(query_loss, MODEL, adapt),
        stack_seeds(initial),
        lambda generator: sinusoid_tasks(
            n_tasks, k_shot=config.k_shot, k_query=config.k_query, generator=generator
        ),
        meta_steps=config.meta_steps,
        meta_optimizer=partial(torch.optim.Adam, lr=config.meta_lr, fused=True),
        generator=torch.Generator().manual_seed(0),
        n_seeds=len(config.seeds),
        compiled=True,
        checkpoint=folder / f"sinusoids-{name}.pt",
        config={**asdict(config), "inner_steps": inner_steps},
    )


def errors(params: Params, tasks: Task, *, inner_lr: float, inner_steps: int) -> torch.Tensor:
    """Each task's query error after 0, 1, ..., `inner_steps` steps on its support, `(n_tasks, inner_steps + 1)`."""
    step = partial(maml.adapt, MODEL, inner_lr=inner_lr, inner_steps=1)

    def path(task: Task) -> torch.Tensor:
        phi, found = params, [batch_loss(MODEL, params, task.query)]
        for _ in range(inner_steps):
            phi = step(phi, task.support)
            found.append(batch_loss(MODEL, phi, task.query))
        return torch.stack(found)

    with torch.no_grad():
        return vmap(path)(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=folder, default=HERE / "runs", help="checkpoints, default %(default)s"
    )
    parser.add_argument(
        "--records", type=folder, default=HERE.parent / "records", help="where to write, default %(default)s"
    )
    parser.add_argument(
        "--steps",
        type=whole(CURVE, of=CURVE),
        default=Config.meta_steps,
        help=f"meta-steps, a multiple of {CURVE}, default %(default)s",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second one buys nothing for a network this small
    config, started, clock = Config(meta_steps=options.steps), datetime.now(UTC), time.monotonic()
    path = options.records / "sinusoids.json"
    try:
        records.check_place(path, "sinusoids", asdict(config))
    except FileExistsError as why:
        parser.error(f"{why}; --records names another folder")
    trained = {
        "maml": train(config, inner_steps=config.inner_steps, name="maml", folder=options.folder),
        "joint": train(config, inner_steps=0, name="joint", folder=options.folder),
    }

    def measure(
        name: str, k_shot: int, n: int, *, tasks_seed: int, inner_lr: float
    ) -> tuple[torch.Tensor, float]:
        """Errors `(seeds, tasks, steps + 1)`, capped, and the share of runs that the cap touched."""
        generator = torch.Generator().manual_seed(tasks_seed)
        tasks = sinusoid_tasks(n, k_shot=k_shot, k_query=config.k_query_test, generator=generator)
        found = vmap(partial(errors, tasks=tasks, inner_lr=inner_lr, inner_steps=config.inner_steps_test))(
            trained[name].params
        )
        found = found.nan_to_num(config.cap)
        return found.clamp(max=config.cap), (found >= config.cap).any(-1).float().mean().item()

    metrics = {"tasks": {}, "curves": {}}
    for k_shot in config.k_shots_test:
        validation = {
            rate: measure("joint", k_shot, config.n_validation_tasks, tasks_seed=1, inner_lr=rate)[0]
            for rate in config.rates
        }
        chosen = min(validation, key=lambda rate: validation[rate][..., -1].mean().item())
        for name, inner_lr in (("maml", config.inner_lr), ("joint", chosen)):
            found, touched = measure(name, k_shot, config.n_test_tasks, tasks_seed=2, inner_lr=inner_lr)
            metrics["tasks"][f"{name} {k_shot}-shot"] = {
                "inner_lr": inner_lr,
                "mean_by_seed_and_step": _rounded(found.mean(1)),
                "sd_over_tasks_by_seed_and_step": _rounded(found.std(1)),
                "median_by_seed_and_step": _rounded(found.median(1).values),
                "share_capped": round(touched, 5),
            }
            print(name, k_shot, inner_lr, *(f"{x:.3f}" for x in found.mean((0, 1))), f"capped {touched:.4f}")
    for name, run in trained.items():
        metrics["curves"][name] = _rounded(run.losses.unflatten(0, (CURVE, -1)).mean(1))
    # Before the record, which says that the run is done.
    weights = records.save_weights(
        {f"{m}.{n}": p for m in trained for n, p in trained[m].params.items()},
        options.records / "sinusoid-maml.safetensors",
    )
    made = records.provenance(
        __file__, device="cpu", dtype=torch.float32, started=started, seconds=time.monotonic() - clock
    )
    records.save(records.Record("sinusoids", asdict(config), metrics, made, weights), path)
    print(f"wrote {path}, and the weights beside it")


def _rounded(values: torch.Tensor) -> list:
    return [[round(x, 4) for x in row] for row in values.tolist()]


if __name__ == "__main__":
    main()
