"""What words mean: the pairs that were written before, inflections, compounds, and typing errors."""

import sys
import time
import tomllib
from pathlib import Path

import pytest

from leanlens.reason.nearest import WORDS, categories, correct, count_edits, is_word, nearest, other_names

PAIRS = tomllib.loads(Path(__file__).with_name("nearest_pairs.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("half", ["development", "held_out"])
def test_words_are_understood_or_only_near(half):
    same, other = PAIRS[half]["same"], PAIRS[half]["other"]
    found = {word: nearest(word) for word in [*same, *other]}
    wrong = [word for word, near in found.items() if near and near.same and near.concept != same.get(word)]
    right = [word for word in same if (near := found[word]) and near.same and near.concept == same[word]]
    assert not wrong
    assert len(right) >= 0.95 * len(same)


@pytest.mark.parametrize(
    ("word", "concept"),
    [
        ("puppy", "dog"), ("kitty", "cat"), ("auto", "car"), ("bunny", "rabbit"), ("plane", "airplane"),
        ("bike", "bicycle"), ("fries", "portion of french fries"), ("boat", "sailboat"),
        ("yule tree", "christmas tree"),
        ("TV", "television"), ("moon", "crescent moon"), ("planet", "ringed planet"), ("books", "stack of books"),
        ("flowers", "bouquet of flowers"), ("jack-o-lantern", "jack-o'-lantern"), ("dog", "dog"), ("taxis", "taxi"),
        ("puppies", "dog"), ("mice", "mouse"), ("loaves of bread", "loaf of bread"), ("cherries", "pair of cherries"),
        ("x-mas trees", "christmas tree"), ("Jack-O’-Lanterns", "jack-o'-lantern"), ("wolves", "wolf"),
        ("foxes", "fox"), ("poodles", "dog"), ("sports  cars", "car"), ("glasses", "pair of glasses"),
        ("steam train", "steam locomotive"),
        ("octagons", "octagon"), ("plinth", "pedestal"), ("ICE-CREAM", "ice cream"), ("dishes of ice cream", "")
    ],
)  # fmt: skip
def test_what_people_type(word, concept):
    near = nearest(word)
    if concept:
        assert near is not None
        assert near.same
        assert near.concept == concept
    else:
        assert near is None or not near.same


def test_a_kind_is_less_near_than_another_name():
    name, kind = nearest("bunny"), nearest("poodle")
    assert (name.concept, name.nearness, name.same) == ("rabbit", 1.0, True)
    assert (kind.concept, kind.same) == ("dog", True)
    assert 0.2 <= kind.nearness < 1


@pytest.mark.parametrize("word", ["pumpkin", "book", "tent", "orange", "shades", "sweet", "smile", "mobile", "letter"])
def test_words_with_another_meaning_are_not_replaced(word):
    near = nearest(word)
    assert near is None or not near.same


def test_a_compound_is_near_to_its_last_word_but_not_the_same():
    for word, concept in (("hot air balloon", "balloon"), ("apple tree", "tree"), ("house of cards", "house")):
        near = nearest(word)
        assert near.concept == concept
        assert not near.same
        assert near.nearness < 1
    assert not nearest("cat food").same
    assert nearest("violinist").concept == "violin"


def test_what_is_no_noun_is_near_to_nothing():
    assert [nearest(word) for word in ("happy", "quickly", "of", "", "   ", "qwertz", "123", "日本")] == [None] * 8


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pengiun", "penguin"), ("elefant", "elephant"), ("girafe", "giraffe"), ("octupus", "octopus"),
        ("hous", "house"), ("bycicle", "bicycle"), ("strawbery", "strawberry"), ("appel", "apple"),
        ("catt", "cat"), ("rabit", "rabbit"), ("elefants", "elephants"), ("unicron", "unicorn"),
        ("Pinapple", "pineapple"), ("butterfy", "butterfly"), ("crocodle", "crocodile"),
        ("birthday cak", "birthday cake"), ("headpones", "headphones"),
    ],
)  # fmt: skip
def test_typing_errors(typed, meant):
    assert correct(typed) == meant
    assert nearest(meant).same


WORDS_THAT_EXIST = (
    "bet dock hose bold coat boar cost start goose card care cab bees beat beer dig fog log boss sum duct dusk "
    "bore crane grown frown brown clown crow crews prism owls ship shop chop cheap chair hair fair lamp limp "
    "horse worse house mouse moose dress press wart want stair stare tried robed tomb bomb plane plant planet "
    "glove globe clove lions loin rising painted running prettier cloudy starry sunny snowy shiny fishing peach "
    "teach beach reach pears tears heard hearts great bread window widow wonder goats boats moats float heat "
    "heats wheat whale while shirt skirt short sort fort port fir fur sail snail nail mail tail "
)


def test_words_that_exist_are_never_corrected():
    assert [word for word in WORDS_THAT_EXIST.split() if correct(word) is not None] == []
    assert all(is_word(word) for word in WORDS_THAT_EXIST.split())
    assert [correct(word) for word in ("", "cta", "xylophone", "qqqqqqq", "Überraschung", "12345", "doge")] == [
        None
    ] * 7


def test_edits():
    assert count_edits("abcd", "abcd", 2) == 0
    assert count_edits("pengiun", "penguin", 2) == 1  # two letters swapped
    assert count_edits("kitten", "sitting", 3) == 3
    assert count_edits("kitten", "sitting", 2) == 3  # more than asked for
    assert count_edits("", "ab", 2) == 2


def test_the_table_is_whole_and_small():
    assert WORDS.stat().st_size <= 400_000
    known = categories()
    listed = tomllib.loads((WORDS.parents[1] / "scenes" / "common.toml").read_text(encoding="utf-8"))["concepts"]
    assert set(listed) <= set(known)
    assert {known["dog"], known["pizza"], known["circle"], known["shelf"], known["sign"]} == {
        "animal", "food", "shape", "support", "sign",
    }  # fmt: skip
    assert all(nearest(name).concept == name for name in known)
    assert "bunny" in other_names("rabbit")
    assert "rabbit" not in other_names("rabbit")


def test_names_that_captions_have_are_names():
    from leanlens.scenes.names import pluralize, read_vocabulary

    known = categories()
    for thing, others in read_vocabulary()["synonyms"].items():
        if thing in known:
            assert all(nearest(name).concept == thing and nearest(name).same for name in others)
    unfound = [name for name in known if (near := nearest(pluralize(name))) is None or near.concept != name]
    assert not unfound


def test_it_is_fast():
    words = [
        *PAIRS["held_out"]["other"],
        *PAIRS["held_out"]["same"],
        "hot air balloon",
        "pengiun",
        "elefants",
        "zzzyzx",
    ]
    nearest("warm"), correct("warrm")
    began = time.process_time()
    for word in words:
        nearest(word)
        correct(word)
    assert (time.process_time() - began) / len(words) < 1e-3


@pytest.mark.long
def test_rows_made_anew_are_those_of_the_table(monkeypatch):
    """With the encoder, WordNet and the annotations, as far as they were fetched."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "runs")
    import nearest_words

    from leanlens.scenes.icons import cache_folder

    packages = [nearest_words.WORDNET, nearest_words.sources.PACKAGES["annotations"]]
    if not all((cache_folder() / "packages" / nearest_words.sources.tarball_name(one)).exists() for one in packages):
        pytest.skip("runs/nearest_words.py has not fetched its packages")
    words = [word for half in PAIRS.values() for word in (*list(half["same"])[::8], *half["other"][::8])]
    rows = nearest_words.make_rows(set(words))
    assert len(rows) >= 45
    for row in rows:
        near = nearest(row.word)
        if not row.mark:
            assert near is None
        else:
            assert (near.concept, near.same) == (row.thing, row.mark in "=<")
            assert near.nearness == pytest.approx(row.nearness, abs=0.011)
    assert "nearest_words" in sys.modules
