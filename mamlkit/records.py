"""What a long run measured, kept so that a page can show it: settings, metrics, and where they come from.

A record is a small JSON file. It is written whole or not at all, checked when it is made and again when it is read, and never
replaced by a run with other settings unless told so. It ends with the SHA-256 of its own content and names that of the weights it
keeps beside it, so that a number changed by hand or by a bad disk is refused and never shown.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

import mamlkit
from mamlkit.files import sweep_drafts, write_atomically

__all__ = [
    "Provenance",
    "Record",
    "check_place",
    "load",
    "load_weights",
    "provenance",
    "save",
    "save_weights",
]

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
        for name, value in vars(self).items():
            expected, fits = _PROVENANCE.get(name, ("a line of text without < > &", _is_line))
            if not fits(value):
                raise ValueError(f"provenance.{name} is {_shown(value)}, not {expected}")


@dataclass(frozen=True)
class Record:
    """What one experiment measured.

    Args:
        experiment: its name, `NAME` or, of a script with several runs, `NAME-RUN` for `book/experiments/NAME.py`.
        config: the settings by name; what JSON can say.
        metrics: what was measured by name, per seed and per task where that matters; finite, not empty.
        provenance: where it comes from, as `provenance` collects it.
        weights: the file of weights beside the record, if it keeps one, and its SHA-256: what `save_weights` returns.

    Raises:
        ValueError: a number is not finite, a value is nothing JSON can say, or there are no metrics; the
            message names it.
    """

    experiment: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    provenance: Provenance
    weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.experiment, str) or not re.fullmatch(r"[a-z0-9-]+", self.experiment):
            raise ValueError(f"experiment is {_shown(self.experiment)}; use lower-case words with hyphens")
        if not isinstance(self.provenance, Provenance):
            raise ValueError(f"provenance is a {type(self.provenance).__name__}; use records.provenance(...)")
        for part in ("config", "metrics", "weights"):
            value = getattr(self, part)
            if not isinstance(value, dict):
                raise ValueError(f"{part} is a {type(value).__name__}, not a dictionary")
            try:
                object.__setattr__(self, part, _json(value, part))
            except RecursionError:
                raise ValueError(f"{part} has too many lists inside each other") from None
        if not self.metrics:
            raise ValueError("metrics is empty; a record without a measurement says nothing")
        if len(self.weights) > 1 or not all(
            re.fullmatch(r"[a-z0-9-]+\.safetensors", name) and _is_hex(digest, 64)
            for name, digest in self.weights.items()
        ):
            raise ValueError(
                f"weights is {_shown(self.weights)}, not one NAME.safetensors and its SHA-256; use save_weights"
            )

    def caption(self) -> str:
        """One line to print under a figure: which experiment, commit, device, precision, version, day,
        duration. It holds no <, > or &, so that it can stand in HTML."""
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
        ValueError: `started` is no time with a time zone, `seconds` is no time, `dtype` is none of torch's.
    """
    if not isinstance(started, datetime) or started.tzinfo is None:
        raise ValueError(f"started={_shown(started)} is no time with a time zone; use datetime.now(UTC)")
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={_shown(dtype)} is none of torch's; use torch.float32")
    spent = (datetime.now(UTC) - started).total_seconds() if seconds is None else seconds
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
        seconds=round(spent, 1) if isinstance(spent, float) else spent,
    )


def save(record: Record, path: str | Path, *, replace: bool = False) -> None:
    """Write a record, whole or not at all.

    Args:
        replace: whether a record of another experiment or other settings may be overwritten. One of the same always may.

    Raises:
        FileExistsError: `path` holds another experiment or other settings, or is no record; it is left as it is.
        ValueError: the record is larger than 100 kB.
    """
    if not isinstance(record, Record):
        raise ValueError(f"record is a {type(record).__name__}; make it with records.Record(...)")
    path, content = Path(path), asdict(record)
    data = {"schema": SCHEMA, **content, "sha256": _digest(content)}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # one line per list of numbers
    text = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text)
    size = len(text.encode())
    if size > LARGEST:
        raise ValueError(
            f"the record has {size:,} bytes, {LARGEST:,} at most; thin its curves or round its numbers"
        )
    if not replace:
        check_place(path, record.experiment, record.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_drafts(path)
    write_atomically(path, text.encode())


def check_place(path: str | Path, experiment: str, config: dict[str, Any]) -> None:
    """Nothing, if `save` may write a record of these settings to `path`: what a script asks before it runs for hours.

    Raises:
        FileExistsError: `path` holds another experiment or other settings, or is no record.
    """
    path = Path(path)
    if path.exists() and (difference := _other_settings(path, experiment, _json(config, "config"))):
        raise FileExistsError(
            f"{path.name} {difference}; nothing was written: save elsewhere or pass replace=True"
        )


def load(path: str | Path) -> Record:
    """A record as it was saved, checked again.

    Raises:
        FileNotFoundError: there is none; the message says where it looked and how to get it.
        ValueError: the file is no record of this version, its content is not what was saved, or a field is missing, unknown
            or wrong; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(_not_there(path))
    try:
        data = _read(path)
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError("it is no record: it has no field 'schema'")
        schema = data.pop("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise ValueError(f"its schema is {_shown(schema)} and this kit reads {SCHEMA}")
        _fit(data, {f.name for f in fields(Record)} | {"sha256"}, "")
        if not isinstance(data["provenance"], dict):
            raise ValueError("provenance is no dictionary")
        _fit(data["provenance"], {f.name for f in fields(Provenance)}, "provenance.")
        digest = data.pop("sha256")
        record = Record(**{**data, "provenance": Provenance(**data["provenance"])})
        if digest != _digest(data):
            raise ValueError(f"its content is not what was measured: its SHA-256 is not {_shown(digest)}")
        return record
    except (ValueError, RecursionError) as error:  # JSON's own errors too
        raise ValueError(
            f"{path.name} cannot be used: {error}; restore it from git or make it again"
        ) from error


def save_weights(params: dict[str, Tensor], path: str | Path) -> dict[str, str]:
    """The file's name and its SHA-256, for the record beside it; `path` then holds the parameters, or what it held before."""
    path = Path(path)
    data = bytes_of({name: p.detach().contiguous().cpu() for name, p in params.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_drafts(path)
    write_atomically(path, data)
    return {path.name: hashlib.sha256(data).hexdigest()}


def load_weights(path: str | Path, *, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The weights that the record at `path` keeps beside it, once their bytes are known to be those of its run.

    Raises:
        FileNotFoundError: the record or its file of weights is not there.
        ValueError: the record cannot be used or keeps no weights, or the file is not the one it was made with.
    """
    path = Path(path)
    for name, digest in load(path).weights.items():
        weights = path.with_name(name)
        if not weights.is_file():
            raise FileNotFoundError(f"{os.path.abspath(weights)} is not there; restore it from git")
        data = weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} is not the file that {path.name} was made with; restore it from git")
        return {key: t.to(device) for key, t in tensors_of(data).items()}
    raise ValueError(f"{path.name} keeps no weights")


def _is_line(value: object) -> bool:
    return (
        isinstance(value, str) and value.isprintable() and bool(value.strip()) and not set("<>&") & {*value}
    )


def _is_hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None


def _is_utc(value: object) -> bool:
    try:
        moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return value == moment.isoformat(timespec="seconds")


_PROVENANCE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "commit": ("40 hex digits or 'unknown'", lambda v: v == "unknown" or _is_hex(v, 40)),
    "clean": ("True or False", lambda v: isinstance(v, bool)),
    "script_sha256": ("64 hex digits", lambda v: _is_hex(v, 64)),
    "cuda": ("a line of text, or None", lambda v: v is None or _is_line(v)),
    "started": ("UTC like 2026-01-31T12:00:00+00:00", _is_utc),
    "seconds": ("a time of at least 0", lambda v: type(v) in (int, float) and 0 <= v < math.inf),
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _json(value: Any, where: str) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return float(value)
        case str() if not re.search("[\ud800-\udfff]", value):  # half of a character, which has no bytes
            return value
        case list() | tuple():
            return [_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
        case dict() if all(isinstance(key, str) for key in value):
            return {
                _json(key, f"a key of {where}"): _json(item, f"{where}.{key}") for key, item in value.items()
            }
    raise ValueError(
        f"{where} is {_shown(value)}; a record holds text, finite numbers, lists, dictionaries by text, and None for 'not "
        "measured': use .item(), .tolist() or str()"
    )


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Any:
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"it has {size:,} bytes, and a record {LARGEST:,} at most")
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a name stands twice among {_shown([name for name, _ in pairs])}")
    return dict(pairs)


def _fit(data: dict[str, Any], names: set[str], where: str) -> None:
    for problem, wrong in (("unknown", data.keys() - names), ("missing", names - data.keys())):
        if wrong:
            raise ValueError(f"{problem} field {_shown(', '.join(where + name for name in sorted(wrong)))}")


def _not_there(path: Path) -> str:
    script, _, run = path.stem.partition("-")
    message = f"no record {path.name}: {os.path.abspath(path)} is not there; "
    book = Path(mamlkit.__file__).resolve().parents[1] / "book"
    if path.name and (book / "records" / path.name).is_file():
        return f"{message}but {book / 'records'} holds one: start the notebook in {book}"
    return f"{message}make it with `python book/experiments/{f'{script}.py {run}'.strip()}`"


def _other_settings(path: Path, experiment: str, here: dict[str, Any]) -> str:
    """Why the file at `path` must not be lost, or nothing."""
    try:
        data = _read(path)
        found, there = data["experiment"], dict(data["config"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "exists and is no record"
    if found != experiment:
        return f"is a record of {_shown(found)}, not of {experiment!r}"
    nothing = object()
    differing = sorted(n for n in there | here if there.get(n, nothing) != here.get(n, nothing))
    return f"was made with other settings ({', '.join(differing)})" if differing else ""


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
