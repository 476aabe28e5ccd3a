"""Short texts by class: docstrings of the libraries that the kit stands on, and the requests of CLINC150.

`docstrings` reads the installed packages' own files, so everybody with the pinned versions has the same texts. CLINC150
(Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP-IJCNLP 2019; CC BY 3.0,
https://github.com/clinc/oos-eval) is downloaded once, or read from the folder that MAMLKIT_DATA names.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import torch
from torch import Tensor

from mamlkit.tasks import check_counts

URL = "https://github.com/clinc/oos-eval/raw/828f8093932c8fe6ca7936c3d2e52903b1c523de/data/"
FILES = ("data_full.json", "domains.json")
PACKED = "clinc150.jsonl.gz"
# `sha256` of the requests, their intents and domains; the files' bytes differ with who packed them, so these are compared.
REQUESTS = "5ccc0e5789e848cae6cea891806d2a7dd8ff90aabd78bb566bfc2f86e2b81d4a"
LARGEST = 20_000_000
"""Bytes that a file may have, packed or not; the authors' has some two million."""


class TextClasses(NamedTuple):
    """Texts by class: `texts[c]` are those of class `classes[c]` of group `groups[c]`."""

    texts: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text in small letters: runs of a to z, digits and apostrophes. Any other letter parts words like a space.

    >>> words("Don't panic, it's 42!")
    ["don't", 'panic', "it's", '42']
    """
    return re.findall(r"[a-z0-9']+", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def token_ids(texts: Sequence[Sequence[str]], *, length: int, n_ids: int) -> Tensor:
    """Token ids `(classes, per_class, length)`, 1 to `n_ids` - 1 for a word and 0 for none; `per_class` is the shortest class's.

    A word's id is a checksum of its letters (the hashing trick, Weinberger et al. 2009): no vocabulary is fitted, every word
    has an id, and a few share theirs. Longer texts are cut; a text without a word is all zeros.

    Raises:
        ValueError: a list of texts in place of a list of such lists, one a class; a class without a text; not one word.

    >>> token_ids([["to be or not to be"]], length=8, n_ids=100)
    tensor([[[37, 86, 24, 93, 37, 86,  0,  0]]])
    """
    check_counts(1, length=length)
    check_counts(2, n_ids=n_ids)
    if flat := next((of_class for of_class in texts if isinstance(of_class, str)), None):
        raise ValueError(
            f"texts has {flat[:20]!r} where a class's list of texts belongs; put the texts of each class into a list, and these "
            f"lists into one: [[text, text], [text, text]]"
        )
    per_class = min((len(of_class) for of_class in texts), default=0)
    if not per_class:
        raise ValueError("texts has no class, or one without a text; give each class one at least")

    def ids(text: str) -> list[int]:
        found = [1 + zlib.crc32(word.encode()) % (n_ids - 1) for word in words(text)[:length]]
        return found + [0] * (length - len(found))

    found = torch.tensor([[ids(text) for text in of_class[:per_class]] for of_class in texts])
    if not found.any():
        raise ValueError(
            "texts has no word of a to z or digits, which are all that `words` knows; for another script give the kit the ids of "
            "a tokeniser that knows it, 0 for none"
        )
    return found


def docstrings(*packages: str, per_class: int = 20) -> TextClasses:
    """First paragraphs of the docstrings in the modules of installed packages; a module is a class, a package a group.

    Files are parsed, not imported. A module counts if it has `per_class` different paragraphs of four words or more; the first
    ones in the file are taken. Tests are left out. Derived in chapter `few-shot-language`.

    Raises:
        ValueError: a package that is not installed, or `per_class` below 1.
    """
    check_counts(1, per_class=per_class)
    texts, classes, groups = [], [], []
    for package in packages:
        top, *below = package.split(".")
        found = importlib.util.find_spec(top)  # of the top alone: to ask for what is below would import it
        root = Path(found.origin if found and found.origin else "").parent.joinpath(*below)
        if not (root / "__init__.py").is_file():
            raise ValueError(f"{package!r} is no installed package; install what requirements.txt pins")
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            name = path.relative_to(root).as_posix()
            source = path.read_text(encoding="utf-8")
            if re.search(r"tests?[/_]|testing|conftest", name) or source.count('"""') < 2 * per_class:
                continue
            if len(paragraphs := _paragraphs(source)) >= per_class:
                texts.append(tuple(paragraphs[:per_class]))
                classes.append(f"{package}/{name}".removesuffix(".py").replace("/", "."))
                groups.append(package)
    return TextClasses(tuple(texts), tuple(classes), tuple(groups))


def _paragraphs(source: str) -> list[str]:
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = (ast.get_docstring(node) or "").strip().partition("\n\n")[0]
            if len(words(first)) >= 4:
                found[" ".join(first.split())] = None
    return list(found)


def clinc150(folder: str | os.PathLike[str] | None = None) -> TextClasses:
    """The 150 intents of CLINC150 in ten domains, 150 requests each, the authors' three splits together (CC BY 3.0).

    Requests without an intent of the 150 are left out. Classes are sorted by domain and intent, requests by their letters.
    Derived in chapter `few-shot-language`.

    Args:
        folder: where `clinc150.jsonl.gz` or the authors' two files lie; by default the folder that MAMLKIT_DATA names, or else
            the cache, into which the authors' files are downloaded.

    Raises:
        ValueError: a damaged file, or other requests than the authors'.
        FileNotFoundError: the folder was named but lacks the files.
        ConnectionError: they could not be downloaded; the message names the three ways to get them.
    """
    named = folder if folder is not None else os.environ.get("MAMLKIT_DATA") or None
    cache = (
        Path(os.path.expanduser(os.environ.get("MAMLKIT_CACHE") or pooch.os_cache("mamlkit"))) / "clinc150"
    )
    place = Path(os.path.expanduser(named)) if named is not None else cache
    if named is None:
        _fetch(place)
    if os.path.isfile(place / PACKED):
        source, rows = place / PACKED, _packed
    elif all(os.path.isfile(place / name) for name in FILES):
        source, rows = place / FILES[0], _authors
    else:
        raise FileNotFoundError(
            f"{place} holds neither {PACKED} nor both of {', '.join(FILES)}; put one or the other there"
        )
    try:
        requests = sorted(rows(source))
    except Exception as error:  # gzip's, JSON's and whatever a foreign content leads to
        raise ValueError(f"{source} is no whole CLINC150 ({error}); delete it and get it again") from error
    if hashlib.sha256(json.dumps(requests).encode()).hexdigest() != REQUESTS:
        raise ValueError(f"{source} holds other requests than CLINC150's; delete it and get it again")
    by_intent = defaultdict(list)
    for domain, intent, text in requests:
        by_intent[domain, intent].append(text)
    return TextClasses(
        tuple(tuple(texts) for texts in by_intent.values()),
        tuple(intent for _, intent in by_intent),
        tuple(domain for domain, _ in by_intent),
    )


def _packed(path: Path) -> list[tuple[str, str, str]]:
    with gzip.open(path) as file:
        lines = [json.loads(line) for line in _read(file).splitlines()]
    return [(row["domain"], row["label"], row["text"]) for row in lines if row["label"] != "oos"]


def _authors(path: Path) -> list[tuple[str, str, str]]:
    with open(path, "rb") as file, open(path.with_name(FILES[1]), "rb") as other:
        splits, domains = json.loads(_read(file)), json.loads(_read(other))
    domain = {intent: name for name, intents in domains.items() for intent in intents}
    return [
        (domain[intent], intent, text) for split in ("train", "val", "test") for text, intent in splits[split]
    ]


def _read(file: Any) -> bytes:
    data: bytes = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return data


def _fetch(folder: Path) -> None:
    # The authors publish no sums; what was downloaded is compared by its content, and pooch moves it there whole.
    try:
        for name in FILES:
            pooch.retrieve(URL + name, None, fname=name, path=folder, progressbar=True)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"CLINC150 could not be downloaded ({error}). Three ways to get it: (1) run this again with a network, which fetches "
            f"{' and '.join(FILES)} from {URL}; (2) set MAMLKIT_DATA to a folder with these two; (3) set MAMLKIT_DATA to a "
            f"folder with {PACKED}"
        ) from error
