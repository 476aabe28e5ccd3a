"""Who races in `run.py`: each racer computes the same meta-step its own way, in a process that does nothing else."""

from __future__ import annotations

import copy
import importlib
import math
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import judges

from mamlkit.algorithms import maml
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.models import conv4, initial_params, mlp
from mamlkit.sampling import sinusoid_tasks
from mamlkit.tasks import Batch, Params, Task
from mamlkit.training import meta_train


class Track(NamedTuple):
    """A race laid out on a device, in a precision: the kit's network and a peer's usual form of it, with the same weights."""

    kit_model: nn.Module
    usual_model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    tasks: Task
    settings: dict[str, Any]
    chunk_size: int | None


def lay_out(race: Any, device: str, dtype: torch.dtype) -> Track:
    """The same weights and tasks in every process, whatever the device and the precision."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    if race.network == "sinusoid":
        model = usual = mlp([1, 40, 40, 1])
        tasks = sinusoid_tasks(race.n_tasks, k_shot=10, k_query=10, generator=generator)
        loss, inner_lr = F.mse_loss, 0.01
    else:
        n = race.n_way
        # With a GPU every convolution is a product of patches: `vmap` gives each task kernels of its own.
        model = conv4(n, patches=True) if device == "cuda" else conv4(n)
        usual = usual_conv4(model, n)
        x = torch.rand(race.n_tasks, 16 * n, 1, 28, 28, generator=generator)
        y = torch.arange(n).repeat(race.n_tasks, 16)
        tasks = Task(Batch(x[:, :n], y[:, :n]), Batch(x[:, n:], y[:, n:]))
        loss, inner_lr = F.cross_entropy, 0.1

    def move(t: Tensor) -> Tensor:
        return t.to(device, dtype) if t.is_floating_point() else t.to(device)

    settings = {"inner_lr": inner_lr, "inner_steps": race.inner_steps, "first_order": race.first_order}
    chunk_size = 1 if race.network == "conv4" and device == "cpu" else None
    return Track(
        model.to(device, dtype), usual.to(device, dtype), loss, tree_map(move, tasks), settings, chunk_size
    )


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


def peak_memory(device: str) -> float:
    """The most memory this process has held so far, in MiB; on a GPU, the most its tensors have."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def now(device: str) -> float:
    """The clock, in seconds, once the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Kit:
    """`meta_train`, what a reader runs, its loop and its checks included."""

    def __init__(self, track: Track, compiled: bool = False):
        importlib.import_module(
            "torch._dynamo"
        )  # as torch.func's first use does: it is no memory of the race
        # Where no compiler can be trusted, `meta_train` warns and goes on plainly: here that is no race.
        fallback = "torch.compile (has no working compiler|gives other numbers)"
        warnings.filterwarnings("error", message=fallback)
        self.params, self.device = initial_params(track.kit_model), track.tasks.query.x.device.type
        self.train = partial(
            meta_train,
            kit_task_loss(track),
            self.params,
            lambda generator: track.tasks,
            generator=torch.Generator(self.device),
            chunk_size=track.chunk_size,
            compiled=compiled,
            progress=False,
        )

    def gradients(self) -> list[Tensor]:
        # One step of gradient descent at rate 1 shows the gradient that the training loop used.
        after = self.train(meta_steps=1, meta_optimizer=partial(torch.optim.SGD, lr=1.0)).params
        return [p - after[name] for name, p in self.params.items()]

    def burst(self, n: int) -> float:
        # On a GPU a compiled run first records its step as a graph: let it, for some steps, and time the last n.
        before = n * math.ceil(20 / n) if self.device == "cuda" else 0
        times = [now(self.device)]

        def look(params: Params) -> Tensor:
            times.append(now(self.device))
            return torch.zeros(())

        self.train(
            meta_steps=before + n,
            meta_optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
            validate=look,
            validate_every=n,
        )
        return times[-1] - times[-2]


def kit_task_loss(track: Track) -> Callable[[Params, Task], Tensor]:
    return partial(query_loss, track.kit_model, partial(maml.adapt, track.kit_model, **track.settings))


class Peer:
    """A judge, of `tests/judges.py` or below, and Adam; `package` is imported now, so that its memory is not the race's."""

    def __init__(self, track: Track, judge: Callable[..., tuple[Tensor, Params]], package: str | None):
        if package:
            importlib.import_module(package)
        self.params, self.device = initial_params(track.usual_model), track.tasks.query.x.device.type
        self.gradient = partial(
            judge, track.usual_model, track.loss, self.params, track.tasks, **track.settings
        )
        self.adam = torch.optim.Adam(list(self.params.values()), lr=1e-3, fused=True)

    def gradients(self) -> list[Tensor]:
        # The bias of a convolution before batch norm exists in the usual form only, and its gradient is zero.
        return [g for g in self.gradient()[1].values() if g.abs().max() > 1e-12]

    def burst(self, n: int) -> float:
        start = now(self.device)
        for _ in range(n):
            _, gradients = self.gradient()
            for name, p in self.params.items():
                p.grad = gradients[name]
            self.adam.step()
        return now(self.device) - start


def with_learn2learn(
    model: nn.Module,
    loss_fn: judges.LossFn,
    params: Params,
    tasks: Task,
    *,
    inner_lr,
    inner_steps,
    first_order,
) -> tuple[Tensor, Params]:
    """Arnold et al. (2020), `learn2learn.algorithms.MAML`."""
    from learn2learn.algorithms import MAML

    net = with_weights(model, params)
    algorithm = MAML(net, lr=inner_lr, first_order=first_order)
    total = torch.zeros(())
    for support, query in judges.each_task(tasks):
        learner = algorithm.clone()
        for _ in range(inner_steps):
            learner.adapt(loss_fn(learner(support.x), support.y))
        loss = loss_fn(learner(query.x), query.y) / len(tasks.support.x)
        loss.backward()
        total = total + loss.detach()
    return total, {name: p.grad for name, p in net.named_parameters()}


def with_higher(
    model: nn.Module,
    loss_fn: judges.LossFn,
    params: Params,
    tasks: Task,
    *,
    inner_lr,
    inner_steps,
    first_order,
) -> tuple[Tensor, Params]:
    """Grefenstette et al. (2019), `higher.innerloop_ctx`."""
    import higher

    net = with_weights(model, params)
    inner = torch.optim.SGD(net.parameters(), lr=inner_lr)
    total = torch.zeros(())
    for support, query in judges.each_task(tasks):
        with higher.innerloop_ctx(
            net, inner, copy_initial_weights=False, track_higher_grads=not first_order
        ) as (f, opt):
            for _ in range(inner_steps):
                opt.step(loss_fn(f(support.x), support.y))
            loss = loss_fn(f(query.x), query.y) / len(tasks.support.x)
            if first_order:
                # Without tracking, the adapted weights are leaves: their gradient is the first-order meta-gradient.
                gradients = torch.autograd.grad(loss, list(f.parameters()))
                for p, g in zip(net.parameters(), gradients, strict=True):
                    p.grad = g if p.grad is None else p.grad + g
            else:
                loss.backward()
            total = total + loss.detach()
    return total, {name: p.grad for name, p in net.named_parameters()}


def with_torchopt(
    model: nn.Module,
    loss_fn: judges.LossFn,
    params: Params,
    tasks: Task,
    *,
    inner_lr,
    inner_steps,
    first_order,
) -> tuple[Tensor, Params]:
    """Ren et al. (2023), `torchopt.MetaSGD` with `extract_state_dict` and `recover_state_dict`, second order only."""
    import torchopt

    if first_order:
        raise NotImplementedError("torchopt's MetaSGD differentiates through its steps")
    net = with_weights(model, params)
    initial = dict(net.named_parameters())
    inner = torchopt.MetaSGD(net, lr=inner_lr)
    net_state = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
    inner_state = torchopt.extract_state_dict(inner, by="reference")
    total = torch.zeros(())
    for support, query in judges.each_task(tasks):
        for _ in range(inner_steps):
            inner.step(loss_fn(net(support.x), support.y))
        loss = loss_fn(net(query.x), query.y) / len(tasks.support.x)
        loss.backward()
        total = total + loss.detach()
        torchopt.recover_state_dict(net, net_state)
        torchopt.recover_state_dict(inner, inner_state)
    return total, {name: p.grad for name, p in initial.items()}


def with_weights(model: nn.Module, params: Params) -> nn.Module:
    """A copy of the module that holds `params`."""
    net = copy.deepcopy(model)
    net.load_state_dict({**net.state_dict(), **params})
    return net


class Jax:
    """`jit(vmap(grad))` and Adam in one compiled function; where the kit goes task by task, `jit(grad)` for each task."""

    def __init__(self, track: Track):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax
        import jax.numpy as jnp
        from jax import lax

        images, together = track.tasks.query.x, track.chunk_size is None
        jax.config.update("jax_enable_x64", images.dtype == torch.float64)
        self.jax, self.device = jax, jax.devices(images.device.type)[0]
        inner_lr, first_order = track.settings["inner_lr"], track.settings["first_order"]

        def to_jax(t: Tensor) -> Any:
            t = (
                t.movedim(-3, -1) if t.dim() == 5 else t
            )  # stacks of images: channels last, as in JAX's examples
            return jax.device_put(t.detach().cpu().numpy(), self.device)

        def mlp_loss(p: Any, x: Any, y: Any) -> Any:
            for i in (0, 2):
                x = jax.nn.relu(x @ p[i].T + p[i + 1])
            return ((x @ p[4].T + p[5] - y) ** 2).mean()

        def conv_loss(p: Any, x: Any, y: Any) -> Any:
            layout, pair = ("NHWC", "OIHW", "NHWC"), (1, 2, 2, 1)
            for kernel, scale, shift in zip(p[0:12:3], p[1:12:3], p[2:12:3], strict=True):
                x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
                x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * scale + shift
                x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, pair, pair, "VALID")
            log_p = jax.nn.log_softmax(x.reshape(len(x), -1) @ p[12].T + p[13])
            return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

        loss = mlp_loss if track.loss is F.mse_loss else conv_loss

        def after_adaptation(p: Any, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
            phi = p
            for _ in range(track.settings["inner_steps"]):
                g = jax.grad(loss)(phi, sx, sy)
                g = lax.stop_gradient(g) if first_order else g
                phi = jax.tree.map(lambda a, b: a - inner_lr * b, phi, g)
            return loss(phi, qx, qy)

        of_task = jax.jit(jax.grad(after_adaptation))
        data = [to_jax(t) for batch in track.tasks for t in batch]
        tasks = list(zip(*data, strict=True))

        def gradient(p: Any) -> Any:
            if together:
                return jax.tree.map(lambda g: g.mean(0), jax.vmap(of_task, (None, 0, 0, 0, 0))(p, *data))
            return jax.tree.map(lambda *gs: sum(gs) / len(gs), *(of_task(p, *task) for task in tasks))

        @jax.jit
        def adam(p: Any, m: Any, v: Any, t: Any, g: Any) -> Any:
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            a, b = 1e-3 / (1 - 0.9**t), 1 - 0.999**t
            p = jax.tree.map(lambda p, m, v: p - a * m / (jnp.sqrt(v / b) + 1e-8), p, m, v)
            return p, m, v, t + 1

        def step(state: Any) -> Any:
            return adam(*state, gradient(state[0]))

        self.gradient, self.step = (jax.jit(gradient), jax.jit(step)) if together else (gradient, step)
        start = [to_jax(p) for p in track.kit_model.parameters()]
        self.state = (start, [w * 0 for w in start], [w * 0 for w in start], 1.0)

    def gradients(self) -> list[Tensor]:
        return [torch.tensor(self.jax.device_get(g)) for g in self.gradient(self.state[0])]

    def burst(self, n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            self.state = self.step(self.state)
        self.jax.block_until_ready(self.state)
        return time.perf_counter() - start

    def peak_memory(self, device: str) -> float:
        on_gpu = device == "cuda"
        return self.device.memory_stats()["peak_bytes_in_use"] / 2**20 if on_gpu else peak_memory(device)


RACERS: dict[str, Callable[[Track], Any]] = {
    "mamlkit": Kit,
    "mamlkit, compiled": partial(Kit, compiled=True),
    "plain loop": partial(Peer, judge=judges.plain_loop, package=None),
    "torchopt": partial(Peer, judge=with_torchopt, package="torchopt"),
    "higher": partial(Peer, judge=with_higher, package="higher"),
    "learn2learn": partial(Peer, judge=with_learn2learn, package="learn2learn"),
    "JAX": Jax,
}


def difference(track: Track, racer: Any) -> float:
    """The relative difference of a racer's meta-gradient from the kit's, task by task."""
    params = initial_params(track.kit_model)
    ours = meta_gradient(kit_task_loss(track), params, track.tasks, chunk_size=1)[1].values()
    a, b = (torch.cat([g.flatten().cpu() for g in gs]) for gs in (ours, racer.gradients()))
    return ((a - b).norm() / a.norm()).item() if a.shape == b.shape else float("inf")


class Contestant:
    """One racer in one race: what `run.py` asks of a worker."""

    def __init__(self, race: Any, racer: str, device: str):
        self.make, self.device = RACERS[racer], device
        self.lay_out = partial(lay_out, race, device)

    def difference(self) -> float:
        track = self.lay_out(dtype=torch.float64)
        return difference(track, self.make(track))

    def prepare(self, seconds: float) -> None:
        """Set up, look at the memory, compile, warm up, and find the speed."""
        self.racer = self.make(self.lay_out(dtype=torch.float32))
        self.peak = partial(getattr(self.racer, "peak_memory", peak_memory), self.device)
        self.before = self.peak()
        self.racer.burst(n := 1)
        while (elapsed := self.racer.burst(n)) < seconds / 4:
            n *= 4
        self.rate = n / elapsed

    def burst(self, seconds: float) -> float:
        """Meta-steps per second over about `seconds`."""
        n = max(1, round(self.rate * seconds))
        self.rate = n / self.racer.burst(n)
        return self.rate

    def memory(self) -> float:
        return self.peak() - self.before


def set_up(threads: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}")


def machine() -> tuple[str, str]:
    """What this runs on, in words, and the name of the GPU, empty without one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}", gpu
