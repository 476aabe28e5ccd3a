"""The long loop: the same steps as by hand, exact resume, and errors that lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from mamlkit.algorithms import maml
from mamlkit.meta import meta_step, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import sinusoid_tasks
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


def test_the_seed_that_diverged_is_named() -> None:
    task_loss, params = start()
    broken = {name: p * float("nan") for name, p in params.items()}

    with pytest.raises(FloatingPointError, match="nan at meta-step 0, seed 1 of 2"):
        meta_train(
            task_loss,
            stack_seeds([params, broken]),
            SAMPLE,
            meta_steps=1,
            meta_optimizer=ADAM,
            generator=torch.Generator(),
            n_seeds=2,
            progress=False,
        )


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

    assert "1/1" in shown
    assert capsys.readouterr().err == ""


def test_a_sampler_that_changes_its_shapes_is_refused() -> None:
    task_loss, params = start()
    sizes = iter([4, 5])

    with pytest.raises(ValueError, match="the tasks of meta-step 1 have other shapes"):
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
