from __future__ import annotations

import hashlib
import io
import os
import zipfile
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from mamlkit import files
from mamlkit.data import image_sets, letters, omniglot_files
from mamlkit.data.image_sets import glyphs, omniglot, rotations

DATA = Path(os.environ.get("MAMLKIT_DATA") or Path(__file__).parents[2] / "shared" / "data")
SPLITS = ("meta-train", "meta-validation", "meta-test")


def needs(*names):
    missing = [name for name in names if not (DATA / name).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here; set MAMLKIT_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MAMLKIT_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def few(monkeypatch):
    chosen = {split: alphabet[::40] for split, alphabet in letters.alphabets().items()}
    monkeypatch.setattr(letters, "alphabets", lambda: chosen)
    return chosen


def test_splits_share_no_script_and_no_character_and_look_alikes_of_any_script_are_one_class():
    alphabets = letters.alphabets()
    every = [letter for split in SPLITS for letter in alphabets[split]]
    scripts = [{letter.script for letter in alphabets[split]} for split in SPLITS]
    characters = {letter.character for letter in every}

    assert sum(map(len, scripts)) == len(set.union(*scripts)) == 12
    assert len(every) == len(characters)
    assert [len(alphabets[split]) for split in SPLITS] == [1200, 109, 371]
    for alike in ("AΑАᗅ", "OoΟοОоՕօ", "TΤТᐪ", "HΗН", "Ccсϲᑕ", "SsЅѕ", "XxХх"):
        assert len(characters & set(alike)) == 1, alike
    assert all(len(letter.styles) >= letters.MIN_STYLES for letter in every)
    assert all(len(letters.outline(x.character, style).points) for x in every[::30] for style in x.styles)


def test_drawings_of_a_letter_are_ink_on_paper_and_differ_and_without_noise_they_are_prints(few):
    noisy, prints = (glyphs("meta-validation", noise=noise).images for noise in (1.0, 0))

    assert (noisy.dtype, noisy.shape[1:]) == (torch.float32, (20, 1, 28, 28))
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert noisy.mean() < 0.35, "there is more paper than ink"
    assert (noisy.amax((2, 3, 4)) > 0.5).all(), "every drawing has ink"
    for letter, drawings, printed in zip(few["meta-validation"], noisy, prints, strict=True):
        assert len(torch.unique(drawings, dim=0)) == 20
        assert torch.equal(printed[: -len(letter.styles)], printed[len(letter.styles) :])


def test_the_drawings_of_ten_letters_are_the_same_bytes_everywhere():
    """Of the fonts only outlines in whole numbers are used, and of arithmetic only what every processor rounds alike."""
    every = [letter for alphabet in letters.alphabets().values() for letter in alphabet][::168]

    drawn = b"".join(letters.draw(x, per_class=20, size=28, noise=1.0, seed=0).tobytes() for x in every)
    assert "".join(letter.character for letter in every) == "AźɭẊΩЬٹ𐌐ᐼᕂ"
    assert hashlib.sha256(drawn).hexdigest()[:16] == "c6d4ef1569dec10b", "other noise, or other fonts"


def test_a_second_call_reads_the_same_drawings_from_the_cache_and_other_settings_never_do(few, monkeypatch):
    settings = [{}, {"size": 16}, {"per_class": 3}, {"seed": 1}, {"noise": 0.5}]
    first = [glyphs("meta-test", **{"size": 20, "per_class": 2, **each}) for each in settings]
    monkeypatch.setattr(letters, "draw", lambda *_, **__: pytest.fail("drawn again"))
    second = [glyphs("meta-test", **{"size": 20, "per_class": 2, **each}) for each in settings]

    assert all(torch.equal(a.images, b.images) and a[1:] == b[1:] for a, b in zip(first, second))
    assert len({data.images.numpy().tobytes() for data in first}) == len(settings)
    assert torch.equal(first[0].images, first[2].images[:, :2]), "a drawing does not depend on their number"


def npz(whole=b"", save=np.savez, **arrays):
    """A file of arrays, or such a file with other arrays in it, or saved in another way."""
    there, file = np.load(io.BytesIO(whole)) if whole else {}, io.BytesIO()
    save(file, **{**there, **arrays})
    return file.getvalue()


zeros, twenty = partial(np.zeros, dtype=np.uint8), partial(np.repeat, repeats=20)
FOREIGN = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "a bent bit": lambda whole: whole[:150] + bytes([whole[150] ^ 1]) + whole[151:],
    "encrypted": lambda _: npz(images=zeros(9)).replace(b"\x2d\0\0\0", b"\x2d\0\1\0"),
    "other parts": lambda _: npz(notes=zeros(3)),
}
CACHED = FOREIGN | {
    "other images": lambda whole: npz(whole, images=zeros((10, 2, 28, 28))),
    "other names": lambda whole: npz(whole, groups=np.array(["Lao"])),
    "what unpacks to more than it is": lambda whole: npz(whole, np.savez_compressed),
}


@pytest.mark.parametrize("damage", [*CACHED, "another key"])
def test_a_damaged_or_foreign_cache_is_drawn_again(few, cache, damage):
    glyphs("meta-test", per_class=2, seed=1)
    (other,) = cache.iterdir()
    first = glyphs("meta-test", per_class=2)
    (path,) = {*cache.iterdir()} - {other}
    whole = path.read_bytes()
    path.write_bytes(other.read_bytes() if damage == "another key" else CACHED[damage](whole))

    assert torch.equal(first.images, glyphs("meta-test", per_class=2).images)
    assert path.read_bytes() == whole, "the damaged file was replaced"


def test_a_cache_that_cannot_be_written_is_no_error(few, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", Mock(side_effect=OSError("no space left on device")))
    (tmp_path / "file").touch()
    for folder in (cache, tmp_path / "file" / "cache"):
        monkeypatch.setenv("MAMLKIT_CACHE", str(folder))
        assert len(glyphs("meta-test", per_class=2).images) == len(few["meta-test"])


def test_rotations_are_quarter_turns_under_new_names():
    images = torch.rand(2, 3, 1, 5, 5)

    turned = rotations(image_sets.ImageClasses(images, ("a", "b"), ("x", "y")))
    assert turned.classes == ("a", "b", "a 90°", "b 90°", "a 180°", "b 180°", "a 270°", "b 270°")
    assert turned.groups == ("x", "y") * 4
    half, clockwise = images.flip(-1, -2), images.flip(-2).mT
    assert torch.equal(turned.images, torch.cat([images, clockwise.flip(-1, -2), half, clockwise]))


def test_shrinking_takes_the_share_of_ink_in_each_area():
    ink = np.random.default_rng(0).random((3, 105, 105)) < 0.3

    small = omniglot_files.shrink(ink, 21)
    assert small.dtype == np.uint8
    assert np.abs(small / 255 - ink.reshape(3, 21, 5, 21, 5).mean((2, 4))).max() <= 0.5 / 255 + 1e-12
    assert (omniglot_files.shrink(ink, 105) == 255 * ink).all()
    assert (omniglot_files.shrink(np.ones((1, 105, 105), dtype=bool), 28) == 255).all()


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """As many characters and alphabets as Omniglot's, with one dot of ink, as if the packed file in `tmp_path` held them."""
    background = [*image_sets.HELD_OUT, *(f"background {i}" for i in range(25))] * 33
    evaluation = [f"evaluation {i}" for i in range(20)] * 33
    names, ink = tuple(background[:964] + evaluation[:659]), np.zeros((1623, 1, 105, 105), dtype=bool)
    ink[800, 0, 50, 50] = True
    drawings = omniglot_files.Drawings(ink, names, tuple(range(1623)), np.arange(1623) < 964)
    (tmp_path / omniglot_files.PACKED).touch()
    monkeypatch.setattr(omniglot_files, "DRAWINGS", omniglot_files.sha256(drawings))
    monkeypatch.setattr(omniglot_files, "read_packed", lambda _: drawings)
    return drawings


@pytest.mark.parametrize("protocol", ["alphabets", "characters"])
def test_the_splits_of_omniglot_share_no_character(made_up, tmp_path, protocol):
    parts = [omniglot(split, size=1, protocol=protocol, folder=tmp_path) for split in SPLITS]

    classes, groups = ([set(part[i]) for part in parts] for i in (1, 2))
    assert sum(map(len, classes)) == len(set.union(*classes)) == 1623
    if protocol == "alphabets":
        assert groups[1:] == [set(image_sets.HELD_OUT), {f"evaluation {i}" for i in range(20)}]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 50
    else:
        assert [len(part.images) for part in parts] == [1100, 100, 423]
        assert groups[2] & groups[0] & set(image_sets.HELD_OUT), "whatever their alphabet"


@pytest.mark.parametrize("part", omniglot_files.Drawings._fields)
def test_the_packed_file_is_held_against_the_sum_of_its_parts(made_up, tmp_path, monkeypatch, part):
    other = made_up._replace(**{part: getattr(made_up, part)[::-1]})
    monkeypatch.setattr(omniglot_files, "read_packed", lambda _: other)
    with pytest.raises(ValueError, match="holds other drawings or names than Omniglot's; get it again"):
        omniglot_files.read(tmp_path)


@needs("omniglot_105.npz")
def test_omniglot_has_its_published_counts():
    parts = [omniglot(split, folder=DATA) for split in SPLITS]
    assert [part.images.shape for part in parts] == [(n, 20, 1, 28, 28) for n in (787, 177, 659)]
    assert [len(set(part.groups)) for part in parts] == [25, 5, 20]
    assert all(list(part.classes) == sorted(part.classes) for part in parts)
    assert all(part.images.min() == 0 and part.images.mean() < 0.2 for part in parts), "1 is ink"


@needs("images_background_small1.zip", "omniglot_105.npz")
def test_the_authors_archives_and_the_packed_file_give_the_same_drawings():
    packed = omniglot_files.read_packed(DATA / omniglot_files.PACKED)
    part = omniglot_files.read_archive(DATA / "images_background_small1.zip", background=True)

    labels = list(zip(packed.alphabets, packed.characters))
    rows = [labels.index(label) for label in zip(part.alphabets, part.characters)]
    assert rows == sorted(rows)
    assert part.images.shape[:2] == (136, 20)
    assert (part.images == packed.images[rows]).all()


def png(paper):
    file = io.BytesIO()
    Image.fromarray(paper).save(file, "png")
    return file.getvalue()


def read_archive(path, alphabet, pictures, damage=bytes):
    """What is read from one of the authors' archives in small: `pictures` of one character, by drawer."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for drawer, data in pictures:
            file.writestr(f"{path.stem}/{alphabet}/character01/0001_{drawer:02d}.png", data)
    path.write_bytes(damage(path.read_bytes()))
    return omniglot_files.read_archive(path, background="background" in path.stem)


def test_the_two_archives_are_joined_in_the_order_of_alphabets_and_their_counts_are_checked(tmp_path):
    pictures = [png(paper) for paper in np.random.default_rng(0).random((20, 105, 105)) < 0.9]
    background, evaluation = (
        read_archive(tmp_path / name, alphabet, enumerate(pictures[::turn], 1))
        for name, alphabet, turn in zip(omniglot_files.ARCHIVES, ("Zeta", "Alpha"), (1, -1))
    )

    both = omniglot_files.merge(background, evaluation)
    assert (both.alphabets, both.background.tolist()) == (("Alpha", "Zeta"), [False, True])
    assert (both.images[::-1] == np.concatenate([background.images, evaluation.images])).all()
    assert 0.05 < both.images.mean() < 0.15, "ink is black in the files and True here"
    with pytest.raises(ValueError, match=r"give \(1, 1\) .* expected \(964, 659\)"):
        omniglot("meta-test", folder=tmp_path)


LARGE = 10**6  # bytes of a part, more than the tests let one unpack to
DRAWERS = np.tile(np.arange(1, 21), 2)
WHOLE = npz(images=zeros((40, 1379)), alphabet=twenty([0, 1]), character=twenty([1, 1]), drawer=DRAWERS,
            split=twenty([0, 1]), alphabet_names=np.array(["Alpha", "Zeta"]))  # fmt: skip
WRONG = {  # what the packed file of two characters may hold instead
    "images": [zeros((40, 1380)), zeros((40, 1378)), np.zeros((40, 1379)), zeros((39, 1379))],
    "alphabet": [*map(twenty, ([0, -1], [0, 2], [0.0, 1.0], [0, 0])), np.repeat([0, 1], [21, 19])],
    "character": [twenty([0, 0])],
    "drawer": [DRAWERS - 1],
    "split": [twenty([0, 2]), twenty(["a", "b"]), twenty([0])],
    "alphabet_names": [np.array(["Alpha", "Zeta", LARGE // 8 * "x"])],
}
PACKED = FOREIGN | {f"{n} {i}": partial(npz, **{n: x}) for n in WRONG for i, x in enumerate(WRONG[n])}
PAPER = png(np.ones((105, 105), dtype=bool))
TWENTIETH = {  # what may be wrong with the last drawing of a character
    "half a picture": [PAPER[:60]],
    "a large picture": [png(np.ones((105, 106), dtype=bool))],
    "a large part": [PAPER + bytes(LARGE)],
    "a drawing twice": [PAPER, PAPER],
    "19 drawings": [],
}


@pytest.mark.parametrize("damage", PACKED)
def test_a_packed_file_that_is_not_omniglot_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(omniglot_files, "LARGEST", LARGE)
    (tmp_path / "omniglot_105.npz").write_bytes(PACKED[damage](WHOLE))

    with pytest.raises(ValueError, match=r"105\.npz is not a whole packed .*delete it and get it again"):
        omniglot("meta-test", folder=tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("damage", [*FOREIGN, *TWENTIETH])
def test_an_archive_that_is_not_omniglot_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(omniglot_files, "LARGEST", LARGE)
    pictures = [*enumerate([PAPER] * 19, 1), *((20, data) for data in TWENTIETH.get(damage, [PAPER]))]

    with pytest.raises(ValueError, match=r"background\.zip is not a whole .*delete it and get it again"):
        read_archive(tmp_path / "images_background.zip", "Alpha", pictures, FOREIGN.get(damage, bytes))


@pytest.mark.parametrize("named", ["", "~/nowhere"])
def test_a_folder_without_omniglot_says_what_it_lacks(tmp_path, monkeypatch, named):
    monkeypatch.setenv("HOME", "MY-HOME")
    monkeypatch.setenv("MAMLKIT_DATA", named or str(tmp_path))

    words = "^MY-HOME/nowhere is no folder here and" if named else f"^{tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"{words} holds neither omniglot_105.npz nor both of images"):
        omniglot("meta-test")


def test_downloads_are_checked_by_hash_and_without_a_network_three_ways_are_named(monkeypatch, cache):
    asked = Mock(side_effect=[None, ConnectionError("Temporary failure in name resolution")])
    monkeypatch.setattr(omniglot_files.pooch, "retrieve", asked)
    names = ["images_background.zip", "images_evaluation.zip"]

    ways = [" and ".join(names), "set MAMLKIT_DATA", "set MAMLKIT_DATA .*omniglot_105.npz"]
    with pytest.raises(ConnectionError, match=".*".join(rf"\({i}\).*{w}" for i, w in enumerate(ways, 1))):
        omniglot("meta-test")
    assert [call.kwargs["fname"] for call in asked.call_args_list] == names
    assert all(call.args[1].startswith("md5:") for call in asked.call_args_list)
    assert {Path(call.kwargs["path"]) for call in asked.call_args_list} == {cache / "omniglot"}
