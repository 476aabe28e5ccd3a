from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import mamlkit
from mamlkit.page.records import Provenance, Record, load, load_weights, provenance, save, save_weights

BOOK = Path(__file__).resolve().parents[1] / "book"
WHERE = Provenance(commit="0123456789abcdef0123456789abcdef01234567", clean=True, script="book/experiments/omniglot.py",
                   script_sha256="ab" * 32, kit="0.1.0", python="3.11.9", torch="2.13.0", cuda="13.0", device="Some GPU",
                   dtype="float32", started="2026-01-31T12:00:00+00:00", seconds=1800.0)  # fmt: skip
RECORD = Record("omniglot", {"n_way": 5, "seeds": [0, 1, 2]}, {"accuracy": [0.9, 0.91, 0.92]}, WHERE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records" / "omniglot.json"


def test_a_record_comes_back_as_it_was_saved(path):
    record = Record("omniglot", {"seeds": (0, 1)}, {"accuracy": {"mean": 0.9, "by_seed": (0.9, 0.9)}}, WHERE)
    save(record, path)
    assert load(path) == record
    assert record.config == {"seeds": [0, 1]}
    assert '"by_seed": [0.9, 0.9]' in path.read_text(), "a list of numbers takes one line"
    assert [p.name for p in path.parent.iterdir()] == ["omniglot.json"]


DAMAGE = [
    *(('"schema": 1', f'"schema": {other}', "'schema' that is 1") for other in ("2", "1.0", "true", '"1"')),
    ("0.91", "0.92", "its content is not what was measured"),
    ("0.91", "1e999", r"accuracy\[1\] is inf"),
    ('"config"', '"metrics": 1, "config"', "a name stands twice"),
    ('"config"', '"note": 1, "config"', "unknown field 'note'"),
    ('"commit"', '"user": 1, "commit"', r"unknown field 'provenance\.user'"),
    ('"kit": "0.1.0",', "", r"missing field 'provenance\.kit'"),
    ('"config": (?s:.*?)},', "", "missing field 'config'"),
    (r',\s*"sha256": "\w+"', "", "missing field 'sha256'"),
    ('"schema": 1,', "", "no field 'schema'"),
    ('"provenance": (?s:.*?)}', '"provenance": 3', "provenance is no dictionary"),
    (r"\Z", " " * 100_000, "bytes, and a record 100,000 at most"),
    (r"(?s).+", "[" * 50_000, "recursion depth"),
]


@pytest.mark.parametrize(("old", "new", "words"), DAMAGE)
def test_a_damaged_file_is_refused(path, old, new, words):
    save(RECORD, path)
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(ValueError, match=rf"omniglot\.json cannot be used: .*{words}"):
        load(path)


def test_no_flipped_bit_of_a_record_or_its_weights_is_ever_shown(path):
    params, weights = {"w": torch.randn(3, 4).half()}, path.with_suffix(".safetensors")
    record = replace(RECORD, weights=save_weights(params, weights))
    save(record, path)
    assert torch.equal(load_weights(path)["w"], params["w"])
    choose = random.Random(0)
    for file in [path, weights] * 200:
        whole = file.read_bytes()
        at, bit = choose.randrange(len(whole)), choose.randrange(8)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            load_weights(path)
            assert (file, load(path)) == (path, record)  # 1e-05 may have become 1E-05, the same number
        except ValueError as error:
            words = "cannot be used" if file == path else r"is not the file that omniglot\.json was made with"
            assert re.search(words, str(error))  # noqa: PT017  either is right
        file.write_bytes(whole)


@pytest.mark.parametrize("path", sorted(BOOK.glob("records/*.json")), ids=lambda path: path.stem)
def test_a_record_of_the_book_is_whole_and_so_are_its_weights_and_its_script_is_the_commits(path):
    record = load(path)
    assert not record.weights or load_weights(path)
    show = ["git", "-C", BOOK.parent, "show", f"{record.provenance.commit}:{record.provenance.script}"]
    git = subprocess.run(show, capture_output=True, timeout=60)
    if git.returncode:
        pytest.skip(f"no git history with commit {record.provenance.commit[:7]} here")
    assert hashlib.sha256(git.stdout).hexdigest() == record.provenance.script_sha256


def test_every_file_of_weights_in_the_book_stands_in_one_record():
    named = [name for path in BOOK.glob("records/*.json") for name in load(path).weights]
    assert sorted(named) == sorted(path.name for path in BOOK.glob("records/*.safetensors"))


def test_without_the_book_what_is_missing_is_in_its_repository(path, monkeypatch, tmp_path):
    monkeypatch.setattr(mamlkit, "__file__", str(tmp_path / "mamlkit" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="copy it from book/records of the book's repository"):
        load(path)


def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"{path} .* `python book/experiments/omniglot\.py`"):
        load(path)
    save(RECORD, path)
    with pytest.raises(ValueError, match=r"omniglot\.json keeps no weights"):
        load_weights(path)
    save(replace(RECORD, weights={"gone.safetensors": "ab" * 32}), path)
    with pytest.raises(FileNotFoundError, match=r"/records/gone\.safetensors is not there"):
        load_weights(path)
    monkeypatch.chdir(path.parents[1])
    with pytest.raises(
        FileNotFoundError, match=rf"{path.parent}/scaling.json .* start the notebook in .*book$"
    ):
        load("records/scaling.json")


def test_a_run_replaces_its_own_record_and_nothing_else_unasked(path):
    again = replace(RECORD, metrics={"accuracy": [0.95]})
    save(RECORD, path)
    save(again, path)
    other = replace(RECORD, config={"n_way": 20, "seeds": [0, 1, 2]})
    with pytest.raises(FileExistsError, match=r"other settings \(n_way\); nothing was written"):
        save(other, path)
    with pytest.raises(FileExistsError, match="is a record of 'omniglot', not of 'sinusoids'"):
        save(replace(RECORD, experiment="sinusoids"), path)
    assert load(path) == again
    save(other, path, replace=True)
    assert load(path) == other
    for text in ("my notes", "[" * 50_000, "{}", '{"experiment": "omniglot", "config": [1]}'):
        path.write_text(text)
        with pytest.raises(FileExistsError, match="is no record"):
            save(RECORD, path)
        assert path.read_text() == text


def test_a_write_that_fails_leaves_the_old_record_and_the_old_weights(path, monkeypatch):
    weights = path.with_suffix(".safetensors")
    old = replace(RECORD, weights=save_weights({"w": torch.ones(2)}, weights))
    save(old, path)
    with pytest.raises(ValueError, match="100,000 at most; thin its curves"):
        save(replace(RECORD, metrics={"curve": [0.123456789] * 20_000}), path)
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError("no space left on device")))
    for write in (partial(save, RECORD, path), partial(save_weights, {"w": torch.zeros(2)}, weights)):
        with pytest.raises(OSError, match="no space"):
            write()
    assert load(path) == old
    assert load_weights(path)["w"].tolist() == [1, 1]


def test_a_caption_says_where_the_numbers_come_from():
    dirty = replace(RECORD, provenance=replace(WHERE, clean=False, seconds=8.2))
    words = "omniglot · commit 0123456{} · Some GPU · float32 · torch 2.13.0 · 2026-01-31 · {}"
    assert RECORD.caption() == words.format("", "30 min")
    assert dirty.caption() == words.format(" with uncommitted changes", "8 s")


def test_provenance_names_commit_script_versions_and_time_and_sees_a_changed_script_or_kit(path, monkeypatch):
    root = path.parents[1]
    script, kit = root / "book/run.py", root / "mamlkit/__init__.py"
    monkeypatch.setattr(mamlkit, "__file__", str(kit))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    for file in (script, kit):
        file.parent.mkdir()
        file.write_text("x = 1\n")
    began = datetime.now(UTC) - timedelta(seconds=90)
    collect = partial(provenance, script, device="cpu", dtype=torch.float64, started=began)
    outside = collect()
    assert (outside.commit, outside.clean, outside.script) == ("unknown", False, "run.py")
    identity = "-c user.name=reader -c user.email=reader@example.org"
    commands = f"git init -q && git add book mamlkit && git {identity} commit -qm Begin && touch notes.txt"
    subprocess.run(commands, shell=True, cwd=root, check=True)
    found = collect()
    assert (len(found.commit), found.clean, found.kit) == (40, True, mamlkit.__version__)
    assert (found.script, found.device, found.dtype, found.cuda) == ("book/run.py", "cpu", "float64", None)
    assert 90 <= found.seconds < 120
    assert collect(seconds=5.0).seconds == 5.0
    kit.with_name("new.py").touch()
    assert not collect().clean
    kit.with_name("new.py").unlink()
    neighbour = script.with_name("helper.py")  # which the script may import
    neighbour.touch()
    assert not collect().clean
    neighbour.unlink()
    assert collect().clean
    script.write_text("x = 2\n")
    assert not collect().clean
    assert collect().script_sha256 == hashlib.sha256(b"x = 2\n").hexdigest() != found.script_sha256
