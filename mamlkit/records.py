"""What a long run measured, kept so that a page can show it: settings, metrics, and where they come from.

A record is a small JSON file. It is written whole or not at all, checked when it is made and again when it
is read, and never replaced by a run with other settings unless told so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import mamlkit

__all__ = ["Provenance", "Record", "load", "provenance", "save"]

SCHEMA = 1
LARGEST = 100_000
"""Bytes a record may have."""


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from: enough to run them again, nothing about the person or the machine's folders."""

    commit: str
    """The 40 hex digits of the git commit, or `"unknown"` outside a repository."""
    clean: bool
    """Whether the script and the kit were exactly as committed."""
    script: str
    """The script, as a path inside the repository."""
    script_sha256: str
    kit: str
    python: str
    torch: str
    cuda: str | None
    """The CUDA version torch was built for, `None` on a CPU."""
    device: str
    """`"cpu"`, or the name of the GPU."""
    dtype: str
    started: str
    """UTC, as ISO 8601 with seconds."""
    seconds: float
    """How long it ran, over all resumptions."""

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"clean": bool, "seconds": (int, float), "cuda": (str, type(None))}
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds.get(field.name, str)) or value == "":
                raise ValueError(f"provenance.{field.name} is {value!r}; see Provenance for what it says")
        if not re.fullmatch(r"[0-9a-f]{40}|unknown", self.commit):
            raise ValueError(f"provenance.commit is {self.commit!r}, not 40 hex digits or 'unknown'")
        if not re.fullmatch(r"[0-9a-f]{64}", self.script_sha256):
            raise ValueError(f"provenance.script_sha256 is {self.script_sha256!r}, not 64 hex digits")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", self.started):
            raise ValueError(
                f"provenance.started is {self.started!r}, not UTC like 2026-01-31T12:00:00+00:00"
            )
        if isinstance(self.seconds, bool) or not 0 <= self.seconds < math.inf:
            raise ValueError(f"provenance.seconds is {self.seconds!r}, not a time of at least 0")


@dataclass(frozen=True)
class Record:
    """What one experiment measured.

    Args:
        experiment: its name, `NAME` or, of a script with several runs, `NAME-RUN` for `book/experiments/NAME.py`.
        config: the settings by name; what JSON can say.
        metrics: what was measured by name, per seed and per task where that matters; finite, not empty.
        provenance: where it comes from, as `provenance` collects it.

    Raises:
        ValueError: a number is not finite, a value is nothing JSON can say, or there are no metrics; the
            message names it.
    """

    experiment: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not isinstance(self.experiment, str) or not re.fullmatch(r"[a-z0-9-]+", self.experiment):
            raise ValueError(f"experiment is {self.experiment!r}; use lower-case words with hyphens")
        if not isinstance(self.provenance, Provenance):
            raise ValueError(f"provenance is a {type(self.provenance).__name__}; use records.provenance(...)")
        for part in ("config", "metrics"):
            value = getattr(self, part)
            if not isinstance(value, Mapping):
                raise ValueError(f"{part} is a {type(value).__name__}, not a dictionary")
            object.__setattr__(self, part, _json(value, part))
        if not self.metrics:
            raise ValueError("metrics is empty; a record without a measurement says nothing")

    def caption(self) -> str:
        """One line to print under a figure: which experiment, commit, device, precision, version, day,
        duration."""
        p = self.provenance
        commit = p.commit[:7] + ("" if p.clean else " with uncommitted changes")
        return (
            f"{self.experiment} · commit {commit} · {p.device} · {p.dtype} · torch {p.torch} · "
            f"{p.started[:10]} · {_duration(p.seconds)}"
        )


def provenance(
    script: str | Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    started: datetime,
    seconds: float | None = None,
) -> Provenance:
    """Where the numbers of a run come from, collected at its end.

    Args:
        script: the file that ran, usually `__file__`.
        device: where it computed.
        started: when, with a time zone; `datetime.now(UTC)` at the beginning.
        seconds: how long, for a run that was resumed; the default is the time since `started`.

    Raises:
        ValueError: `started` has no time zone.
    """
    if started.tzinfo is None:
        raise ValueError(f"started={started} has no time zone; use datetime.now(UTC)")
    script, device = Path(script).resolve(), torch.device(device)
    commit, clean, name = _git(script)
    on_gpu = device.type == "cuda"
    return Provenance(
        commit=commit,
        clean=clean,
        script=name,
        script_sha256=hashlib.sha256(script.read_bytes()).hexdigest(),
        kit=mamlkit.__version__,
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        cuda=torch.version.cuda if on_gpu else None,
        device=torch.cuda.get_device_name(device) if on_gpu else str(device),
        dtype=str(dtype).removeprefix("torch."),
        started=started.astimezone(UTC).isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds() if seconds is None else seconds, 1),
    )


def save(record: Record, path: str | Path, *, replace: bool = False) -> None:
    """Write a record, whole or not at all.

    Args:
        replace: whether a record of another experiment or other settings may be overwritten. One of the same always may.

    Raises:
        FileExistsError: `path` holds another experiment or other settings, or is no record; it is left as it is.
        ValueError: the record is larger than 100 kB.
    """
    path = Path(path)
    data = {"schema": SCHEMA, **asdict(record)}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    # one line per list of numbers
    text = (
        re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text) + "\n"
    )
    size = len(text.encode())
    if size > LARGEST:
        raise ValueError(
            f"the record has {size:,} bytes, {LARGEST:,} at most; thin its curves or round its numbers"
        )
    if path.exists() and not replace:
        difference = _other_settings(path, record)
        if difference:
            raise FileExistsError(
                f"{path.name} {difference}; nothing was written: save elsewhere or pass replace=True"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path) -> Record:
    """A record as it was saved, checked again.

    Raises:
        FileNotFoundError: there is none; the message says how to make it.
        ValueError: the file is no record of this version, or a field is missing, unknown or wrong; the
            message names it.
    """
    path = Path(path)
    if not path.is_file():
        script, _, run = path.stem.partition("-")
        raise FileNotFoundError(
            f"no record {path.name}; make it with `python book/experiments/{f'{script}.py {run}'.strip()}`"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_finite)
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError("it is no record: it has no field 'schema'")
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r} and this kit reads {SCHEMA}")
        del data["schema"]
        _fit(data, Record, "")
        if not isinstance(data["provenance"], dict):
            raise ValueError("provenance is no dictionary")
        _fit(data["provenance"], Provenance, "provenance.")
        return Record(**{**data, "provenance": Provenance(**data["provenance"])})
    except ValueError as error:  # JSON's own errors are ValueErrors too
        raise ValueError(
            f"{path.name} cannot be used: {error}; restore it from git or make it again"
        ) from error


def _fit(data: Mapping[str, Any], kind: type[Record] | type[Provenance], where: str) -> None:
    names = {field.name for field in fields(kind)}
    for problem, wrong in (("unknown", data.keys() - names), ("missing", names - data.keys())):
        if wrong:
            raise ValueError(f"{problem} field {', '.join(where + name for name in sorted(wrong))}")


def _json(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; a record holds finite numbers, None for 'not measured'")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; the keys of JSON are text")
        return {key: _json(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(
        f"{where} is a {type(value).__name__}, which JSON cannot say; use .item(), .tolist() or str()"
    )


def _not_finite(constant: str) -> float:
    raise ValueError(f"it holds the number {constant}, and a record holds finite ones")


def _other_settings(path: Path, record: Record) -> str:
    """Why the file at `path` must not be lost, or nothing."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        experiment, there = data["experiment"], data["config"]
    except (ValueError, TypeError, KeyError):
        return "exists and is no record"
    if experiment != record.experiment:
        return f"is a record of {experiment!r}, not of {record.experiment!r}"
    config = record.config
    if there == config:
        return ""
    names = there.keys() | config.keys() if isinstance(there, dict) else config.keys()
    nothing = object()
    differing = [
        n
        for n in sorted(names)
        if not isinstance(there, dict) or there.get(n, nothing) != config.get(n, nothing)
    ]
    return f"was made with other settings ({', '.join(differing)})"


def _git(script: Path) -> tuple[str, bool, str]:
    """The commit, whether the script and the kit are as committed, and the script's name in the
    repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(script.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        root = Path(git("rev-parse", "--show-toplevel")).resolve()
        commit = git("rev-parse", "HEAD")
        kit = Path(mamlkit.__file__).resolve().parent
        code = [script] + ([kit] if kit.is_relative_to(root) else [])
        clean = not git("status", "--porcelain", "--", *map(str, code))
        return commit, clean, script.relative_to(root).as_posix()
    except (OSError, subprocess.SubprocessError):
        return "unknown", False, script.name


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
