"""Names: what is let in, and how it is spelled."""

import pytest

from leanlens.scenes.names import add_article, is_allowed, pluralize, read_vocabulary, select_concepts


@pytest.mark.parametrize(
    "icon",
    [
        "flag-france", "black-flag", "keycap-5", "a-button-blood-type", "two-oclock", "one-thirty", "pistol", "bomb",
        "kitchen-knife", "waving-hand-light-skin-tone", "baby-tone3", "love-hotel", "hindu-temple", "club-suit",
        "black-cat", "green-apple",
    ],
)  # fmt: skip
def test_barred_names(icon):
    assert not is_allowed(icon, [])


def test_a_keyword_bars_whatever_the_name():
    assert is_allowed("boomerang", [])
    assert not is_allowed("boomerang", ["weapon"])


def test_people_and_symbols_are_no_source():
    categories = {"People & Body": ["baby"], "Symbols": ["atm-sign"], "Flags": ["rainbow"], "Food & Drink": ["taco"]}
    assert [concept.name for concept in select_concepts(categories, {})] == ["taco"]


def test_names_become_words():
    categories = {"Travel & Places": ["automobile"], "Objects": ["scissors"], "Animals & Nature": ["rose", "wolf"]}
    found = {concept.name: concept for concept in select_concepts(categories, {"wolf": ["animal", "face"]})}
    assert set(found) == {"car", "pair of scissors", "rose", "wolf"}
    assert found["rose"].category == "plant"
    assert found["car"].category == "vehicle"
    assert found["wolf"].plural == "wolves"
    assert found["wolf"].keywords == ("animal", "face")
    assert found["pair of scissors"].plural == "pairs of scissors"


@pytest.mark.parametrize(
    ("name", "plural"),
    [("bus", "buses"), ("cherry", "cherries"), ("key", "keys"), ("polar bear", "polar bears"), ("box of popcorn",
     "boxes of popcorn"), ("tropical fish", "tropical fish"), ("piano keyboard", "piano keyboards"),
     ("wedge of cheese", "wedges of cheese"), ("piece of candy", "pieces of candy"), ("cactus", "cacti")],
)  # fmt: skip
def test_plurals(name, plural):
    assert pluralize(name) == plural


def test_articles_go_by_sound():
    phrases = ["apple", "car", "unicorn", "hourglass", "suv", "orange car", "ufo", "umbrella"]
    assert [add_article(phrase).split()[0] for phrase in phrases] == ["an", "a", "a", "an", "an", "an", "a", "an"]


def test_vocabulary_tables_agree():
    tables = read_vocabulary()
    named = {icon for icons in tables["lists"].values() for icon in icons} | set(tables["rename"])
    assert not named & set(tables["drop"]["names"])
    names = [icon for icons in tables["lists"].values() for icon in icons]
    assert len(names) == len(set(names))
