"""How long a meta-step takes on each rung from a plain loop to the engine, and where its time goes.

    python book/experiments/engine.py              # a few minutes, then book/records/engine.json
    python book/experiments/engine.py --help

The networks and tasks are those of `omniglot.py laptop`, the pixels noise, which takes the same time. Each rung keeps what the
rungs below it changed, but "tf32", "bf16" and "seeds" each stand on the rung before all three: "on device" on a CPU, "recorded"
on a GPU, which has more rungs. "patches" makes every convolution a matrix product, as a GPU and the compiler want it; "dual" is
"compiled" for dense layers whose adapted weights are not written down. They take turns in short bursts, in a new order in every
round, so that a slow moment of the machine hits all alike. Beside the clock stands the processor time of this process, which
other work on the machine hardly touches. Before that, each rung's meta-gradient is compared with the loop's in float64.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import omniglot
import torch
from options import device as here
from options import folder, whole
from torch import Tensor, nn
from torch.func import vmap
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset

from mamlkit.algorithms import dual, maml
from mamlkit.compiling import _recorded
from mamlkit.meta import TaskLoss, meta_gradient, query_loss
from mamlkit.models import conv4, in_bfloat16, initial_params, mlp
from mamlkit.page import records
from mamlkit.sampling import class_tasks
from mamlkit.tasks import Batch, Params, Task
from mamlkit.training import stack_seeds

HERE = Path(__file__).parent
KINDS = {
    "products": "convolution mkldnn_convolution convolution_backward bmm mm addmm im2col col2im",
    "batch norm": "native_batch_norm native_batch_norm_backward cudnn_batch_norm cudnn_batch_norm_backward "
    "batch_norm_backward _batch_norm_with_update",
    "sums": "sum mean _log_softmax _log_softmax_backward_data",
    "moving and filling": "clone copy_ _to_copy cat stack index gather scatter zeros ones zeros_like ones_like full full_like "
    "fill_ zero_ scalar_tensor",
}
"""Operators by kind; views and memory without work are no operators here, and all others go element by element."""
NO_WORK = (
    "view _unsafe_view _reshape_alias reshape permute transpose t unsqueeze squeeze expand slice select detach as_strided alias "
    "split split_with_sizes empty new_empty empty_strided empty_like new_empty_strided"
)
"""Operators that launch nothing."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what is measured."""

    networks: tuple[str, ...] = ("conv", "mlp")
    """The MAML paper's two Omniglot networks, batch norm in both."""
    channels: int = 32
    """Filters of each convolution of "conv", as in the laptop runs."""
    meta_batch_size: int = 16
    """Tasks per meta-step and seed."""
    n_way: int = 5
    """Classes in a task; one support and one query image each."""
    n_classes: int = 4400
    """Classes to draw from: Omniglot's 1,100 of meta-training, four times turned."""
    inner_lr: float = 0.4
    """Step size inside a task."""
    inner_steps: int = 1
    """Steps inside a task."""
    n_seeds: int = 3
    """Runs at once on the rung "seeds"."""
    compiled: tuple[str, ...] = ("conv", "mlp")
    """Networks with the rung "compiled" on a CPU; on a GPU all have it."""
    rounds: int = 9
    """Each measures every rung once."""
    burst_seconds: float = 0.4
    """A rung takes as many steps in a round as fit into this, at least two."""
    threads: int = 1
    """Processor threads: the machine had other work to do."""
    kinds: dict[str, str] = field(default_factory=lambda: {**KINDS, "no work": NO_WORK})
    """Operators by kind, for the profile."""


class Tasks(IterableDataset[Task]):
    """Tasks without end, one after the other, as a data set for a loader would be written."""

    def __init__(self, config: Config, images: Tensor):
        self.config, self.images = config, images

    def __iter__(self) -> Iterator[Task]:
        labels = torch.arange(self.config.n_way)
        while True:
            support, query = [], []
            for c in torch.randperm(len(self.images))[: self.config.n_way].tolist():
                shown, asked = torch.randperm(self.images.shape[1])[:2].tolist()
                support.append(self.images[c, shown])
                query.append(self.images[c, asked])
            yield Task(Batch(torch.stack(support), labels), Batch(torch.stack(query), labels))


def network(config: Config, name: str, device: torch.device, *, patches: bool = False) -> nn.Module:
    """The network, the same weights on every rung; on a GPU every convolution is a product of patches, elsewhere if so asked."""
    torch.manual_seed(0)
    if name == "mlp":
        return mlp([28 * 28, 256, 128, 64, 64, config.n_way], batch_norm=True).to(device)
    patches = patches or device.type == "cuda"
    return conv4(config.n_way, channels=config.channels, downsample="stride", patches=patches).to(device)


Gradient = Callable[[Params, Task], tuple[Tensor, Params]]


@dataclass
class Rung:
    """A way to take a meta-step."""

    gradient: Gradient
    loader: bool = False
    """Whether tasks come from a loader, and every loss is looked at."""
    n_seeds: int | None = None
    recorded: bool = False
    precision: str = "highest"
    """Of float32 products: "high" is TF32 on a GPU."""


def loss_of(config: Config, model: nn.Module) -> TaskLoss:
    """The network's task loss."""
    adapt = partial(maml.adapt, model, inner_lr=config.inner_lr, inner_steps=config.inner_steps)
    return partial(query_loss, model, adapt)


def dual_gradient(config: Config, model: nn.Module) -> Gradient:
    """The meta-gradient of a fully connected network, to whose loss the stack of tasks is one."""
    loss = partial(dual.query_loss, model, inner_lr=config.inner_lr, inner_steps=config.inner_steps)
    return lambda params, tasks: meta_gradient(loss, params, tree_map(lambda t: t[None], tasks))


def rungs(config: Config, name: str, model: nn.Module, device: torch.device) -> dict[str, Rung]:
    """The rungs of a network by name, from the plainest on."""
    task_loss = loss_of(config, model)
    short = partial(meta_gradient, loss_of(config, in_bfloat16(network(config, name, device))))
    products = partial(meta_gradient, loss_of(config, network(config, name, device, patches=True)))

    def compiled(gradient: Gradient) -> Gradient:
        return torch.compile(gradient, dynamic=False)

    one_by_one, together = partial(meta_gradient, task_loss, chunk_size=1), partial(meta_gradient, task_loss)
    found = {
        "loop": Rung(one_by_one, loader=True),
        "vmap": Rung(together, loader=True),
        "on device": Rung(together),
    }
    if device.type == "cuda":
        fast = Rung(compiled(together), recorded=True)
        found["compiled"] = replace(fast, recorded=False)
        found["recorded"] = fast
        found["tf32"] = Rung(compiled(partial(together)), recorded=True, precision="high")
        found["bf16"] = Rung(compiled(short), recorded=True)
        found["seeds"] = Rung(compiled(vmap(together)), recorded=True, n_seeds=config.n_seeds)
    else:
        if name == "conv":
            found["patches"] = Rung(products)
        if name in config.compiled:
            found["compiled"] = Rung(compiled(products))
            if name == "mlp":
                found["dual"] = Rung(compiled(dual_gradient(config, model)))
        found["bf16"] = Rung(short)
        found["seeds"] = Rung(vmap(together), n_seeds=config.n_seeds)
    return found


def stepper(
    config: Config, rung: Rung, model: nn.Module, images: Tensor, device: torch.device
) -> Callable[[], Tensor]:
    """A function that takes one meta-step: draws, differentiates, updates."""
    params = initial_params(model)
    if rung.n_seeds is not None:
        params = stack_seeds([params] * rung.n_seeds)
    optimizer = torch.optim.Adam(list(params.values()), lr=1e-3)
    generator = torch.Generator(device=device).manual_seed(0)
    loader = iter(DataLoader(Tasks(config, images.cpu()), batch_size=config.meta_batch_size))
    shape = {"n_way": config.n_way, "k_shot": 1, "k_query": 1}

    def draw() -> Task:
        if rung.loader:
            loaded: Task = tree_map(lambda t: t.to(device), next(loader))
            return loaded
        tasks = class_tasks(
            images, config.meta_batch_size * (rung.n_seeds or 1), **shape, generator=generator
        )
        return tree_map(lambda t: t.unflatten(0, (rung.n_seeds, -1)), tasks) if rung.n_seeds else tasks

    def step() -> Tensor:
        loss, gradients = rung.gradient(params, draw())
        for key, p in params.items():
            p.grad = gradients[key]
        optimizer.step()
        if rung.loader:
            loss.item()
        return loss

    torch.set_float32_matmul_precision(rung.precision)
    for _ in range(3):
        step()
    ready = _recorded(step, optimizer, generator) if rung.recorded else step
    torch.set_float32_matmul_precision("highest")
    return ready


def difference(
    config: Config, rung: Rung, reference: Rung, model: nn.Module, tasks: Task
) -> dict[str, float]:
    """How far the rung's meta-gradient is from the loop's in float64: relative length of the difference, and cosine."""

    def flat(rung: Rung, params: Params, tasks: Task) -> Tensor:
        _, gradients = rung.gradient(params, tasks)
        return torch.cat([g.double().flatten() for g in gradients.values()])

    params = initial_params(model)
    exact = flat(
        reference,
        {key: p.double() for key, p in params.items()},
        tree_map(lambda t: t.double() if t.is_floating_point() else t, tasks),
    )
    torch.set_float32_matmul_precision(rung.precision)
    if rung.n_seeds is None:
        found = flat(rung, params, tasks)
    else:  # the same tasks for every seed, of which the first is looked at
        n = rung.n_seeds
        stacks = tree_map(lambda t: torch.stack([t] * n), tasks)
        _, gradients = rung.gradient(stack_seeds([params] * n), stacks)
        found = torch.cat([g[0].double().flatten() for g in gradients.values()])
    torch.set_float32_matmul_precision("highest")
    cosine = torch.nn.functional.cosine_similarity(exact, found, dim=0)
    return {"relative": ((found - exact).norm() / exact.norm()).item(), "cosine": cosine.item()}


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def where(step: Callable[[], Tensor], device: torch.device) -> dict[str, float]:
    """Milliseconds of one step by kind of operator, after torch's profiler; on a GPU those of its kernels."""
    kind_of = {op: kind for kind, ops in {**KINDS, "no work": NO_WORK}.items() for op in ops.split()}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    step()
    with profile(activities=activities) as profiled:
        for _ in range(3):
            step()
        wait(device)
    found = dict.fromkeys((*KINDS, "element by element", "no work"), 0.0)
    for event in profiled.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if event.key.startswith("aten::"):
            found[kind_of.get(event.key.removeprefix("aten::"), "element by element")] += spent / 3000
        elif event.key.startswith("## Call CompiledFxGraph"):
            found["element by element"] += spent / 3000  # fused with sums and moves
    return {kind: round(ms, 3) for kind, ms in found.items()}


def measure(config: Config, device: torch.device) -> dict[str, Any]:
    """The record's metrics."""
    generator = torch.Generator(device=device).manual_seed(0)
    images = torch.rand(config.n_classes, 20, 1, 28, 28, generator=generator, device=device)
    few = class_tasks(images, config.meta_batch_size, n_way=5, k_shot=1, k_query=1, generator=generator)
    steps, differences, compile_seconds, failed, profiles, costs = {}, {}, {}, {}, {}, {}
    for name in config.networks:
        model = network(config, name, device)
        ladder = rungs(config, name, model, device)
        for rung, how in ladder.items():
            job = f"{name} {rung}"
            began = time.perf_counter()
            try:
                differences[job] = difference(config, how, ladder["loop"], model, few)
                steps[job] = stepper(config, how, model, images, device)
            except RuntimeError as why:
                failed[job] = str(why).strip().splitlines()[0]
                print(f"{job}: {failed[job]}", flush=True)
                continue
            wait(device)
            if rung == "compiled":
                compile_seconds[name] = round(time.perf_counter() - began, 1)
            print(f"{job}: ready, {differences[job]}", flush=True)
        for rung in ("loop", "on device", "compiled"):
            if f"{name} {rung}" in steps:
                profiles[f"{name} {rung}"] = where(steps[f"{name} {rung}"], device)
        laptop = replace(omniglot.RUNS[f"laptop-{name}-5w1s"], meta_batch_size=config.meta_batch_size)
        costs[name] = omniglot.cost(model, loss_of(config, model), omniglot.noise(laptop, device), device)

    clock: dict[str, list[float]] = {job: [] for job in steps}
    processor: dict[str, list[float]] = {job: [] for job in steps}
    n_steps = {}
    for job, step in steps.items():
        began = time.perf_counter()
        step()
        wait(device)
        n_steps[job] = max(2, int(config.burst_seconds / (time.perf_counter() - began)))
    order, jobs = random.Random(0), list(steps)
    for i in range(config.rounds):
        order.shuffle(jobs)
        for job in jobs:
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(n_steps[job]):
                steps[job]()
            wait(device)
            clock[job].append(round(1000 * (time.perf_counter() - began) / n_steps[job], 4))
            processor[job].append(round(1000 * (time.process_time() - busy) / n_steps[job], 4))
        print(f"round {i + 1} of {config.rounds}", flush=True)
    return {
        "step_ms_by_round": clock,
        "processor_ms_by_round": processor,
        "difference_from_float64_loop": differences,
        "compile_seconds": compile_seconds,
        "failed": failed,
        "profile_ms": profiles,
        "cost": costs,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        type=here,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--rounds", type=whole(2), default=Config.rounds, help="at least 2, for a spread; default %(default)s"
    )
    parser.add_argument(
        "--records", type=folder, default=HERE.parent / "records", help="where to write, default %(default)s"
    )
    options = parser.parse_args()
    device, config = options.device, Config(rounds=options.rounds)
    name = "engine" if device.type == "cpu" else f"engine-{device.type}"
    path = options.records / f"{name}.json"
    try:
        records.check_place(path, name, asdict(config))
    except FileExistsError as why:
        parser.error(f"{why}; --records names another folder")
    torch.set_num_threads(config.threads)
    # Compile times are those of a first time; and each rung is compiled for itself.
    torch._inductor.config.force_disable_caches = True
    torch._dynamo.config.recompile_limit = 64
    torch.backends.cudnn.allow_tf32 = False
    started = datetime.now(UTC)
    metrics = measure(config, device)
    made = records.provenance(__file__, device=device, dtype=torch.float32, started=started)
    records.save(records.Record(name, asdict(config), metrics, made), path)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
