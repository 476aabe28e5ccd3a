"""The long runs' script, on a few made-up characters: one record, whether the run was broken off or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mamlkit import records
from mamlkit.datasets import ImageClasses

EXPERIMENTS = Path(__file__).parents[1] / "book" / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
import omniglot  # noqa: E402

TINY = {"meta_steps": 12, "validate_every": 3, "channels": 2, "meta_batch_size": 2, "seeds": (0, 1)}
TINY |= {"n_validation_tasks": 4, "n_test_tasks": 5, "test_steps": (1, 2)}


def made_up(split: str, protocol: str = "alphabets") -> ImageClasses:
    """Eight characters a split, each a fixed picture with a little noise."""
    generator = torch.Generator().manual_seed(len(split))
    shapes = torch.rand(8, 1, 1, 28, 28, generator=generator)
    noise = torch.rand(8, 20, 1, 28, 28, generator=generator)
    names = tuple(f"{split} {i}" for i in range(8))
    return ImageClasses((0.8 * shapes + 0.2 * noise).round(), names, names)


def tiny(at: Path, deadline: float = 1e12) -> omniglot.Setting:
    omniglot.omniglot = made_up
    for name in ("laptop-conv-5w1s", "laptop-mlp-5w1s", "laptop-alphabets-5w1s"):
        omniglot.RUNS[name] = replace(omniglot.RUNS[name], **TINY)
    at.mkdir(exist_ok=True)
    return omniglot.Setting(torch.device("cpu"), False, None, at, at, deadline)


def measured(at: Path, name: str = "laptop-conv-5w1s") -> dict:
    """What a record says, without the clock and what the device could do at that moment."""
    metrics = json.loads((at / f"omniglot-{name}.json").read_text())["metrics"]
    metrics.pop("train_seconds"), metrics.pop("cost")
    return metrics


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("laptop-conv-5w1s", "laptop-alphabets-5w1s"):
        omniglot.run(name, tiny(folder))
    torch.set_num_threads(threads)
    return folder


def test_a_run_writes_a_record_and_the_weights_that_readers_adapt(unbroken: Path) -> None:
    record = records.load(unbroken / "omniglot-laptop-conv-5w1s.json")
    weights = load_file(unbroken / "omniglot-laptop-conv-5w1s.safetensors")

    assert record.config["channels"] == 2
    assert len(record.metrics["per_seed"]) == 2
    assert len(record.metrics["per_seed"][0]["transductive"]) == 5
    assert all(0 <= x <= 1 for seed in record.metrics["per_seed"] for x in seed["inductive"])
    assert record.metrics["cost"]["flop_per_meta_step"] > 0
    assert weights["head.weight"].shape == (5, 2)


def test_a_run_killed_again_and_again_ends_with_the_record_of_an_unbroken_one(
    unbroken: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_experiments as t, functools, pathlib\n"
        "t.torch.set_num_threads(1)\n"
        "o = t.omniglot; o.meta_train = functools.partial(o.meta_train, checkpoint_seconds=0)\n"
        f"o.run('laptop-conv-5w1s', t.tiny(pathlib.Path({str(tmp_path)!r})))"
    )
    checkpoint, kills = tmp_path / "laptop-conv-5w1s.pt", 0
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    for last in (False, False, True):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code], cwd=EXPERIMENTS.parents[1], env=environment)
        while not last and process.poll() is None:
            time.sleep(0.01)
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert process.wait() == (0 if last else -signal.SIGKILL)

    assert kills == 2
    assert measured(tmp_path) == measured(unbroken)


def test_a_run_out_of_time_says_where_it_is_and_goes_on(unbroken: Path, tmp_path: Path) -> None:
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
    monkeypatch.setattr(omniglot, "keep", lambda *_: None)
    at = tiny(tmp_path)
    for name in ("laptop-conv-5w1s", "laptop-mlp-5w1s"):
        with pytest.raises(AttributeError, match="best"):  # nothing was trained
            omniglot.train(name, omniglot.RUNS[name], at)

    assert asked == {"laptop-conv-5w1s": False, "laptop-mlp-5w1s": True}


def test_a_record_is_written_after_the_weights_so_that_a_killed_run_can_finish(
    tmp_path: Path, monkeypatch
) -> None:
    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(omniglot.records, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        omniglot.run("laptop-conv-5w1s", tiny(tmp_path))

    assert (tmp_path / "omniglot-laptop-conv-5w1s.safetensors").exists()
    assert not (tmp_path / "omniglot-laptop-conv-5w1s.json").exists()


def test_the_trap_grid_measures_every_way(unbroken: Path) -> None:
    omniglot.traps("laptop-traps", tiny(unbroken), n_tasks=2, n_of_orders=1)

    metrics = records.load(unbroken / "omniglot-laptop-traps.json").metrics
    seen = {
        (c["run"], c["normalisation"], c["rotated"], c["k_query"], c["test_steps"]) for c in metrics["cells"]
    }
    assert len(seen) == len(metrics["cells"]) == 2 * 2 * 6 * 3
    for orders in metrics["label_orders"]:
        lowest, highest = (torch.tensor(orders[which]) for which in ("lowest", "highest"))
        assert orders["n_orders"] == 120
        assert (lowest <= highest).all()


def test_the_frozen_runs_are_the_papers() -> None:
    paper = omniglot.RUNS["paper-conv-20w1s"]

    assert (paper.inner_lr, paper.inner_steps, paper.meta_batch_size, paper.meta_steps) == (
        0.1,
        5,
        16,
        60_000,
    )
    assert (omniglot.RUNS["paper-conv-5w5s"].inner_lr, omniglot.RUNS["paper-conv-5w5s"].k_shot) == (0.4, 5)
    assert all(
        len(config.seeds) >= 3 and config.n_test_tasks >= 600
        for config in omniglot.RUNS.values()
        if config.meta_steps > 12
    )


def test_the_counted_operations_are_those_of_the_network(tmp_path: Path) -> None:
    at = tiny(tmp_path)
    counted = {}
    for first_order in (True, False):
        config = replace(omniglot.RUNS["laptop-conv-5w1s"], channels=32, first_order=first_order)
        model = omniglot.network(config, at.device)
        counted[first_order] = omniglot.cost(config, model, omniglot.losses_of(config, model)[0], at)

    # Multiply and add: the first layer sees 1 channel, three more see 32, on maps of 14, 7, 4 and 2 pixels a side; then the head.
    forward = 2 * (9 * 32 * 14**2 + 9 * 32 * 32 * (7**2 + 4**2 + 2**2) + 32 * 5)
    # 2 tasks, 5 support and 5 query drawings; a backward pass costs two forward ones, less what the images would need.
    backward = 2 * forward - 2 * 9 * 32 * 14**2
    assert counted[True]["flop_per_meta_step"] == 2 * 5 * (2 * (forward + backward))
    assert counted[False]["flop_per_meta_step"] > counted[True]["flop_per_meta_step"]


def test_a_run_whose_record_is_there_is_skipped(unbroken: Path, monkeypatch, capsys) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["omniglot.py", "laptop-conv-5w1s", "--records", str(unbroken)])

    omniglot.main()
    torch.set_num_threads(threads)

    assert "laptop-conv-5w1s: its record is there, skipped" in capsys.readouterr().out


def test_help_lists_every_run() -> None:
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / "omniglot.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert all(name in done.stdout for name in (*omniglot.RUNS, *omniglot.TRAPS, *omniglot.GROUPS))
