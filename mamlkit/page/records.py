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

SCHEMA = 1
LARGEST = 100_000
"""Bytes a record may have."""


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from: enough to run them again, nothing about the person or the machine's folders."""

    commit: str  #: the 40 hex digits of the git commit, or "unknown" outside a repository
    clean: bool  #: whether the scripts of its folder and the kit were exactly as committed
    script: str  #: as a path inside the repository
    script_sha256: str
    kit: str
    python: str
    torch: str
    cuda: str | None  #: the CUDA version torch was built for, None on a CPU
    device: str  #: "cpu", or the name of the GPU
    dtype: str
    started: str  #: UTC, as ISO 8601 with seconds
    seconds: float  #: how long it ran, over all resumptions

    def __post_init__(self) -> None:
        _check("provenance.", vars(self))


@dataclass(frozen=True)
class Record:
    """What one experiment measured.

    Raises:
        ValueError: a number is not finite, a value is nothing JSON can say, or there are no metrics; the message names it.
    """

    experiment: str  #: NAME or, of a script with several runs, NAME-RUN for book/experiments/NAME.py
    config: dict[str, Any]  #: the settings by name; what JSON can say
    metrics: dict[str, Any]  #: what was measured by name, per seed and task; finite, not empty
    provenance: Provenance  #: where it comes from, as `provenance` collects it
    weights: dict[str, str] = field(default_factory=dict)  #: the file beside it, from `save_weights`

    def __post_init__(self) -> None:
        _check("", vars(self))
        if not self.metrics:
            raise ValueError("metrics is empty; a record without a measurement says nothing")
        for part in ("config", "metrics", "weights"):
            try:
                object.__setattr__(self, part, _json(getattr(self, part), part))
            except RecursionError:
                raise ValueError(f"{part} has too many lists inside each other") from None

    def caption(self) -> str:
        """One line under a figure: experiment, commit, device, precision, version, day, duration; without <, > and &."""
        p, s = self.provenance, self.provenance.seconds
        commit = p.commit[:7] + ("" if p.clean else " with uncommitted changes")
        spent = f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"
        where = f"{self.experiment} · commit {commit} · {p.device} · {p.dtype}"
        return f"{where} · torch {p.torch} · {p.started[:10]} · {spent}"


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
    _check("", {"record": record})
    path, content = Path(path), asdict(record)
    data = {"schema": SCHEMA, **content, "sha256": _digest(content)}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # one line per list of numbers
    text = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text)
    if (size := len(text.encode())) > LARGEST:
        raise ValueError(
            f"the record has {size:,} bytes, {LARGEST:,} at most; thin its curves, round its numbers"
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
    path = _there(Path(path))
    try:
        data = _read(path)
        schema = data.pop("schema", None) if isinstance(data, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise ValueError(f"it has no field 'schema' that is {SCHEMA}, this kit's, but {_shown(schema)}")
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
        raise ValueError(f"{path.name} cannot be used: {error}; take it from git or make it again") from error


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
        data = _there(path.with_name(name)).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} is not the file that {path.name} was made with; restore it from git")
        return {key: t.to(device) for key, t in tensors_of(data).items()}
    raise ValueError(f"{path.name} keeps no weights")


def _check(where: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        fits, words = _FIELDS.get(where + name, (_is_line, ", not a line of text without < > &"))
        if not (re.fullmatch(fits, repr(value)) if isinstance(fits, str) else fits(value)):
            raise ValueError(f"{where}{name} is a {type(value).__name__}, {_shown(value)}{words}")


def _is_line(value: Any) -> Any:
    return isinstance(value, str) and value.isprintable() and value.strip() and not set("<>&") & {*value}


def _is_utc(value: object) -> bool:
    try:
        moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return value == moment.isoformat(timespec="seconds")


_FIELDS: dict[str, tuple[str | Callable[[Any], Any], str]] = {
    "record": (lambda v: isinstance(v, Record), "; make it with records.Record(...)"),
    "experiment": ("'[a-z0-9-]+'", "; use lower-case words with hyphens"),
    "config": (lambda v: isinstance(v, dict), ", not a dictionary"),
    "metrics": (lambda v: isinstance(v, dict), ", not a dictionary"),
    "provenance": (lambda v: isinstance(v, Provenance), "; use records.provenance(...)"),
    "weights": (
        r"\{('[a-z0-9-]+\.safetensors': '[0-9a-f]{64}')?\}",
        ", not one NAME.safetensors and its SHA-256; use save_weights, not a dictionary of your own",
    ),
    "provenance.commit": ("'(unknown|[0-9a-f]{40})'", ", not 40 hex digits or 'unknown'"),
    "provenance.clean": ("True|False", ", not True or False"),
    "provenance.script_sha256": ("'[0-9a-f]{64}'", ", not 64 hex digits"),
    "provenance.cuda": (lambda v: v is None or _is_line(v), ", not a line of text, or None"),
    "provenance.started": (_is_utc, ", not UTC like 2026-01-31T12:00:00+00:00"),
    "provenance.seconds": (r"\d+(\.\d+)?(e[+-]\d+)?", ", not a time of at least 0"),
}
"""Of a field what it must be, as a pattern of its repr or a function, and how the sentence goes on that says what it is."""


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
            return {_json(k, f"a key of {where}"): _json(v, f"{where}.{k}") for k, v in value.items()}
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


def _there(path: Path) -> Path:
    if path.is_file():
        return path
    script, _, run = path.stem.partition("-")
    book = Path(mamlkit.__file__).resolve().parents[1] / "book"
    command = f"`python book/experiments/{f'{script}.py {run}'.strip()}`"
    what, cure = "record", f"make it with {command}"
    if not (book / "experiments").is_dir():  # the library without the book
        cure = f"copy it from book/records of the book's repository, or make it there with {command}"
    if path.suffix == ".safetensors":
        what, cure = "weights", "restore it from git"
    elif path.name and (book / "records" / path.name).is_file():
        cure = f"but {book / 'records'} holds one: start the notebook in {book}"
    raise FileNotFoundError(f"no {what} {path.name}: {os.path.abspath(path)} is not there; {cure}")


def _other_settings(path: Path, experiment: str, here: dict[str, Any]) -> str:
    """Why the file at `path` must not be lost, or nothing."""
    try:
        data = _read(path)
        found, there = data["experiment"], dict(data["config"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "exists and is no record"
    if found != experiment:
        return f"is a record of {_shown(found)}, not of {experiment!r}"
    differing = sorted(n for n in there | here if n not in there or n not in here or there[n] != here[n])
    return f"was made with other settings ({', '.join(differing)})" if differing else ""


def _git(script: Path) -> tuple[str, bool, str]:
    """The commit, whether the scripts of the folder and the kit are as committed, and the script's name in the repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(script.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        root = Path(git("rev-parse", "--show-toplevel")).resolve()
        commit = git("rev-parse", "HEAD")
        kit = Path(mamlkit.__file__).resolve().parent
        code = [":(glob)*.py"] + ([str(kit)] if kit.is_relative_to(root) else [])  # and what it may import
        clean = not git("status", "--porcelain", "--", *code)
        return commit, clean, script.relative_to(root).as_posix()
    except (OSError, subprocess.SubprocessError):
        return "unknown", False, script.name
