"""The long runs' script, on a few made-up characters: one record, whether the run was broken off or not."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import make_dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from mamlkit import training
from mamlkit.data import image_sets
from mamlkit.data.image_sets import ImageClasses
from mamlkit.data.texts import TextClasses, token_ids
from mamlkit.meta import meta_gradient, nearest_neighbour, query_loss
from mamlkit.page import records

EXPERIMENTS = Path(__file__).parents[1] / "book" / "experiments"
BOOK = EXPERIMENTS.parent / "records"
sys.path.insert(0, str(EXPERIMENTS))
import engine  # noqa: E402
import family  # noqa: E402
import lake  # noqa: E402
import language  # noqa: E402
import omniglot  # noqa: E402
import scaling  # noqa: E402
import sinusoids  # noqa: E402
import transfer  # noqa: E402
import worlds  # noqa: E402

TINY = {"meta_steps": 12, "validate_every": 3, "channels": 2, "meta_batch_size": 2, "seeds": (0, 1), "n_way": 3,
        "n_validation_tasks": 4, "n_test_tasks": 5, "test_steps": (1, 2)}  # fmt: skip
NAMES = ("laptop-conv-5w1s", "laptop-mlp-5w1s", "laptop-alphabets-5w1s")
RECORD = f"omniglot-{NAMES[0]}.json"
HERE = ("--folder", "HERE", "--records", "HERE")
PAPER = dict(omniglot.RUNS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(script, *arguments):
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
    with zipfile.ZipFile(path, "w") as archive:
        for run in range(1, 21):
            lines, order = [], np.roll(range(20), run)
            for i in range(20):
                item, letter = (
                    f"run{run:02d}/test/item{i + 1:02d}.png",
                    f"run{run:02d}/training/class{order[i] + 1:02d}.png",
                )
                lines.append(f"{item} {letter}")
                for name, picture in ((item, pictures[order[i]]), (letter, pictures[order[i]])):
                    png = io.BytesIO()
                    Image.fromarray(picture).convert("1").save(png, "PNG")
                    archive.writestr(name, spoil(name, png.getvalue()))
            archive.writestr(f"run{run:02d}/class_labels.txt", spoil("labels", "\n".join(lines)))
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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda name, content: "" if name == "labels" else content,
            "20 letters, 20 questions and 0 answers that fit",
        ),
        (lambda name, content: content[:40], "is not a whole file of runs"),
    ],
)
def test_a_damaged_file_of_runs_is_refused(tmp_path, spoil, words):
    with pytest.raises(ValueError, match=words):
        lake.read_runs(runs_file(tmp_path / "all_runs.zip", spoil=spoil))


def test_the_engine_ends_with_a_record(tmp_path, monkeypatch):
    few = {"networks": ("mlp",), "meta_batch_size": 2, "n_classes": 6, "compiled": (), "burst_seconds": 0.0}
    monkeypatch.setattr(engine, "Config", small(engine, **few))
    caches, limit = torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit

    call(engine, "--rounds", 2, "--records", tmp_path, "--device", "cpu")
    torch._inductor.config.force_disable_caches, torch._dynamo.config.recompile_limit = caches, limit
    metrics = records.load(tmp_path / "engine.json").metrics
    rungs = ("loop", "vmap", "on device", "bf16", "seeds")
    assert metrics["step_ms_by_round"].keys() == {f"mlp {rung}" for rung in rungs}
    assert metrics["failed"] == {}
    assert metrics["difference_from_float64_loop"]["mlp vmap"]["cosine"] > 0.99


def test_the_scaling_ends_with_a_record_of_two_processes(tmp_path, monkeypatch):
    few = {"ranks": (1, 2), "sinusoid_tasks": 2, "sinusoid_steps": 1, "conv_tasks": 2, "conv_steps": 1, "channels": 2,
           "n_classes": 6, "message_floats": (1,), "message_times": 1}  # fmt: skip
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import sys; sys.path[:0] = [{str(EXPERIMENTS)!r}, {str(Path(__file__).parent)!r}]\n"
        f"import test_experiments as t; t.scaling.Config = t.small(t.scaling, **{few!r}); t.scaling.main()"
    )
    monkeypatch.setattr(scaling, "Config", small(scaling, **few))
    monkeypatch.setattr(scaling, "__file__", str(driver))

    with pytest.raises(SystemExit, match=r"^0$"):
        call(scaling, "--repeats", 2, "--records", tmp_path)
    metrics = records.load(tmp_path / "scaling.json").metrics
    assert len(metrics["step_ms_by_part_and_round"]) == 2 * 3
    assert len(metrics["message_ms_by_round"]["1 floats, 2 ranks"]) == 2


def test_a_race_ends_with_a_record_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    few = {**TINY, "meta_steps": 2, "trial_steps": 1, "meta_lrs": (1e-3,), "k_query": 2}
    race = family.Config(**{name: few[name] for name in few if hasattr(family.Config, name)})
    short = replace(race, k_shot=2, meta_lrs=())
    monkeypatch.setattr(family, "RACES", {"glyphs-5w1s": race, "glyphs-5w2s": short})
    some = {name: family.LEARNERS[name] for name in ("MAML++", "LEO")}
    monkeypatch.setattr(family, "LEARNERS", some)
    monkeypatch.setattr(family, "TRANSFER_STEPS", 2)
    monkeypatch.setattr(family, "MOST_KNOBS", 3)
    monkeypatch.setattr(family, "ROUNDS", 1)
    monkeypatch.setattr(family, "glyphs", made_up)
    monkeypatch.setattr(family.time, "process_time", itertools.count().__next__)  # every burst takes a second
    at = ("glyphs-5w1s", "--folder", tmp_path / "runs", "--records", tmp_path)

    call(family, *at, "--only", "LEO")
    assert "still without a result: MAML++, pretrained" in capsys.readouterr().out
    call(family, *at)
    assert not re.search("^LEO,", capsys.readouterr().out, re.MULTILINE)  # neither is run again
    metrics = records.load(tmp_path / "family-glyphs-5w1s.json").metrics
    assert all(cost == {"meta_step_ms": 1000, "task_ms": 50} for cost in metrics["cost"].values())
    assert metrics["learners"].keys() == metrics["cost"].keys() == (family.LEARNERS | family.TRANSFERS).keys()
    for of in metrics["learners"].values():
        accuracies = [seed["accuracy"] for seed in of["per_seed"]]
        assert sum(of["right"]) == pytest.approx(5 * 3 * 2 * sum(accuracies), abs=0.01)
        assert of["chosen"] == max(of["trials"], key=lambda trial: trial["accuracy"])
    call(family, *at)
    assert "its record is there, skipped" in capsys.readouterr().out

    call(family, "glyphs-5w2s", *at[1:])
    shorter = records.load(tmp_path / "family-glyphs-5w2s.json").metrics["learners"]
    assert shorter.keys() == metrics["learners"].keys() & set(family.LATER)
    for of in shorter:  # the first race's rate, and its knob in the middle
        found = metrics["learners"][of]
        assert {trial["meta_lr"] for trial in shorter[of]["trials"]} == {found["chosen"]["meta_lr"]}
        assert found["chosen"]["knob"] == pytest.approx(
            shorter[of]["trials"][len(shorter[of]["trials"]) // 2]["knob"]
        )


@pytest.mark.parametrize("name", family.LEARNERS)
def test_a_learner_of_the_race_has_a_gradient_for_all_that_it_uses(name):
    config = family.Config(n_way=3, channels=2, k_query=2)
    begin, knobs = family.LEARNERS[name]
    torch.manual_seed(0)
    learner = begin(config, knobs[1])
    tasks = family.draw(made_up("meta-train").images, 2, config, torch.Generator().manual_seed(0))
    loss = learner.loss(0) if learner.loss else partial(query_loss, learner.model, learner.adapt)
    gradients = meta_gradient(loss, learner.params, tasks)[1]
    heads_of_its_own = {"head.weight", "head.bias"} if name in ("ProtoNet", "Proto-MAML") else {"ridge.shift"}
    assert {name for name, g in gradients.items() if g.norm() < 1e-6} <= heads_of_its_own


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
    code = "import sys; sys.path.insert(0, 'tests'); import test_experiments as t; t.lives(sys.argv[1])"
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=BOOK.parents[1], env=environment, check=True)
    found, metrics = (records.load(at / RECORD).metrics for at in (tmp_path, unbroken))
    assert found.keys() == metrics.keys()
    assert all(found[name] == metrics[name] for name in metrics.keys() - {"train_seconds", "cost"})


def inverted_test(split: str, **more) -> ImageClasses:
    data = made_up(split, **more)
    return data._replace(images=1 - data.images) if split == "meta-test" else data


def test_the_number_of_test_steps_is_chosen_on_meta_validation_classes(tmp_path, monkeypatch):
    at = tiny(tmp_path)

    def one_step_there_and_two_on_meta_test(model, adapt, theta, tasks, **_):
        n, best = (len(tasks.support.y), 1) if len(tasks.support.y) == TINY["n_validation_tasks"] else (5, 2)
        return torch.full((n,), float(adapt.keywords["inner_steps"] == best))

    monkeypatch.setattr(omniglot, "evaluate", one_step_there_and_two_on_meta_test)
    omniglot.run(NAMES[0], at)
    per_seed = records.load(tmp_path / RECORD).metrics["per_seed"]
    assert [seed["test_steps"] for seed in per_seed] == [1, 1]


def test_a_race_chooses_inside_its_grid_and_nothing_on_meta_test_classes(monkeypatch):
    few = {**TINY, "meta_steps": 2, "trial_steps": 1, "meta_lrs": (1e-3, 0.1), "k_query": 2}
    race, raced = family.Config(**{n: few[n] for n in few if hasattr(family.Config, n)}), []
    for data in (made_up, inverted_test):
        monkeypatch.setattr(family, "glyphs", data)
        raced.append(family.compete("ProtoNet", race))
    of_trials = iter([0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.6, 0.6, 0.5, 0.4, 0.0, 0.0])
    monkeypatch.setattr(family, "evaluate", lambda *_, **__: torch.full((5,), next(of_trials)))
    best_at_an_end_twice = family.compete("ProtoNet", race)
    assert raced[0]["trials"] == raced[1]["trials"]
    assert raced[0]["chosen"] == raced[1]["chosen"]
    assert [s["accuracy"] for s in raced[0]["per_seed"]] != [s["accuracy"] for s in raced[1]["per_seed"]]
    assert best_at_an_end_twice["chosen"]["knob"] == pytest.approx(1 / 3)


def test_where_a_seed_diverges_all_seeds_take_the_next_best_trial(monkeypatch):
    monkeypatch.setattr(family, "glyphs", made_up)
    few = {**TINY, "meta_steps": 2, "trial_steps": 1, "meta_lrs": (1e-3, 1e-2), "k_query": 2, "seeds": (0, 1)}
    race, train = family.Config(**{n: few[n] for n in few if hasattr(family.Config, n)}), family.meta_trained
    calm = family.compete("ProtoNet", race)
    first, second, *_ = sorted(calm["trials"], key=lambda trial: -trial["accuracy"])

    def at_times(config, learner, images, *, meta_lr, meta_steps, seed):
        best = (learner.model.body[-1].by, meta_lr) == (first["knob"], first["meta_lr"])
        if best and meta_steps == race.meta_steps and seed == 1:
            raise FloatingPointError
        return train(config, learner, images, meta_lr=meta_lr, meta_steps=meta_steps, seed=seed)

    monkeypatch.setattr(family, "meta_trained", at_times)
    wild = family.compete("ProtoNet", race)
    assert (calm["chosen"], calm["diverged"]) == (first, [])
    assert (wild["chosen"], wild["diverged"]) == (second, [first])
    assert [seed["seed"] for seed in wild["per_seed"]] == [0, 1]


@pytest.fixture
def brief(monkeypatch):
    """A race of a few steps a learner, by a clock that gains a second whenever it is asked."""
    few = {
        **TINY,
        "k_query": 2,
        "seconds": (2.0, 4.0),
        "trial_seconds": 2.0,
        "meta_lrs": (1e-3, 1e-2),
        "fine_tuned_tasks": 3,
    }
    race = transfer.Config(**{n: few[n] for n in few if hasattr(transfer.Config, n)})
    for data in ("glyphs", "omniglot"):
        monkeypatch.setattr(family, data, made_up)
    clock = iter(range(10**6))
    monkeypatch.setattr(transfer.time, "process_time", lambda: float(next(clock)))
    monkeypatch.setattr(transfer, "RACES", {"glyphs-5w1s": race})
    return race


def test_the_race_of_transfer_ends_with_a_record_of_both_domains(brief, tmp_path, monkeypatch, capsys):
    three = ("self-distilled", "ProtoNet, no labels", "MAML, augmented")
    monkeypatch.setattr(transfer, "LEARNERS", {name: transfer.LEARNERS[name] for name in three})
    at = ("glyphs-5w1s", "--folder", tmp_path / "runs", "--records", tmp_path)

    call(transfer, *at, "--only", *three[:2])
    assert "still without a result: MAML, augmented" in capsys.readouterr().out
    call(transfer, *at)
    record = records.load(tmp_path / "transfer-glyphs-5w1s.json")
    assert record.provenance.script.endswith("transfer.py")
    assert record.metrics["nearest_neighbour"].keys() == {"glyphs", "omniglot"}
    for name in three:
        of, ways = record.metrics["learners"][name], transfer.readings(name)
        for where in ("glyphs", "omniglot"):
            assert of["right"][where].keys() == ways.keys()
            last = [seed["accuracy"][where][next(iter(ways))][-1] for seed in of["per_seed"]]
            assert sum(of["right"][where][next(iter(ways))]) / 5 / 6 == pytest.approx(sum(last), abs=1e-3)


def test_transfer_chooses_nothing_on_meta_test_classes(brief, monkeypatch):
    raced = []
    for data in (made_up, inverted_test):
        monkeypatch.setattr(family, "glyphs", data)
        raced.append(transfer.compete("classifier, augmented", brief))
    assert raced[0]["trials"] == raced[1]["trials"]
    assert raced[0]["chosen"] == raced[1]["chosen"]
    assert raced[0]["right"]["glyphs"] != raced[1]["right"]["glyphs"]


def test_seconds_are_those_of_training_and_half_of_them_the_teachers(brief, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(transfer.time, "process_time", lambda: now[0])

    def work(params, optimizer):
        now[0] += 1.0

    def begin(*_):
        return {"w": torch.zeros(1)}, work

    def second(*_, teacher):
        return {"w": teacher["w"] + 1}, work

    monkeypatch.setattr(transfer, "classifier", begin)
    monkeypatch.setattr(transfer, "student", second)
    monkeypatch.setitem(transfer.LEARNERS, "MAML", (begin, (1.0,)))
    monkeypatch.setitem(transfer.LEARNERS, "self-distilled", (second, (1.0,)))
    steps: dict[str, list[int]] = {"MAML": [], "self-distilled": []}
    for name in steps:
        for _, taken in transfer.over_time(name, None, 1.0, 0.1, (4.0, 8.0), 0):
            steps[name].append(taken)
            now[0] += 100.0  # the clock stands while a learner is measured
    assert steps == {"MAML": [4, 8], "self-distilled": [4, 8]}


@pytest.fixture
def requests(monkeypatch):
    """CLINC150 in small: ten domains of fifteen intents with a word of their own, and a race of a few steps."""

    def made():
        names = [(f"domain{i // 15}", f"intent{i}") for i in range(150)]
        each = [tuple(f"word{i} and {j}" for j in range(8)) for i in range(150)]
        return TextClasses(tuple(each), tuple(n for _, n in names), tuple(d for d, _ in names))

    few = {"length": 4, "n_ids": 300, "width": 8, "head_steps": 2, "meta_steps": 2, "trial_steps": 1, "seeds": (0, 1),
           "n_validation_tasks": 3, "n_test_tasks": 4, "meta_batch_size": 2}  # fmt: skip
    monkeypatch.setattr(language, "clinc150", made)
    monkeypatch.setattr(language, "RACES", {"domains": language.Config(split="domains", **few)})
    return made


def test_the_race_of_requests_ends_with_a_record_of_every_learner(requests, tmp_path):
    call(language, "domains", "--folder", tmp_path / "runs", "--records", tmp_path)

    learners = records.load(tmp_path / "language-domains.json").metrics["learners"]
    assert learners.keys() == {*language.LEARNERS, *language.COUNTS}
    for of in learners.values():
        mean = sum(of["right"]) / 25 / 4 / len(of["per_seed"])
        assert mean == pytest.approx(
            sum(s["accuracy"] for s in of["per_seed"]) / len(of["per_seed"]), abs=1e-3
        )


def test_requests_of_the_test_choose_nothing_and_no_domain_is_in_two_splits(requests, monkeypatch):
    config = language.RACES["domains"]
    parts = language.splits(config)
    assert [len(part) for part in parts.values()] == [90, 30, 30]
    rows = torch.cat(list(parts.values()))[:, 0, 0]
    every = token_ids(requests().texts, length=4, n_ids=300)[:, 0, 0]
    assert rows.sort().values.equal(every.sort().values), "each intent is in one split"
    domains = every.view(10, 15)
    assert all(
        (domains == block).all(1).any() for part in parts.values() for block in part[:, 0, 0].view(-1, 15)
    )
    kept = language.splits

    def others(config):
        found = kept(config)
        return found | {"test": found["test"].flip(0).roll(1, 1)[:, :, :1].expand(-1, -1, config.length)}

    before = language.compete("MAML, head", config)
    monkeypatch.setattr(language, "splits", others)
    after = language.compete("MAML, head", config)
    assert before["trials"] == after["trials"]
    assert before["chosen"] == after["chosen"]


SMALL = worlds.Config(n_train=8, n_validation=5, n_test=6, k_query=4, hidden=4, meta_steps=3, meta_batch_size=2, em_steps=3,
                      inner_lrs=(0.1, 0.3), meta_lrs=(1e-3, 1e-2), n_draws=50, seeds=(0, 1))  # fmt: skip
LEARNERS = ("MAML", "joint", "alone", "mixed")


def compete_with(monkeypatch, config=SMALL, name="shops", seeds=(0, 1), **changed):
    """The race in a world of which some seeds' tasks of some parts are changed."""
    source = worlds.SOURCES[name]

    def other(config, seed):
        data = source(config, seed)
        some = {part: change(getattr(data, part)) for part, change in changed.items() if seed in seeds}
        return data._replace(**some)

    with monkeypatch.context() as patch:
        patch.setitem(worlds.SOURCES, name, other)
        return worlds.compete(name, config)


def far_off(tasks):
    return tasks._replace(query=tasks.query._replace(y=5 - tasks.query.y))


def test_test_tasks_of_small_worlds_choose_nothing(monkeypatch):
    before, after = compete_with(monkeypatch), compete_with(monkeypatch, test=far_off)
    for of in LEARNERS:
        assert before[of]["settings"] == after[of]["settings"]
        assert all(one != other for one, other in zip(before[of]["seeds"], after[of]["seeds"]))


def test_each_seed_of_a_small_world_chooses_on_its_own_validation_tasks(monkeypatch):
    before, after = compete_with(monkeypatch), compete_with(monkeypatch, seeds=(1,), validation=far_off)
    for of in LEARNERS:
        assert before[of]["settings"][0] == after[of]["settings"][0]
        assert before[of]["seeds"][0] == after[of]["seeds"][0]
    assert any(before[of]["settings"][1] != after[of]["settings"][1] for of in LEARNERS)


def patient(visits, scores):
    """Rows of a patient seen every other day of half a year, with scores on straight lines between the visits."""
    day = torch.arange(1.0, 180, 2, dtype=torch.float64)
    score = torch.full_like(day, scores[0])
    for (a, b), (from_, to) in zip(itertools.pairwise(visits), itertools.pairwise(scores)):
        score += (to - from_) * ((day - a) / (b - a)).clamp(0, 1)
    voice = torch.rand(
        len(day), 19, dtype=torch.float64, generator=torch.Generator().manual_seed(int(scores[0]))
    )
    voice[:, 2] = day
    return torch.cat([day[:, None], score[:, None], voice], 1)


def people(last):
    """Twelve patients whose middle visit is seen in their scores, and one in whose scores it is not."""
    visits = [(0, 80 + 5 * i, 180) for i in range(12)]
    return (
        *(patient(v, (20 + i, 25, last(i))) for i, v in enumerate(visits)),
        patient((0, 90, 180), (10, 20, 30)),
    )


def test_what_a_patients_last_visit_says_reaches_no_support_row(monkeypatch):
    found = []
    for rows in (
        people(lambda i: 30),
        people(lambda i: 60 if i % 6 < 2 else 30),
    ):  # other scores of those held out
        monkeypatch.setattr(worlds, "patient_rows", lambda rows=rows: rows)
        found.append(worlds.patients(SMALL, 0))
    one, other = found

    assert [len(part.support.x) for part in one[:3]] == [6, 2, 4]
    assert torch.equal(one.test.support.y, other.test.support.y)
    assert (one.test.query.y != other.test.query.y).all()
    for part in ("train", "validation"):
        assert torch.equal(getattr(one, part).query.y, getattr(other, part).query.y)


def test_a_patient_whose_middle_visit_is_not_between_what_is_known_and_asked_is_refused(monkeypatch):
    monkeypatch.setattr(worlds, "patient_rows", lambda: people(lambda i: 30))
    for days in ({"known_until": 90}, {"asked_from": 120}):
        with pytest.raises(ValueError, match=r"a middle visit on day \d+ is not between"):
            worlds.patients(replace(SMALL, **days), 0)


def test_a_middle_visit_is_where_the_scores_go_on_in_another_line():
    assert worlds.middle_visit(patient((0, 91, 180), (20, 25, 24))) == 91
    assert worlds.middle_visit(patient((0, 90, 180), (20, 25, 30))) is None
    with pytest.raises(ValueError, match="do not lie on two straight lines"):
        worlds.middle_visit(patient((0, 60, 120, 180), (20, 25, 20, 25)))


def test_patients_rules_repeat_the_last_score_and_extend_the_line(monkeypatch):
    monkeypatch.setattr(worlds, "patient_rows", lambda: people(lambda i: 25))
    test, rules = worlds.patients(SMALL, 0).test, worlds.RULES["patients"]

    day, score = test.support.x[:, :, 2].double(), test.support.y[..., 0].double()
    slope = (score[:, -1] - score[:, 0]) / (day[:, -1] - day[:, 0])
    ahead = score[:, -1:] + slope[:, None] * (test.query.x[:, :, 2] - day[:, -1:])
    for name, guess in (("last", score[:, -1:]), ("line", ahead)):
        expected = (guess - test.query.y[..., 0]).square().mean(1)
        torch.testing.assert_close(rules[name](test).double(), expected, atol=1e-4, rtol=1e-4)


def test_steps_that_end_with_more_support_loss_are_taken_back():
    data = worlds.SOURCES["shops"](SMALL, 0)
    params = worlds.initial_params(worlds.network(SMALL, 2))
    start, calm, wild = (
        (worlds.stepped(SMALL, params, knob, data.test), worlds.taken_back(SMALL, params, knob, data.test))
        for knob in ({"rate": r, "steps": n} for r, n in ((0.1, 0), (0.01, 3), (1e3, 30)))
    )

    assert (start[1], calm[1], wild[1]) == (0, 0, SMALL.n_test)
    assert torch.equal(start[0], wild[0])
    assert (calm[0] != start[0]).all()


def test_the_grids_of_transfer_grow_at_their_ends_alone():
    grid = [0.1, 0.3, 0.9]
    assert transfer.beyond(grid, 0.3) is None
    assert transfer.beyond(grid, 0.1) == pytest.approx(1 / 30)
    assert transfer.beyond(grid, 0.9) == pytest.approx(2.7)


def test_a_copy_of_no_strength_is_its_drawing_and_a_turn_by_no_random_number_too():
    x = made_up("meta-train").images[:, 0]
    still = transfer.augmented(x, torch.Generator().manual_seed(0), degrees=0, pixels=0, scaling=1)
    moved = transfer.augmented(x, torch.Generator().manual_seed(0), degrees=20, pixels=2, scaling=1.2)
    torch.testing.assert_close(still, x, atol=1e-4, rtol=0)
    assert (moved - x).abs().mean() > 0.05


def test_views_that_say_nothing_are_found_by_chance_and_clear_ones_always():
    z = torch.eye(4, dtype=torch.float64)
    nothing = transfer.contrastive_loss(torch.ones_like(z), torch.ones_like(z), 0.5)
    clear = transfer.contrastive_loss(z, z, 0.5)
    assert nothing.item() == pytest.approx(torch.tensor(7.0).log().item())
    assert clear.item() == pytest.approx((1 + 6 * torch.tensor(-2.0, dtype=torch.float64).exp()).log().item())


def test_the_race_runs_what_its_page_writes():
    page = {"math": math, "torch": torch, "F": torch.nn.functional}
    chapter = nbformat.read(BOOK.parent / "baselines-strike-back.ipynb", 4)
    for name in ("moved", "contrastive_loss", "distillation_loss"):
        (cell,) = [c for c in chapter.cells if c.cell_type == "code" and f"def {name}(" in c.source]
        exec(cell.source, page)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 8, 8, generator=generator)
    one, other, y = *torch.randn(2, 3, 5, generator=generator), torch.tensor([0, 3, 1])
    turn, size, right, down = 2 * torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) - 1
    by_page = page["moved"](x, math.radians(20) * turn, 1.25**size, -2.5 * right, -2.5 * down)

    most = {name: getattr(transfer.Config(), name) for name in ("degrees", "pixels", "scaling")}
    assert torch.allclose(transfer.augmented(x, torch.Generator().manual_seed(1), **most), by_page, atol=1e-5)
    assert transfer.contrastive_loss(one, other, 0.3) == page["contrastive_loss"](one, other, 0.3)
    assert transfer.distillation_loss(one, other, y, 2.0) == page["distillation_loss"](one, other, y, 2.0)


def test_a_teacher_without_doubt_teaches_the_labels():
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    sure = 1e4 * torch.eye(3, dtype=torch.float64)[y]
    torch.testing.assert_close(
        transfer.distillation_loss(logits, sure, y, 1.0), torch.nn.functional.cross_entropy(logits, y)
    )


def test_a_new_head_on_features_is_the_familys_on_the_whole_network(brief):
    of, model = transfer.Setting(brief), family.transfer(brief, 0.3, only="head")
    whole = transfer.evaluate(model.model, model.adapt, model.params, of.validation, metric=transfer.accuracy)
    assert transfer.new_head(brief, model.params, of.validation, 0, 0.3).tolist() == whole.tolist()


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
    asked = Mock()
    monkeypatch.setattr(omniglot, "meta_train", asked)
    monkeypatch.setattr(omniglot, "records", Mock())
    at = tiny(tmp_path)._replace(plain=False)
    short, dense = (omniglot.RUNS[name] for name in NAMES[:2])
    for config in (short, dense, replace(short, meta_steps=60_000)):
        omniglot.train("a run", config, at)
    assert [call.kwargs["compiled"] for call in asked.call_args_list] == [False, True, True]


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


def test_the_frozen_runs_are_the_papers():
    paper, fives = PAPER["paper-conv-20w1s"], PAPER["paper-conv-5w5s"]
    numbers = (paper.inner_lr, paper.inner_steps, paper.meta_batch_size, paper.meta_steps)
    assert numbers == (0.1, 5, 16, 60_000)
    assert (fives.inner_lr, fives.k_shot) == (0.4, 5)
    papers = [config for name, config in PAPER.items() if not name.startswith("half")]
    assert all(len(config.seeds) >= 3 and config.n_test_tasks >= 600 for config in papers)


def test_the_counted_operations_are_those_of_the_network(tmp_path):
    at, counted = tiny(tmp_path), {}
    for first_order in (True, False):
        config = replace(omniglot.RUNS[NAMES[0]], channels=32, n_way=5, first_order=first_order)
        model = omniglot.network(config, at.device)
        cost = omniglot.cost(config, model, omniglot.losses_of(config, model)[0], at.device)
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
