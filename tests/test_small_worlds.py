"""The race in many small worlds: what a seed chooses by, what a patient's last visit may tell, and two rules by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
import worlds

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = worlds.Config(n_train=8, n_validation=5, n_test=6, k_query=4, hidden=4, meta_steps=3, meta_batch_size=2, em_steps=3,
                      inner_lrs=(0.1, 0.3), meta_lrs=(1e-3, 1e-2), n_draws=50, seeds=(0, 1))  # fmt: skip
LEARNERS = ("MAML", "joint", "alone", "mixed")


def far_off(tasks):
    return tasks._replace(query=tasks.query._replace(y=5 - tasks.query.y))


def compete(changed_seeds=(), **changed):
    """The race in the shops, of which some seeds' tasks of some parts are changed."""
    source = worlds.SOURCES["shops"]

    def other(config, seed):
        data = source(config, seed)
        some = {
            part: change(getattr(data, part)) for part, change in changed.items() if seed in changed_seeds
        }
        return data._replace(**some)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worlds.SOURCES, "shops", other)
        return worlds.compete("shops", SMALL)


@pytest.fixture(scope="module")
def unchanged():
    return compete()


def test_test_tasks_of_small_worlds_choose_nothing(unchanged):
    after = compete(changed_seeds=SMALL.seeds, test=far_off)

    for of in LEARNERS:
        assert unchanged[of]["settings"] == after[of]["settings"]
        assert all(one != other for one, other in zip(unchanged[of]["seeds"], after[of]["seeds"]))


def test_each_seed_of_a_small_world_chooses_on_its_own_validation_tasks(unchanged):
    after = compete(changed_seeds=(1,), validation=far_off)

    for of in LEARNERS:
        assert unchanged[of]["settings"][0] == after[of]["settings"][0]
        assert unchanged[of]["seeds"][0] == after[of]["seeds"][0]
    assert any(unchanged[of]["settings"][1] != after[of]["settings"][1] for of in LEARNERS)


def patient(visits, scores):
    """Rows of a patient seen every other day of half a year, with scores on straight lines between the visits."""
    day = torch.arange(1.0, 180, 2, dtype=torch.float64)
    score = torch.full_like(day, scores[0])
    for (a, b), (from_, to) in zip(itertools.pairwise(visits), itertools.pairwise(scores)):
        score += (to - from_) * ((day - a) / (b - a)).clamp(0, 1)
    generator = torch.Generator().manual_seed(int(scores[0]))
    voice = torch.rand(len(day), 19, dtype=torch.float64, generator=generator)
    voice[:, 2] = day
    return torch.cat([day[:, None], score[:, None], voice], 1)


def people(last):
    """Twelve patients whose middle visit is seen in their scores, and one in whose scores it is not."""
    twelve = [patient((0, 80 + 5 * i, 180), (20 + i, 25, last(i))) for i in range(12)]
    return *twelve, patient((0, 90, 180), (10, 20, 30))


def test_what_a_patients_last_visit_says_reaches_no_support_row(monkeypatch):
    found = []
    for last in (lambda i: 30, lambda i: 60 if i % 6 < 2 else 30):  # other scores of those held out
        monkeypatch.setattr(worlds, "patient_rows", partial(people, last))
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
