"""The long runs' script, on a few made-up characters: one record, whether the run was broken off or not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import make_dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mamlkit import datasets, records, training
from mamlkit.datasets import ImageClasses

EXPERIMENTS = Path(__file__).parents[1] / "book" / "experiments"
BOOK = EXPERIMENTS.parent / "records"
sys.path.insert(0, str(EXPERIMENTS))
import engine  # noqa: E402
import omniglot  # noqa: E402
import scaling  # noqa: E402
import sinusoids  # noqa: E402

TINY = {"meta_steps": 12, "validate_every": 3, "channels": 2, "meta_batch_size": 2, "seeds": (0, 1), "n_way": 3,
        "n_validation_tasks": 4, "n_test_tasks": 5, "test_steps": (1, 2)}  # fmt: skip
NAMES = ("laptop-conv-5w1s", "laptop-mlp-5w1s", "laptop-alphabets-5w1s")
HERE = ("--folder", "HERE", "--records", "HERE")
PAPER = dict(omniglot.RUNS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(script, *arguments: object) -> None:
    """The script's `main()` with such a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        script.main()


def small(script, **settings):
    """The script's settings with other defaults."""
    defaults = [(name, object, value) for name, value in settings.items()]
    return make_dataclass("Config", defaults, bases=(script.Config,), frozen=True)


def made_up(split: str, protocol: str = "alphabets") -> ImageClasses:
    """Eight characters a split, each a fixed picture with a little noise."""
    generator = torch.Generator().manual_seed(len(split))
    shapes = torch.rand(8, 1, 1, 28, 28, generator=generator)
    noise = torch.rand(8, 20, 1, 28, 28, generator=generator)
    names = tuple(f"{split} {i}" for i in range(8))
    return ImageClasses((0.8 * shapes + 0.2 * noise).round(), names, names)


def tiny(at: Path, deadline: float = 1e12) -> omniglot.Setting:
    omniglot.omniglot = made_up
    omniglot.PROBES["cpu"] = (8, 8)
    omniglot.RUNS.update({name: replace(PAPER[name], **TINY) for name in NAMES})
    at.mkdir(exist_ok=True)
    return omniglot.Setting(torch.device("cpu"), True, None, at, at, deadline)


def measured(at: Path, name: str = "laptop-conv-5w1s") -> dict:
    """What a record says, without the clock and what the device could do at that moment."""
    metrics = json.loads((at / f"omniglot-{name}.json").read_text())["metrics"]
    metrics.pop("train_seconds"), metrics.pop("cost")
    return metrics


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    at = tiny(tmp_path_factory.mktemp("unbroken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot, "traps", partial(omniglot.traps, n_tasks=2, n_of_orders=1))
        call(omniglot, NAMES[0], NAMES[2], "laptop-traps", "--threads", 1, "--device", "cpu",
             "--folder", at.folder, "--records", at.records)  # fmt: skip
    return at.records


def test_a_run_writes_a_record_and_the_weights_that_readers_adapt(unbroken: Path) -> None:
    record = records.load(unbroken / "omniglot-laptop-conv-5w1s.json")
    weights = records.load_weights(unbroken / "omniglot-laptop-conv-5w1s.json")

    assert record.config["channels"] == 2
    assert len(record.metrics["per_seed"]) == 2
    assert len(record.metrics["per_seed"][0]["transductive"]) == 5
    assert all(0 <= x <= 1 for seed in record.metrics["per_seed"] for x in seed["inductive"])
    assert record.metrics["cost"]["flop_per_meta_step"] > 0
    assert weights["head.weight"].shape == (3, 2)


def test_the_sinusoids_end_with_a_record_and_its_weights(tmp_path: Path, monkeypatch) -> None:
    few = {"meta_batch_size": 2, "seeds": (0, 1), "k_shots_test": (5,), "n_validation_tasks": 3, "n_test_tasks": 4,
           "rates": (0.01, 0.02)}  # fmt: skip
    monkeypatch.setattr(sinusoids, "Config", small(sinusoids, **few))
    monkeypatch.setattr(sinusoids, "meta_train", lambda *a, compiled, **more: training.meta_train(*a, **more))

    call(sinusoids, "--steps", 140, "--folder", tmp_path / "runs", "--records", tmp_path)

    record = records.load(tmp_path / "sinusoids.json")
    stored = records.load_weights(tmp_path / "sinusoids.json")
    assert record.metrics["tasks"].keys() == {"maml 5-shot", "joint 5-shot"}
    assert [len(curve) for curve in record.metrics["curves"].values()] == [70, 70]
    assert stored.keys() == records.load_weights(BOOK / "sinusoids.json").keys()
    assert all(len(by_seed) == 2 for by_seed in stored.values())
    last = torch.load(tmp_path / "runs/sinusoids-joint.pt", weights_only=True)["losses"][-2:].mean(0)
    assert record.metrics["curves"]["joint"][-1] == pytest.approx(last.tolist(), abs=1e-4)


def test_the_engine_ends_with_a_record(tmp_path: Path, monkeypatch) -> None:
    little = {
        "networks": ("mlp",),
        "meta_batch_size": 2,
        "n_classes": 6,
        "compiled": (),
        "burst_seconds": 0.0,
    }
    monkeypatch.setattr(engine, "Config", small(engine, **little))
    caches, limit = torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit

    call(engine, "--rounds", 2, "--records", tmp_path, "--device", "cpu")
    torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit = caches, limit

    metrics = records.load(tmp_path / "engine.json").metrics
    rungs = ("loop", "vmap", "on device", "bf16", "seeds")
    assert metrics["step_ms_by_round"].keys() == {f"mlp {rung}" for rung in rungs}
    assert metrics["failed"] == {}
    assert metrics["difference_from_float64_loop"]["mlp vmap"]["cosine"] > 0.99


def test_the_scaling_ends_with_a_record_of_two_processes(tmp_path: Path, monkeypatch) -> None:
    little = {"ranks": (1, 2), "sinusoid_tasks": 2, "sinusoid_steps": 1, "conv_tasks": 2, "conv_steps": 1, "channels": 2,
              "n_classes": 6, "message_floats": (1,), "message_times": 1}  # fmt: skip
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import sys; sys.path[:0] = [{str(EXPERIMENTS)!r}, {str(Path(__file__).parent)!r}]\n"
        f"import test_experiments as t; t.scaling.Config = t.small(t.scaling, **{little!r}); t.scaling.main()"
    )
    monkeypatch.setattr(scaling, "Config", small(scaling, **little))
    monkeypatch.setattr(scaling, "__file__", str(driver))

    with pytest.raises(SystemExit) as ended:
        call(scaling, "--repeats", 2, "--records", tmp_path)

    assert ended.value.code == 0
    metrics = records.load(tmp_path / "scaling.json").metrics
    assert len(metrics["step_ms_by_part_and_round"]) == 2 * 3
    assert len(metrics["message_ms_by_round"]["1 floats, 2 ranks"]) == 2


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        *((sinusoids, ["--steps", n], f"{n} is no whole number of at least 70, a multiple of 70") for n in (50, 141, "x")),
        (engine, ["--rounds", 1], "1 is no whole number of at least 2"),
        (scaling, ["--repeats", 1], "1 is no whole number of at least 2"),
        *((s, [*run, "--device", name], words) for s, run in ((engine, []), (omniglot, [NAMES[0]])) for name, words in (
            ("nope", "nope is no device; use cpu or cuda"), ("cuda:99", "cuda:99 is not here: torch finds"))),
        (omniglot, [NAMES[0], "--device", "meta"], "meta is not a device these scripts run on"),
        (omniglot, [NAMES[0], "--threads", 0], "0 is no whole number of at least 1"),
        (omniglot, [NAMES[0], "--chunk-size", 0], "0 is no whole number of at least 1"),
        *((omniglot, [NAMES[0], "--minutes", m], f"{m} is no time above 0 minutes") for m in ("nan", 0, "x")),
        *((s, [*run, "--records", "/dev/null/x"], "/dev/null/x is no folder and can't be made one")
          for s, run in ((sinusoids, []), (engine, []), (scaling, []), (omniglot, [NAMES[0]]))),
        (omniglot, ["laptop-traps", *HERE], "run first: .*.py laptop-conv-5w1s laptop-alphabets"),
        (omniglot, ["paper-mlp-5w1s", *HERE], "paper-mlp-5w1s: .*/HERE holds neither omniglot_105.npz"),
        *((s, ["--records", "OTHER", *more], "made with other settings .*--records names another folder")
          for s, more in ((sinusoids, ["--steps", 70]), (engine, ["--rounds", 2]), (scaling, ["--repeats", 2]))),
        (omniglot, [NAMES[0], "--records", "OTHER", "--folder", "HERE", "--again"], "was made with other settings"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_first(tmp_path, monkeypatch, capsys, script, arguments, words) -> None:
    monkeypatch.setenv("MAMLKIT_DATA", str(tmp_path / "HERE"))
    monkeypatch.setattr(omniglot, "omniglot", datasets.omniglot)
    monkeypatch.chdir(tmp_path)
    name = "omniglot-laptop-conv-5w1s" if script is omniglot else script.__name__
    there = replace(records.load(BOOK / f"{name}.json"), config={"other": 1})
    records.save(there, tmp_path / f"OTHER/{name}.json")
    before = (tmp_path / f"OTHER/{name}.json").read_bytes()

    with pytest.raises(SystemExit) as refused:
        call(script, *arguments)

    assert re.search(words, capsys.readouterr().err + str(refused.value))
    assert refused.value.code not in (0, None)
    assert (tmp_path / f"OTHER/{name}.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_run_killed_again_and_again_ends_with_the_unbroken_ones_record(
    unbroken: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_experiments as t, functools, os, pathlib\n"
        "o, draws, draw, most = t.omniglot, [], t.omniglot.class_tasks, int(sys.argv[1])\n"
        "def dying(*a, **k):\n    draws.append(1); len(draws) > most and os.kill(os.getpid(), 9); return draw(*a, **k)\n"
        "o.meta_train = functools.partial(o.meta_train, checkpoint_seconds=0)\n"
        f"t.torch.set_num_threads(1); at = t.tiny(pathlib.Path({str(tmp_path)!r})); o.class_tasks = dying\n"
        "o.run('laptop-conv-5w1s', at)"
    )
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    # An unbroken run draws 16 times: for validation, for 12 meta-steps, and 3 times to measure. The last life may draw 10 times.
    for most, end in ((4, -signal.SIGKILL), (4, -signal.SIGKILL), (10, 0)):
        life = [sys.executable, "-c", code, str(most)]
        assert subprocess.run(life, cwd=EXPERIMENTS.parents[1], env=environment).returncode == end

    assert measured(tmp_path) == measured(unbroken)


def test_a_run_out_of_time_says_where_it_is_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="over at meta-step 1 of 12"):
        omniglot.run("laptop-conv-5w1s", tiny(tmp_path, deadline=0))

    assert not (tmp_path / "omniglot-laptop-conv-5w1s.json").exists()


def test_half_precision_trains_almost_as_float32(tmp_path: Path) -> None:
    at = tiny(tmp_path)
    runs = {}
    for precision in ("float32", "bf16"):
        config = replace(omniglot.RUNS["laptop-conv-5w1s"], precision=precision, channels=8, meta_steps=4)
        runs[precision] = omniglot.train(precision, config, at)[1].losses

    assert torch.allclose(runs["bf16"], runs["float32"], rtol=0.05)
    assert not torch.allclose(runs["bf16"], runs["float32"], rtol=1e-5)


def test_on_a_cpu_dense_layers_are_compiled_and_convolutions_are_not(tmp_path: Path, monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(
        omniglot, "meta_train", lambda *_, config, compiled, **__: asked.update({config["run"]: compiled})
    )
    at = tiny(tmp_path)._replace(plain=False)
    for name in ("laptop-conv-5w1s", "laptop-mlp-5w1s"):
        with pytest.raises(AttributeError, match="best"):  # nothing was trained
            omniglot.train(name, omniglot.RUNS[name], at)

    assert asked == {"laptop-conv-5w1s": False, "laptop-mlp-5w1s": True}


def test_a_record_is_written_after_the_weights(tmp_path: Path, monkeypatch) -> None:
    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(omniglot.records, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        omniglot.run("laptop-conv-5w1s", tiny(tmp_path))

    assert (tmp_path / "omniglot-laptop-conv-5w1s.safetensors").exists()
    assert not (tmp_path / "omniglot-laptop-conv-5w1s.json").exists()


def test_the_trap_grid_measures_every_way(unbroken: Path) -> None:
    metrics = records.load(unbroken / "omniglot-laptop-traps.json").metrics
    ways = ("run", "normalisation", "rotated", "k_query", "test_steps")

    assert len({tuple(cell[way] for way in ways) for cell in metrics["cells"]}) == 2 * 2 * 6 * 3
    assert len(metrics["cells"]) == 2 * 2 * 6 * 3
    for orders in metrics["label_orders"]:
        lowest, highest = (torch.tensor(orders[which]) for which in ("lowest", "highest"))
        assert orders["n_orders"] == 6
        assert (lowest <= highest).all()


def test_the_frozen_runs_are_the_papers() -> None:
    paper, fives = PAPER["paper-conv-20w1s"], PAPER["paper-conv-5w5s"]

    numbers = (paper.inner_lr, paper.inner_steps, paper.meta_batch_size, paper.meta_steps)
    assert numbers == (0.1, 5, 16, 60_000)
    assert (fives.inner_lr, fives.k_shot) == (0.4, 5)
    assert all(len(config.seeds) >= 3 and config.n_test_tasks >= 600 for config in PAPER.values())


def test_the_counted_operations_are_those_of_the_network(tmp_path: Path) -> None:
    at = tiny(tmp_path)
    counted = {}
    for first_order in (True, False):
        config = replace(omniglot.RUNS["laptop-conv-5w1s"], channels=32, n_way=5, first_order=first_order)
        model = omniglot.network(config, at.device)
        counted[first_order] = omniglot.cost(config, model, omniglot.losses_of(config, model)[0], at)

    # Multiply and add: the first layer sees 1 channel, three more see 32, on maps of 14, 7, 4 and 2 pixels a side; then the head.
    forward = 2 * (9 * 32 * 14**2 + 9 * 32 * 32 * (7**2 + 4**2 + 2**2) + 32 * 5)
    # 2 tasks, 5 support and 5 query drawings; a backward pass costs two forward ones, less what the images would need.
    backward = 2 * forward - 2 * 9 * 32 * 14**2
    assert counted[True]["flop_per_meta_step"] == 2 * 5 * (2 * (forward + backward))
    assert counted[False]["flop_per_meta_step"] > counted[True]["flop_per_meta_step"]


def test_a_run_whose_record_is_there_is_skipped_and_help_lists_every_run(unbroken: Path, capsys) -> None:
    call(omniglot, "laptop-conv-5w1s", "--threads", 1, "--records", unbroken, "--folder", unbroken)
    assert "laptop-conv-5w1s: its record is there, skipped" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(omniglot, "--help")

    out = capsys.readouterr().out
    assert all(name in out for name in (*omniglot.RUNS, *omniglot.TRAPS, *omniglot.GROUPS))
