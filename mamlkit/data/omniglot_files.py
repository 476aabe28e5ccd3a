"""Omniglot's drawings, read from the authors' archives or from one packed file, equal from either.

Brenden M. Lake, Ruslan Salakhutdinov & Joshua B. Tenenbaum, "Human-level concept learning through
probabilistic program induction", Science 350, 2015: 1,623 characters of 50 alphabets, 20 drawings of each,
105 × 105 pixels. MIT licence, © 2015 Brenden Lake, https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
from numpy.typing import NDArray
from PIL import Image

URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
# The authors publish no SHA-256; these MD5 sums are the ones that torchvision checks too.
ARCHIVES = {
    "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
}
PACKED = "omniglot_105.npz"
SIDE = 105
DRAWERS = 20
MEMBER = re.compile(r"images_[^/]+/(?P<alphabet>[^/]+)/character(?P<character>\d+)/\d+_(?P<drawer>\d+)\.png")

DRAWINGS = "b4ff4eeef00ea715b188db08d9863b56ad28fa086a65c03cbea761223c770943"
"""`sha256` of all the drawings. The packed file's bytes depend on who packed it, so it is these that are compared."""
LARGEST = 100_000_000
"""Bytes that a part of a file may unpack to; the packed file's drawings have 45 million."""


class Drawings(NamedTuple):
    """Drawings ordered by alphabet, character and drawer: classes share their 20 rows."""

    images: NDArray[np.bool_]  # (classes, 20, 105, 105), True = ink
    alphabets: tuple[str, ...]  # the alphabet of each class
    characters: tuple[int, ...]  # 1.. within its alphabet
    background: NDArray[np.bool_]  # (classes,), True in the authors' background set


def read_archive(path: str | os.PathLike[str], *, background: bool) -> Drawings:
    """The drawings of one of the authors' zip files, all marked as `background` or not.

    Raises:
        ValueError: the file is damaged or empty, or a character has not 20 drawings of 105 × 105 pixels.
    """
    found: dict[tuple[str, int], list[tuple[int, NDArray[np.bool_]]]] = {}
    with _whole(path, "Omniglot archive"), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if match := MEMBER.fullmatch(name):
                with Image.open(io.BytesIO(_unpacked(archive, name))) as picture:
                    if picture.size != (SIDE, SIDE):
                        raise ValueError(f"{name} has {picture.size} pixels, expected (105, 105)")
                    ink = np.asarray(picture.convert("L")) == 0  # the authors draw black on white
                drawings = found.setdefault((match["alphabet"], int(match["character"])), [])
                drawings.append((int(match["drawer"]), ink))
        for (alphabet, character), drawings in found.items():
            if (drawers := sorted(drawer for drawer, _ in drawings)) != list(range(1, DRAWERS + 1)):
                raise ValueError(f"{alphabet} character {character} has the drawings {drawers}, not 1 to 20")
        if not found:
            raise ValueError("no drawings in it")
    keys = sorted(found)
    return Drawings(
        np.stack([[ink for _, ink in sorted(found[key], key=itemgetter(0))] for key in keys]),
        tuple(alphabet for alphabet, _ in keys),
        tuple(character for _, character in keys),
        np.full(len(keys), background),
    )


def read_packed(path: str | os.PathLike[str]) -> Drawings:
    """The drawings of the packed file: a bit per pixel, and each row's alphabet, character and drawer.

    Raises:
        ValueError: the file is damaged, or its rows are not 20 drawings of each character.
    """
    with _whole(path, "packed Omniglot"), zipfile.ZipFile(path) as packed:
        bits, *columns, names = (
            np.load(io.BytesIO(_unpacked(packed, f"{key}.npy")), allow_pickle=False)
            for key in ("images", "alphabet", "character", "drawer", "split", "alphabet_names")
        )
        kinds = [f"{array.dtype} {array.shape}" for array in (bits, *columns)]
        whole = all(column.dtype.kind in "iu" and column.shape == bits.shape[:1] for column in columns)
        if bits.dtype != np.uint8 or bits.shape[1:] != (math.ceil(SIDE * SIDE / 8),) or not whole:
            raise ValueError(f"its arrays are {kinds}, expected uint8 (n, 1379) and four of n whole numbers")
        rows = np.stack([column.astype(np.int64).reshape(-1, DRAWERS) for column in columns])
        alphabet, character, _, split = rows[:, :, 0]
        if (rows[2] != np.arange(1, DRAWERS + 1)).any() or (rows != rows[:, :, :1])[[0, 1, 3]].any():
            raise ValueError("a character has not drawers 1 to 20 in a row")
        if ((alphabet < 0) | (alphabet >= len(names)) | (character < 1) | (split < 0) | (split > 1)).any():
            raise ValueError("an alphabet without a name, a character below 1, or a split that is not 0 or 1")
        labels = [(str(names[a]), int(c)) for a, c in zip(alphabet, character)]
        if len(set(labels)) < len(labels):
            raise ValueError("a character is in it twice")
        images = np.unpackbits(bits, axis=1, count=SIDE * SIDE).reshape(-1, DRAWERS, SIDE, SIDE).astype(bool)
    order = sorted(range(len(labels)), key=labels.__getitem__)
    return Drawings(
        images[order],
        tuple(labels[i][0] for i in order),
        tuple(labels[i][1] for i in order),
        split[order] == 0,
    )


@contextmanager
def _whole(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # zip's, PNG's, NumPy's and memory's own, a dozen kinds
        raise ValueError(f"{path} is not a whole {what} ({error}); delete it and get it again") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    if (size := archive.getinfo(name).file_size) > LARGEST:
        raise ValueError(f"{name} unpacks to {size:,} bytes, {LARGEST:,} at most")
    return archive.read(name)


def read(folder: str | os.PathLike[str]) -> Drawings:
    """All 1,623 characters from a folder that holds the packed file or the two archives.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file is damaged or incomplete.
    """
    place = Path(folder)
    if os.path.isfile(place / PACKED):  # unlike Path.is_file, no error where the name is too long
        drawings = read_packed(place / PACKED)
        source = str(place / PACKED)
    elif all(os.path.isfile(place / name) for name in ARCHIVES):
        parts = [read_archive(place / name, background="background" in name) for name in ARCHIVES]
        drawings = merge(*parts)
        source = f"the archives in {place}"
    else:
        holds = "holds" if os.path.isdir(place) else "is no folder here and holds"
        raise FileNotFoundError(
            f"{place} {holds} neither {PACKED} nor both of {', '.join(ARCHIVES)}; put one or the other there"
        )
    counts = int(drawings.background.sum()), int((~drawings.background).sum())
    if counts != (964, 659):
        raise ValueError(
            f"{source} give {counts} background and evaluation characters, expected (964, 659); get them again"
        )
    if source == str(place / PACKED) and sha256(drawings) != DRAWINGS:
        raise ValueError(f"{source} holds other drawings or names than Omniglot's; get it again")
    return drawings


def sha256(drawings: Drawings) -> str:
    """Of the drawings and their labels in their order, whichever file they were read from."""
    digest = hashlib.sha256(repr(drawings[1:3]).encode())
    digest.update(np.packbits(drawings.background).tobytes())
    digest.update(np.packbits(drawings.images).tobytes())
    return digest.hexdigest()


def merge(first: Drawings, second: Drawings) -> Drawings:
    """Two sets of drawings as one, in the order of alphabets and characters."""
    labels = [*zip(first.alphabets, first.characters), *zip(second.alphabets, second.characters)]
    order = sorted(range(len(labels)), key=labels.__getitem__)
    return Drawings(
        np.concatenate([first.images, second.images])[order],
        tuple(labels[i][0] for i in order),
        tuple(labels[i][1] for i in order),
        np.concatenate([first.background, second.background])[order],
    )


def fetch(folder: str | os.PathLike[str]) -> None:
    """Download the two archives into a folder, with progress bars; what is there and whole stays.

    Raises:
        ConnectionError: no network, or the files are not the authors'; says the three ways to get the data.
    """
    try:
        for name, known_hash in ARCHIVES.items():
            pooch.retrieve(URL + name, known_hash, fname=name, path=folder, progressbar=True)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"Omniglot could not be downloaded ({error}). Three ways to get it: (1) run this again with a "
            f"network, which fetches {' and '.join(ARCHIVES)} from {URL}; (2) set MAMLKIT_DATA to a "
            f"folder with these two archives; (3) set MAMLKIT_DATA to a folder with the packed file {PACKED}"
        ) from error


def shrink(ink: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Images (n, size, size), 255 = ink, from shapes (n, 105, 105): each pixel is the ink share of its area.

    The 105 pixels are cut into `size` equal spans; overlaps are counted in units of 1/size pixel, as whole
    numbers, so the result is exact before it is rounded to 8 bits.
    """
    edges = SIDE * np.arange(size + 1)[:, None]
    pixels = size * np.arange(SIDE + 1)[None]
    overlap = np.minimum(edges[1:], pixels[:, 1:]) - np.maximum(edges[:-1], pixels[:, :-1])
    weights = np.maximum(overlap, 0).astype(np.float32)  # (size, 105); rows sum to 105
    area = weights @ ink.astype(np.float32) @ weights.T  # whole numbers up to 105² = 11025
    images: NDArray[np.uint8] = np.rint(area * np.float32(255) / np.float32(SIDE * SIDE)).astype(np.uint8)
    return images
