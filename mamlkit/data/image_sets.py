"""Data sets as one tensor (classes, per_class, 1, h, w): `glyphs`, drawn on the spot, and Omniglot.

`glyphs` is drawn from the fonts inside matplotlib (`mamlkit.data.letters` names their licences). Omniglot (Lake,
Salakhutdinov & Tenenbaum, Science 2015; MIT licence; `mamlkit.data.omniglot_files`) is downloaded once, or read
from the folder that the environment variable MAMLKIT_DATA names. What was drawn or read is kept in the folder
that MAMLKIT_CACHE names, or else in the user's cache folder; it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pooch
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamlkit.data import letters, omniglot_files
from mamlkit.files import sweep_drafts, write_atomically
from mamlkit.tasks import check_counts

Split = Literal["meta-train", "meta-validation", "meta-test"]
Protocol = Literal["alphabets", "characters"]

HELD_OUT = ("Alphabet_of_the_Magi", "Bengali", "Futurama", "Japanese_(hiragana)", "N_Ko")
"""Omniglot's meta-validation alphabets: every sixth of the 30 background alphabets, sorted by name."""


class ImageClasses(NamedTuple):
    """Images by class: `images[c, i]` is drawing i of character `classes[c]` of alphabet `groups[c]`."""

    images: Tensor  # (classes, per_class, 1, h, w) float32 in [0, 1], 1 = ink
    classes: tuple[str, ...]
    groups: tuple[str, ...]


def glyphs(
    split: Split, *, size: int = 28, per_class: int = 20, noise: float = 1.0, seed: int = 0
) -> ImageClasses:
    """Letters of the fonts inside matplotlib, drawn with handwriting noise; no script is in two splits.

    meta-train holds Latin, Greek, Cyrillic, Arabic, Coptic, Old Italic and Lisu (1,200 letters);
    meta-validation Georgian and Armenian (109); meta-test Canadian syllabics, Hebrew and Lao (371).
    Of letters that look alike, within or across splits, only the first in this order is a class.
    Drawing i of a letter depends on (seed, letter, i) alone. Derived in chapter `few-shot-images`.

    Args:
        size: height and width in pixels, at least 8.
        per_class: drawings of each letter; the fonts that have it take turns.
        noise: scales the pen, elastic and affine distortions; 0 prints the fonts' own shapes.
        seed: of the noise, a whole number.

    Raises:
        ValueError: an unknown split, or a size, number of drawings, noise or seed out of its range.
    """
    _check_choice("split", split, get_args(Split))
    check_counts(8, size=size)
    check_counts(1, per_class=per_class)
    check_counts(0, seed=seed)
    if not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise!r}, but it must be a finite number of at least 0")
    key = f"{letters.fingerprint()} {split} {size} {per_class} {float(noise)} {seed} numpy {np.__version__}"

    def render() -> dict[str, NDArray[Any]]:
        alphabet = letters.alphabets()[split]
        drawings = [letters.draw(x, per_class=per_class, size=size, noise=noise, seed=seed) for x in alphabet]
        return {
            "images": np.stack(drawings),
            "classes": np.array([unicodedata.name(letter.character) for letter in alphabet]),
            "groups": np.array([letter.script for letter in alphabet]),
        }

    return _image_classes(_cached(f"glyphs-{split}", key, render))


def omniglot(
    split: Split,
    *,
    size: int = 28,
    protocol: Protocol = "alphabets",
    folder: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """Omniglot's characters, 20 drawings each, shrunk from 105 × 105 by area (Lake et al. 2015; MIT).

    "alphabets" is the authors' split: meta-test is their evaluation set (20 alphabets, 659 characters); of
    their background set, the five alphabets `HELD_OUT` are meta-validation and the other 25 meta-train.
    "characters" is the MAML paper's kind of split (Finn et al. 2017, section 5.2, sizes from its code): 1,100,
    100 and 423 characters at random, whatever their alphabet; the permutation is fixed, but not theirs.
    The first is the harder one, because there a whole alphabet is new. Derived in chapter `few-shot-images`.

    Args:
        size: height and width in pixels, 1 to 105.
        protocol: "alphabets" or "characters".
        folder: where `omniglot_105.npz` or the authors' two archives lie; by default the folder that
            MAMLKIT_DATA names, or else the cache, into which the archives are downloaded.

    Raises:
        ValueError: an unknown split or protocol, a size out of range, an address for a folder, a damaged file.
        FileNotFoundError: the folder was named but lacks the files.
        ConnectionError: the archives could not be downloaded; the message names the three ways to get them.
    """
    _check_choice("split", split, get_args(Split))
    _check_choice("protocol", protocol, get_args(Protocol))
    check_counts(1, size=size)
    if size > omniglot_files.SIDE:
        raise ValueError(f"size={size}, but the drawings have 105 × 105 pixels; choose 1 to 105")
    named = folder if folder is not None else os.environ.get("MAMLKIT_DATA") or None
    if re.match(r"\w\w+:/", str(named)):
        raise ValueError(f"{named} is an address; get its files and give the folder where they lie")
    place = Path(os.path.expanduser(named)) if named is not None else _cache_folder() / "omniglot"
    if named is None:
        omniglot_files.fetch(place)
    stamps = [
        f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in (place / name for name in (omniglot_files.PACKED, *omniglot_files.ARCHIVES))
        if os.path.isfile(path)  # unlike Path.is_file, no error where the name is too long
    ]
    code = hashlib.sha256(Path(omniglot_files.__file__).read_bytes()).hexdigest()

    def read() -> dict[str, NDArray[Any]]:
        drawings = omniglot_files.read(place)
        names = [f"{a} {c:02d}" for a, c in zip(drawings.alphabets, drawings.characters, strict=True)]
        return {
            "images": np.stack([omniglot_files.shrink(ink, size) for ink in drawings.images]),
            "classes": np.array(names),
            "groups": np.array(drawings.alphabets),
            "background": drawings.background,
        }

    arrays = _cached(f"omniglot-{size}", f"{code} {size} {stamps}", read)
    if protocol == "characters":
        # RandomState, not a Generator: NumPy promises that its numbers never change.
        order = np.random.RandomState(1).permutation(len(arrays["classes"]))
        parts = dict(zip(get_args(Split), np.split(order, [1100, 1200]), strict=True))
        rows = np.sort(parts[split])
    else:
        held_out = np.isin(arrays["groups"], HELD_OUT)
        background = arrays["background"]
        parts = {"meta-train": background & ~held_out, "meta-validation": held_out, "meta-test": ~background}
        rows = np.flatnonzero(parts[split])
    return _image_classes({key: arrays[key][rows] for key in ("images", "classes", "groups")})


def rotations(data: ImageClasses) -> ImageClasses:
    """Four times the classes: each one as it is, then turned by 90, 180 and 270 degrees.

    For meta-training (Santoro et al. 2016; Finn et al. 2017, section 5.2). A symmetrical character turned is
    itself again, so a few of the new classes coincide.
    """
    images = torch.cat([torch.rot90(data.images, quarter, dims=(-2, -1)) for quarter in range(4)])
    turned = tuple(f"{name} {degrees}°" for degrees in (90, 180, 270) for name in data.classes)
    return ImageClasses(images, data.classes + turned, data.groups * 4)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")


def _cache_folder() -> Path:
    return Path(os.path.expanduser(os.environ.get("MAMLKIT_CACHE") or pooch.os_cache("mamlkit")))


def _image_classes(arrays: dict[str, NDArray[Any]]) -> ImageClasses:
    images = torch.from_numpy(arrays["images"]).unsqueeze(2).float() / 255  # (classes, per_class, 1, h, w)
    return ImageClasses(images, tuple(arrays["classes"].tolist()), tuple(arrays["groups"].tolist()))


def _cached(name: str, key: str, build: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """What `build` returns, kept in a file named by the key; a damaged or foreign file is built again."""
    path = _cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    try:
        return _load(path, key)
    except Exception:  # whatever is wrong with the file, a new one mends it
        arrays = build()
    with contextlib.suppress(OSError):  # a folder that refuses is no error
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_drafts(path)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, checksum=np.array(_checksum(key, arrays)), **arrays)
        write_atomically(path, file.getbuffer())
    return arrays


def _checksum(key: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(key.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _load(path: Path, key: str) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(
        path
    ) as file:  # ours is not compressed: what unpacks to more than it is takes no memory
        if not path.is_file() or sum(part.file_size for part in file.infolist()) > path.stat().st_size:
            raise ValueError("foreign")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if str(arrays.pop("checksum")) != _checksum(key, arrays):
        raise ValueError("damaged")
    return arrays
