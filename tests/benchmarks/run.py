"""The race: the same meta-step by the kit and by its peers, side by side in one run.

    make benchmark
    python tests/benchmarks/run.py --seconds 2 --only sinusoid

Same network, initial weights, tasks, loss, inner gradient descent and Adam for all. Before any clock starts, every rival's
meta-gradient is compared with the kit's in float64; who differs is disqualified. Then short bursts take turns, so that the
machine's moods hit all alike, and the table shows the median rate, its spread and the ratio to torchopt.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import judges

from mamlkit.algorithms import maml
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import conv4, initial_params, mlp
from mamlkit.sampling import sinusoid_tasks
from mamlkit.tasks import Batch, Params, Task
from mamlkit.training import meta_train

Step = Callable[[], object]


class Race(NamedTuple):
    """What everybody computes: the kit's network, a peer's usual form of it, the loss, the tasks, the inner loop."""

    name: str
    kit_model: nn.Module
    usual_model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    tasks: Task
    inner_lr: float
    inner_steps: int
    first_order: bool
    chunk_size: int | None


def sinusoid(inner_steps: int) -> Race:
    torch.manual_seed(0)
    model = mlp([1, 40, 40, 1])
    tasks = sinusoid_tasks(25, k_shot=10, k_query=10, generator=torch.Generator().manual_seed(0))
    name = f"sinusoid, 25 tasks, K = 10, {inner_steps} inner step{'s' * (inner_steps > 1)}, second order"
    return Race(name, model, model, F.mse_loss, tasks, 0.01, inner_steps, False, None)


def usual_conv4(kit: nn.Module, n_way: int) -> nn.Module:
    """The same function in the order everybody writes: convolution with a bias, batch norm, ReLU, pooling."""
    layers: list[nn.Module] = []
    for i in range(4):
        conv = nn.Conv2d(64 if i else 1, 64, 3, padding=1)
        conv.weight.data.copy_(kit.get_submodule(f"body.block{i + 1}.0").weight)
        layers += [conv, nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Linear(64, n_way)
    head.load_state_dict(kit.head.state_dict())
    return nn.Sequential(*layers, nn.Flatten(), head)


def conv(n_way: int, inner_steps: int, first_order: bool) -> Race:
    torch.manual_seed(0)
    model, generator = conv4(n_way), torch.Generator().manual_seed(0)
    n_tasks = 4 if n_way == 5 else 1

    def batch(k: int) -> Batch:
        y = torch.arange(n_way).repeat_interleave(k).repeat(n_tasks, 1)
        return Batch(torch.rand(n_tasks, n_way * k, 1, 28, 28, generator=generator), y)

    order = "first" if first_order else "second"
    name = f"conv4, {n_way}-way 1-shot, {n_tasks} tasks, {inner_steps} inner step{'s' * (inner_steps > 1)}, {order} order"
    race = (
        model,
        usual_conv4(model, n_way),
        F.cross_entropy,
        Task(batch(1), batch(15)),
        0.1,
        inner_steps,
        first_order,
    )
    return Race(name, *race, 1)


def task_loss(race: Race, model: nn.Module) -> partial[Tensor]:
    adapt = partial(
        maml.adapt, model, inner_lr=race.inner_lr, inner_steps=race.inner_steps, first_order=race.first_order
    )
    return partial(query_loss, model, adapt)


def agrees(race: Race, judge: judges.LossFn, model: nn.Module) -> float:
    """The relative difference of a rival's meta-gradient from the kit's, in float64, over the parameters both have."""
    to = {"kit": race.kit_model, "rival": model}
    doubles = {who: initial_params(net.double()) for who, net in to.items()}
    tasks = Task(*(Batch(b.x.double(), b.y.double() if b.y.is_floating_point() else b.y) for b in race.tasks))
    settings = {"inner_lr": race.inner_lr, "inner_steps": race.inner_steps, "first_order": race.first_order}
    _, ours = meta_gradient(task_loss(race, race.kit_model), doubles["kit"], tasks, chunk_size=1)
    _, theirs = judge(model, race.loss, doubles["rival"], tasks, **settings)
    for net in to.values():
        net.float()
    # Convolution biases before batch norm exist in the usual form only; their gradient is zero.
    kept = [g for g in theirs.values() if g.abs().max() > 1e-12 or len(theirs) == len(ours)]
    a, b = (torch.cat([g.flatten() for g in gs]) for gs in (ours.values(), kept))
    return ((a - b).norm() / a.norm()).item() if a.shape == b.shape else float("nan")


def with_adam(gradient: Callable[[Params], tuple[Tensor, Params]], params: Params) -> Step:
    optimizer = torch.optim.Adam(list(params.values()), lr=1e-3)

    def step() -> None:
        _, gradients = gradient(params)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()

    return step


def rival(race: Race, judge: Callable, model: nn.Module) -> Step:
    settings = {"inner_lr": race.inner_lr, "inner_steps": race.inner_steps, "first_order": race.first_order}
    return with_adam(
        lambda params: judge(model, race.loss, params, race.tasks, **settings), initial_params(model)
    )


def kit(race: Race) -> Step:
    loss = task_loss(race, race.kit_model)
    return with_adam(
        lambda params: meta_gradient(loss, params, race.tasks, chunk_size=race.chunk_size),
        initial_params(race.kit_model),
    )


class KitCompiled:
    """`meta_train(compiled=True)`, a burst of steps a call: what a reader runs, its loop and checks included."""

    def __init__(self, race: Race, burst: int = 200):
        self.race, self.burst = race, burst
        self.loss = task_loss(race, race.kit_model)
        self.params = initial_params(race.kit_model)

    def __call__(self) -> None:
        meta_train(
            self.loss,
            self.params,
            lambda generator: self.race.tasks,
            meta_steps=self.burst,
            meta_optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
            generator=torch.Generator(),
            compiled=True,
            progress=False,
        )


def with_jax(race: Race) -> Step:
    """`jit(vmap(grad))` and Adam in one compiled function, for the sinusoid network."""
    import jax
    import jax.numpy as jnp

    device = jax.devices("cpu")[0]
    weights = [jnp.asarray(p.detach().numpy().T) for p in race.kit_model.parameters()]
    (support_x, support_y), (query_x, query_y) = jax.tree.map(
        lambda t: jax.device_put(t.numpy(), device), tuple(race.tasks)
    )

    def mse(p, x, y):  # type: ignore[no-untyped-def]
        hidden = jax.nn.relu(jax.nn.relu(x @ p[0] + p[1]) @ p[2] + p[3])
        return ((hidden @ p[4] + p[5] - y) ** 2).mean()

    def after_adaptation(p, sx, sy, qx, qy):  # type: ignore[no-untyped-def]
        phi = p
        for _ in range(race.inner_steps):
            phi = jax.tree.map(lambda a, g: a - race.inner_lr * g, phi, jax.grad(mse)(phi, sx, sy))
        return mse(phi, qx, qy)

    @jax.jit
    def step(state):  # type: ignore[no-untyped-def]
        p, m, v, t = state
        each = jax.vmap(jax.grad(after_adaptation), (None, 0, 0, 0, 0))
        g = jax.tree.map(lambda a: a.mean(0), each(p, support_x, support_y, query_x, query_y))
        t = t + 1
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        p = jax.tree.map(
            lambda a, b, c: a - 1e-3 * (b / (1 - 0.9**t)) / (jnp.sqrt(c / (1 - 0.999**t)) + 1e-8), p, m, v
        )
        return p, m, v, t

    state = [(weights, [w * 0 for w in weights], [w * 0 for w in weights], 0.0)]
    _, ours = meta_gradient(task_loss(race, race.kit_model), initial_params(race.kit_model), race.tasks)
    each = jax.vmap(jax.grad(after_adaptation), (None, 0, 0, 0, 0))(
        weights, support_x, support_y, query_x, query_y
    )
    theirs = [torch.tensor(jax.device_get(g.mean(0).T)) for g in each]
    worst = max(((a - b).norm() / a.norm()).item() for a, b in zip(ours.values(), theirs, strict=True))
    if worst > 1e-4:
        raise ArithmeticError(f"the meta-gradient differs by {worst:.0e} in float32")

    def one() -> None:
        state[0] = step(state[0])
        jax.block_until_ready(state[0])

    return one


def rate(step: Step, steps_per_call: int, seconds: float) -> float:
    """Steps per second over a burst of about `seconds`."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        calls += 1
    return calls * steps_per_call / (time.perf_counter() - start)


def run(race: Race, *, seconds: float, rounds: int, compiled: bool) -> None:
    print(f"\n{race.name}", flush=True)
    racers: dict[str, tuple[Step, int]] = {"mamlkit": (kit(race), 1)}
    for name, judge in {
        "torchopt": judges.with_torchopt,
        "higher": judges.with_higher,
        "plain loop": judges.plain_loop,
    }.items():
        try:
            error = agrees(race, judge, race.usual_model)
        except (ImportError, NotImplementedError) as why:
            print(f"  {name}: does not run here ({why})")
            continue
        if not error < 1e-9:
            print(f"  {name}: disqualified, its meta-gradient differs by {error:.1e}")
            continue
        racers[name] = (rival(race, judge, race.usual_model), 1)
    if compiled:
        racers["mamlkit, compiled"] = (KitCompiled(race), 200)
        try:
            racers["JAX jit(vmap(grad))"] = (with_jax(race), 1)
        except (ImportError, ArithmeticError) as why:
            print(f"  JAX: does not run here ({why})")
    for step, _ in racers.values():
        step()
        step()
    rates: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(rounds):
        for name, (step, each) in racers.items():
            rates[name].append(rate(step, each, seconds))
    reference = statistics.median(rates["torchopt"]) if "torchopt" in rates else None
    n_tasks = len(race.tasks.support.x)
    print(f"  {'':22s}{'steps/s':>10s}{'lowest':>9s}{'highest':>9s}{'ms/task':>9s}{'to torchopt':>13s}")
    for name, values in sorted(rates.items(), key=lambda item: -statistics.median(item[1])):
        median = statistics.median(values)
        ratio = f"{median / reference:.2f}" if reference else ""
        row = f"{median:10.1f}{min(values):9.1f}{max(values):9.1f}{1e3 / median / n_tasks:9.2f}{ratio:>13s}"
        print(f"  {name:22s}{row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a burst, default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="bursts of each, default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, default %(default)s")
    parser.add_argument("--only", choices=["sinusoid", "conv"], help="one part of the race")
    parser.add_argument("--full", action="store_true", help="conv4 also at 20-way, 5 steps and first order")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault(
        "XLA_FLAGS", f"--xla_cpu_multi_thread_eigen={'true' if options.threads > 1 else 'false'}"
    )
    warnings.simplefilter("ignore")
    print(
        f"{platform.machine()}, {options.threads} threads, Python {platform.python_version()}, torch {torch.__version__}"
    )
    bursts = {"seconds": options.seconds, "rounds": options.rounds}
    if options.only != "conv":
        for inner_steps in (1, 5):
            run(sinusoid(inner_steps), **bursts, compiled=True)
    if options.only != "sinusoid":
        run(conv(5, 1, False), **bursts, compiled=False)
        if options.full:
            for n_way, inner_steps, first_order in (
                (5, 1, True),
                (5, 5, False),
                (5, 5, True),
                (20, 1, False),
                (20, 1, True),
                (20, 5, False),
                (20, 5, True),
            ):
                run(conv(n_way, inner_steps, first_order), **bursts, compiled=False)


if __name__ == "__main__":
    main()
