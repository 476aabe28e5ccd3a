"""The races of the family, of transfer and of requests: a record at the end, and nothing chosen on what is measured."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import family
import language
import nbformat
import pytest
import torch
import torch.nn.functional as F
import transfer
from runs import call, few_steps, made_up

from mamlkit.data.image_sets import ImageClasses
from mamlkit.data.texts import TextClasses, token_ids
from mamlkit.meta import meta_gradient, query_loss
from mamlkit.page import records

BOOK = Path(__file__).parents[1] / "book"
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_race_ends_with_a_record_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    race = few_steps(family, meta_lrs=(1e-3,))
    short = replace(race, k_shot=2, meta_lrs=())
    monkeypatch.setattr(family, "RACES", {"glyphs-5w1s": race, "glyphs-5w2s": short})
    some = {name: family.LEARNERS[name] for name in ("MAML++", "LEO")}
    few = {"LEARNERS": some, "TRANSFER_STEPS": 2, "MOST_KNOBS": 3, "ROUNDS": 1, "glyphs": made_up}
    for name, value in few.items():
        monkeypatch.setattr(family, name, value)
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
    for name, of in shorter.items():  # the first race's rate, and its knob in the middle
        found, trials = metrics["learners"][name]["chosen"], of["trials"]
        assert {trial["meta_lr"] for trial in trials} == {found["meta_lr"]}
        assert trials[len(trials) // 2]["knob"] == pytest.approx(found["knob"])


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


def inverted_test(split: str, **more) -> ImageClasses:
    data = made_up(split, **more)
    return data._replace(images=1 - data.images) if split == "meta-test" else data


CHOOSING = [
    (family, "ProtoNet", lambda of: [seed["accuracy"] for seed in of["per_seed"]]),
    (transfer, "classifier, augmented", lambda of: of["right"]["glyphs"]),
]


@pytest.mark.parametrize(("script", "learner", "measured"), CHOOSING, ids=["family", "transfer"])
def test_a_race_chooses_nothing_on_meta_test_classes(script, learner, measured, of_seconds, monkeypatch):
    race, raced = of_seconds if script is transfer else few_steps(family, meta_lrs=(1e-3, 0.1)), []
    for data in (made_up, inverted_test):
        monkeypatch.setattr(family, "glyphs", data)
        raced.append(script.compete(learner, race))

    assert raced[0]["trials"] == raced[1]["trials"]
    assert raced[0]["chosen"] == raced[1]["chosen"]
    assert measured(raced[0]) != measured(raced[1])


def test_a_race_goes_on_beyond_the_end_of_its_grid_that_is_best(monkeypatch):
    accuracies = iter([0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.6, 0.6, 0.5, 0.4, 0.0, 0.0])
    monkeypatch.setattr(family, "evaluate", lambda *_, **__: torch.full((5,), next(accuracies)))
    monkeypatch.setattr(family, "glyphs", made_up)

    best_at_an_end_twice = family.compete("ProtoNet", few_steps(family, meta_lrs=(1e-3, 0.1)))

    assert best_at_an_end_twice["chosen"]["knob"] == pytest.approx(1 / 3)


def test_where_a_seed_diverges_all_seeds_take_the_next_best_trial(monkeypatch):
    monkeypatch.setattr(family, "glyphs", made_up)
    race, train = few_steps(family, meta_lrs=(1e-3, 1e-2)), family.meta_trained
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
def of_seconds(monkeypatch):
    """A race of a few steps a learner, by a clock that gains a second whenever it is asked."""
    few = {"seconds": (2.0, 4.0), "trial_seconds": 2.0, "fine_tuned_tasks": 3}
    race = few_steps(transfer, meta_lrs=(1e-3, 1e-2), **few)
    for data in ("glyphs", "omniglot"):
        monkeypatch.setattr(family, data, made_up)
    clock = iter(range(10**6))
    monkeypatch.setattr(transfer.time, "process_time", lambda: float(next(clock)))
    monkeypatch.setattr(transfer, "RACES", {"glyphs-5w1s": race})
    monkeypatch.setattr(family, "TRANSFER_STEPS", 3)
    return race


def test_the_race_of_transfer_ends_with_a_record_of_both_domains(of_seconds, tmp_path, monkeypatch, capsys):
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
        way = next(iter(ways))
        for where in ("glyphs", "omniglot"):
            assert of["right"][where].keys() == ways.keys()
            last = [seed["accuracy"][where][way][-1] for seed in of["per_seed"]]
            assert sum(of["right"][where][way]) / 5 / 6 == pytest.approx(sum(last), abs=1e-3)


def test_seconds_are_those_of_training_and_half_of_them_the_teachers(of_seconds, monkeypatch):
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
        accuracies = [seed["accuracy"] for seed in of["per_seed"]]
        assert sum(of["right"]) / 25 / 4 == pytest.approx(sum(accuracies), abs=1e-3)


def test_every_intent_of_the_requests_is_in_one_split_with_the_whole_of_its_domain(requests):
    parts = language.splits(language.RACES["domains"])
    found = {split: part[:, 0, 0].view(-1, 15) for split, part in parts.items()}

    domains = token_ids(requests().texts, length=4, n_ids=300)[:, 0, 0].view(10, 15)
    assert {split: len(blocks) for split, blocks in found.items()} == {"train": 6, "validation": 2, "test": 2}
    assert sorted(torch.cat([*found.values()]).tolist()) == sorted(domains.tolist())


def test_requests_of_the_test_choose_nothing(requests, monkeypatch):
    kept, config = language.splits, language.RACES["domains"]

    def others(config):
        found = kept(config)
        return found | {"test": found["test"].flip(0).roll(1, 1)[:, :, :1].expand(-1, -1, config.length)}

    before = language.compete("MAML, head", config)
    monkeypatch.setattr(language, "splits", others)
    after = language.compete("MAML, head", config)

    assert before["trials"] == after["trials"]
    assert before["chosen"] == after["chosen"]


def test_the_grids_of_transfer_grow_at_their_ends_alone():
    grid = [0.1, 0.3, 0.9]
    assert transfer.beyond(grid, 0.3) is None
    assert transfer.beyond(grid, 0.1) == pytest.approx(1 / 30)
    assert transfer.beyond(grid, 0.9) == pytest.approx(2.7)


def test_the_race_runs_what_its_page_writes():
    page = {"math": math, "torch": torch, "F": F}
    chapter = nbformat.read(BOOK / "baselines-strike-back.ipynb", 4)
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


def test_a_new_head_on_features_is_the_familys_on_the_whole_network(of_seconds):
    of, model = transfer.Setting(of_seconds), family.transfer(of_seconds, 0.3, only="head")
    whole = transfer.evaluate(model.model, model.adapt, model.params, of.validation, metric=transfer.accuracy)
    assert transfer.new_head(of_seconds, model.params, of.validation, 0, 0.3).tolist() == whole.tolist()
