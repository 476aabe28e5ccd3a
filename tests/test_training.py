"""The long loop: the same steps as by hand, exact resume, and errors that lose nothing."""

from __future__ import annotations

import itertools
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from mamlkit import checkpoints, meta, training
from mamlkit.algorithms import maml
from mamlkit.meta import batch_loss, meta_step, query_loss
from mamlkit.models import initial_params, mlp
from mamlkit.sampling import class_tasks, sinusoid_tasks
from mamlkit.tasks import Params, Task
from mamlkit.training import Trained, meta_train, read_checkpoint, stack_seeds

ROOT = Path(__file__).parents[1]
ADAM = partial(torch.optim.Adam, lr=1e-2)
NAN, INF = float("nan"), float("inf")


def sample(generator: torch.Generator, n: int = 12, dtype: torch.dtype = torch.float64) -> Task:
    return sinusoid_tasks(n, k_shot=5, k_query=5, generator=generator, dtype=dtype)


def start(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[partial, Params]:
    torch.manual_seed(seed)
    model = mlp([1, 8, 1]).to(dtype)
    adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
    return partial(query_loss, model, adapt), initial_params(model)


def train(steps: int, *, n_seeds: int | None = None, dtype: torch.dtype = torch.float64, **more) -> Trained:
    task_loss, params = start(dtype=dtype)
    settings = {"task_loss": task_loss, "sample_tasks": partial(sample, dtype=dtype), "meta_optimizer": ADAM}
    settings |= {"params": stack_seeds([params] * n_seeds) if n_seeds else params, "n_seeds": n_seeds}
    settings |= {"generator": torch.Generator().manual_seed(0), "progress": False}
    return meta_train(meta_steps=steps, **(settings | more))


def poisoned(*where: int, at: int):
    """A sampler whose tasks `where`, of three seeds 4 each, have infinite targets in its draw number `at`."""
    draws = itertools.count()

    def draw(generator):
        tasks = sample(generator)
        tasks.query.y[list(where)] += INF if next(draws) == at else 0.0
        return tasks

    return draw


@contextmanager
def untouched(file: Path):
    """What happens inside leaves the file as it is and none beside it."""
    before = file.read_bytes()
    yield
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def same(a: Trained, b: Trained) -> bool:
    pairs = zip(tree_leaves(a[:-1]), tree_leaves(b[:-1]), strict=True)  # all but the seconds
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


def test_meta_train_is_meta_step_again_and_again_and_leaves_its_start_alone() -> None:
    task_loss, params = start()
    generator, optimizer = torch.Generator().manual_seed(0), ADAM(list(params.values()))
    losses = [meta_step(task_loss, params, sample(generator), optimizer) for _ in range(7)]
    begin = start()[1]

    trained = train(7, params=begin)

    assert torch.equal(trained.losses, torch.stack(losses).float())
    assert all(torch.equal(trained.params[name], params[name]) for name in params)
    assert all(torch.equal(begin[name], p) for name, p in start()[1].items())


def cosine(step: int) -> float:
    return min(1.0, (step + 1) / 3) * 0.5 * (1 + math.cos(math.pi * step / 5))


HELD = {"schedule": cosine, "clip": 0.5, "meta_optimizer": partial(torch.optim.AdamW, lr=0.01)}


@pytest.mark.parametrize("settings", [{}, HELD], ids=["plainly", "on a schedule and clipped"])
def test_seeds_trained_at_once_are_the_seeds_trained_alone(settings) -> None:
    starts, drawn = [start(0)[1], {name: 3 * p for name, p in start(1)[1].items()}], []

    def draw(generator):
        drawn.append(sample(generator))
        return drawn[-1]

    together = train(5, params=stack_seeds(starts), sample_tasks=draw, n_seeds=2, **settings)

    for seed, params in enumerate(starts):
        parts = iter([tree_map(lambda t, s=seed: t.chunk(2)[s], tasks) for tasks in drawn])
        alone = train(5, params=params, sample_tasks=lambda _, parts=parts: next(parts), **settings)
        assert torch.allclose(together.losses[:, seed], alone.losses, rtol=1e-6)
        assert all(torch.allclose(together.params[n][seed], alone.params[n], rtol=1e-9) for n in params)


def test_a_step_is_as_long_as_its_clipped_gradient_and_its_share_of_the_first_rate_say() -> None:
    sgd = partial(torch.optim.SGD, lr=0.1)
    falling = partial(train, clip=0.01, schedule=lambda step: 1 / (step + 1), meta_optimizer=sgd)

    points = [nn.utils.parameters_to_vector(falling(steps).params.values()) for steps in range(4)]

    moves = [(b - a).norm().item() for a, b in itertools.pairwise(points)]
    assert moves == pytest.approx([0.1 * 0.01, 0.05 * 0.01, 0.1 / 3 * 0.01], rel=1e-3)
    assert same(train(3, clip=1e9), train(3)), "a gradient that is shorter stays as it is"


def warned(steps: int, **settings) -> tuple[Trained, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = train(steps, compiled=True, **settings)
    return run, [str(w.message) for w in seen if "runs plainly" in str(w.message)]


def line_loss(params: Params, task: Task) -> torch.Tensor:
    return (task.query.x.sin() @ params["w"] - task.query.y).square().mean()


LINE = {"task_loss": line_loss, "params": {"w": torch.ones(1, 1)}, "dtype": torch.float32}


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_a_compiled_run_gives_the_plain_runs_numbers() -> None:
    run, seen = warned(5, **LINE)

    assert not seen, seen
    assert torch.allclose(run.losses, train(5, **LINE).losses, rtol=1e-5)


def test_without_a_compiler_a_warning_and_the_plain_path() -> None:
    torch._dynamo.reset()
    nothing = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}

    with torch._inductor.config.patch(nothing):
        run, (only,) = warned(3, **LINE)

    assert "no working compiler here, so every step runs plainly: " in only
    assert "no-such-compiler" in only
    assert same(run, train(3, **LINE))


def fake_compiler(monkeypatch, factors: dict[str, float]) -> list[str]:
    """Puts a compiler in place whose numbers are off by factors; it notes the tag of torch's cache in each step."""
    tags = []

    def off(gradient, params, tasks):
        tags.append(torch.compiler.config.cache_key_tag)
        loss, gradients = gradient(params, tasks)
        return loss * factors.get("loss", 1), {n: g * factors.get(n, 1) for n, g in gradients.items()}

    monkeypatch.setattr(torch, "compile", lambda gradient, **_: partial(off, gradient))
    return tags


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"loss": 1.1}, "the loss is off"),
        ({"loss": INF}, "the loss is off by inf"),
        ({"head.bias": 0.9}, "the gradient of head.bias is off"),
        ({"body.1.weight": NAN}, "the gradient of body.1.weight is off by nan"),
        ({"loss": 1 + 1e-5, "head.bias": 1 + 1e-5}, ""),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiler_is_trusted_if_its_first_numbers_differ_by_rounding_only(
    monkeypatch, factors: dict[str, float], words: str, dtype: torch.dtype
) -> None:
    steps = fake_compiler(monkeypatch, factors)
    run, seen = warned(3, dtype=dtype)

    assert [words in message for message in seen] == [True] * bool(words)
    assert same(run, train(3, dtype=dtype)) == bool(words)
    assert len(steps) == (1 if words else 3)


def test_machine_code_is_kept_apart_by_the_processors_instructions(monkeypatch) -> None:
    tags = fake_compiler(monkeypatch, {})
    for capability in ("DEFAULT", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", Mock(return_value=capability))
        warned(1)

    assert [tag.split()[-1] for tag in tags] == ["DEFAULT", "AVX2"]


def test_in_bfloat16_a_compiler_may_be_off_by_much_but_not_tenfold(monkeypatch) -> None:
    task_loss = start(dtype=torch.float32)[0]

    def coarse(params, task):
        with torch.autocast("cpu", torch.bfloat16):
            return task_loss(params, task)

    for factor, n_warnings in ((1.5, 0), (20, 1), (NAN, 1)):
        fake_compiler(monkeypatch, {"loss": factor})
        assert len(warned(1, task_loss=coarse, dtype=torch.float32)[1]) == n_warnings


class Scheduled(torch.optim.SGD):
    """A rate that halves in every step, and an attribute that no copy keeps."""

    def __init__(self, params) -> None:
        super().__init__(params, lr=0.1)
        self.factor, self.param_groups[0]["initial_lr"] = 0.5, 0.1

    def step(self) -> None:
        super().step()
        self.param_groups[0]["lr"] *= self.factor


OPTIMISERS = (
    ADAM,
    Scheduled,
    partial(torch.optim.SGD, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    partial(torch.optim.Adam, lr=torch.tensor(0.1), amsgrad=True, foreach=False),
    partial(torch.optim.Adafactor, lr=0.1),
    lambda params: torch.optim.AdamW([*params[:2], torch.ones(1)]),
)


@pytest.mark.parametrize("settings", [*({"meta_optimizer": each} for each in OPTIMISERS), HELD])
def test_a_run_resumed_at_every_step_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path, settings) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "run.pt")
    (tmp_path / ".run.pt.0123456789abcdef.draft").touch()  # of a run that was killed
    settings = {"validate": lambda p: p["head.bias"].sum(), "validate_every": 2, **settings}
    settings["config"] = {"inner_lr": 0.01, "sizes": (1, 8)}
    for steps in range(1, 6):
        resumed = train(steps, checkpoint=tmp_path / "link.pt", **settings)

    assert same(resumed, train(5, **settings))
    assert same(read_checkpoint(tmp_path / "link.pt"), resumed)
    assert (tmp_path / "link.pt").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.pt", "run.pt"]


def test_dropout_is_resumed_to_the_bit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(), nn.Linear(8, 1)).double()
    adapt = partial(maml.adapt, model, inner_lr=0.01, inner_steps=1)
    dropping = partial(
        train, task_loss=partial(query_loss, model, adapt), params=initial_params(model), chunk_size=1
    )

    torch.manual_seed(7)
    whole = dropping(8)
    torch.manual_seed(7)
    dropping(3, checkpoint=tmp_path / "run.pt")
    torch.manual_seed(99)
    assert same(dropping(8, checkpoint=tmp_path / "run.pt"), whole)


def test_noise_from_the_runs_own_generator_is_resumed_to_the_bit(tmp_path: Path) -> None:
    plain = start()[0]

    def noisy(params, task, *, generator):
        return plain(params, task) * (1 + torch.rand((), generator=generator, dtype=torch.float64))

    def trained(steps, **more):
        generator = torch.Generator().manual_seed(0)
        return train(steps, task_loss=partial(noisy, generator=generator), generator=generator, **more)

    file = tmp_path / "run.pt"
    trained(3, checkpoint=file)
    assert same(trained(8, checkpoint=file), trained(8))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"config": {"inner_lr": 0.5}}, r"other settings, config\.inner_lr None, here 0\.5"),
        (
            {"meta_optimizer": partial(torch.optim.Adam, lr=0.5)},
            r"other settings, optimizer\.0\.lr 0\.01, here 0\.5",
        ),
        ({"validate_every": 2}, "other settings, validate_every 1, here 2"),
        ({"generator": torch.Generator().manual_seed(5)}, r"generator\.initial_seed 0, here 5"),
        ({"dtype": torch.float32}, "another network"),
        ({"params": initial_params(mlp([1, 9, 1]).double())}, "another network"),
        ({"steps": 1}, "2 steps on, but meta_steps=1"),
        (lambda saved: saved.update(step="2"), "no readable checkpoint"),
        (lambda saved: saved.update(step=0, losses=torch.ones(0), validation=[]), "no readable checkpoint"),
        (lambda saved: saved.update(losses=torch.ones(1)), "losses can't be"),
        (lambda saved: saved.update(losses=torch.tensor([1.0, NAN])), "losses can't be"),
        (lambda saved: saved["params"]["head.bias"].fill_(NAN), "params can't be"),
        (lambda saved: saved.update(best={n: p[:1] for n, p in saved["best"].items()}), "best can't be"),
        (lambda saved: saved.update(validation=[torch.ones(())] * 3), "validation can't be"),
        (lambda saved: saved.update(validation=[torch.ones(1)] * 2), "validation can't be"),
        (lambda saved: saved.update(stopped=[1]), "stopped can't be"),
        (lambda saved: saved.update(seconds=NAN), "seconds can't be"),
        (lambda saved: saved.update(generator=torch.zeros(3, dtype=torch.uint8)), "no readable checkpoint"),
        (lambda saved: saved.update(optimizer={}), "no readable checkpoint"),
        (lambda saved: saved["optimizer"]["param_groups"][0].update(lr=9.0), "optimizer can't be"),
        (lambda saved: saved["optimizer"]["state"].clear(), "optimizer can't be"),
        (lambda saved: saved["optimizer"]["state"][0].update(exp_avg=1), "optimizer can't be"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_left_alone(tmp_path: Path, other, message) -> None:
    file, generator = tmp_path / "run.pt", torch.Generator().manual_seed(0)
    torch.rand(1, generator=generator)
    settings = {"steps": 3, "checkpoint": file, "validate": lambda params: 0.5, "validate_every": 1}
    train(**settings | {"steps": 2})
    if callable(other):
        other(saved := torch.load(file, weights_only=True))
        torch.save(saved, file)
    state = generator.get_state()

    with untouched(file), pytest.raises(ValueError, match=message):
        train(**{**settings, "generator": generator, **({} if callable(other) else other)})

    assert torch.equal(generator.get_state(), state)


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_says_the_same(tmp_path: Path) -> None:
    file, generator, chance = tmp_path / "run.pt", torch.Generator().manual_seed(0), random.Random(0)
    whole, state = train(3, checkpoint=file, generator=generator), generator.get_state()
    data, refused = file.read_bytes(), 0
    number = int.from_bytes(data)
    flipped = [(number ^ 1 << chance.randrange(8 * len(data))).to_bytes(len(data)) for _ in range(200)]
    for spoilt in (data[:100], b"something else", *flipped):
        file.write_bytes(spoilt)
        generator.manual_seed(1)
        with untouched(file):
            try:
                assert same(train(3, checkpoint=file, generator=generator), whole)
                assert torch.equal(generator.get_state(), state)
            except ValueError as error:
                assert "no readable checkpoint" in str(error) or "other settings" in str(error)  # noqa: PT017
                refused += 1

    assert refused > 50


def test_a_checkpoint_knows_the_settings_of_its_task_loss_but_lets_the_order_rise(tmp_path: Path) -> None:
    model = mlp([1, 8, 1]).double()

    def run(steps, file, **inner):
        adapt = partial(maml.adapt, model, **{"inner_lr": 0.01, "inner_steps": 1, **inner})
        settings = {"task_loss": partial(query_loss, model, adapt), "params": initial_params(model)}
        return train(steps, checkpoint=tmp_path / file, **settings)

    run(4, "a.pt")
    with pytest.raises(ValueError, match=r"inner_lr 0\.01, here 2\.0"):
        run(4, "a.pt", inner_lr=2.0)
    run(2, "b.pt", first_order=True)
    assert run(4, "b.pt").losses.isfinite().all()
    with pytest.raises(ValueError, match="first_order"):
        run(4, "b.pt", first_order=True)


def test_what_a_checkpoint_knows_of_a_loss_is_its_settings_and_not_the_kits_wording() -> None:
    adjacency, rate, net = torch.eye(3).to_sparse(), torch.tensor(0.1), mlp([1, 8, 1])

    def ours(params: Params, task: Task) -> torch.Tensor:
        later = ours if adjacency is None else None  # refers to itself
        return query_loss(net, partial(maml.adapt, net, inner_lr=rate, inner_steps=1), params, task), later

    def line(task_loss) -> str:
        return checkpoints.settings(None, torch.optim.SGD([torch.ones(1)]), None, task_loss, {})

    kits = partial(query_loss, net, partial(maml.adapt, net, inner_lr=0.1, inner_steps=1))
    thrice = lambda *given: 3 * batch_loss(*given)  # noqa: E731
    before, others = line(ours), (line(partial(kits, loss=thrice)), line(kits))
    assert "give a torch.nn.Module" not in others[1], "the words of an error are no setting"
    assert '"inner_lr": 0.1' in others[1]
    assert len({before, *others}) == 3
    rate.fill_(0.2)
    assert line(ours) != before


@pytest.mark.parametrize("name", ["file/run.pt", "", "/proc/run.pt", "x" * 300 + "/run.pt"])
def test_a_place_that_cannot_be_written_is_said_before_the_first_step(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match=r"no checkpoint can be written here \(.*give another one"):
        train(1, checkpoint=tmp_path / name, sample_tasks=lambda _: pytest.fail("a step was made"))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_names_its_step_and_is_never_saved(tmp_path: Path, what: str) -> None:
    broken, task_loss = SimpleNamespace(now=False), start()[0]

    def breaks(params, task):
        return task_loss(params, task) + ((params["head.bias"] * 0).sum().sqrt() if broken.now else 0)

    settings = {"task_loss": breaks, "checkpoint": (file := tmp_path / "run.pt")}
    train(2, **settings)
    broken.now = what == "gradient"
    if what == "loss":
        settings["sample_tasks"] = lambda g: tree_map(lambda t: t + INF, sample(g))

    left = {"loss": "the meta-loss is nan at", "gradient": "head.bias is not finite after"}[what]
    words = rf"{left} meta-step 2; the checkpoint is left.*norm or standard deviation"
    with untouched(file), pytest.raises(FloatingPointError, match=words):
        train(3, **settings)


def test_a_seed_that_diverges_is_stopped_and_the_others_and_a_resumed_run_never_notice(tmp_path) -> None:
    def stopped(steps: int, **more) -> Trained:
        words = "the meta-loss is inf at meta-step 2, seed 1 of 3: it is stopped"
        with pytest.warns(UserWarning, match=words):
            return train(steps, n_seeds=3, sample_tasks=poisoned(4, at=2), **more)

    healthy, run = train(6, n_seeds=3), stopped(6)
    stopped(4, checkpoint=tmp_path / "run.pt")

    for seed in (0, 2):
        assert torch.equal(run.losses[:, seed], healthy.losses[:, seed])
        assert all(torch.equal(run.params[n][seed], healthy.params[n][seed]) for n in run.params)
    assert run.losses[:, 1].isfinite().tolist() == [True, True, False, False, False, False]
    assert all(p[1].isnan().all() for p in run.params.values())
    assert same(train(6, n_seeds=3, checkpoint=tmp_path / "run.pt"), run)


def test_a_run_whose_last_seed_diverges_ends_with_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="it is stopped"),
        pytest.raises(FloatingPointError, match="the meta-loss is inf at meta-step 2, seed 2 of 3"),
    ):
        train(6, n_seeds=3, sample_tasks=poisoned(0, 4, 8, at=2))


def test_the_best_parameters_are_those_of_the_largest_finite_validation() -> None:
    said, seen = [0.3, 0.9, NAN, 0.9, INF, 0.6], []

    def validate(params):
        seen.append({name: p.clone() for name, p in params.items()})
        return torch.tensor(said[len(seen) - 1])

    with pytest.warns(UserWarning, match="validate gave (nan|inf), which is never the best") as warned:
        run = train(13, validate=validate, validate_every=2)

    assert len(warned) == 2
    assert torch.equal(run.validation.nan_to_num(), torch.tensor(said).nan_to_num())
    assert all(torch.equal(run.best[name], seen[1][name]) for name in run.best)
    assert torch.equal(run.losses, train(13).losses)


def test_each_seed_keeps_its_own_best_or_its_last_and_a_resumed_run_the_same_ones(tmp_path: Path) -> None:
    def validate(params):
        values = sum(p.flatten(1).sin().sum(1) for p in params.values())
        return torch.where(torch.tensor([True, False, False]), NAN, values)

    def trained(steps: int, **more) -> Trained:
        with pytest.warns(UserWarning, match="validate gave nan for seed 0 of 3, which is never the best"):
            return train(steps, n_seeds=3, validate=validate, validate_every=2, **more)

    unbroken, _ = trained(9), trained(5, checkpoint=tmp_path / "run.pt")

    assert unbroken.validation.shape == (4, 3)
    assert same(trained(9, checkpoint=tmp_path / "run.pt"), unbroken)
    assert all(torch.equal(unbroken.best[n][0], p[0]) for n, p in unbroken.params.items())
    assert torch.allclose(validate(unbroken.best)[1:].float(), unbroken.validation[:, 1:].amax(0))
    assert same(train(3), train(3)._replace(best=train(3).params))


def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    train(2, checkpoint=file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # no file may grow beyond 1,000 bytes
    try:
        with untouched(file), pytest.raises(OSError, match="checkpoint of meta-step 4 can't be written"):
            train(4, checkpoint=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert same(train(4, checkpoint=file), train(4))


def test_a_run_that_is_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    settings, spent = {"checkpoint": tmp_path / "run.pt", "max_seconds": -1}, []
    for step in (1, 2, 3):
        with pytest.raises(TimeoutError, match=rf"are over at meta-step {step} of 4; .*run.pt holds it"):
            train(4, **settings)
        spent.append(torch.load(tmp_path / "run.pt", weights_only=True)["seconds"])
    run = train(4, **settings)

    assert same(run, train(4))
    assert [0.0, *spent, run.seconds] == sorted({0.0, *spent, run.seconds})  # all parts are counted


class Waits(TorchFunctionMode):
    """Counts the calls whose answer the host needs before it can go on: on a GPU each of them waits."""

    names, n = {"item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy", "equal", "nonzero"}, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += getattr(func, "__name__", "") in self.names
        return func(*args, **(kwargs or {}))


def test_between_two_looks_a_run_never_waits_for_the_device(monkeypatch) -> None:
    monkeypatch.setitem(training._LOOK_EVERY, "cpu", 50)
    monkeypatch.setattr(meta, "all_zero", lambda *_, **__: False)  # a look that is taken on a CPU only
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
    params = {name: p.cuda() for name, p in start(dtype=torch.float32)[1].items()}

    def run(compiled):
        generator = torch.Generator("cuda").manual_seed(0)
        return train(30, params=params, generator=generator, compiled=compiled, dtype=torch.float32)

    plain, recorded = run(False), run(True)

    assert torch.allclose(recorded.losses, plain.losses, rtol=1e-3)


def test_a_run_shows_its_progress_unless_told_not_to(capsys) -> None:
    train(100, progress=True, validate=lambda params: 0.25, validate_every=50)
    shown = capsys.readouterr().err
    train(1)

    assert all(words in shown for words in ("100/100", "accuracy=0.250", "loss="))
    assert capsys.readouterr().err == ""


def one_of_two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    file, other = f"{folder}/run.pt", f"{folder}/other.pt"
    for n_seeds in (None, 2):
        run = train(9, n_seeds=n_seeds)
        torch.save([run.params, run.losses], f"{folder}/{n_seeds}-{rank}.pt")
    for settings, words in (
        ({"checkpoint": file, "max_seconds": -1 if rank == 1 else 1e9}, "over at meta-step 1 of 9"),
        ({"checkpoint": file if rank == 0 else other}, "at the meta-steps 1, 0"),
        ({"generator": torch.Generator().manual_seed(rank)}, "start with other params or another generator"),
        ({"params": start(seed=rank)[1]}, "start with other params or another generator"),
        ({"sample_tasks": partial(sample, n=3)}, "draws 3 tasks"),
    ):
        with pytest.raises((TimeoutError, ValueError), match=words):
            train(9, **settings)
    assert same(train(9, checkpoint=file), train(9))
    torch.distributed.destroy_process_group()


def test_processes_give_the_numbers_of_one_and_stop_and_start_together(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, 'tests'); import test_training as t; t.one_of_two_processes"
    commands = [[sys.executable, "-c", f"{code}({rank}, {str(tmp_path)!r})"] for rank in (0, 1)]
    both = [subprocess.Popen(command, cwd=ROOT) for command in commands]

    assert [process.wait(timeout=300) for process in both] == [0, 0]
    for n_seeds, rank in itertools.product((None, 2), (0, 1)):
        params, losses = torch.load(tmp_path / f"{n_seeds}-{rank}.pt", weights_only=True)
        alone = train(9, n_seeds=n_seeds)
        torch.testing.assert_close(losses, alone.losses, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(params, alone.params, rtol=1e-9, atol=1e-12)


def test_a_run_on_a_cpu_keeps_large_blocks_on_the_heap(monkeypatch) -> None:
    monkeypatch.setattr(training, "keep_large_blocks", kept := Mock())

    train(1)

    assert kept.called
