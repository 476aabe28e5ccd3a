"""Files that are there whole or not at all, whenever the process is killed.

The new content goes into a draft in the same folder, which then takes the file's name in one step. The draft is locked while its
writer lives, so that whoever comes next can tell a draft that is being written from one that a killed process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_LEFT_BEHIND = 3600
"""Seconds after which a draft is taken for left behind where the file system has no locks."""


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Nothing; the file at `path` holds `data`, on the disk, and held what it held before until then.

    A link is followed: what it points to is written. A file that was there keeps its permissions.

    Raises:
        OSError: it can't be written, or `path` is a folder or a device; the file is as it was, and no draft is left.
    """
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
    draft, file = _draft_of(target)
    try:
        with file:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(draft, stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # an open file keeps its name there
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def sweep_drafts(path: str | Path) -> None:
    """Nothing; the drafts of `path` that killed processes left behind are gone, those being written and all else are not."""
    target = Path(os.path.realpath(path))
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.draft")
    for draft in target.parent.iterdir() if target.parent.is_dir() else ():
        if ours.fullmatch(draft.name):
            with contextlib.suppress(OSError), open(draft, "rb") as file:
                locked = _lock(file.fileno(), wait=False)
                old = time.time() - os.fstat(file.fileno()).st_mtime > _LEFT_BEHIND
                if locked or (locked is None and old):
                    draft.unlink()


def _draft_of(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.draft")
        file = open(draft, "xb")  # noqa: SIM115  it stays open, and so locked, until it has its name
        _lock(file.fileno())
        if draft.exists():
            return draft, file
        file.close()  # a sweep came between the file and its lock


def _lock(file: int, *, wait: bool = True) -> bool | None:
    # True: it is ours alone, until it is closed or the process dies. False: somebody has it. None: there are no locks here.
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
