from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch

import mamlkit
from mamlkit import records
from mamlkit.records import Provenance, Record, load, provenance, save

WHERE = Provenance(
    commit="0123456789abcdef0123456789abcdef01234567",
    clean=True,
    script="book/experiments/omniglot.py",
    script_sha256="ab" * 32,
    kit="0.1.0",
    python="3.11.9",
    torch="2.13.0",
    cuda="13.0",
    device="Some GPU",
    dtype="float32",
    started="2026-01-31T12:00:00+00:00",
    seconds=1800.0,
)
RECORD = Record("omniglot", {"n_way": 5, "seeds": [0, 1, 2]}, {"accuracy": [0.9, 0.91, 0.92]}, WHERE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records" / "omniglot.json"


def test_a_record_comes_back_as_it_was_saved(path):
    save(RECORD, path)

    assert load(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == ["omniglot.json"]


def test_tuples_come_back_as_the_lists_they_were_saved_as(path):
    record = Record("omniglot", {"seeds": (0, 1)}, {"accuracy": {"mean": 0.9, "by_seed": (0.9, 0.9)}}, WHERE)
    save(record, path)

    assert load(path) == record
    assert record.config == {"seeds": [0, 1]}


def test_a_list_of_numbers_takes_one_line(path):
    save(RECORD, path)

    assert '"accuracy": [0.9, 0.91, 0.92]' in path.read_text()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": math.nan}, r"metrics\.loss is nan"),
        ({"curve": [1.0, math.inf]}, r"metrics\.curve\[1\] is inf"),
        ({"loss": torch.tensor(1.0)}, r"metrics\.loss is a Tensor"),
        ({"by_seed": {0: 1.0}}, "has the key 0"),
        ({}, "metrics is empty"),
        ([1.0], "metrics is a list"),
    ],
)
def test_what_is_no_measurement_is_refused_by_name(metrics, message):
    with pytest.raises(ValueError, match=message):
        Record("omniglot", {}, metrics, WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "main"},
        {"script_sha256": "ab"},
        {"started": "2026-01-31 12:00"},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"clean": "yes"},
        {"device": ""},
        {"torch": None},
    ],
)
def test_provenance_that_says_nothing_is_refused_by_name(change):
    with pytest.raises(ValueError, match=f"provenance.{next(iter(change))}"):
        replace(WHERE, **change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.pop("metrics"), "missing field metrics"),
        (lambda d: d.update(note="hand-made"), "unknown field note"),
        (lambda d: d["provenance"].pop("commit"), r"missing field provenance\.commit"),
        (lambda d: d["provenance"].update(user="me"), r"unknown field provenance\.user"),
        (lambda d: d.update(schema=2), "schema is 2 and this kit reads 1"),
        (lambda d: d.pop("schema"), "no field 'schema'"),
        (lambda d: d.update(metrics={"loss": math.nan}), "number NaN"),
        (lambda d: d.update(provenance=None), "provenance is no dictionary"),
        (lambda d: d.update(experiment=3), "experiment is 3"),
    ],
)
def test_a_damaged_record_is_refused_and_says_what_is_wrong(path, spoil, message):
    save(RECORD, path)
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))

    with pytest.raises(ValueError, match=rf"omniglot\.json cannot be used: .*{message}"):
        load(path)


def test_half_a_file_is_refused(path):
    save(RECORD, path)
    path.write_text(path.read_text()[:100])

    with pytest.raises(ValueError, match="cannot be used"):
        load(path)


def test_a_missing_record_says_how_to_make_it(path):
    with pytest.raises(FileNotFoundError, match=r"python book/experiments/omniglot\.py"):
        load(path)


def test_a_run_with_other_settings_never_replaces_a_record_unasked(path):
    save(RECORD, path)
    other = replace(RECORD, config={"n_way": 20, "seeds": [0, 1, 2]})

    with pytest.raises(FileExistsError, match=r"other settings \(n_way\); nothing was written"):
        save(other, path)
    assert load(path) == RECORD
    save(other, path, replace=True)
    assert load(path) == other


def test_another_experiment_never_replaces_a_record_unasked(path):
    save(RECORD, path)

    with pytest.raises(FileExistsError, match="is a record of 'omniglot', not of 'sinusoids'"):
        save(replace(RECORD, experiment="sinusoids"), path)
    assert load(path) == RECORD


def test_a_run_with_the_same_settings_replaces_its_record(path):
    save(RECORD, path)
    again = replace(RECORD, metrics={"accuracy": [0.95]})

    save(again, path)

    assert load(path) == again


def test_what_is_no_record_is_not_overwritten(path):
    path.parent.mkdir()
    path.write_text("my notes")

    with pytest.raises(FileExistsError, match="is no record"):
        save(RECORD, path)
    assert path.read_text() == "my notes"


def test_a_record_that_is_too_large_is_not_written(path):
    with pytest.raises(ValueError, match="100,000 at most; thin its curves"):
        save(replace(RECORD, metrics={"curve": [0.123456789] * 20_000}), path)
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_record(path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    save(RECORD, path)
    monkeypatch.setattr(records.os, "fsync", full)

    with pytest.raises(OSError, match="no space"):
        save(replace(RECORD, metrics={"accuracy": [0.1]}), path)
    assert load(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == ["omniglot.json"]


def test_a_caption_says_where_the_numbers_come_from():
    assert RECORD.caption() == (
        "omniglot · commit 0123456 · Some GPU · float32 · torch 2.13.0 · 2026-01-31 · 30 min"
    )
    dirty = replace(RECORD, provenance=replace(WHERE, clean=False, seconds=8.2))
    assert "0123456 with uncommitted changes" in dirty.caption()
    assert dirty.caption().endswith("8 s")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    kit = tmp_path / "mamlkit"
    (tmp_path / "book").mkdir()
    kit.mkdir()
    (kit / "__init__.py").write_text("")
    (tmp_path / "book/run.py").write_text("print(1)\n")
    git("init", "-q")
    git("add", "book", "mamlkit")
    git("commit", "-q", "-m", "Begin")
    monkeypatch.setattr(mamlkit, "__file__", str(kit / "__init__.py"))
    return tmp_path


def collect(root, **more):
    started = datetime.now(UTC) - timedelta(seconds=90)
    return provenance(root / "book/run.py", device="cpu", dtype=torch.float64, started=started, **more)


def test_provenance_names_commit_script_versions_and_time(repository):
    found = collect(repository)

    assert len(found.commit) == 40
    assert found.clean
    assert (found.script, found.device, found.dtype, found.cuda) == ("book/run.py", "cpu", "float64", None)
    assert found.kit == mamlkit.__version__
    assert 90 <= found.seconds < 120
    assert collect(repository, seconds=5.0).seconds == 5.0


def test_a_changed_script_or_kit_is_not_clean_and_other_files_do_not_matter(repository):
    (repository / "notes.txt").write_text("x")
    assert collect(repository).clean

    (repository / "mamlkit/new.py").write_text("x = 1\n")
    assert not collect(repository).clean

    (repository / "mamlkit/new.py").unlink()
    before = collect(repository).script_sha256
    (repository / "book/run.py").write_text("print(2)\n")
    assert not collect(repository).clean
    assert collect(repository).script_sha256 != before


def test_outside_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "book").mkdir()
    (tmp_path / "book/run.py").write_text("print(1)\n")

    found = collect(tmp_path)

    assert (found.commit, found.clean, found.script) == ("unknown", False, "run.py")


def test_a_start_without_a_time_zone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no time zone"):
        provenance(__file__, device="cpu", dtype=torch.float32, started=datetime(2026, 1, 1))
