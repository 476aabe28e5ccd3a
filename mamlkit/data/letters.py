"""Letters of the fonts inside matplotlib as outlines, and seeded drawings of them that look handwritten.

matplotlib ships the DejaVu fonts (Bitstream Vera licence, changes in the public domain) and the STIX fonts
(SIL Open Font Licence). An outline is read in the font's own units, so no hinting and no machine's rasteriser
enters; noise moves the outline's points, and each pixel's coverage is computed once, at the end, by sums,
products, quotients and square roots alone, then rounded to 8 bits: the same bytes everywhere.

A drawing is outline → pen (points move along their normals) → elastic (a smooth displacement: cubic B-splines
on a 4 × 4 grid of random shifts) → affine (shear, unequal scales, rotation, shift) → pixels.
Affine and elastic distortions: Simard, Steinkraus & Platt, "Best practices for convolutional neural networks
applied to visual document analysis", ICDAR 2003, section 2.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font, LoadFlags
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Ordered: of two letters that look alike the one of the earlier script stays.
SCRIPTS = {
    "meta-train": {
        "LATIN": "Latin",
        "GREEK": "Greek",
        "CYRILLIC": "Cyrillic",
        "ARABIC": "Arabic",
        "COPTIC": "Coptic",
        "OLD": "Old Italic",
        "LISU": "Lisu",
    },
    "meta-validation": {"GEORGIAN": "Georgian", "ARMENIAN": "Armenian"},
    "meta-test": {"CANADIAN": "Canadian syllabics", "HEBREW": "Hebrew", "LAO": "Lao"},
}
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Italic", "-Bold", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Oblique", "-Bold", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
)
REFERENCE = FONTS[0]  # in which letters are compared
MIN_STYLES = 4  # font files that must draw a letter
SIZE = 28  # pixels of the images in which look-alikes are found
FILL_PROTOTYPE = 0.95  # longer side of a letter in them, as a part of the image
TOLERANCE = 2  # letters differ when more pixels of ink than this lie out of reach of the other's ink:
REACH_WITHIN = 1  # pixels, against letters of the same split,
REACH_ACROSS = 2  # pixels, against letters of another split, where quarter turns count as alike too
PIECES = 4  # straight pieces of a curve
ROWS = 4  # scan lines in a pixel row
FILL = 0.7  # longer side of a noise-free letter, as a part of the image
# The largest amounts of noise. Lengths are parts of the letter's longer side, SHIFT a part of the image.
PEN = 0.015
ELASTIC = 0.14
SHEAR = 0.3
SCALE = 0.25
HALF_TURN = 0.17  # tangent of half the angle: 19 degrees
SHIFT = 0.1
ROOM = 0.95  # side of the square that ink never leaves, as a part of the image


class Letter(NamedTuple):
    """A character, the name of its script, and the font files that draw it."""

    character: str
    script: str
    styles: tuple[str, ...]


class Outline(NamedTuple):
    """Closed polygons, point i joined to follows[i]; the ink's box is centred on 0, its longer side is 1."""

    points: Array  # (points, 2), y downwards
    follows: NDArray[np.int64]  # (points,)


def font_path(name: str) -> Path:
    """The file of a font inside matplotlib."""
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")


@cache
def fingerprint() -> str:
    """A hash of all that decides a drawing besides its settings: the fonts' bytes and this module's code."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in FONTS:
        digest.update(font_path(name).read_bytes())
    return digest.hexdigest()


@cache
def _font(name: str) -> FT2Font:
    return FT2Font(str(font_path(name)))


@cache
def outline(character: str, style: str) -> Outline:
    """The outline of a character in a font, curves cut into straight pieces; without ink, no points."""
    font = _font(style)
    font.load_char(ord(character), flags=LoadFlags.NO_SCALE)
    vertices, codes = font.get_path()
    starts = np.flatnonzero(codes == 1)
    chunks, follows, n_points = [], [], 0
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        quads = _quadratics(vertices[start:stop], codes[start:stop])
        if len(quads) < 2:
            continue
        t = (np.arange(PIECES) / PIECES)[:, None]
        a, b, c = quads[:, None, 0], quads[:, None, 1], quads[:, None, 2]
        points = ((1 - t) * (1 - t) * a + 2 * t * (1 - t) * b + t * t * c).reshape(-1, 2)
        chunks.append(points)
        follows.append(n_points + np.roll(np.arange(len(points)), -1))
        n_points += len(points)
    if not chunks:
        return Outline(np.empty((0, 2)), np.empty(0, dtype=np.int64))
    points = np.concatenate(chunks) * [1, -1]
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max()
    return Outline((points - (low + high) / 2) / (extent if extent > 0 else 1), np.concatenate(follows))


def _quadratics(vertices: Array, codes: NDArray[np.integer]) -> Array:
    """One contour as quadratic Bézier curves (curves, 3, 2); a line's control point is its middle."""
    quads, here, i = [], vertices[0], 1
    while i < len(codes):
        if codes[i] == 3:
            quads.append((here, vertices[i], vertices[i + 1]))
            here, i = vertices[i + 1], i + 2
        elif codes[i] in (2, 79):
            there = vertices[0] if codes[i] == 79 else vertices[i]
            if (there != here).any():
                quads.append((here, (here + there) / 2, there))
            here, i = there, i + 1
        else:
            raise ValueError(f"path code {codes[i]} in an outline, expected 2, 3 or 79; use a TrueType font")
    return np.array(quads).reshape(-1, 3, 2)


def rasterise(points: Array, follows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Images (n, size, size), 255 = ink, of n drawings (n, points, 2) of one outline; they span [−½, ½]²."""
    n, rows = len(points), size * ROWS
    x0, y0 = ((points[:, :, axis] + 0.5) * size for axis in (0, 1))
    y0 = y0 * ROWS - 0.5  # scan line r now lies at y = r
    x1, y1 = x0[:, follows], y0[:, follows]
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(np.int64).ravel()
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(np.int64).ravel()
    counts = last - first
    piece = np.repeat(np.arange(counts.size), counts)
    row = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts) + first[piece]
    rise = (y1 - y0).ravel()
    slope = np.divide((x1 - x0).ravel(), rise, out=np.zeros_like(rise), where=counts > 0)
    x = np.clip(x0.ravel()[piece] + (row - y0.ravel()[piece]) * slope[piece], 0, size)
    # Right of an upward edge the winding number is one more, right of a downward edge one less.
    sign = np.where(rise > 0, 1.0, -1.0)[piece]
    column = np.minimum(x.astype(np.int64), size - 1)
    right = x - column
    cell = ((piece // len(follows)) * rows + row) * (size + 1) + column
    length = n * rows * (size + 1)
    change = np.bincount(cell, sign * (1 - right), length) + np.bincount(cell + 1, sign * right, length)
    winding = np.abs(np.cumsum(change.reshape(n, size, ROWS, size + 1)[..., :size], axis=-1))
    coverage = np.minimum(winding, 1).sum(axis=2) / ROWS
    images: NDArray[np.uint8] = np.rint(255 * coverage).astype(np.uint8)
    return images


def draw(letter: Letter, *, per_class: int, size: int, noise: float, seed: int) -> NDArray[np.uint8]:
    """Drawings (per_class, size, size) of a letter, 255 = ink; drawing i depends on (seed, letter, i) alone.

    `noise` scales the distortions: 0 prints the fonts' shapes, 1 looks handwritten. The styles take turns.
    """
    generator = np.random.default_rng([seed, ord(letter.character)])
    turn = int(generator.integers(len(letter.styles)))
    uniform = 2 * generator.random((per_class, 40)) - 1
    images = np.empty((per_class, size, size), dtype=np.uint8)
    for offset in range(min(per_class, len(letter.styles))):
        style = letter.styles[(turn + offset) % len(letter.styles)]
        rows = slice(offset, None, len(letter.styles))
        shape = outline(letter.character, style)
        images[rows] = rasterise(distort(shape, noise * uniform[rows]), shape.follows, size)
    return images


def distort(shape: Outline, amounts: Array) -> Array:
    """The outline's points (n, points, 2), moved by each row of `amounts` (n, 40) in [−1, 1]; in [−½, ½]²."""
    n = len(amounts)
    points = shape.points
    before = np.empty_like(shape.follows)
    before[shape.follows] = np.arange(len(before))
    along = points[shape.follows] - points[before]
    length = np.sqrt((along * along).sum(axis=1, keepdims=True))
    # TrueType ink lies on the right of the direction of travel, so this normal points out of the ink.
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.where(length > 0, length, 1)
    pen = PEN * amounts[:, 39]
    moved = points + pen[:, None, None] * normal

    shifts = ELASTIC * amounts[:, :32].reshape(n, 2, 4, 4)
    weights = _cubic_weights(points + 0.5)  # (2, points, 4)
    for axis in (0, 1):
        for row in range(4):
            for column in range(4):
                weight = weights[1, :, row] * weights[0, :, column]
                moved[:, :, axis] += shifts[:, axis, row, column, None] * weight

    shear, scale_x, scale_y, turn, shift_x, shift_y = amounts[:, 32:38].T[:, :, None]
    x, y = moved[:, :, 0], moved[:, :, 1]
    x, y = (1 + SCALE * scale_x) * (x + SHEAR * shear * y), (1 + SCALE * scale_y) * y
    half = HALF_TURN * turn
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x, y = cos * x - sin * y, sin * x + cos * y
    drawn = np.stack([FILL * x + SHIFT * shift_x, FILL * y + SHIFT * shift_y], axis=-1)

    low, high = drawn.min(axis=1, keepdims=True), drawn.max(axis=1, keepdims=True)
    shrink = np.minimum(1, ROOM / np.maximum((high - low).max(axis=2, keepdims=True), 1e-9))
    low, high, drawn = shrink * low, shrink * high, shrink * drawn
    inside: Array = drawn + np.maximum(-ROOM / 2 - low, 0) - np.maximum(high - ROOM / 2, 0)
    return inside


def _cubic_weights(position: Array) -> Array:
    """Uniform cubic B-spline weights (2, points, 4) of one span for positions (points, 2) in [0, 1]."""
    t = position.T[:, :, None]
    s = 1 - t
    parts = [s * s * s, 3 * t * t * t - 6 * t * t + 4, 3 * s * s * s - 6 * s * s + 4, t * t * t]
    return np.concatenate(parts, axis=-1) / 6


@cache
def alphabets() -> dict[str, tuple[Letter, ...]]:
    """The letters of each split, by script and code point, look-alikes removed: no shape is in two classes.

    A letter stands in at least `MIN_STYLES` fonts, among them the reference font, where shapes are compared.
    Of letters that look alike the first stays; letters of two splits must differ after quarter turns too,
    because rotated copies serve as new training classes.
    """
    names = {name: (split, script) for split in SCRIPTS for name, script in SCRIPTS[split].items()}
    order = list(names)
    charmaps = {font: set(_font(font).get_charmap()) for font in FONTS}
    found = []
    for code in sorted(charmaps[REFERENCE]):
        character = chr(code)
        name = unicodedata.name(character, "").split(" ")[0]
        if name in names and unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo"):
            styles = tuple(font for font in FONTS if code in charmaps[font])
            if len(styles) >= MIN_STYLES and len(outline(character, REFERENCE).points):
                found.append((order.index(name), Letter(character, names[name][1], styles)))
    found.sort(key=lambda item: (item[0], item[1].character))
    letters = [letter for _, letter in found]
    splits = np.array([list(SCRIPTS).index(names[order[rank]][0]) for rank, _ in found])
    ink = np.stack([prototype(letter.character) for letter in letters])
    within = unmatched(ink, ink, REACH_WITHIN)
    turns = [unmatched(ink, np.rot90(ink, quarter, axes=(1, 2)), REACH_ACROSS) for quarter in range(4)]
    same_split = splits[:, None] == splits[None, :]
    rival = np.where(same_split, within, np.minimum.reduce(turns)) <= TOLERANCE
    kept: list[int] = []
    for i in range(len(letters)):
        if not rival[i, kept].any():
            kept.append(i)
    return {split: tuple(letters[i] for i in kept if splits[i] == s) for s, split in enumerate(SCRIPTS)}


def prototype(character: str) -> NDArray[np.bool_]:
    """The noise-free shape (28, 28), scaled to fill the image: True where the reference font puts ink."""
    shape = outline(character, REFERENCE)
    ink: NDArray[np.bool_] = rasterise(FILL_PROTOTYPE * shape.points[None], shape.follows, SIZE)[0] >= 128
    return ink


def unmatched(ink: NDArray[np.bool_], other: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Pixels (n, m) of ink out of `reach` of the other shape's ink, the larger of the two directions.

    Takes shapes (n, 28, 28) and (m, 28, 28). Counts are whole numbers, so no machine rounds them differently.
    """

    def away(images: NDArray[np.bool_]) -> NDArray[np.float32]:
        padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
        near = np.zeros_like(images)
        for dy in range(2 * reach + 1):
            for dx in range(2 * reach + 1):
                if (dy - reach) ** 2 + (dx - reach) ** 2 <= reach**2 + 1:
                    near |= padded[:, dy : dy + SIZE, dx : dx + SIZE]
        return (~near).reshape(len(images), -1).astype(np.float32)

    a, b = (images.reshape(len(images), -1).astype(np.float32) for images in (ink, other))
    worse: NDArray[np.float32] = np.maximum(a @ away(other).T, (b @ away(ink).T).T)
    return worse
