from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mamlkit import datasets, files, letters, omniglot_files
from mamlkit.datasets import glyphs, omniglot, rotations

DATA = Path(os.environ.get("MAMLKIT_DATA") or Path(__file__).parents[2] / "shared" / "data")
SPLITS = ("meta-train", "meta-validation", "meta-test")


def needs(*names):
    missing = [name for name in names if not (DATA / name).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here; set MAMLKIT_DATA")


needs_packed = needs("omniglot_105.npz")
needs_archives = needs("images_background_small1.zip", "images_background_small2.zip", "omniglot_105.npz")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MAMLKIT_CACHE", str(folder))
    monkeypatch.delenv("MAMLKIT_DATA", raising=False)
    return folder


@pytest.fixture
def few_letters(monkeypatch):
    chosen = {split: alphabet[::40] for split, alphabet in letters.alphabets().items()}
    monkeypatch.setattr(letters, "alphabets", lambda: chosen)
    return chosen


def test_no_two_splits_of_glyphs_share_a_script_or_a_character_and_all_have_enough_classes():
    alphabets = letters.alphabets()

    scripts = [{letter.script for letter in alphabets[split]} for split in SPLITS]
    characters = [letter.character for split in SPLITS for letter in alphabets[split]]
    assert sum(map(len, scripts)) == len(set.union(*scripts)) == 12
    assert len(characters) == len(set(characters))
    assert [len(alphabets[split]) for split in SPLITS] == [1200, 109, 371]


def test_no_letter_of_one_split_looks_like_a_letter_of_another_even_turned():
    ink = {s: np.stack([letters.prototype(x.character) for x in letters.alphabets()[s]]) for s in SPLITS}

    for first, second in [(0, 1), (0, 2), (1, 2)]:
        for quarter in range(4):
            turned = np.rot90(ink[SPLITS[second]], quarter, axes=(1, 2))
            nearest = letters.unmatched(ink[SPLITS[first]], turned, letters.REACH_ACROSS).min()
            assert nearest > letters.TOLERANCE, (SPLITS[first], SPLITS[second], 90 * quarter)


def test_no_two_letters_of_a_split_look_alike():
    for split in SPLITS:
        ink = np.stack([letters.prototype(letter.character) for letter in letters.alphabets()[split]])

        distance = letters.unmatched(ink, ink, letters.REACH_WITHIN)
        assert distance[~np.eye(len(ink), dtype=bool)].min() > letters.TOLERANCE, split


def test_look_alikes_of_latin_greek_cyrillic_and_both_cases_are_one_class():
    characters = {letter.character for alphabet in letters.alphabets().values() for letter in alphabet}

    for alike in ("AΑАᗅ", "OoΟοОоՕօ", "TΤТᐪ", "HΗН", "Ccсϲᑕ", "SsЅѕ", "XxХх"):
        assert len(characters & set(alike)) == 1, alike


def test_every_style_of_every_letter_is_in_its_font():
    for alphabet in letters.alphabets().values():
        for letter in alphabet[::20]:
            assert len(letter.styles) >= letters.MIN_STYLES
            assert all(len(letters.outline(letter.character, style).points) > 0 for style in letter.styles)


def test_a_square_covers_the_pixels_it_should():
    square = np.array([[[-0.25, -0.25], [0.25, -0.25], [0.25, 0.25], [-0.25, 0.25]]])

    image = letters.rasterise(square, np.array([1, 2, 3, 0]), 8)[0]
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[2:6, 2:6] = 255
    assert (image == expected).all()
    shifted = letters.rasterise(square + np.array([1 / 16, 1 / 32]), np.array([1, 2, 3, 0]), 8)[0]
    assert abs(int(shifted.astype(int).sum()) - 16 * 255) <= 16, "moving ink does not change its area"
    assert shifted[3, 2] == 128, "half a pixel of ink is half grey"


def test_pixels_with_ink_are_one_and_paper_is_zero(few_letters):
    images = glyphs("meta-test").images

    assert images.dtype == torch.float32
    assert images.shape[1:] == (20, 1, 28, 28)
    assert torch.isfinite(images).all()
    assert images.min() == 0
    assert images.max() == 1
    assert images.mean() < 0.35, "there is more paper than ink"
    assert (images.amax(dim=(2, 3, 4)) > 0.5).all(), "every drawing has ink"


def test_drawings_of_a_letter_differ_and_without_noise_they_are_prints(few_letters):
    alphabet = few_letters["meta-train"]
    noisy = glyphs("meta-train", per_class=20).images.flatten(2)
    prints = glyphs("meta-train", per_class=20, noise=0).images

    for drawings in noisy:
        assert len(torch.unique(drawings, dim=0)) == 20
    for letter, drawings in zip(alphabet, prints):
        n_styles = len(letter.styles)
        assert torch.equal(drawings[: 20 - n_styles], drawings[n_styles:])


def test_no_ink_is_cut_off_at_the_border(few_letters):
    for alphabet in few_letters.values():
        for letter in alphabet:
            shape = letters.outline(letter.character, letter.styles[0])
            loud = 3 * (2 * np.random.default_rng(0).random((10, 40)) - 1)

            assert np.abs(letters.distort(shape, loud)).max() <= letters.ROOM / 2 + 1e-12


def test_a_drawing_depends_on_seed_letter_and_index_alone(few_letters):
    alphabet = few_letters["meta-test"]
    settings = {"size": 20, "noise": 1.0}

    one = [letters.draw(x, per_class=6, seed=0, **settings) for x in alphabet]
    backwards = [letters.draw(x, per_class=6, seed=0, **settings) for x in reversed(alphabet)][::-1]
    more = [letters.draw(x, per_class=25, seed=0, **settings) for x in alphabet]
    other = [letters.draw(x, per_class=6, seed=1, **settings) for x in alphabet]
    assert all((a == b).all() for a, b in zip(one, backwards))
    assert all((a == b[:6]).all() for a, b in zip(one, more))
    assert all((a != b).any() for a, b in zip(one, other))


def test_the_drawings_of_ten_letters_are_the_same_bytes_everywhere():
    """Of the fonts only outlines in whole numbers are used, and of arithmetic only what every processor rounds alike."""
    every = [letter for alphabet in letters.alphabets().values() for letter in alphabet][::168]

    drawn = b"".join(letters.draw(x, per_class=20, size=28, noise=1.0, seed=0).tobytes() for x in every)
    assert "".join(letter.character for letter in every) == "AźɭẊΩЬٹ𐌐ᐼᕂ"
    assert hashlib.sha256(drawn).hexdigest() == (
        "c6d4ef1569dec10b9e3992db064b8c9546fa1ecd04fed8663a889e3f1571cbce"
    ), "other drawings than the book's: another noise, or other fonts in this matplotlib"


def test_a_second_call_reads_the_same_drawings_from_the_cache(few_letters, cache, monkeypatch):
    first = glyphs("meta-test")
    monkeypatch.setattr(letters, "draw", lambda *_, **__: pytest.fail("drawn again"))

    second = glyphs("meta-test")
    assert torch.equal(first.images, second.images)
    assert first[1:] == second[1:]
    assert [path.suffix for path in cache.iterdir()] == [".npz"], "no half-written file stays"


def npz(compression=zipfile.ZIP_STORED, **arrays):
    """A file of arrays, or of bytes as they are, as a zip made by somebody else."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as parts:
        for name, array in arrays.items():
            data = io.BytesIO()
            data.write(array) if isinstance(array, bytes) else np.save(data, array, allow_pickle=True)
            parts.writestr(f"{name}.npy", data.getvalue())
    return file.getvalue()


def header(shape):
    """A .npy that says it has such a shape, and has nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def bent(whole):
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def encrypted(whole):
    """The same zip, whose parts all say that they are encrypted."""
    whole = whole.replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0")
    return whole.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")


FOREIGN = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "a bent bit": bent,
    "no zip": lambda _: b"hello",
    "one array": lambda _: header((3,)) + b"abc",
    "a header of 900 GiB": lambda _: npz(images=header((10**12,)), checksum=np.array("")),
    "a bomb": lambda _: npz(zipfile.ZIP_DEFLATED, images=np.zeros(2 * 10**8, dtype=np.uint8)),
    "bad LZMA": lambda _: bent(npz(zipfile.ZIP_LZMA, images=np.random.default_rng(0).random(999))),
    "encrypted": lambda whole: encrypted(npz(images=np.arange(9))),
    "objects": lambda _: npz(images=np.array([{}], dtype=object)),
    "other parts": lambda _: npz(notes=np.arange(3)),
}


@pytest.mark.parametrize("damage", [*FOREIGN, "other arrays", "another key"])
def test_a_damaged_or_foreign_cache_is_drawn_again(few_letters, cache, damage):
    first = glyphs("meta-test", per_class=4)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "other arrays":
        with np.load(path) as file:
            np.savez(path, **{**file, "images": 255 - file["images"]})
    elif damage == "another key":
        glyphs("meta-test", per_class=4, seed=1)
        (other,) = set(cache.iterdir()) - {path}
        other.replace(path)
    else:
        path.write_bytes(FOREIGN[damage](whole))

    second = glyphs("meta-test", per_class=4)
    assert torch.equal(first.images, second.images)
    assert path.read_bytes() == whole, "the damaged file was replaced"


def test_a_cache_that_cannot_be_written_is_no_error_and_leaves_nothing(few_letters, cache, monkeypatch):
    def full(_):
        raise OSError("no space left on device")

    cache.parent.joinpath("file").write_text("a file where a folder should be")
    for folder in (cache, cache.parent / "file" / "cache"):
        monkeypatch.setenv("MAMLKIT_CACHE", str(folder))
        monkeypatch.setattr(files.os, "fsync", full)
        assert len(glyphs("meta-test", per_class=2).images) == len(few_letters["meta-test"])
    assert list(cache.iterdir()) == []


def test_other_settings_never_read_each_others_cache(few_letters):
    settings = [{}, {"size": 16}, {"per_class": 3}, {"seed": 1}, {"noise": 0.5}]
    drawn = [glyphs("meta-test", **{"size": 20, "per_class": 2, **each}).images for each in settings]

    assert len({images.shape for images in drawn}) == 3
    assert not torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[4])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: glyphs("test"), "split='test' is unknown; choose one of 'meta-train', 'meta-validation', 'meta-test'"),
        (lambda: glyphs(["meta-test"]), r"split=\['meta-test'\] is unknown"),
        *(
            (lambda bad=bad: glyphs("meta-test", **bad), "{}={!r}, but it must be".format(*next(iter(bad.items()))))
            for bad in ({"size": 4}, {"size": 28.0}, {"size": "28"}, {"per_class": 0}, {"per_class": None}, {"seed": -1},
                        {"seed": 0.5}, {"noise": np.nan}, {"noise": "1"}, {"noise": -1})
        ),
        (lambda: omniglot("train"), "split='train' is unknown"),
        (lambda: omniglot("meta-test", protocol="random"), "protocol='random' is unknown; .* 'alphabets', 'characters'"),
        (lambda: omniglot("meta-test", size=200), "size=200, but the drawings have 105 × 105"),
        (lambda: omniglot("meta-test", size=0), "size=0, but it must be a whole number of at least 1"),
        (lambda: omniglot("meta-test", folder="https://example.org/data"), "https://example.org/data is an address; get"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_answered_with_value_limit_and_cure(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_rotations_are_quarter_turns_under_new_names():
    images = torch.rand(2, 3, 1, 5, 5)
    data = datasets.ImageClasses(images, ("a", "b"), ("x", "y"))

    turned = rotations(data)
    assert turned.images.shape == (8, 3, 1, 5, 5)
    assert turned.classes == ("a", "b", "a 90°", "b 90°", "a 180°", "b 180°", "a 270°", "b 270°")
    assert turned.groups == ("x", "y") * 4
    assert torch.equal(turned.images[:2], images)
    assert torch.equal(turned.images[2:4, ..., 0, 0], images[..., 0, -1]), "counter-clockwise"
    assert torch.equal(turned.images[4:6], images.flip(-1, -2))


def test_shrinking_takes_the_share_of_ink_in_each_area():
    ink = np.random.default_rng(0).random((3, 105, 105)) < 0.3

    small = omniglot_files.shrink(ink, 21)
    exact = ink.reshape(3, 21, 5, 21, 5).mean(axis=(2, 4))
    assert np.abs(small / 255 - exact).max() <= 0.5 / 255 + 1e-12
    assert (omniglot_files.shrink(ink, 105) == 255 * ink).all()
    assert (omniglot_files.shrink(np.ones((1, 105, 105), dtype=bool), 28) == 255).all()
    assert small.dtype == np.uint8


@pytest.mark.parametrize("protocol", ["alphabets", "characters"])
def test_the_splits_of_omniglot_share_no_character(monkeypatch, tmp_path, protocol):
    names = [f"{kind} {i:02d}" for kind, n in (("background", 25), ("evaluation", 20)) for i in range(n)]
    names = sorted([*datasets.HELD_OUT, *names])
    alphabets = tuple(name for name in names for _ in range(33))[:1623]
    background = np.array([not name.startswith("evaluation") for name in alphabets])
    made_up = omniglot_files.Drawings(
        np.zeros((1623, 1, 105, 105), dtype=bool), alphabets, tuple(range(1623)), background
    )
    monkeypatch.setattr(omniglot_files, "read", lambda _: made_up)

    parts = [omniglot(split, size=1, protocol=protocol, folder=tmp_path) for split in SPLITS]
    classes, groups = ([set(part[i]) for part in parts] for i in (1, 2))
    assert sum(map(len, classes)) == len(set.union(*classes)) == 1623
    if protocol == "alphabets":
        assert groups[1] == set(datasets.HELD_OUT)
        assert groups[2] == {name for name in names if name.startswith("evaluation")}
        assert sum(map(len, groups)) == len(set.union(*groups)) == 50
    else:
        assert [len(part.images) for part in parts] == [1100, 100, 423]
        assert groups[2] & groups[0] & set(datasets.HELD_OUT), "whatever their alphabet"


@needs_packed
def test_omniglot_has_its_published_counts():
    parts = {split: omniglot(split, folder=DATA) for split in SPLITS}

    assert [len(part.images) for part in parts.values()] == [787, 177, 659]
    assert [len(set(part.groups)) for part in parts.values()] == [25, 5, 20]
    for part in parts.values():
        assert part.images.shape[1:] == (20, 1, 28, 28)
        assert part.images.min() == 0
        assert part.images.mean() < 0.2, "1 is ink"
        assert list(part.classes) == sorted(part.classes)


@needs_archives
def test_the_authors_archives_and_the_packed_file_give_the_same_drawings():
    packed = omniglot_files.read_packed(DATA / omniglot_files.PACKED)
    row = {label: i for i, label in enumerate(zip(packed.alphabets, packed.characters))}
    archives = [
        omniglot_files.read_archive(DATA / f"images_background_small{i}.zip", background=True) for i in (1, 2)
    ]

    for part in archives:
        rows = [row[label] for label in zip(part.alphabets, part.characters)]
        assert (part.images == packed.images[rows]).all()
        assert packed.background[rows].all()
        assert rows == sorted(rows)
    assert sum(part.images.shape[0] * 20 for part in archives) == 5840


@pytest.fixture
def tiny_archives(tmp_path, monkeypatch):
    """The official layout in small: two alphabets, one in each archive, and the counts the reader expects."""
    rng = np.random.default_rng(0)
    for archive, alphabet in zip(omniglot_files.ARCHIVES, ("Zeta", "Alpha")):
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            for drawer in range(1, 21):
                picture = Image.fromarray(rng.random((105, 105)) < 0.9)
                with file.open(f"{archive[:-4]}/{alphabet}/character01/0001_{drawer:02d}.png", "w") as member:
                    picture.convert("1").save(member, "png")
    return tmp_path


def test_the_two_archives_are_joined_in_the_order_of_alphabets_and_their_counts_are_checked(tiny_archives):
    background, evaluation = (
        omniglot_files.read_archive(tiny_archives / name, background="background" in name)
        for name in omniglot_files.ARCHIVES
    )

    both = omniglot_files.merge(background, evaluation)
    assert both.alphabets == ("Alpha", "Zeta")
    assert both.background.tolist() == [False, True]
    assert (both.images[1] == background.images[0]).all()
    assert 0.05 < both.images.mean() < 0.15, "ink is black in the files and True here"
    with pytest.raises(ValueError, match=r"give \(1, 1\) .* expected \(964, 659\)"):
        omniglot("meta-test", folder=tiny_archives)


def png(*size):
    file = io.BytesIO()
    Image.new("1", size, 1).save(file, "png")
    return file.getvalue()


def packed(**change):
    """Two characters as the packed file holds them, with some of its parts changed."""
    whole = {
        "images": np.zeros((40, 1379), dtype=np.uint8),
        "alphabet": np.repeat([0, 1], 20),
        "character": np.ones(40, dtype=int),
        "drawer": np.tile(np.arange(1, 21), 2),
        "split": np.repeat([0, 1], 20),
        "alphabet_names": np.array(["Alpha", "Zeta"]),
    }
    return npz(**{name: change.get(name, whole[name]) for name in whole if change.get(name, 1) is not None})


PACKED = {
    "wide": {"images": np.zeros((40, 1380), dtype=np.uint8)},
    "narrow": {"images": np.zeros((40, 1378), dtype=np.uint8)},
    "float": {"images": np.zeros((40, 1379))},
    "no images": {"images": None},
    "a header of a terabyte": {"images": header((10**9, 1379))},
    "39 drawings": {"images": np.zeros((39, 1379), dtype=np.uint8)},
    "negative alphabet": {"alphabet": np.repeat([0, -1], 20)},
    "alphabet 2 of 2": {"alphabet": np.repeat([0, 2], 20)},
    "float labels": {"alphabet": np.repeat([0.0, 1.0], 20)},
    "two alphabets in a character": {"alphabet": np.repeat([0, 1, 1], [21, 10, 9])},
    "character 0": {"character": np.zeros(40, dtype=int)},
    "a character twice": {"alphabet": np.zeros(40, dtype=int)},
    "drawer 0": {"drawer": np.tile(np.arange(20), 2)},
    "split 2": {"split": np.repeat([0, 2], 20)},
    "split of text": {"split": np.repeat(["a", "b"], 20)},
    "columns too short": {"split": np.zeros(20, dtype=int)},
}
PNG = {
    "half a picture": png(105, 105)[:60],
    "a large picture": png(106, 105),
    "a decompression bomb": png(20_000, 10_000),
    "no picture": b"hello",
    "a large part": bytes(omniglot_files.LARGEST + 1),
}


@pytest.mark.parametrize("damage", [*FOREIGN, *PACKED])
def test_a_packed_file_that_is_not_omniglot_is_named(tmp_path, damage):
    path = tmp_path / "omniglot_105.npz"
    path.write_bytes(packed(**PACKED[damage]) if damage in PACKED else FOREIGN[damage](packed()))

    with pytest.raises(ValueError, match=r"105\.npz is not a whole packed .*delete it and get it again"):
        omniglot("meta-test", folder=tmp_path)


@pytest.mark.parametrize("damage", [*FOREIGN, *PNG, "a drawing twice", "19 drawings"])
def test_an_archive_that_is_not_omniglot_is_named(tmp_path, damage):
    path = tmp_path / "images_background.zip"
    pictures = [(drawer, png(105, 105)) for drawer in range(1, 20)] + [(20, PNG.get(damage, png(105, 105)))]
    pictures += pictures[-1:] if damage == "a drawing twice" else []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings(action="ignore"):
        for drawer, data in pictures[: 19 if damage == "19 drawings" else None]:
            file.writestr(f"images_background/Alpha/character01/0001_{drawer:02d}.png", data)
    if damage in FOREIGN:
        path.write_bytes(FOREIGN[damage](path.read_bytes()))

    with pytest.raises(ValueError, match=r"background\.zip is not a whole .*delete it and get it again"):
        omniglot_files.read_archive(path, background=True)


@needs_packed
def test_the_packed_file_is_held_against_the_sum_of_all_drawings(tmp_path):
    with np.load(DATA / "omniglot_105.npz") as whole:
        arrays = {**whole, "images": whole["images"].copy()}
    arrays["images"][20_000, 700] ^= 1
    np.savez(tmp_path / "omniglot_105.npz", **arrays)

    with pytest.raises(ValueError, match="holds other drawings or names than Omniglot's; get it again"):
        omniglot_files.read(tmp_path)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("", "holds neither omniglot_105.npz nor both of images_background.zip"),
        ("/nowhere", "/nowhere is no folder here and holds neither omniglot_105.npz"),
        ("/" + 5000 * "x", "is no folder here and holds neither"),
        ("~/nowhere", "MY-HOME/nowhere is no folder here"),
    ],
)
def test_a_folder_without_omniglot_says_what_it_lacks(tmp_path, monkeypatch, named, words):
    monkeypatch.setenv("HOME", "MY-HOME")
    monkeypatch.setenv("MAMLKIT_DATA", named or str(tmp_path))

    with pytest.raises(FileNotFoundError, match=words):
        omniglot("meta-test")


def test_without_a_network_the_error_names_the_three_ways(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Temporary failure in name resolution")

    monkeypatch.setattr(omniglot_files.pooch, "retrieve", offline)

    with pytest.raises(ConnectionError) as caught:
        omniglot("meta-test")
    message = str(caught.value)
    assert all(f"({way})" in message for way in (1, 2, 3))
    assert message.count("MAMLKIT_DATA") == 2
    assert "images_background.zip and images_evaluation.zip" in message
    assert "omniglot_105.npz" in message


def test_the_download_is_checked_by_hash_and_goes_to_the_cache(monkeypatch, cache):
    asked = []
    monkeypatch.setattr(
        omniglot_files.pooch, "retrieve", lambda *args, **settings: asked.append((args, settings))
    )

    with pytest.raises(FileNotFoundError):
        omniglot("meta-test")
    assert [settings["fname"] for _, settings in asked] == ["images_background.zip", "images_evaluation.zip"]
    assert all(args[1].startswith("md5:") and settings["progressbar"] for args, settings in asked)
    assert {Path(settings["path"]) for _, settings in asked} == {cache / "omniglot"}
