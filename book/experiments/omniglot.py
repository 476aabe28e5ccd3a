"""MAML on Omniglot, the laptop version: official alphabets, no rotations, small network, both kinds of batch norm.

    python book/experiments/omniglot.py            # all seeds, then book/records/omniglot.json
    python book/experiments/omniglot.py --help

Meta-trains on 25 background alphabets, chooses the number of test steps on 5 held-out background alphabets, and reports on the 20
evaluation alphabets, which choose nothing. A run that is interrupted goes on where it stopped. Where the drawings come from:
`mamlkit.datasets.omniglot`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from mamlkit import records
from mamlkit.algorithms import maml
from mamlkit.datasets import omniglot
from mamlkit.meta import accuracy, evaluate, inductive_accuracy, mean_ci95, query_loss
from mamlkit.models import conv4, initial_params
from mamlkit.sampling import class_tasks
from mamlkit.tasks import Params, Task
from mamlkit.training import meta_train

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers."""

    n_way: int = 5
    """Classes in a task."""
    k_shot: int = 1
    """Support drawings per class."""
    k_query: int = 5
    """Query drawings per class in meta-training."""
    channels: int = 32
    """Filters of each of the four convolutions; the paper has 64."""
    downsample: str = "stride"
    """Convolutions of stride 2, as in the paper's Omniglot network."""
    inner_lr: float = 0.4
    """Step size inside a task, the paper's."""
    inner_steps: int = 1
    """Steps inside a task in meta-training, the paper's."""
    meta_lr: float = 2e-3
    """Adam's rate across tasks; the paper has 1e-3 and 60,000 steps."""
    meta_batch_size: int = 16
    """Tasks per meta-step; the paper has 32."""
    meta_steps: int = 1000
    """Meta-steps per seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each: initial weights and tasks."""
    test_steps: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    """Numbers of inner steps tried at test."""
    n_validation_tasks: int = 300
    """Tasks per seed that choose the number of test steps."""
    n_test_tasks: int = 600
    """Tasks that measure, the same ones for every seed."""
    k_query_test: int = 15
    """Query drawings per class in the measured tasks."""
    dtype: str = "float32"
    """Precision of everything."""


def train(
    config: Config, seed: int, images: torch.Tensor, folder: Path
) -> tuple[torch.nn.Module, Params, torch.Tensor]:
    """The network, its meta-trained parameters and the meta-loss per step of one seed, resumed from `folder`."""
    torch.manual_seed(seed)
    model = conv4(config.n_way, channels=config.channels, downsample=config.downsample).to(images.device)
    adapt = partial(maml.adapt, model, inner_lr=config.inner_lr, inner_steps=config.inner_steps)
    shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": config.k_query}
    trained = meta_train(
        partial(query_loss, model, adapt),
        initial_params(model),
        lambda generator: class_tasks(images, config.meta_batch_size, **shape, generator=generator),
        meta_steps=config.meta_steps,
        meta_optimizer=partial(torch.optim.Adam, lr=config.meta_lr),
        generator=torch.Generator(device=images.device).manual_seed(seed),
        chunk_size=None if images.is_cuda else 1,
        checkpoint=folder / f"omniglot-seed{seed}.pt",
        config={**asdict(config), "seed": seed},
    )
    return model, trained.params, trained.losses


def nearest_neighbour(tasks: Task) -> torch.Tensor:
    """Accuracy per task `(n_tasks,)` of giving each query the label of the support drawing with the largest pixel cosine."""
    support, query = (torch.nn.functional.normalize(b.x.flatten(2), dim=-1) for b in tasks)
    nearest = (query @ support.transpose(1, 2)).argmax(-1)
    return (tasks.support.y.gather(1, nearest) == tasks.query.y).float().mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, default %(default)s")
    parser.add_argument("--folder", type=Path, default=HERE / "runs", help="checkpoints, default %(default)s")
    parser.add_argument(
        "--record", type=Path, default=HERE.parent / "records" / "omniglot.json", help="default %(default)s"
    )
    parser.add_argument(
        "--steps", type=int, default=Config.meta_steps, help="meta-steps per seed, default %(default)s"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, started, clock = Config(meta_steps=options.steps), datetime.now(UTC), time.monotonic()

    splits = {
        split: omniglot(split).images.to(options.device)
        for split in ("meta-train", "meta-validation", "meta-test")
    }
    test_shape = {"n_way": config.n_way, "k_shot": config.k_shot, "k_query": config.k_query_test}

    def draw(split: str, n_tasks: int, seed: int) -> Task:
        generator = torch.Generator(device=options.device).manual_seed(seed)
        return class_tasks(splits[split], n_tasks, **test_shape, generator=generator)

    test = draw("meta-test", config.n_test_tasks, 1_000_000)
    per_seed = []
    for seed in config.seeds:
        model, params, losses = train(config, seed, splits["meta-train"], options.folder)
        adapts = {
            k: partial(maml.adapt, model, inner_lr=config.inner_lr, inner_steps=k) for k in config.test_steps
        }
        validation = draw("meta-validation", config.n_validation_tasks, 2_000_000 + seed)
        chosen = max(
            adapts,
            key=lambda k: (
                evaluate(model, adapts[k], params, validation, metric=accuracy, chunk_size=1).mean().item()
            ),
        )
        by_steps = {
            k: evaluate(model, a, params, test, metric=accuracy, chunk_size=1) for k, a in adapts.items()
        }
        inductive = inductive_accuracy(model, adapts[chosen], params, test, chunk_size=1)
        per_seed.append(
            {
                "seed": seed,
                "test_steps_chosen_on_validation": chosen,
                "transductive": by_steps[chosen].tolist(),
                "inductive": inductive.tolist(),
                "transductive_by_test_steps": {str(k): v.mean().item() for k, v in by_steps.items()},
                "curve_steps": list(range(50, config.meta_steps + 1, 50)),
                "curve_loss": [x.mean().item() for x in losses.cpu().split(50) if len(x) == 50],
            }
        )
        both = {name: mean_ci95(torch.tensor(per_seed[-1][name])) for name in ("transductive", "inductive")}
        print(
            f"seed {seed}: {chosen} test steps, transductive {both['transductive']}, inductive {both['inductive']}"
        )
    floor = nearest_neighbour(test)
    print(f"pixel nearest neighbour {mean_ci95(floor)}")
    metrics = {"per_seed": _rounded(per_seed), "nearest_neighbour": _rounded(floor.tolist())}
    made = records.provenance(
        __file__, device=options.device, dtype=config.dtype, started=started, seconds=time.monotonic() - clock
    )
    records.save(records.Record("omniglot", asdict(config), metrics, made), options.record)
    print(f"wrote {options.record}")


def _rounded(value):
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
