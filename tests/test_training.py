"""The long loop: the same steps as by hand, exact resume, and errors that lose nothing."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from mamlkit import training
from mamlkit.algorithms import maml
from mamlkit.meta import meta_step, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import class_tasks, sinusoid_tasks
from mamlkit.tasks import Params
from mamlkit.training import meta_train, stack_seeds

ADAM = partial(torch.optim.Adam, lr=1e-2)
SAMPLE = partial(
    _sample := lambda n, generator: sinusoid_tasks(n, k_shot=5, k_query=5, generator=generator), 4
)


def start(seed: int = 0) -> tuple[partial, Params]:
    torch.manual_seed(seed)
    model = mlp([1, 8, 1])
    return partial(
        query_loss, model, partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
    ), initial_params(model)


def double(params: Params) -> Params:
    return {name: p.double() for name, p in params.items()}


def train(steps: int, **more):
    task_loss, params = start()
    settings = {
        "generator": torch.Generator().manual_seed(0),
        "progress": False,
        "meta_optimizer": ADAM,
        **more,
    }
    return meta_train(task_loss, params, SAMPLE, meta_steps=steps, **settings)


def train_in_float64(n_seeds: int | None, **more):
    task_loss, params = start()
    return meta_train(
        task_loss,
        double(params) if n_seeds is None else stack_seeds([double(params)] * n_seeds),
        lambda generator: sinusoid_tasks(8, k_shot=5, k_query=5, generator=generator, dtype=torch.float64),
        meta_steps=20,
        meta_optimizer=ADAM,
        generator=torch.Generator().manual_seed(0),
        n_seeds=n_seeds,
        progress=False,
        **more,
    )


def same(a, b) -> bool:
    return torch.equal(a.losses, b.losses) and all(torch.equal(a.params[n], b.params[n]) for n in a.params)


def test_meta_train_is_meta_step_again_and_again() -> None:
    task_loss, params = start()
    generator, optimizer = torch.Generator().manual_seed(0), ADAM(list(params.values()))
    losses = [meta_step(task_loss, params, SAMPLE(generator), optimizer) for _ in range(7)]

    trained = train(7)

    assert torch.equal(trained.losses, torch.stack(losses))
    assert all(torch.equal(trained.params[name], params[name]) for name in params)


def test_meta_train_leaves_its_starting_point_alone() -> None:
    task_loss, params = start()
    before = {name: p.clone() for name, p in params.items()}

    meta_train(
        task_loss,
        params,
        SAMPLE,
        meta_steps=2,
        meta_optimizer=ADAM,
        generator=torch.Generator(),
        progress=False,
    )

    assert all(torch.equal(params[name], before[name]) for name in params)


def test_seeds_trained_at_once_are_the_seeds_trained_alone() -> None:
    task_loss, first = start(0)
    _, second = start(1)
    drawn = []

    def sample(generator):
        drawn.append(_sample(8, generator))
        return drawn[-1]

    settings = {"meta_steps": 5, "meta_optimizer": ADAM, "progress": False}
    together = meta_train(
        task_loss,
        stack_seeds([first, second]),
        sample,
        generator=torch.Generator().manual_seed(3),
        n_seeds=2,
        **settings,
    )

    for seed, params in enumerate((first, second)):
        parts = iter(
            [torch.utils._pytree.tree_map(lambda t, s=seed: t[4 * s : 4 * s + 4], tasks) for tasks in drawn]
        )
        alone = meta_train(
            task_loss, params, lambda _, parts=parts: next(parts), generator=torch.Generator(), **settings
        )
        assert torch.allclose(together.losses[:, seed], alone.losses, rtol=1e-4)
        assert all(torch.allclose(together.params[n][seed], alone.params[n], atol=1e-5) for n in params)


def test_a_compiled_run_gives_the_plain_runs_numbers() -> None:
    plain, compiled = train(5), train(5, compiled=True)

    assert torch.allclose(compiled.losses, plain.losses, rtol=1e-4)


def test_without_a_compiler_a_warning_and_the_plain_path(tmp_path: Path) -> None:
    code = (
        "import sys, warnings; sys.path.insert(0, 'tests'); import test_training as t\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    run = t.train(3, compiled=True)\n"
        "assert t.same(run, t.train(3))\n"
        "print([str(w.message) for w in seen if 'no working compiler' in str(w.message)])"
    )
    env = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=Path(__file__).parents[1]
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("every step runs plainly") == 1


def test_a_run_resumed_at_every_step_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    for steps in range(1, 7):
        resumed = train(steps, checkpoint=tmp_path / "run.pt")

    assert same(resumed, train(6))


def test_a_run_killed_again_and_again_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_training as t; t.torch.set_num_threads(1)\n"
        f"run = t.train(1500, checkpoint={str(tmp_path / 'run.pt')!r}, checkpoint_seconds=0)\n"
        f"t.torch.save([run.params, run.losses], {str(tmp_path / 'end.pt')!r})"
    )
    kills = 0
    for wait in (0.3, 0.5, 0.4, 600):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
        while process.poll() is None and not (tmp_path / "run.pt").exists():
            time.sleep(0.01)
        before = (tmp_path / "run.pt").stat().st_mtime_ns
        while process.poll() is None and (tmp_path / "run.pt").stat().st_mtime_ns == before:
            time.sleep(0.01)  # let it get on, so that every kill comes later than the last
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    params, losses = torch.load(tmp_path / "end.pt", weights_only=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unbroken = train(1500)
    torch.set_num_threads(threads)
    assert kills >= 2
    assert torch.equal(losses, unbroken.losses)
    assert all(torch.equal(params[name], unbroken.params[name]) for name in params)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["end.pt", "run.pt"]


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:100]), {}, "no readable checkpoint"),
        (lambda f: f.write_bytes(b"something else"), {}, "no readable checkpoint"),
        (lambda f: None, {"config": {"inner_lr": 0.5}}, r'"config": \{\}.*this one.*\{"inner_lr": 0.5\}'),
        (lambda f: None, {"meta_optimizer": partial(torch.optim.Adam, lr=0.5)}, '"lr": 0.5'),
        (lambda f: None, {"params": double(start()[1])}, "another network"),
        (lambda f: None, {"meta_steps": 1}, "2 steps on, but meta_steps=1"),
        (lambda f: None, {"params": initial_params(mlp([1, 9, 1]))}, "another network"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_left_alone(
    tmp_path: Path, spoil, more: dict, message: str
) -> None:
    file = tmp_path / "run.pt"
    train(2, checkpoint=file)
    spoil(file)
    before = file.read_bytes()
    task_loss, params = start()
    settings = {"params": params, "meta_steps": 3, "meta_optimizer": ADAM, **more}

    with pytest.raises(ValueError, match=message):
        meta_train(
            task_loss,
            sample_tasks=SAMPLE,
            generator=torch.Generator(),
            checkpoint=file,
            progress=False,
            **settings,
        )

    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match="file"):
        train(1, checkpoint=tmp_path / "file" / "run.pt")


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    train(2, checkpoint=file)
    before = file.read_bytes()
    task_loss, params = start()
    seen = []

    def poisoned(generator):
        seen.append(None)
        tasks = SAMPLE(generator)
        if len(seen) == 2:
            tasks.query.y[:] = float("inf")
        return tasks

    with pytest.raises(
        FloatingPointError, match="the meta-loss is inf at meta-step 3; the checkpoint is left as it was"
    ):
        meta_train(
            task_loss,
            params,
            poisoned,
            meta_steps=9,
            meta_optimizer=ADAM,
            generator=torch.Generator(),
            checkpoint=file,
            progress=False,
        )

    assert file.read_bytes() == before


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    _, params = start()
    first = next(iter(params))

    def finite_with_an_infinite_slope(params, task):
        return (params[first] * 0).sum().sqrt()  # sqrt(0) is 0, its slope is not finite

    for checkpoint in (None, tmp_path / "run.pt"):
        with pytest.raises(FloatingPointError, match=f"{first} is not finite after meta-step 0"):
            meta_train(
                finite_with_an_infinite_slope,
                params,
                SAMPLE,
                meta_steps=1,
                meta_optimizer=ADAM,
                generator=torch.Generator(),
                checkpoint=checkpoint,
                progress=False,
            )

    assert list(tmp_path.iterdir()) == []


def test_tasks_that_the_seeds_cannot_share_are_refused() -> None:
    task_loss, params = start()

    with pytest.raises(ValueError, match=r"tasks, which n_seeds=3 on 1 processes can't share"):
        meta_train(
            task_loss,
            stack_seeds([params] * 3),
            SAMPLE,
            meta_steps=1,
            meta_optimizer=ADAM,
            generator=torch.Generator(),
            n_seeds=3,
            progress=False,
        )
    with pytest.raises(ValueError, match="0 seeds"):
        stack_seeds([])


def three_seeds(steps: int, *, poisoned: tuple[int, ...] = (), at: int = 2, **more):
    """Three seeds in float64; those of `poisoned` draw an infinite target in meta-step `at`."""
    task_loss, params = start()

    def sample(generator):
        tasks = sinusoid_tasks(6, k_shot=5, k_query=5, generator=generator, dtype=torch.float64)
        if next(steps_drawn) == at:
            for seed in poisoned:
                tasks.query.y[2 * seed] = float("inf")
        return tasks

    steps_drawn = itertools.count(more.pop("first", 0))
    return meta_train(
        task_loss,
        stack_seeds([double(params)] * 3),
        sample,
        meta_steps=steps,
        meta_optimizer=ADAM,
        generator=torch.Generator().manual_seed(0),
        n_seeds=3,
        progress=False,
        **more,
    )


def test_a_seed_that_diverges_is_stopped_and_the_others_never_notice() -> None:
    healthy = three_seeds(6)

    with pytest.warns(UserWarning, match="the meta-loss is inf at meta-step 2, seed 1 of 3: it is stopped"):
        run = three_seeds(6, poisoned=(1,))

    for seed in (0, 2):
        assert torch.equal(run.losses[:, seed], healthy.losses[:, seed])
        assert all(torch.equal(run.params[n][seed], healthy.params[n][seed]) for n in run.params)
    assert run.losses[:, 1].isfinite().tolist() == [True, True, False, False, False, False]
    assert all(p[1].isnan().all() for p in run.params.values())


def test_a_run_with_a_stopped_seed_resumes_to_the_same_end(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="seed 1 of 3"):
        unbroken = three_seeds(6, poisoned=(1,))
    with pytest.warns(UserWarning, match="seed 1 of 3"):
        three_seeds(4, poisoned=(1,), checkpoint=tmp_path / "run.pt")

    resumed = three_seeds(6, poisoned=(1,), first=4, checkpoint=tmp_path / "run.pt")

    assert torch.equal(resumed.losses.nan_to_num(), unbroken.losses.nan_to_num())
    for name in resumed.params:
        assert torch.equal(resumed.params[name].nan_to_num(), unbroken.params[name].nan_to_num())


def test_a_run_whose_last_seed_diverges_ends_with_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="it is stopped"),
        pytest.raises(FloatingPointError, match="the meta-loss is inf at meta-step 2, seed 2 of 3"),
    ):
        three_seeds(6, poisoned=(0, 1, 2))


def test_the_best_parameters_are_those_of_the_best_validation(tmp_path: Path) -> None:
    seen = []

    def validate(params):
        seen.append({name: p.clone() for name, p in params.items()})
        return torch.tensor([0.3, 0.9, 0.6][len(seen) - 1])

    run = train(7, validate=validate, validate_every=2)

    assert torch.allclose(run.validation, torch.tensor([0.3, 0.9, 0.6]))
    assert all(torch.equal(run.best[name], seen[1][name]) for name in run.best)
    assert same(run, train(7))
    assert all(torch.equal(p, run.params[name]) for name, p in train(7).best.items())


def test_each_seed_keeps_its_own_best_and_a_resumed_run_the_same_ones(tmp_path: Path) -> None:
    def validate(params):
        return sum(p.double().flatten(1).sin().sum(1) for p in params.values())

    settings = {"validate": validate, "validate_every": 2}
    unbroken = three_seeds(8, **settings)
    three_seeds(5, checkpoint=tmp_path / "run.pt", **settings)

    resumed = three_seeds(8, checkpoint=tmp_path / "run.pt", **settings)

    assert unbroken.validation.shape == (4, 3)
    assert torch.equal(resumed.validation, unbroken.validation)
    assert all(torch.equal(resumed.best[name], unbroken.best[name]) for name in resumed.best)
    assert torch.allclose(validate(unbroken.best).float(), unbroken.validation.amax(0))


def test_a_validation_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"validate gave the shape \(2,\), but a run needs \(\)"):
        train(1, validate=lambda params: torch.zeros(2), validate_every=1)
    with pytest.raises(ValueError, match="validate_every=0"):
        train(1, validate_every=0)


def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    train(2, checkpoint=file)
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # no file may grow beyond 1,000 bytes
    try:
        with pytest.raises(OSError, match="the checkpoint of meta-step 4 can't be written"):
            train(4, checkpoint=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert same(train(4, checkpoint=file), train(4))


def test_a_run_that_is_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    spent = [0.0]
    for step in (1, 2, 3):
        with pytest.raises(TimeoutError, match=rf"are over at meta-step {step} of 4; .*run.pt holds it"):
            train(4, checkpoint=tmp_path / "run.pt", max_seconds=-1)
        spent.append(torch.load(tmp_path / "run.pt", weights_only=True)["seconds"])
    run = train(4, checkpoint=tmp_path / "run.pt", max_seconds=-1)

    assert same(run, train(4))
    assert all(later > earlier for earlier, later in pairwise([*spent, run.seconds]))  # all parts are counted


def test_a_time_limit_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="max_seconds=5 without a checkpoint would lose the run"):
        train(1, max_seconds=5)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc has the switch")
def test_while_it_trains_on_a_cpu_large_blocks_stay_on_the_heap() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import ctypes, test_training as t\n"
        "class Info(ctypes.Structure): _fields_ = [(str(i), ctypes.c_size_t) for i in range(10)]\n"
        "info = ctypes.CDLL(None).mallinfo2; info.restype = Info\n"
        "mapped = lambda: getattr(info(), '4')  # hblkhd, bytes outside the heap\n"
        "if sys.argv[1] == 'train': t.train(1)\n"
        "before = mapped(); block = t.torch.ones(2**24); print(mapped() - before)"
    )
    outside = [
        int(subprocess.run([sys.executable, "-c", code, what], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[1]).stdout)
        for what in ("idle", "train")
    ]  # fmt: skip

    assert outside[0] >= 4 * 2**24
    assert outside[1] == 0


def test_between_two_checkpoints_the_parameters_are_not_looked_at(monkeypatch) -> None:
    looks = []
    look = training._Run.stop_what_is_not_finite
    monkeypatch.setattr(
        training._Run,
        "stop_what_is_not_finite",
        lambda self, since, *, params_too: (
            looks.append(params_too),
            look(self, since, params_too=params_too),
        ),
    )

    train(6, checkpoint_seconds=-1)  # there is no checkpoint whose time could have come

    assert looks == [False] * 5 + [True]


def test_a_read_only_folder_is_said_before_the_first_step(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refuse)

    with pytest.raises(OSError, match=r"no checkpoint can be written here \(Read-only file system\)"):
        train(1, checkpoint=tmp_path / "run.pt")


class Waits(TorchFunctionMode):
    """Counts the calls whose answer the host needs before it can go on: on a GPU each of them waits."""

    names = frozenset(
        [
            "item",
            "tolist",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "cpu",
            "numpy",
            "equal",
            "nonzero",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += getattr(func, "__name__", "") in self.names
        return func(*args, **(kwargs or {}))


def test_between_two_looks_a_run_never_waits_for_the_device(monkeypatch) -> None:
    monkeypatch.setitem(training._LOOK_EVERY, "cpu", 50)
    torch.manual_seed(0)
    model = mlp([16, 8, 3], batch_norm=True)
    images = torch.rand(6, 4, 1, 4, 4)

    def waits(steps: int) -> int:
        with Waits() as mode:
            meta_train(
                partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)),
                initial_params(model),
                lambda g: class_tasks(images, 2, n_way=3, k_shot=1, k_query=1, generator=g),
                meta_steps=steps,
                meta_optimizer=partial(torch.optim.SGD, lr=0.1),
                generator=torch.Generator().manual_seed(0),
                progress=False,
            )
        return mode.n

    assert waits(40) == waits(4) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_recorded_step_gives_the_plain_steps_numbers() -> None:
    runs = {}
    for compiled in (False, True):
        task_loss, params = start()
        runs[compiled] = meta_train(
            task_loss,
            {name: p.cuda() for name, p in params.items()},
            SAMPLE,
            meta_steps=30,
            meta_optimizer=ADAM,
            generator=torch.Generator(device="cuda").manual_seed(0),
            compiled=compiled,
            progress=False,
        )

    assert torch.allclose(runs[True].losses, runs[False].losses, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"meta_steps": -1}, "meta_steps=-1"), ({"n_seeds": 2}, "n_seeds=2, but not every parameter")],
)
def test_impossible_runs_are_refused(settings: dict, message: str) -> None:
    task_loss, params = start()
    settings = {"meta_steps": 1, **settings}

    with pytest.raises(ValueError, match=message):
        meta_train(task_loss, params, SAMPLE, meta_optimizer=ADAM, generator=torch.Generator(), **settings)


def test_a_run_shows_its_progress_unless_told_not_to(capsys) -> None:
    train(1, progress=True)
    shown = capsys.readouterr().err
    train(1, progress=False)
    silent = capsys.readouterr().err
    train(100, progress=True, validate=lambda params: torch.tensor(0.25), validate_every=50)
    with_accuracy = capsys.readouterr().err

    assert "1/1" in shown
    assert "100/100" in with_accuracy
    assert "accuracy=0.250" in with_accuracy
    assert "loss=" in with_accuracy
    assert silent == ""


def test_a_sampler_that_changes_its_shapes_is_refused() -> None:
    task_loss, params = start()
    sizes = iter([4, 5])

    with pytest.raises(ValueError, match=r"the tasks have other shapes, .* than the first ones"):
        meta_train(
            task_loss,
            params,
            lambda generator: _sample(next(sizes), generator),
            meta_steps=2,
            meta_optimizer=ADAM,
            generator=torch.Generator(),
            progress=False,
        )


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_training as t; t.torch.set_num_threads(1)\n"
        "t.torch.distributed.init_process_group('gloo')\n"
        "for n_seeds in (None, 2):\n"
        f"    run = t.train_in_float64(n_seeds, checkpoint={str(tmp_path)!r} + f'/{{n_seeds}}.pt')\n"
        "    if t.torch.distributed.get_rank() == 1:\n"
        f"        t.torch.save([run.params, run.losses], {str(tmp_path)!r} + f'/end-{{n_seeds}}.pt')\n"
        "t.torch.distributed.destroy_process_group()\n"
    )
    (tmp_path / "run.py").write_text(code)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "run.py")]

    done = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    for n_seeds in (None, 2):
        params, losses = torch.load(tmp_path / f"end-{n_seeds}.pt", weights_only=True)
        alone = train_in_float64(n_seeds)
        assert torch.allclose(losses, alone.losses, rtol=1e-6)
        assert all(torch.allclose(params[name], alone.params[name], rtol=1e-9) for name in params)
        assert (tmp_path / f"{n_seeds}.pt").exists()
