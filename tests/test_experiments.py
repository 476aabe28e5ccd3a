"""The long runs' script, on a few made-up characters: one record, whether the run was broken off or not."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import engine
import family
import lake
import numpy as np
import omniglot
import pytest
import scaling
import sinusoids
import torch
from PIL import Image
from runs import TINY, call, made_up, small
from torch.utils._pytree import tree_map

from mamlkit import training
from mamlkit.data import image_sets
from mamlkit.data.image_sets import ImageClasses
from mamlkit.meta import meta_gradient, nearest_neighbour, query_loss
from mamlkit.models import PatchConv2d, initial_params
from mamlkit.page import records

pytestmark = pytest.mark.usefixtures("one_thread")
BOOK = Path(__file__).parents[1] / "book" / "records"
# how another process finds these files
PATHS = [str(Path(__file__).parent), str(BOOK.with_name("experiments"))]
ALONE = f"import sys; sys.path[:0] = {PATHS!r}; import"
NAMES = ("laptop-conv-5w1s", "laptop-mlp-5w1s", "laptop-alphabets-5w1s")
RECORD = f"omniglot-{NAMES[0]}.json"
HERE = ("--folder", "HERE", "--records", "HERE")
PAPER = dict(omniglot.RUNS)


def tiny(at: Path, deadline: float = 1e12) -> omniglot.Setting:
    omniglot.omniglot = made_up
    omniglot.PROBES["cpu"] = (8, 8)
    omniglot.RUNS.update({name: replace(PAPER[name], **TINY) for name in NAMES})
    at.mkdir(exist_ok=True)
    return omniglot.Setting(torch.device("cpu"), True, None, at, at, deadline)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    at = tiny(tmp_path_factory.mktemp("unbroken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot, "traps", partial(omniglot.traps, n_tasks=2, n_of_orders=1))
        call(omniglot, NAMES[0], NAMES[2], "laptop-traps", "--threads", 1, "--device", "cpu",
             "--folder", at.folder, "--records", at.records)  # fmt: skip
    return at.records


def test_a_run_writes_a_record_and_the_weights_that_readers_adapt(unbroken):
    record = records.load(unbroken / RECORD)
    per_seed = record.metrics["per_seed"]
    assert record.config["channels"] == 2
    assert [len(seed["transductive"]) for seed in per_seed] == [5, 5]
    assert all(0 <= x <= 1 for seed in per_seed for x in seed["inductive"])
    assert records.load_weights(unbroken / RECORD)["head.weight"].shape == (3, 2)


def test_the_sinusoids_end_with_a_record_and_its_weights(tmp_path, monkeypatch):
    few = {"meta_batch_size": 2, "seeds": (0, 1), "k_shots_test": (5,), "n_validation_tasks": 3, "n_test_tasks": 4,
           "rates": (0.01, 0.02)}  # fmt: skip
    monkeypatch.setattr(sinusoids, "Config", small(sinusoids, **few))
    monkeypatch.setattr(sinusoids, "meta_train", lambda *a, compiled, **more: training.meta_train(*a, **more))

    call(sinusoids, "--steps", 140, "--folder", tmp_path / "runs", "--records", tmp_path)
    metrics = records.load(tmp_path / "sinusoids.json").metrics
    stored = records.load_weights(tmp_path / "sinusoids.json")
    assert metrics["tasks"].keys() == {"maml 5-shot", "joint 5-shot"}
    assert [len(curve) for curve in metrics["curves"].values()] == [70, 70]
    assert stored.keys() == records.load_weights(BOOK / "sinusoids.json").keys()
    assert all(len(by_seed) == 2 for by_seed in stored.values())
    last = torch.load(tmp_path / "runs/sinusoids-joint.pt", weights_only=True)["losses"][-2:].mean(0)
    assert metrics["curves"]["joint"][-1] == pytest.approx(last.tolist(), abs=1e-4)


def runs_file(path: Path, *, spoil=lambda name, content: content) -> Path:
    """Twenty made-up runs as the authors pack theirs: each question is the very drawing of its answer."""
    pictures = np.random.default_rng(0).integers(0, 2, (20, 105, 105)).astype(np.uint8) * 255
    drawings = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, drawings):
        Image.fromarray(picture).convert("1").save(file, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        for run in (f"run{number:02d}" for number in range(1, 21)):
            lines = []
            for i, which in enumerate(np.roll(range(20), int(run[3:]))):
                question, letter = (
                    f"{run}/test/item{i + 1:02d}.png",
                    f"{run}/training/class{which + 1:02d}.png",
                )
                lines.append(f"{question} {letter}")
                for name in (question, letter):
                    archive.writestr(name, spoil(name, drawings[which].getvalue()))
            archive.writestr(f"{run}/class_labels.txt", spoil("labels", "\n".join(lines)))
    return path


def test_lakes_examination_is_read_as_it_is_packed_and_ends_with_a_record(tmp_path, monkeypatch, unbroken):
    tiny(unbroken)
    letters = ImageClasses(torch.rand(21, 20, 1, 28, 28), tuple(map(str, range(21))), ("one alphabet",) * 21)
    monkeypatch.setattr(omniglot, "omniglot", lambda split, protocol: letters)
    monkeypatch.setattr(lake, "inductive_accuracy", lambda *a, chunk_size: nearest_neighbour(a[3]) * 0.5)
    call(lake, runs_file(tmp_path / "all_runs.zip"), "--folder", unbroken, "--records", tmp_path)

    metrics = records.load(tmp_path / "lake-laptop-alphabets-5w1s.json").metrics
    assert metrics["pixels"] == [0] * 20
    assert [len(seed["errors"]) for seed in metrics["per_seed"]] == [20, 20]


def without_labels(name, content):
    return "" if name == "labels" else content


def cut_short(name, content):
    return content[:40]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_labels, "20 letters, 20 questions and 0 answers that fit"),
        (cut_short, "is not a whole file of runs"),
    ],
)
def test_a_damaged_file_of_runs_is_refused(tmp_path, spoil, words):
    with pytest.raises(ValueError, match=words):
        lake.read_runs(runs_file(tmp_path / "all_runs.zip", spoil=spoil))


def test_the_engine_ends_with_a_record(tmp_path, monkeypatch):
    few = {"networks": ("mlp",), "meta_batch_size": 2, "n_classes": 6, "compiled": (), "burst_seconds": 0.0}
    monkeypatch.setattr(engine, "Config", small(engine, **few))
    monkeypatch.setitem(omniglot.PROBES, "cpu", (8, 64))
    caches, limit = torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit

    call(engine, "--rounds", 2, "--records", tmp_path, "--device", "cpu")
    torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit = caches, limit
    metrics = records.load(tmp_path / "engine.json").metrics
    rungs = ("loop", "vmap", "on device", "bf16", "seeds")
    assert metrics["step_ms_by_round"].keys() == {f"mlp {rung}" for rung in rungs}
    assert metrics["failed"] == {}
    assert metrics["difference_from_float64_loop"]["mlp vmap"]["cosine"] > 0.99
    run = omniglot.RUNS["laptop-mlp-5w1s"]
    drawings = 2 * 2 * run.n_way * run.k_shot  # of two tasks, to learn from and to be judged on
    forward = 2 * drawings * (784 * 256 + 256 * 128 + 128 * 64 + 64 * 64 + 64 * run.n_way)
    assert 3 < metrics["cost"]["mlp"]["flop_per_meta_step"] / forward < 9


def test_on_a_cpu_convolutions_have_a_rung_of_patches(monkeypatch):
    config, cpu, made = engine.Config(), torch.device("cpu"), Mock(wraps=engine.conv4)
    monkeypatch.setattr(engine, "conv4", made)
    ladder = engine.rungs(config, "conv", engine.network(config, "conv", cpu), cpu)
    assert [*ladder] == ["loop", "vmap", "on device", "patches", "compiled", "bf16", "seeds"]
    assert [call.kwargs["patches"] for call in made.call_args_list] == [False, False, True]


def test_on_a_cpu_dense_layers_have_a_rung_in_the_dual_form():
    config, cpu = engine.Config(meta_batch_size=3), torch.device("cpu")
    model = engine.network(config, "mlp", cpu)
    ladder = engine.rungs(config, "mlp", model, cpu)
    assert [*ladder] == ["loop", "vmap", "on device", "compiled", "dual", "bf16", "seeds"]

    params, tasks = initial_params(model.double()), omniglot.noise(PAPER["paper-mlp-5w1s"], cpu)
    tasks = tree_map(lambda t: t.double() if t.is_floating_point() else t, tasks)
    theirs = ladder["vmap"].gradient(params, tasks)
    ours = engine.dual_gradient(config, model)(params, tasks)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_a_step_goes_by_kind_of_operator_and_what_is_compiled_element_by_element(monkeypatch):
    took = {
        "aten::mm": 1,
        "aten::mul": 2,
        "aten::view": 4,
        "## Call CompiledFxGraph f ##": 8,
        "no operator": 16,
    }
    events = [SimpleNamespace(key=key, self_cpu_time_total=3000 * ms) for key, ms in took.items()]
    profile = MagicMock()
    profile.return_value.__enter__.return_value.key_averages.return_value = events
    monkeypatch.setattr(engine, "profile", profile)

    found = engine.where(Mock(), torch.device("cpu"))
    assert {kind: ms for kind, ms in found.items() if ms} == {
        "products": 1,
        "element by element": 10,
        "no work": 4,
    }


def test_the_scaling_ends_with_a_record_of_two_processes(tmp_path, monkeypatch):
    few = {"ranks": (1, 2), "sinusoid_tasks": 2, "sinusoid_steps": 1, "conv_tasks": 2, "conv_steps": 1, "channels": 2,
           "n_classes": 6, "message_floats": (1,), "message_times": 1}  # fmt: skip
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"{ALONE} runs, scaling; scaling.Config = runs.small(scaling, **{few!r}); scaling.main()"
    )
    monkeypatch.setattr(scaling, "Config", small(scaling, **few))
    monkeypatch.setattr(scaling, "__file__", str(driver))

    with pytest.raises(SystemExit, match=r"^0$"):
        call(scaling, "--repeats", 2, "--records", tmp_path)
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
        (family, ["glyphs-5w5s", *HERE], "takes its rates from a record that is not there: run glyphs-5w1s first"),
        (omniglot, ["laptop-traps", *HERE], "run first: .*.py laptop-conv-5w1s laptop-alphabets"),
        (omniglot, ["paper-mlp-5w1s", *HERE], "paper-mlp-5w1s: .*/HERE holds neither omniglot_105.npz"),
        *((s, ["--records", "OTHER", *more], "made with other settings .*--records names another folder")
          for s, more in ((sinusoids, ["--steps", 70]), (engine, ["--rounds", 2]), (scaling, ["--repeats", 2]))),
        (omniglot, [NAMES[0], "--records", "OTHER", "--folder", "HERE", "--again"], "was made with other settings"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_first(tmp_path, monkeypatch, capsys, script, arguments, words):
    monkeypatch.setenv("MAMLKIT_DATA", str(tmp_path / "HERE"))
    monkeypatch.setattr(omniglot, "omniglot", image_sets.omniglot)
    monkeypatch.chdir(tmp_path)
    name = RECORD if script in (omniglot, family) else f"{script.__name__}.json"
    there = replace(records.load(BOOK / name), config={"other": 1})
    records.save(there, tmp_path / "OTHER" / name)

    with pytest.raises(SystemExit) as refused:
        call(script, *arguments)
    assert re.search(words, capsys.readouterr().err + str(refused.value))
    assert refused.value.code not in (0, None)
    assert records.load(tmp_path / "OTHER" / name) == there
    assert not list(tmp_path.rglob("*.safetensors"))


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def lives(at: str):
    """Three lives of a run, the first two killed before their fifth draw; unbroken, it draws 16 times: for validation, for 12
    meta-steps, and 3 times to measure."""
    for most, end in ((4, signal.SIGKILL), (4, signal.SIGKILL), (10, 0)):
        if not os.fork():
            draws = [die, *[omniglot.class_tasks] * most]
            omniglot.class_tasks = lambda *a, draws=draws, **more: draws.pop()(*a, **more)
            omniglot.meta_train = partial(training.meta_train, checkpoint_seconds=0)
            omniglot.run(NAMES[0], tiny(Path(at)))
            os._exit(0)
        assert os.wait()[1] == end


def test_a_run_killed_again_and_again_ends_with_the_unbroken_ones_record(unbroken, tmp_path):
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"{ALONE} test_experiments as t; t.lives(sys.argv[1])", tmp_path]
    subprocess.run(command, cwd=BOOK.parents[1], env=environment, check=True)
    found, metrics = (records.load(at / RECORD).metrics for at in (tmp_path, unbroken))
    assert found.keys() == metrics.keys()
    assert all(found[name] == metrics[name] for name in metrics.keys() - {"train_seconds", "cost"})


def test_the_number_of_test_steps_is_chosen_on_meta_validation_classes(tmp_path, monkeypatch):
    at = tiny(tmp_path)

    def one_step_there_and_two_on_meta_test(model, adapt, theta, tasks, **_):
        n, best = (len(tasks.support.y), 1) if len(tasks.support.y) == TINY["n_validation_tasks"] else (5, 2)
        return torch.full((n,), float(adapt.keywords["inner_steps"] == best))

    monkeypatch.setattr(omniglot, "evaluate", one_step_there_and_two_on_meta_test)
    omniglot.run(NAMES[0], at)
    per_seed = records.load(tmp_path / RECORD).metrics["per_seed"]
    assert [seed["test_steps"] for seed in per_seed] == [1, 1]


def test_a_run_out_of_time_says_where_it_is_and_goes_on(tmp_path):
    with pytest.raises(TimeoutError, match="over at meta-step 1 of 12"):
        omniglot.run(NAMES[0], tiny(tmp_path, deadline=0))
    assert not (tmp_path / RECORD).exists()


def test_half_precision_trains_almost_as_float32(tmp_path):
    at = tiny(tmp_path)
    config = replace(omniglot.RUNS[NAMES[0]], channels=8, meta_steps=4)
    runs = [omniglot.train(p, replace(config, precision=p), at)[1].losses for p in ("float32", "bf16")]
    assert torch.allclose(*runs, rtol=0.05)
    assert not torch.allclose(*runs, rtol=1e-5)


def test_on_a_cpu_dense_layers_are_compiled_and_convolutions_in_long_runs_only(tmp_path, monkeypatch):
    cpu, asked = torch.device("cpu"), Mock()
    short, dense, long = (PAPER[name] for name in (*NAMES[:2], "half-conv-5w1s"))
    monkeypatch.setattr(omniglot, "meta_train", asked)
    monkeypatch.setattr(omniglot, "records", Mock())
    at = tiny(tmp_path)
    omniglot.train("a run", omniglot.RUNS[NAMES[1]], at)
    omniglot.train("a run", omniglot.RUNS[NAMES[1]], at._replace(plain=False))
    assert [call.kwargs["compiled"] for call in asked.call_args_list] == [False, True]
    assert [omniglot.compiles(config, cpu) for config in (short, dense, long)] == [False, True, True]
    assert omniglot.compiles(short, torch.device("cuda"))
    second = [omniglot.network(config, cpu).get_submodule("body.block2.0") for config in (short, long)]
    assert [type(layer) for layer in second] == [torch.nn.Conv2d, PatchConv2d]


def test_a_record_is_written_after_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "write", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        omniglot.run(NAMES[0], tiny(tmp_path))
    assert (tmp_path / f"omniglot-{NAMES[0]}.safetensors").exists()


def test_the_trap_grid_measures_every_way(unbroken):
    metrics = records.load(unbroken / "omniglot-laptop-traps.json").metrics
    ways = ("run", "normalisation", "rotated", "k_query", "test_steps")
    cells = [tuple(cell[way] for way in ways) for cell in metrics["cells"]]
    assert len(cells) == len(set(cells)) == 2 * 2 * 6 * 3
    assert metrics["n_seeds"] == {NAMES[0]: 2, NAMES[2]: 2}
    for orders in metrics["label_orders"]:
        assert orders["n_orders"] == 6
        assert (torch.tensor(orders["lowest"]) <= torch.tensor(orders["highest"])).all()


def test_the_trap_grid_measures_no_weights_but_those_its_runs_left(unbroken, tmp_path, monkeypatch):
    at, weights = tiny(unbroken)._replace(records=tmp_path), unbroken / f"{NAMES[0]}.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FileNotFoundError, match=f"measures {NAMES[0]}, whose weights"):
        omniglot.traps("laptop-traps", at)
    weights.write_bytes(whole)
    monkeypatch.setitem(omniglot.RUNS, NAMES[2], replace(omniglot.RUNS[NAMES[2]], meta_steps=13))
    with pytest.raises(FileNotFoundError, match=f"measures {NAMES[2]}, whose weights"):
        omniglot.traps("laptop-traps", at)


def test_where_a_run_left_no_weights_its_shipped_ones_are_asked_for_by_name(unbroken, tmp_path):
    at = tiny(unbroken)
    whole, elsewhere = omniglot.kept(NAMES[0], at), at._replace(folder=tmp_path)
    shipped = omniglot.kept(NAMES[0], elsewhere._replace(shipped=True))
    assert omniglot.kept(NAMES[0], elsewhere) == {}
    assert shipped.keys() == whole.keys()
    assert all(torch.equal(p, whole[name][:1].half().float()) for name, p in shipped.items())
    assert omniglot.kept(NAMES[0], at._replace(shipped=True))["head.weight"].equal(whole["head.weight"])


@pytest.mark.parametrize("first_order", [False, True])
def test_a_fully_connected_run_follows_mamls_meta_gradient(tmp_path, first_order):
    at = tiny(tmp_path)
    config = replace(omniglot.RUNS[NAMES[1]], first_order=first_order)
    assert omniglot.in_dual_form(config) != first_order
    assert not omniglot.in_dual_form(replace(config, precision="bf16"))
    model = omniglot.network(config, at.device).double()
    loss, adapt = omniglot.losses_of(config, model)
    tasks, params = omniglot.noise(config, at.device), initial_params(model)
    tasks = tree_map(lambda t: t.double() if t.is_floating_point() else t, tasks)
    theirs = meta_gradient(partial(query_loss, model, adapt(config.inner_steps)), params, tasks)
    ours = meta_gradient(loss, params, omniglot.as_taken(config, tasks))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_frozen_runs_are_the_papers():
    paper, fives = PAPER["paper-conv-20w1s"], PAPER["paper-conv-5w5s"]
    numbers = (paper.inner_lr, paper.inner_steps, paper.meta_batch_size, paper.meta_steps)
    assert numbers == (0.1, 5, 16, 60_000)
    assert (fives.inner_lr, fives.k_shot) == (0.4, 5)
    papers = [config for name, config in PAPER.items() if not name.startswith("half")]
    assert all(len(config.seeds) >= 3 and config.n_test_tasks >= 600 for config in papers)


def test_a_cpus_runs_are_dense_or_of_half_the_width_and_the_ladders_of_the_whole():
    ladder, cpu, laptop = (
        {*omniglot.GROUPS[name]} - {*omniglot.TRAPS} for name in ("ladder", "cpu", "laptop")
    )
    assert ladder == {name for name, config in PAPER.items() if config.channels == 64} - laptop
    assert cpu == {name for name, of in PAPER.items() if of.network == "mlp" or of.channels == 32} - laptop


def test_the_counted_operations_are_those_of_the_network(tmp_path):
    at, counted = tiny(tmp_path), {}
    for first_order in (True, False):
        config = replace(omniglot.RUNS[NAMES[0]], channels=32, n_way=5, first_order=first_order)
        model = omniglot.network(config, at.device)
        tasks = omniglot.noise(config, at.device)
        cost = omniglot.cost(model, omniglot.losses_of(config, model)[0], tasks, at.device)
        counted[first_order] = cost["flop_per_meta_step"]

    # Multiply and add: the first layer sees 1 channel, three more see 32, on maps of 14, 7, 4 and 2 pixels a side; then the head.
    forward = 2 * (9 * 32 * 14**2 + 9 * 32 * 32 * (7**2 + 4**2 + 2**2) + 32 * 5)
    # 2 tasks, 5 support and 5 query drawings; a backward pass costs two forward ones, less what the images would need.
    backward = 2 * forward - 2 * 9 * 32 * 14**2
    assert counted[True] == 2 * 5 * (2 * (forward + backward))
    assert counted[False] > counted[True]


def test_a_run_whose_record_is_there_is_skipped_and_help_lists_every_run(unbroken, capsys):
    call(omniglot, NAMES[0], "--threads", 1, "--records", unbroken, "--folder", unbroken)
    assert f"{NAMES[0]}: its record is there, skipped" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(omniglot, "--help")
    out = capsys.readouterr().out
    assert all(name in out for name in (*omniglot.RUNS, *omniglot.TRAPS, *omniglot.GROUPS))
