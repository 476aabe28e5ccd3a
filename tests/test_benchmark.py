"""The race is fair: who computes something else is out, and who fails or hangs is a sentence."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))
import racers
import run

SINUSOID = run.Race("sinusoid", 1, 2, 1, False)
CONV = run.Race("conv4", 2, 1, 1, False)


@pytest.mark.parametrize(("race", "racer"), [(SINUSOID, "mamlkit"), (CONV, "plain loop")])
def test_the_kit_and_a_plain_loop_are_admitted(race: run.Race, racer: str) -> None:
    assert racers.Contestant(race, racer, "cpu").difference() < 1e-9


@pytest.mark.parametrize("race", [SINUSOID, CONV], ids=("sinusoid", "conv4"))
def test_a_first_order_gradient_is_not_admitted_to_a_race_of_second_order(race: run.Race) -> None:
    track = racers.lay_out(race, "cpu", torch.float64)
    shortcut = track._replace(settings={**track.settings, "first_order": True})
    racer = racers.RACERS["plain loop"](shortcut)
    assert racers.difference(track, racer) > 1e-3


class Fake:
    """A worker without a process, whose answers are made up by the racer's name."""

    def __init__(self, threads: int, patience: float, race: run.Race, racer: str, device: str):
        self.racer, self.bursts = racer, 0

    def ask(self, command: str, *arguments: object) -> float:
        if command == "difference":
            return {"higher": 1e-2, "JAX": float("nan")}.get(self.racer, 1e-15)
        if command == "burst":
            self.bursts += 1
            if self.racer == "learn2learn" and self.bursts == 2:
                raise run.Out("died of 'burst', exit code -9")
            return {"mamlkit": 60.0, "torchopt": 20.0}.get(self.racer, 30.0)
        return 7.0

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_only_those_who_agree_and_come_through_stand_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "Worker", Fake)
    options = argparse.Namespace(
        threads=1, patience=1.0, device="cpu", seconds=1.0, rounds=3, racers=run.RACERS
    )
    run.run(CONV, options)
    printed = capsys.readouterr().out
    assert "higher: disqualified, its meta-gradient differs by 1.0e-02" in printed
    assert "JAX: disqualified, its meta-gradient differs by nan" in printed
    assert "learn2learn: died of 'burst', exit code -9" in printed
    rows = [line.split() for line in printed.splitlines()[6:]]
    assert [row[0] for row in rows] == ["mamlkit", "plain", "torchopt"]
    assert rows[0][-2:] == ["3.00", "2.00"]


def test_a_racer_races_in_a_process_of_its_own_that_ends_with_it() -> None:
    with run.Worker(1, 60, SINUSOID, "plain loop", "cpu") as worker:
        worker.ask("prepare", 0.01)
        assert worker.ask("burst", 0.01) > 0
        assert worker.ask("memory") >= 0
        with pytest.raises(run.Out, match=r"does not run here \(AttributeError: "):
            worker.ask("no such command")
    assert worker.process.exitcode == 0


def test_a_worker_that_dies_or_hangs_is_a_sentence() -> None:
    with run.Worker(1, 0.0) as hanging, pytest.raises(run.Out, match="no answer to 'machine' within 0 s"):
        hanging.ask("machine")
    with run.Worker(1, 60.0) as dying:
        dying.process.kill()
        with pytest.raises(run.Out, match="died of 'machine', exit code -9"):
            dying.ask("machine")
    assert not hanging.process.is_alive()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_asking_for_a_gpu_that_is_not_there_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run.main(["--device", "cuda"])
    assert "torch finds no CUDA device here; use --device cpu" in capsys.readouterr().err
