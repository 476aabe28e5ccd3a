"""How long a meta-step takes on 1, 2 and 4 processes that share their tasks, and how long the message between them takes.

    python book/experiments/scaling.py             # about two minutes, then book/records/scaling.json
    python book/experiments/scaling.py --help

Starts itself once under `torchrun` with as many processes as the largest count asks for; groups of the first 1, 2 and 4 of them
then take turns, in a new order in every round, so that a slow moment of the machine hits all alike. Strong scaling shares a fixed
number of tasks, weak scaling gives every process as many. One thread each, gloo on the CPU: more processes than cores are
measured on purpose, and the record says how many cores there were. Beside the clock stands the processor time that one process
used, which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from options import folder, whole
from torch.utils._pytree import tree_map

from mamlkit.algorithms import maml
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import Network, conv4, initial_params, mlp
from mamlkit.page import records
from mamlkit.sampling import class_tasks, sinusoid_tasks
from mamlkit.tasks import Task

HERE = Path(__file__).parent
PARTS = ("draw", "gradient", "reduce", "update")
"""What a meta-step consists of; the time in `reduce` includes the wait for the slowest process."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what is measured."""

    ranks: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes."""
    repeats: int = 15
    """Rounds; each measures everything once."""
    sinusoid_tasks: int = 24
    """Tasks of the sinusoid network: in all (strong) or per process (weak)."""
    sinusoid_steps: int = 20
    """Meta-steps of the sinusoid network in a round."""
    conv_tasks: int = 4
    """Tasks of the convolutional network: in all (strong) or per process (weak)."""
    conv_steps: int = 3
    """Meta-steps of the convolutional network in a round."""
    channels: int = 64
    """Filters of each of its four convolutions, of stride 2: the MAML paper's Omniglot network."""
    n_way: int = 5
    """Classes in its tasks, one support and `k_query` query images each."""
    k_query: int = 15
    """Query images per class."""
    n_classes: int = 964
    """Classes to draw from, as many as Omniglot's background set; the pixels are noise, which takes the same time."""
    inner_steps: int = 1
    """Steps inside a task."""
    message_floats: tuple[int, ...] = (1, 1_000, 10_000, 100_000, 1_000_000, 4_000_000)
    """Sizes of the message that is timed alone."""
    message_times: int = 10
    """How often each is sent in a round."""
    dtype: str = "float32"
    """Precision of everything."""


def networks(config: Config) -> dict[str, tuple[Network, float, int, int, int | None, Callable]]:
    """By name: the model, its inner learning rate, tasks, steps in a round, chunk size, and `(n, generator) -> n tasks`."""
    torch.manual_seed(0)
    images = torch.rand(config.n_classes, 20, 1, 28, 28)
    shape = {"n_way": config.n_way, "k_shot": 1, "k_query": config.k_query}
    conv = conv4(config.n_way, channels=config.channels, downsample="stride")
    return {
        "sinusoid": (
            mlp([1, 40, 40, 1]),
            0.01,
            config.sinusoid_tasks,
            config.sinusoid_steps,
            None,
            lambda n, generator: sinusoid_tasks(n, k_shot=10, k_query=10, generator=generator),
        ),
        "conv4": (
            conv,
            0.4,
            config.conv_tasks,
            config.conv_steps,
            1,
            lambda n, generator: class_tasks(images, n, **shape, generator=generator),
        ),
    }


def timed_steps(
    config: Config, network: tuple, *, n_tasks: int, n_ranks: int, rank: int, group: dist.ProcessGroup
) -> list[float]:
    """Milliseconds of a meta-step's four `PARTS` on this process, then its processor time, means over a round."""
    model, inner_lr, _, steps, chunk_size, sample = network
    task_loss = partial(
        query_loss, model, partial(maml.adapt, model, inner_lr=inner_lr, inner_steps=config.inner_steps)
    )
    params = initial_params(model)
    optimizer = torch.optim.Adam(list(params.values()), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    spent, busy = torch.zeros(len(PARTS), dtype=torch.float64), 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            spent.zero_()
            dist.barrier(group)
            busy = time.process_time()
        marks = [time.perf_counter()]
        tasks: Task = sample(n_tasks, generator)
        if n_ranks > 1:  # as meta_train does it: draw the whole stack, keep a part
            tasks = tree_map(lambda t: t.chunk(n_ranks)[rank].contiguous(), tasks)
        marks.append(time.perf_counter())
        loss, gradients = meta_gradient(task_loss, params, tasks, chunk_size=chunk_size)
        marks.append(time.perf_counter())
        if n_ranks > 1:
            flat = torch.cat([t.flatten() for t in (loss, *gradients.values())])
            dist.all_reduce(flat, group=group)
            parts = torch.split(flat / n_ranks, [1, *(g.numel() for g in gradients.values())])[1:]
            gradients = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        marks.append(time.perf_counter())
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
        marks.append(time.perf_counter())
        spent += torch.tensor(marks, dtype=torch.float64).diff()
    busy = time.process_time() - busy
    return [1000 * x / steps for x in (*spent.tolist(), busy)]


def timed_message(config: Config, n_floats: int, group: dist.ProcessGroup) -> float:
    """Milliseconds of one `all_reduce` of so many floats, the mean over a round."""
    message = torch.zeros(n_floats)
    dist.all_reduce(message, group=group)
    dist.barrier(group)
    begin = time.perf_counter()
    for _ in range(config.message_times):
        dist.all_reduce(message, group=group)
    return 1000 * (time.perf_counter() - begin) / config.message_times


def measure(config: Config) -> dict:
    """The record's metrics; the same rounds on every process, the clock of process 0 counts."""
    rank = dist.get_rank()
    groups = {n: dist.new_group(list(range(n))) for n in config.ranks}
    nets = networks(config)
    steps = {
        (name, kind, n): []
        for name in nets
        for kind in ("strong", "weak")
        for n in config.ranks
        if kind == "strong" or n > 1  # with one process the two are the same
    }
    messages = {(floats, n): [] for floats in config.message_floats for n in config.ranks if n > 1}
    order = random.Random(0)
    for repeat in range(config.repeats):
        jobs = [*steps, *messages]
        order.shuffle(jobs)
        for job in jobs:
            dist.barrier()  # who has no part in this job sleeps in the next barrier
            if rank >= job[-1]:
                continue
            if job in messages:
                floats, n = job
                messages[job].append(round(timed_message(config, floats, groups[n]), 4))
                continue
            name, kind, n = job
            n_tasks = nets[name][2] * (n if kind == "weak" else 1)
            found = timed_steps(config, nets[name], n_tasks=n_tasks, n_ranks=n, rank=rank, group=groups[n])
            steps[job].append([round(x, 4) for x in found])
        if rank == 0:
            print(f"round {repeat + 1} of {config.repeats}", flush=True)
    by_part = {
        " ".join(map(str, job)): {
            part: list(column)
            for part, column in zip((*PARTS, "processor"), zip(*found, strict=True), strict=True)
        }
        for job, found in steps.items()
        if found
    }
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "parameters": {name: sum(p.numel() for p in net[0].parameters()) for name, net in nets.items()},
        "step_ms_by_part_and_round": by_part,
        "message_ms_by_round": {
            f"{floats} floats, {n} ranks": found for (floats, n), found in messages.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records", type=folder, default=HERE.parent / "records", help="where to write, default %(default)s"
    )
    parser.add_argument(
        "--repeats",
        type=whole(2),
        default=Config.repeats,
        help="rounds, at least 2, for a spread; default %(default)s",
    )
    options = parser.parse_args()
    config, path = Config(repeats=options.repeats), options.records / "scaling.json"
    try:
        records.check_place(path, "scaling", asdict(config))
    except FileExistsError as why:
        parser.error(f"{why}; --records names another folder")
    if "RANK" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={max(config.ranks)}"]
        command = [sys.executable, *torchrun, __file__, *sys.argv[1:]]
        # Large blocks stay on the heap, as in meta_train: page faults would cost a fifth of a step, and more beside neighbours.
        heap = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **heap}
        raise SystemExit(subprocess.run(command, env=environment).returncode)
    torch.set_num_threads(1)
    started = datetime.now(UTC)
    dist.init_process_group("gloo")
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    metrics = measure(config) | {"load_before": load_before}
    if dist.get_rank() == 0:
        made = records.provenance(__file__, device="cpu", dtype=torch.float32, started=started)
        records.save(records.Record("scaling", asdict(config), metrics, made), path)
        print(f"wrote {path}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
