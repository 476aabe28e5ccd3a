"""The long loop: the same steps as by hand, exact resume, and errors that lose nothing."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from mamlkit import training
from mamlkit.algorithms import maml
from mamlkit.meta import meta_step, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import class_tasks, sinusoid_tasks
from mamlkit.tasks import Params
from mamlkit.training import Trained, meta_train, stack_seeds

ROOT = Path(__file__).parents[1]
ADAM = partial(torch.optim.Adam, lr=1e-2)
NAN = float("nan")


def sample(n: int, generator: torch.Generator, **dtype):
    return sinusoid_tasks(n, k_shot=5, k_query=5, generator=generator, **dtype)


def start(seed: int = 0) -> tuple[partial, Params]:
    torch.manual_seed(seed)
    model = mlp([1, 8, 1])
    adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
    return partial(query_loss, model, adapt), initial_params(model)


def double(params: Params) -> Params:
    return {name: p.double() for name, p in params.items()}


def train(steps: int, **more) -> Trained:
    task_loss, params = start()
    settings = {"task_loss": task_loss, "params": params, "meta_optimizer": ADAM, "progress": False}
    settings |= {"sample_tasks": partial(sample, 4), "generator": torch.Generator().manual_seed(0)}
    return meta_train(meta_steps=steps, **(settings | more))


def train_in_float64(n_seeds: int | None, **more) -> Trained:
    params = double(start()[1])
    settings = {"params": params if n_seeds is None else stack_seeds([params] * n_seeds), "n_seeds": n_seeds}
    settings["sample_tasks"] = partial(sample, 8, dtype=torch.float64)
    return train(20, **(settings | more))


def poisoned(n: int, where: list[int], *, at: int, **dtype):
    """A sampler of `n` tasks, those of `where` with infinite targets in its draw number `at`."""
    draws = itertools.count()

    def draw(generator):
        tasks = sample(n, generator, **dtype)
        if next(draws) == at:
            tasks.query.y[where] = float("inf")
        return tasks

    return draw


def three_seeds(steps: int, *, stopped: tuple[int, ...] = (), first: int = 0, **more) -> Trained:
    """Three seeds in float64; those of `stopped` draw an infinite target in meta-step 2."""
    draw = poisoned(6, [2 * seed for seed in stopped], at=2 - first, dtype=torch.float64)
    return train(steps, params=stack_seeds([double(start()[1])] * 3), sample_tasks=draw, n_seeds=3, **more)


def same(a: Trained, b: Trained) -> bool:
    pairs = [(a.losses, b.losses), (a.validation, b.validation)]
    pairs += [(x[name], y[name]) for x, y in ((a.params, b.params), (a.best, b.best)) for name in x]
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


def test_meta_train_is_meta_step_again_and_again_and_leaves_its_start_alone() -> None:
    task_loss, params = start()
    generator, optimizer = torch.Generator().manual_seed(0), ADAM(list(params.values()))
    losses = [meta_step(task_loss, params, sample(4, generator), optimizer) for _ in range(7)]
    begin = start()[1]

    trained = train(7, params=begin)

    assert torch.equal(trained.losses, torch.stack(losses))
    assert all(torch.equal(trained.params[name], params[name]) for name in params)
    assert all(torch.equal(begin[name], p) for name, p in start()[1].items())


def test_seeds_trained_at_once_are_the_seeds_trained_alone() -> None:
    starts, drawn = [start(0)[1], start(1)[1]], []

    def draw(generator):
        drawn.append(sample(8, generator))
        return drawn[-1]

    together = train(5, params=stack_seeds(starts), sample_tasks=draw, n_seeds=2)

    for seed, params in enumerate(starts):
        parts = iter([tree_map(lambda t, s=seed: t[4 * s : 4 * s + 4], tasks) for tasks in drawn])
        alone = train(5, params=params, sample_tasks=lambda _, parts=parts: next(parts))
        assert torch.allclose(together.losses[:, seed], alone.losses, rtol=1e-4)
        assert all(torch.allclose(together.params[n][seed], alone.params[n], atol=1e-5) for n in params)


def warned(steps: int, **settings) -> tuple[Trained, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = train(steps, compiled=True, **settings)
    return run, [str(w.message) for w in seen if "runs plainly" in str(w.message)]


def compiled_is_plain() -> None:
    def task_loss(params, task):
        return (task.query.x.sin() @ params["w"] - task.query.y).square().mean()

    settings = {"task_loss": task_loss, "params": {"w": torch.ones(1, 1)}}
    run, warnings_seen = warned(5, **settings)
    assert not warnings_seen, warnings_seen
    assert torch.allclose(run.losses, train(5, **settings).losses, rtol=1e-5)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_a_compiled_run_gives_the_plain_runs_numbers_whatever_the_cache_was_filled_with() -> None:
    code = "import sys; sys.path.insert(0, 'tests'); import test_training as t; t.compiled_is_plain()"

    compiled_is_plain()
    without_vectors = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=without_vectors).returncode == 0


def test_without_a_compiler_a_warning_and_the_plain_path() -> None:
    torch._dynamo.reset()
    nothing = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}

    with torch._inductor.config.patch(nothing):
        run, (only,) = warned(3)

    assert "no working compiler here, so every step runs plainly: " in only
    assert "no-such-compiler" in only
    assert same(run, train(3))


def fake_compiler(monkeypatch, factors: dict[str, float]) -> list[int]:
    asked = []

    def off(gradient, params, tasks):
        asked.append(1)
        loss, gradients = gradient(params, tasks)
        return loss * factors.get("loss", 1), {n: g * factors.get(n, 1) for n, g in gradients.items()}

    monkeypatch.setattr(torch, "compile", lambda gradient, **_: partial(off, gradient))
    return asked


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"loss": 1.1}, "the loss is off"),
        ({"loss": float("inf")}, "the loss is off by inf"),
        ({"head.bias": 0.9}, "the gradient of head.bias is off"),
        ({"body.1.weight": NAN}, "the gradient of body.1.weight is off by nan"),
        ({"head.bias": 1 + 1e-5}, ""),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiler_is_trusted_if_its_first_numbers_differ_by_rounding_only(
    monkeypatch, factors: dict[str, float], words: str, dtype: torch.dtype
) -> None:
    asked = fake_compiler(monkeypatch, factors)
    settings = {"params": {n: p.to(dtype) for n, p in start()[1].items()}}
    settings["sample_tasks"] = partial(sample, 4, dtype=dtype)
    run, seen = warned(3, **settings)

    assert [words in message for message in seen] == [True] * bool(words)
    assert same(run, train(3, **settings)) == bool(words)
    assert len(asked) == (1 if words else 3)


def test_in_bfloat16_a_compiler_may_be_off_by_much_but_not_tenfold(monkeypatch) -> None:
    task_loss = start()[0]

    def coarse(params, task):
        with torch.autocast("cpu", torch.bfloat16):
            return task_loss(params, task)

    for factor, n_warnings in ((1.5, 0), (20, 1), (NAN, 1)):
        fake_compiler(monkeypatch, {"loss": factor})
        assert len(warned(1, task_loss=coarse)[1]) == n_warnings


class Scheduled(torch.optim.SGD):
    """A rate that halves in every step, and an attribute that no copy keeps."""

    def __init__(self, params) -> None:
        super().__init__(params, lr=0.1)
        self.factor, self.param_groups[0]["initial_lr"] = 0.5, 0.1

    def step(self) -> None:
        super().step()
        self.param_groups[0]["lr"] *= self.factor


@pytest.mark.parametrize(
    "optimizer",
    [
        ADAM,
        Scheduled,
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        partial(torch.optim.Adam, lr=torch.tensor(0.1), amsgrad=True, foreach=False),
        partial(torch.optim.Adafactor, lr=0.1),
        lambda params: torch.optim.AdamW([*params[:2], torch.ones(1)]),
    ],
)
def test_a_run_resumed_at_every_step_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path, optimizer) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "run.pt")
    (tmp_path / ".run.pt.0123456789abcdef.draft").touch()  # of a run that was killed
    settings = {"meta_optimizer": optimizer, "validate": lambda p: p["head.bias"].sum(), "validate_every": 2}
    settings["config"] = {"inner_lr": 0.01, "sizes": (1, 8)}
    for steps in range(1, 6):
        resumed = train(steps, checkpoint=tmp_path / "link.pt", **settings)

    assert same(resumed, train(5, **settings))
    assert (tmp_path / "link.pt").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.pt", "run.pt"]


def spoilt(file: Path, **changes) -> None:
    torch.save(torch.load(file, weights_only=True) | changes, file)


def spoilt_optimizer(file: Path, change) -> None:
    state = torch.load(file, weights_only=True)["optimizer"]
    change(state["param_groups"][0], state["state"])
    spoilt(file, optimizer=state)


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:100]), {}, "no readable checkpoint"),
        (lambda f: f.write_bytes(b"something else"), {}, "no readable checkpoint"),
        (lambda f: None, {"config": {"inner_lr": 0.5}}, r'"config": \{\}.*this one.*\{"inner_lr": 0.5\}'),
        (lambda f: None, {"meta_optimizer": partial(torch.optim.Adam, lr=0.5)}, 'other settings.*"lr": 0.5'),
        (lambda f: None, {"validate_every": 2}, 'other settings.*"validate_every": 2'),
        (lambda f: None, {"params": double(start()[1])}, "another network"),
        (lambda f: None, {"params": initial_params(mlp([1, 9, 1]))}, "another network"),
        (lambda f: None, {"meta_steps": 1}, "2 steps on, but meta_steps=1"),
        (lambda f: spoilt(f, step="2"), {}, "no readable checkpoint"),
        (lambda f: spoilt(f, step=0, losses=torch.ones(0), validation=[]), {}, "no readable checkpoint"),
        (lambda f: spoilt(f, losses=torch.ones(1)), {}, "losses can't be"),
        (lambda f: spoilt(f, losses=torch.tensor([1.0, NAN])), {}, "losses can't be"),
        (lambda f: spoilt(f, params={n: p * NAN for n, p in start()[1].items()}), {}, "params can't be"),
        (lambda f: spoilt(f, best={n: p[:1] for n, p in start()[1].items()}), {}, "best can't be"),
        (lambda f: spoilt(f, validation=[torch.ones(())] * 3), {}, "validation can't be"),
        (lambda f: spoilt(f, validation=[torch.ones(1)] * 2), {}, "validation can't be"),
        (lambda f: spoilt(f, stopped=[1]), {}, "stopped can't be"),
        (lambda f: spoilt(f, seconds=NAN), {}, "seconds can't be"),
        (lambda f: spoilt(f, generator=torch.zeros(3, dtype=torch.uint8)), {}, "no readable checkpoint"),
        (lambda f: spoilt(f, optimizer={}), {}, "no readable checkpoint"),
        (lambda f: spoilt_optimizer(f, lambda group, state: group.update(lr=9.0)), {}, "optimizer can't be"),
        (lambda f: spoilt_optimizer(f, lambda group, state: state.clear()), {}, "optimizer can't be"),
        (
            lambda f: spoilt_optimizer(f, lambda group, state: state[0].update(exp_avg=1)),
            {},
            "optimizer can't be",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_left_alone(
    tmp_path: Path, spoil, more: dict, message: str
) -> None:
    file, generator = tmp_path / "run.pt", torch.Generator().manual_seed(5)
    looks = {"validate": lambda params: 0.5, "validate_every": 1}
    train(2, checkpoint=file, **looks)
    spoil(file)
    before, state = file.read_bytes(), generator.get_state()

    with pytest.raises(ValueError, match=message):
        train(more.pop("meta_steps", 3), checkpoint=file, generator=generator, **(looks | more))

    assert file.read_bytes() == before
    assert torch.equal(generator.get_state(), state)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_says_the_same(tmp_path: Path) -> None:
    file, generator, chance = tmp_path / "run.pt", torch.Generator().manual_seed(0), random.Random(0)
    whole, state = train(3, checkpoint=file, generator=generator), generator.get_state()
    data, refused = file.read_bytes(), 0
    for _ in range(200):
        spoilt, at = bytearray(data), chance.randrange(8 * len(data))
        spoilt[at // 8] ^= 1 << at % 8
        file.write_bytes(spoilt)
        generator.manual_seed(1)
        try:
            assert same(train(3, checkpoint=file, generator=generator), whole)
            assert torch.equal(generator.get_state(), state)
        except ValueError as error:
            assert "no readable checkpoint" in str(error) or "other settings" in str(error)  # noqa: PT017
            refused += 1
        assert file.read_bytes() == spoilt

    assert refused > 50


@pytest.mark.parametrize("name", ["file/run.pt", "", "/proc/run.pt", "x" * 300 + "/run.pt"])
def test_a_place_that_cannot_be_written_is_said_before_the_first_step(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match=r"no checkpoint can be written here \(.*give another one"):
        train(1, checkpoint=tmp_path / name, sample_tasks=lambda _: pytest.fail("a step was made"))


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    train(2, checkpoint=file)
    before = file.read_bytes()

    with pytest.raises(FloatingPointError, match="is inf at meta-step 3; the checkpoint is left as it was"):
        train(9, sample_tasks=poisoned(4, [0], at=1), checkpoint=file)

    assert file.read_bytes() == before


@pytest.mark.parametrize("saved", [True, False])
def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path: Path, saved: bool) -> None:
    def finite_with_an_infinite_slope(params, task):
        return (params["head.bias"] * 0).sum().sqrt()  # sqrt(0) is 0, its slope is not finite

    with pytest.raises(FloatingPointError, match="is not finite after meta-step 0"):
        train(1, task_loss=finite_with_an_infinite_slope, checkpoint=tmp_path / "run.pt" if saved else None)

    assert list(tmp_path.iterdir()) == []


def test_a_seed_that_diverges_is_stopped_and_the_others_never_notice() -> None:
    healthy = three_seeds(6)

    with pytest.warns(UserWarning, match="the meta-loss is inf at meta-step 2, seed 1 of 3: it is stopped"):
        run = three_seeds(6, stopped=(1,))

    for seed in (0, 2):
        assert torch.equal(run.losses[:, seed], healthy.losses[:, seed])
        assert all(torch.equal(run.params[n][seed], healthy.params[n][seed]) for n in run.params)
    assert run.losses[:, 1].isfinite().tolist() == [True, True, False, False, False, False]
    assert all(p[1].isnan().all() for p in run.params.values())


def test_a_run_with_a_stopped_seed_resumes_to_the_same_end(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="seed 1 of 3"):
        unbroken = three_seeds(6, stopped=(1,))
    with pytest.warns(UserWarning, match="seed 1 of 3"):
        three_seeds(4, stopped=(1,), checkpoint=tmp_path / "run.pt")

    assert same(three_seeds(6, stopped=(1,), first=4, checkpoint=tmp_path / "run.pt"), unbroken)


def test_a_run_whose_last_seed_diverges_ends_with_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="it is stopped"),
        pytest.raises(FloatingPointError, match="the meta-loss is inf at meta-step 2, seed 2 of 3"),
    ):
        three_seeds(6, stopped=(0, 1, 2))


def test_the_best_parameters_are_those_of_the_largest_finite_validation() -> None:
    said, seen = [0.3, 0.9, NAN, 0.9, float("inf"), 0.6], []

    def validate(params):
        seen.append({name: p.clone() for name, p in params.items()})
        return torch.tensor(said[len(seen) - 1])

    with pytest.warns(UserWarning, match="validate gave (nan|inf), which is never the best") as warned:
        run = train(13, validate=validate, validate_every=2)

    assert len(warned) == 2
    assert torch.equal(run.validation.nan_to_num(), torch.tensor(said).nan_to_num())
    assert all(torch.equal(run.best[name], seen[1][name]) for name in run.best)
    assert torch.equal(run.losses, train(13).losses)


def test_without_a_finite_validation_the_best_are_the_last_and_never_the_first(tmp_path: Path) -> None:
    said = torch.tensor([NAN, 0.5, NAN])
    settings = {"validate": lambda params: said, "validate_every": 2, "checkpoint": tmp_path / "run.pt"}
    with pytest.warns(UserWarning, match="validate gave nan for seed [02] of 3"):
        three_seeds(2, **settings)
    with pytest.warns(UserWarning, match="validate gave nan for seed [02] of 3"):
        run = three_seeds(5, **settings)

    assert all(torch.equal(run.best[n][[0, 2]], p[[0, 2]]) for n, p in run.params.items())
    assert all(torch.equal(run.best[n][1], p[1]) for n, p in three_seeds(2).params.items())
    assert same(train(3), train(3)._replace(best=train(3).params))


@pytest.mark.parametrize("meddle", ["params['head.bias'].zero_()", "torch.rand(1, generator=generator)"])
def test_a_validate_that_meddles_is_refused_at_its_first_look(meddle: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def validate(params):
        eval(meddle, {"params": params, "torch": torch, "generator": generator})
        return 0.5

    with pytest.raises(ValueError, match="validate changed params or drew from generator"):
        train(4, generator=generator, validate=validate, validate_every=2)


def test_a_config_that_another_process_would_not_write_alike_is_refused() -> None:
    for value in (print, {1, 2}, float("nan"), torch.float32):
        with pytest.raises(ValueError, match=r"config\['what'\] is nothing that JSON knows"):
            train(0, config={"what": value})


def test_each_seed_keeps_its_own_best_and_a_resumed_run_the_same_ones(tmp_path: Path) -> None:
    def validate(params):
        return sum(p.double().flatten(1).sin().sum(1) for p in params.values())

    settings = {"validate": validate, "validate_every": 2}
    unbroken = three_seeds(8, **settings)
    three_seeds(5, checkpoint=tmp_path / "run.pt", **settings)

    assert unbroken.validation.shape == (4, 3)
    assert same(three_seeds(8, checkpoint=tmp_path / "run.pt", **settings), unbroken)
    assert torch.allclose(validate(unbroken.best).float(), unbroken.validation.amax(0))


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


class Waits(TorchFunctionMode):
    """Counts the calls whose answer the host needs before it can go on: on a GPU each of them waits."""

    names, n = {"item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy", "equal", "nonzero"}, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += getattr(func, "__name__", "") in self.names
        return func(*args, **(kwargs or {}))


def test_between_two_looks_a_run_never_waits_for_the_device(monkeypatch) -> None:
    monkeypatch.setitem(training._LOOK_EVERY, "cpu", 50)
    model, images = mlp([16, 8, 3], batch_norm=True), torch.rand(6, 4, 1, 4, 4)
    settings = {
        "task_loss": partial(query_loss, model, partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)),
        "params": initial_params(model),
        "sample_tasks": lambda g: class_tasks(images, 2, n_way=3, k_shot=1, k_query=1, generator=g),
        "meta_optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    with Waits() as short:
        train(4, **settings)
    with Waits() as long:
        train(40, **settings)

    assert long.n == short.n > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_recorded_step_gives_the_plain_steps_numbers() -> None:
    params = {name: p.cuda() for name, p in start()[1].items()}
    plain, recorded = (
        train(30, params=params, generator=torch.Generator("cuda").manual_seed(0), compiled=compiled).losses
        for compiled in (False, True)
    )

    assert torch.allclose(recorded, plain, rtol=1e-3)


def test_a_run_shows_its_progress_unless_told_not_to(capsys) -> None:
    train(100, progress=True, validate=lambda params: 0.25, validate_every=50)
    shown = capsys.readouterr().err
    train(1)

    assert all(words in shown for words in ("100/100", "accuracy=0.250", "loss="))
    assert capsys.readouterr().err == ""


def test_processes_give_the_numbers_of_one_and_stop_and_start_together(tmp_path: Path) -> None:
    code = """if True:
        import sys; sys.path.insert(0, 'tests')
        import test_training as t
        rank, folder = int(sys.argv[1]), sys.argv[2]
        t.torch.set_num_threads(1)
        t.torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)

        def refused(kind, **settings):
            with t.pytest.raises(kind) as error:
                t.train_in_float64(None, **settings)
            print(error.value)

        for n_seeds in (None, 2):
            run = t.train_in_float64(n_seeds)
            t.torch.save([run.params, run.losses], f"{folder}/{n_seeds}-{rank}.pt")
        refused(TimeoutError, checkpoint=f"{folder}/run.pt", max_seconds=-1 if rank == 1 else 1e9)
        refused(ValueError, checkpoint=f"{folder}/run.pt" if rank == 0 else f"{folder}/other.pt")
        refused(ValueError, generator=t.torch.Generator().manual_seed(rank))
        refused(ValueError, sample_tasks=t.partial(t.sample, 3, dtype=t.torch.float64))
        resumed = t.train_in_float64(None, checkpoint=f"{folder}/run.pt")
        print(t.same(resumed, t.train_in_float64(None)))
        t.torch.distributed.destroy_process_group()
    """
    command, pipe = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen([*command, str(rank), str(tmp_path)], **pipe) for rank in (0, 1)]
    said = [process.communicate(timeout=300)[0].splitlines() for process in both]

    words = ["over at meta-step 1 of", "meta-steps 1, 0", "another generator", "draws 3 tasks", "True"]
    assert [process.returncode for process in both] == [0, 0]
    assert all(word in line for lines in said for word, line in zip(words, lines, strict=True))
    for n_seeds, rank in itertools.product((None, 2), (0, 1)):
        params, losses = torch.load(tmp_path / f"{n_seeds}-{rank}.pt", weights_only=True)
        alone = train_in_float64(n_seeds)
        assert torch.allclose(losses, alone.losses, rtol=1e-6)
        assert all(torch.allclose(params[name], alone.params[name], rtol=1e-9) for name in params)
