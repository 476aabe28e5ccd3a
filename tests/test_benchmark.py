"""The race is fair: who computes something else is out, and who fails or hangs is a sentence."""

from __future__ import annotations

import sys
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))
import racers
import run

SINUSOID, CONV = run.Race("sinusoid", 1, 2, 1, False), run.Race("conv4", 2, 1, 1, False)


@pytest.mark.parametrize("race", [SINUSOID, CONV], ids=str)
def test_the_kit_and_a_plain_loop_are_admitted_and_a_first_order_gradient_is_not(race: run.Race) -> None:
    track = racers.lay_out(race, "cpu", torch.float64)
    shortcut = track._replace(settings={**track.settings, "first_order": True})

    assert all(racers.Contestant(race, name, "cpu").difference() < 1e-9 for name in ("mamlkit", "plain loop"))
    assert racers.difference(track, racers.RACERS["plain loop"](shortcut)) > 1e-3


@pytest.mark.parametrize("factor", [2, None])
def test_a_kit_whose_compiler_errs_or_fails_does_not_race_plainly(monkeypatch, factor: int | None) -> None:
    def compiled(gradient, *given):
        if factor is None:
            raise torch._dynamo.exc.TorchDynamoException("no compiler")
        return tree_map(lambda t: factor * t, gradient(*given))

    monkeypatch.setattr(torch, "compile", lambda gradient, **_: partial(compiled, gradient))
    contestant = racers.Contestant(SINUSOID, "mamlkit, compiled", "cpu")
    with warnings.catch_warnings(action="ignore"), pytest.raises(UserWarning, match="runs plainly"):
        contestant.difference()


class Fake(ExitStack):
    """A worker without a process, whose answers are made up by the racer's name."""

    def __init__(self, threads: int, patience: float, race=None, racer: str = "", device: str = ""):
        super().__init__()
        self.racer, self.bursts = racer, 0

    def ask(self, command: str, *_: object) -> object:
        self.bursts += command == "burst"
        if self.racer == "learn2learn" and self.bursts == 2:
            raise run.Out("died of 'burst', exit code -9")
        difference = {"higher": 1e-2, "JAX": float("nan")}.get(self.racer, 1e-15)
        rate = {"mamlkit": 60.0, "torchopt": 20.0}.get(self.racer, 30.0)
        return {"difference": difference, "burst": rate, "machine": ("a machine", "")}.get(command, 7.0)


def test_only_those_who_agree_and_come_through_stand_in_the_table(monkeypatch, capsys) -> None:
    monkeypatch.setattr(run, "Worker", Fake)
    monkeypatch.setattr(run, "races", lambda *_: [CONV])

    run.main(["--device", "cpu", "--rounds", "3"])

    printed = capsys.readouterr().out
    assert "higher: disqualified, its meta-gradient differs by 1.0e-02" in printed
    assert "JAX: disqualified, its meta-gradient differs by nan" in printed
    assert "learn2learn: died of 'burst', exit code -9" in printed
    rows = [line.split() for line in printed.splitlines()[7:]]
    assert [row[0] for row in rows] == ["mamlkit", "plain", "torchopt"]
    assert rows[0][-2:] == ["3.00", "2.00"]
    with pytest.raises(SystemExit, match="2"):
        run.main(["--device", "cuda"])
    assert "torch finds no CUDA device here; use --device cpu" in capsys.readouterr().err


def test_a_racer_races_in_a_process_of_its_own_whose_silence_and_death_are_sentences() -> None:
    with run.Worker(1, 60, SINUSOID, "plain loop", "cpu") as worker:
        worker.ask("prepare", 0.01)
        assert worker.ask("burst", 0.01) > 0
        assert worker.ask("memory") >= 0
        with pytest.raises(run.Out, match=r"does not run here \(AttributeError: "):
            worker.ask("no such command")
        worker.patience = 0.0
        with pytest.raises(run.Out, match="no answer to 'burst' within 0 s"):
            worker.ask("burst", 60)
        worker.patience = 60.0
        with pytest.raises(run.Out, match="died of 'memory', exit code -9"):
            worker.ask("memory")
    assert not worker.process.is_alive()
