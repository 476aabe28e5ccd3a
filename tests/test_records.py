from __future__ import annotations

import hashlib
import json
import math
import random
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import torch

import mamlkit
from mamlkit import files
from mamlkit.records import Provenance, Record, load, load_weights, provenance, save, save_weights

ROOT = Path(__file__).resolve().parents[1]
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


# fmt: off
ENDLESS = []
ENDLESS.append(ENDLESS)
TEXT = ["", " ", None, 3.5, 7, True, [], {}, ["x"], {"a": 1}, "two\nlines", "<script>", "a & b", "\ud800"]
WRONG = {
    "schema": [2, True, 1.0, "1", None],
    "experiment": [3, None, "", "a b", "<b>", []],
    "config": [None, [1], "x", 2, {"rate": math.inf}],
    "metrics": [None, [1.0], "x", {}, {"loss": math.nan}],
    "weights": [None, {"a.safetensors": "ab"}, {"../a.safetensors": "ab" * 32}, {"a.json": "ab" * 32}, {"a.safetensors": 1},
                {f"{name}.safetensors": "ab" * 32 for name in "ab"}],
    "provenance": [None, 3, [1]],
    "provenance.commit": [*TEXT, "main", "0" * 39, "0" * 40 + "\n"],
    "provenance.clean": [1, 0, "yes", None, [], {}],
    "provenance.script_sha256": [*TEXT, "ab", "AB" * 32],
    "provenance.cuda": [text for text in TEXT if text is not None],
    "provenance.started": [*TEXT, "2026-01-31 12:00", "2026-01-31T12:00:00",
                           "2026-99-99T99:99:99+00:00", "2026-02-30T12:00:00+00:00"],
    "provenance.seconds": [-1.0, True, "8", None, math.nan, [], {}],
    **{f"provenance.{name}": TEXT for name in ("script", "kit", "python", "torch", "device", "dtype")},
}
DAMAGE = {
    "half of it": (lambda whole: whole[:100], "Unterminated"),
    "a number changed by hand": (lambda whole: whole.replace("0.91", "0.92"), "its content is not what was measured"),
    "a GPU changed by hand": (lambda whole: whole.replace("Some", "Better"), "its content is not what was measured"),
    "a name twice": (lambda whole: whole.replace('"config"', '"metrics": 1, "config"'), "a name stands twice"),
    "no finite number": (lambda whole: whole.replace("0.91", "1e999"), r"accuracy\[1\] is inf"),
    "a field too many": (lambda whole: whole.replace('"config"', '"note": 1, "config"'), "unknown field 'note'"),
    "a user": (lambda whole: whole.replace('"commit"', '"user": 1, "commit"'), r"unknown field 'provenance\.user'"),
    "no digest": (lambda whole: whole.replace("sha256", "sha"), "unknown field 'provenance|unknown field 'sha'"),
    "too large": (lambda whole: whole + " " * 100_000, "bytes, and a record 100,000 at most"),
    "brackets": (lambda _: "[" * 50_000, "recursion depth"),
    "a list": (lambda _: "[]", "no field 'schema'"),
}


@pytest.mark.parametrize(("metrics", "message"), [
    ({"loss": math.nan}, r"metrics\.loss is nan"),
    ({"curve": [1.0, math.inf]}, r"metrics\.curve\[1\] is inf"),
    ({"loss": torch.tensor(1.0)}, r"metrics\.loss is tensor\(1\.\)"),
    ({"by_seed": {0: 1.0}}, r"metrics\.by_seed is \{0: 1\.0\}; .*dictionaries by text"),
    ({"note": "\ud800"}, r"metrics\.note is '\\ud800'"),
    ({"\ud800": 1}, "a key of metrics is"),
    ({"curve": ENDLESS}, "metrics has too many lists inside each other"),
])
def test_what_is_no_measurement_is_refused_by_name(metrics, message):
    with pytest.raises(ValueError, match=message):
        Record("omniglot", {}, metrics, WHERE)
# fmt: on


def forge(path, name, value):
    """A field changed, or left out, and the digest made to agree, so that only the checks of the field are left."""
    data = json.loads(path.read_text())
    inner = data["provenance"] if "." in name else data
    inner.pop(name.split(".")[-1])
    if value is not ENDLESS:
        inner[name.split(".")[-1]] = value
    content = {n: v for n, v in data.items() if n not in ("schema", "sha256")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    data["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("name", WRONG)
def test_each_field_of_a_record_is_asked_for_and_checked_by_name(path, name):
    for value in [*WRONG[name], ENDLESS]:
        save(RECORD, path, replace=True)
        forge(path, name, value)
        words = {"schema": "schema", "provenance": "provenance is no dict"}.get(
            name, f"{re.escape(name)}.* is "
        )
        if value is ENDLESS:
            words = f"(missing|no) field '{name}'"
        with pytest.raises(ValueError, match=rf"omniglot\.json cannot be used: .*{words}"):
            load(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(path, damage):
    change, words = DAMAGE[damage]
    save(RECORD, path)
    path.write_text(change(path.read_text()))

    with pytest.raises(ValueError, match=rf"omniglot\.json cannot be used: .*({words})"):
        load(path)


def test_no_flipped_bit_of_a_record_or_its_weights_is_ever_shown(path):
    params = {"w": torch.randn(3, 4), "b": torch.randn(4).half()}
    weights = path.with_name("omniglot.safetensors")
    record = replace(RECORD, weights=save_weights(params, weights))
    save(record, path)
    assert all(torch.equal(load_weights(path)[name], p) for name, p in params.items())
    choose = random.Random(0)

    for file in (path, weights):
        whole = file.read_bytes()
        for _ in range(200):
            at, bit = choose.randrange(len(whole)), choose.randrange(8)
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            if file == weights:
                with pytest.raises(ValueError, match=r"is not the file that omniglot\.json was made with"):
                    load_weights(path)
            else:  # 1e-05 may have become 1E-05, the same number
                try:
                    assert load(path) == record
                except ValueError as error:
                    assert "cannot be used" in str(error)  # noqa: PT017  either is right
        file.write_bytes(whole)


@pytest.mark.parametrize("path", sorted((ROOT / "book/records").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_the_book_is_whole_and_so_are_its_weights_and_its_script_is_the_commits(path):
    record = load(path)
    assert not record.weights or load_weights(path)
    show = ["git", "-C", str(ROOT), "show", f"{record.provenance.commit}:{record.provenance.script}"]
    try:
        script = subprocess.run(show, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no git history with commit {record.provenance.commit[:7]} here")
    assert hashlib.sha256(script).hexdigest() == record.provenance.script_sha256


def test_every_file_of_weights_in_the_book_stands_in_one_record():
    folder = ROOT / "book/records"
    named = [name for path in folder.glob("*.json") for name in load(path).weights]

    assert sorted(named) == sorted(path.name for path in folder.glob("*.safetensors"))


def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"make it with `python book/experiments/omniglot\.py`"
    ) as caught:
        load(path)
    assert str(path) in str(caught.value)
    save(RECORD, path)
    with pytest.raises(ValueError, match=r"omniglot\.json keeps no weights"):
        load_weights(path)
    save(replace(RECORD, weights={"gone.safetensors": "ab" * 32}), path)
    with pytest.raises(FileNotFoundError, match=r"/records/gone\.safetensors is not there"):
        load_weights(path)
    monkeypatch.chdir(path.parents[1])
    with pytest.raises(FileNotFoundError, match=r"start the notebook in .*book$") as caught:
        load("records/scaling.json")
    assert str(path.parent / "scaling.json") in str(caught.value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"config": {"n_way": 20, "seeds": [0, 1, 2]}},
            r"made with other settings \(n_way\); nothing was written",
        ),
        ({"experiment": "sinusoids"}, "is a record of 'omniglot', not of 'sinusoids'"),
    ],
)
def test_a_run_replaces_its_own_record_and_no_other_unasked(path, other, words):
    save(RECORD, path)
    again = replace(RECORD, metrics={"accuracy": [0.95]})
    save(again, path)
    assert load(path) == again

    with pytest.raises(FileExistsError, match=words):
        save(replace(RECORD, **other), path)
    assert load(path) == again
    save(replace(RECORD, **other), path, replace=True)
    assert load(path) == replace(RECORD, **other)


@pytest.mark.parametrize(
    "text", ["my notes", "[" * 50_000, "{}", '{"experiment": "omniglot", "config": [1]}']
)
def test_what_is_no_record_is_not_overwritten(path, text):
    path.parent.mkdir()
    path.write_text(text)

    with pytest.raises(FileExistsError, match="is no record"):
        save(RECORD, path)
    assert path.read_text() == text


def test_a_write_that_fails_leaves_the_old_record_and_the_old_weights(path, monkeypatch):
    def full(_):
        raise OSError("no space left on device")

    weights = path.with_suffix(".safetensors")
    old = replace(RECORD, weights=save_weights({"w": torch.ones(2)}, weights))
    save(old, path)
    monkeypatch.setattr(files.os, "fsync", full)
    for write in (partial(save, RECORD, path), partial(save_weights, {"w": torch.zeros(2)}, weights)):
        with pytest.raises(OSError, match="no space"):
            write()
    assert load(path) == old
    assert load_weights(path)["w"].tolist() == [1, 1]
    assert len(list(path.parent.iterdir())) == 2, "no draft stays"


def test_a_record_that_is_too_large_is_not_written(path):
    with pytest.raises(ValueError, match="100,000 at most; thin its curves"):
        save(replace(RECORD, metrics={"curve": [0.123456789] * 20_000}), path)
    assert not path.exists()


def test_a_caption_says_where_the_numbers_come_from():
    assert RECORD.caption() == (
        "omniglot · commit 0123456 · Some GPU · float32 · torch 2.13.0 · 2026-01-31 · 30 min"
    )
    dirty = replace(RECORD, provenance=replace(WHERE, clean=False, seconds=8.2))
    assert "0123456 with uncommitted changes" in dirty.caption()
    assert dirty.caption().endswith("8 s")


def git(folder, *arguments):
    identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_provenance_names_commit_script_versions_and_time_and_sees_a_changed_script_or_kit(
    tmp_path, monkeypatch
):
    script, kit, started = (
        tmp_path / "book/run.py",
        tmp_path / "mamlkit",
        datetime.now(UTC) - timedelta(seconds=90),
    )
    monkeypatch.setattr(mamlkit, "__file__", str(kit / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for file in (script, kit / "__init__.py"):
        file.parent.mkdir()
        file.write_text("x = 1\n")
    collect = partial(provenance, script, device="cpu", dtype=torch.float64, started=started)

    outside = collect()
    assert (outside.commit, outside.clean, outside.script) == ("unknown", False, "run.py")
    (
        git(tmp_path, "init", "-q"),
        git(tmp_path, "add", "book", "mamlkit"),
        git(tmp_path, "commit", "-qm", "Begin"),
    )
    (tmp_path / "notes.txt").write_text("other files do not matter")
    found = collect()
    assert len(found.commit) == 40
    assert (found.clean, found.kit) == (True, mamlkit.__version__)
    assert (found.script, found.device, found.dtype, found.cuda) == ("book/run.py", "cpu", "float64", None)
    assert 90 <= found.seconds < 120
    assert collect(seconds=5.0).seconds == 5.0
    (kit / "new.py").write_text("x = 1\n")
    assert not collect().clean
    (kit / "new.py").unlink()
    script.write_text("x = 2\n")
    assert not collect().clean
    assert collect().script_sha256 == hashlib.sha256(b"x = 2\n").hexdigest() != found.script_sha256


@pytest.mark.parametrize(
    "wrong", [{"started": datetime(2026, 1, 1)}, {"started": None}, {"dtype": "float32"}, {"seconds": "8"}]
)
def test_a_time_without_a_zone_and_a_precision_that_is_none_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}( is|=)"):
        provenance(
            __file__, **{"device": "cpu", "dtype": torch.float32, "started": datetime.now(UTC), **wrong}
        )
