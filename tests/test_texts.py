"""Texts by class: the same ones on every machine, and a foreign file is named."""

from __future__ import annotations

import gzip
import json
from unittest.mock import Mock

import pytest

from mamlkit.data import texts
from mamlkit.data.texts import clinc150, docstrings, token_ids

ROWS = [
    ("home", "play_music", "play a song"),
    ("home", "order", "where is my order"),
    ("work", "w2", "get my w2"),
]
MODULE = '''
class A:
    """The first paragraph\n    of a class.

    The second one.
    """

    def f(self):
        """Too short."""

def g():
    """The first paragraph of a class."""

async def h():
    """Another paragraph of four words."""
'''


@pytest.fixture
def three(monkeypatch):
    known = texts.hashlib.sha256(json.dumps(sorted(ROWS)).encode()).hexdigest()
    monkeypatch.setattr(texts, "REQUESTS", known)


def packed(folder, rows):
    named = [dict(zip(("domain", "label", "text"), row)) for row in rows] + [{"label": "oos", "text": "what"}]
    (folder / texts.PACKED).write_bytes(gzip.compress("\n".join(map(json.dumps, named)).encode()))


def test_equal_words_have_equal_ids_and_zeros_stand_behind_them():
    ids = token_ids([["Play it!", "it, play it"], ["none"]], length=4, n_ids=50)

    assert ids.shape == (2, 1, 4)  # the shortest class has one text
    play, it = ids[0, 0, :2].tolist()
    assert ids[0, 0].tolist() == [play, it, 0, 0]
    assert token_ids([["it, play it again"]], length=3, n_ids=50)[0, 0].tolist() == [it, play, it]
    many = token_ids([[f"word{i} {i}" for i in range(20)]], length=2, n_ids=3)
    assert set(many.flatten().tolist()) == {1, 2}, "0 says that there is no word"


def test_a_docstrings_first_paragraph_counts_once_and_short_ones_do_not():
    assert texts._paragraphs(MODULE) == [
        "The first paragraph of a class.",
        "Another paragraph of four words.",
    ]


def test_modules_come_in_the_order_of_their_paths_without_being_imported():
    found = docstrings("networkx", per_class=20)

    assert list(found.classes) == sorted(found.classes)
    assert {len(of_class) for of_class in found.texts} == {20}
    assert not any("test" in name for name in found.classes)


def test_the_packed_file_and_the_authors_give_the_same_requests(tmp_path, three):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    packed(one, ROWS)
    split = {"train": ROWS[:1], "val": ROWS[1:2], "test": ROWS[2:], "oos_test": [("", "oos", "what")]}
    split = {name: [[text, intent] for _, intent, text in rows] for name, rows in split.items()}
    (two / "data_full.json").write_text(json.dumps(split))
    (two / "domains.json").write_text(json.dumps({"home": ["play_music", "order"], "work": ["w2"]}))

    assert clinc150(one) == clinc150(two)
    assert clinc150(one).classes == ("order", "play_music", "w2")
    assert clinc150(one).groups == ("home", "home", "work")


@pytest.mark.parametrize("rows", [ROWS[:2], [*ROWS[:2], ("work", "w2", "another text")]])
def test_other_requests_than_the_authors_are_refused(tmp_path, three, rows):
    packed(tmp_path, rows)

    with pytest.raises(ValueError, match="holds other requests than CLINC150's; delete it and get it again"):
        clinc150(tmp_path)


def test_a_damaged_file_and_an_empty_folder_are_named(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"holds neither clinc150.jsonl.gz nor both of data_full.json"
    ):
        clinc150(tmp_path)
    (tmp_path / texts.PACKED).write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"is no whole CLINC150 .*delete it and get it again"):
        clinc150(tmp_path)
    packed(tmp_path, ROWS)
    monkeypatch.setattr(texts, "LARGEST", 10)
    with pytest.raises(ValueError, match="it has more than 10 bytes"):
        clinc150(tmp_path)


def test_without_a_network_three_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MAMLKIT_DATA", raising=False)
    monkeypatch.setenv("MAMLKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(texts.pooch, "retrieve", Mock(side_effect=ConnectionError("no name resolution")))

    with pytest.raises(ConnectionError, match=r"\(1\).*\(2\) set MAMLKIT_DATA.*\(3\) set MAMLKIT_DATA"):
        clinc150()
