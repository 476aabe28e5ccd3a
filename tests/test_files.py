"""A file is there whole or not at all, and a killed writer's draft does not stay for ever."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mamlkit import files
from mamlkit.files import sweep_drafts, write_atomically

WRITE = "import os, sys; from mamlkit import files; "


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # no file may grow beyond 1,000 bytes
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(file, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_a_writer_killed_at_any_moment_leaves_the_old_file_and_a_draft_that_is_swept(
    tmp_path: Path, where: str
) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    code = (
        f"{WRITE}{where} = lambda *_: os.kill(os.getpid(), 9); files.write_atomically({str(file)!r}, b'new')"
    )

    assert subprocess.run([sys.executable, "-c", code]).returncode == -9

    assert file.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    (tmp_path / ".file.mine.draft").touch()
    (tmp_path / ".filx.0123456789abcdef.draft").touch()
    sweep_drafts(file)
    assert names(tmp_path) == [".file.mine.draft", ".filx.0123456789abcdef.draft", "file"]


def test_a_draft_that_is_being_written_is_never_swept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = (
        f"{WRITE}done = os.replace; os.getpid = lambda: 1\n"
        "def wait(*names): print(flush=True); input(); done(*names)\n"
        f"os.replace = wait; files.write_atomically({str(file)!r}, b'theirs')"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    with subprocess.Popen([sys.executable, "-c", code], **pipes) as writer:
        writer.stdout.readline()
        sweep_drafts(file)
        write_atomically(file, b"ours")  # two writers, each with a draft of its own
        writer.communicate("go on\n")

    assert writer.returncode == 0
    assert file.read_bytes() == b"theirs"
    assert names(tmp_path) == ["file"]


def test_without_locks_only_a_draft_an_hour_old_is_swept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_lock", lambda *_, **__: None)
    old, young = (tmp_path / f".file.{digit * 16}.draft" for digit in "01")
    old.touch(), young.touch()
    os.utime(old, (time.time() - 4000,) * 2)

    sweep_drafts(tmp_path / "file")

    assert names(tmp_path) == [young.name]


def test_a_link_is_written_through_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    usual = tmp_path / "usual"
    usual.touch()

    write_atomically(link, b"first")
    at_first = target.stat().st_mode
    target.chmod(0o640)
    write_atomically(link, b"second")

    assert (at_first, target.stat().st_mode & 0o777) == (usual.stat().st_mode, 0o640)
    assert link.is_symlink()
    assert target.read_bytes() == b"second"


def test_a_folder_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in ("", tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="no regular file"):
            write_atomically(path, b"data")
