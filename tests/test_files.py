"""A file is there whole or not at all, and a killed writer's draft does not stay for ever."""

from __future__ import annotations

import os
import sys
from subprocess import PIPE, Popen, run
from unittest.mock import Mock

import pytest

from mamlkit.files import sweep_drafts, write_atomically

WRITE = "import os, sys; from mamlkit import files; {}\nfiles.write_atomically(sys.argv[1], b'theirs')"


@pytest.fixture
def old(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    return tmp_path / "file"


def names(file) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(old, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_atomically(old, b"new")
    assert (old.read_bytes(), names(old)) == (b"old", ["file"])


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_a_writer_killed_at_any_moment_leaves_the_old_file_and_a_draft_that_is_swept(old, where):
    others = [".file.mine.draft", ".filx.0123456789abcdef.draft"]
    for name in others:
        old.with_name(name).touch()
    dying = WRITE.format(f"{where} = lambda *_: os.kill(os.getpid(), 9)")
    assert run([sys.executable, "-c", dying, old]).returncode == -9
    assert (old.read_bytes(), len(names(old))) == (b"old", 4)
    sweep_drafts(old)
    assert names(old) == [*others, "file"]


def test_a_draft_that_is_being_written_is_never_swept(old):
    wait = "done = os.replace; os.replace = lambda *names: (print(flush=True), input(), done(*names))"
    with Popen([sys.executable, "-c", WRITE.format(wait), old], stdin=PIPE, stdout=PIPE) as other:
        other.stdout.readline()
        sweep_drafts(old)
        write_atomically(old, b"ours")  # two writers, each with a draft of its own
        other.communicate(b"go on\n")
    assert (other.returncode, old.read_bytes(), names(old)) == (0, b"theirs", ["file"])


def test_without_locks_only_a_draft_an_hour_old_is_swept(old, monkeypatch):
    monkeypatch.setattr("mamlkit.files._lock", lambda *_, **__: None)
    aged, young = (old.with_name(f".file.{digit * 16}.draft") for digit in "01")
    aged.touch(), young.touch()
    os.utime(aged, (young.stat().st_mtime - 4000,) * 2)
    sweep_drafts(old)
    assert names(old) == [young.name, "file"]


def test_a_link_is_written_through_and_permissions_stay(old):
    link, usual = old.with_name("link"), old.with_name("usual")
    link.symlink_to("file")
    usual.touch()
    assert old.stat().st_mode == usual.stat().st_mode
    old.chmod(0o640)
    write_atomically(link, b"new")
    assert (link.is_symlink(), old.read_bytes(), old.stat().st_mode & 0o777) == (True, b"new", 0o640)


def test_a_folder_or_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("", tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="no regular file"):
            write_atomically(path, b"data")
