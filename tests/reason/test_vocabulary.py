"""The words that a model knows: entries, searches, and completions."""

import time

import pytest

from leanlens.reason.vocabulary import complete, entries, search
from leanlens.reason.words import known_things


def names(found):
    return [entry.name for entry in found]


def test_everything_that_is_known_is_listed_once():
    listed = entries()
    assert sorted(entry.name for entry in listed if entry.kind == "thing") == sorted(known_things())
    assert len({(entry.kind, entry.name) for entry in listed}) == len(listed)
    of_kind = {kind: [entry.name for entry in listed if entry.kind == kind] for kind in {one.kind for one in listed}}
    assert len(of_kind["color"]) == 12
    assert len(of_kind["background"]) == 16
    assert of_kind["pattern"] == ["dots", "stripes", "checks", "gradient"]
    assert of_kind["style"] == ["rounded cartoon", "clean vector", "flat", "glossy 3D", "simple geometric"]
    assert of_kind["number"] == ["1", "2", "3", "4", "5", "6"]
    assert set(of_kind) == {
        "thing", "color", "background", "pattern", "ground", "sky", "style", "size", "number", "relation",
    }  # fmt: skip
    categories = {entry.name: entry.category for entry in listed if entry.kind == "thing"}
    assert (categories["dog"], categories["pizza"], categories["label"]) == ("animal", "food", "sign")


def test_a_smaller_library_has_fewer_things():
    everyday = {entry.name for entry in entries("everyday") if entry.kind == "thing"}
    assert everyday < {entry.name for entry in entries() if entry.kind == "thing"}
    assert "accordion" not in everyday
    assert search("accordion", "everyday") == []
    assert "accordion" not in complete("acc", 20, "everyday")


@pytest.mark.parametrize(
    ("text", "first", "more"),
    [
        ("boat", "sailboat", "ship"), ("bunny", "rabbit", ""), ("Crimson", "red", "maroon"), ("poodle", "dog", ""),
        ("pengiun", "penguin", ""), ("heart", "heart", "smiling face with heart eyes"), ("left", "left of", ""),
        ("3d", "glossy 3D", ""), ("polka", "dots", ""), ("four", "4", ""), ("vehicle", "airplane", "taxi"),
    ],
)  # fmt: skip
def test_searches(text, first, more):
    found = names(search(text))
    assert found[0] == first
    assert not more or more in found


def test_what_is_not_known_is_not_found():
    assert search("lighthouse") == []
    assert search("zzyzx") == []


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("peng", "penguin"), ("bunn", "bunny"), ("App", "apple"), ("cresc", "crescent moon"), ("turq", "turquoise"),
        ("navy", "navy blue"), ("strip", "stripes"), ("glossy", "glossy 3D"), ("saturn", "saturn"),
        ("ice c", "ice cream"),
        ("elefa", "elephant"), ("girrafe", "giraffe"),
        ("umbrela", None), ("", None), ("   ", None), ("日本", None),
    ],
)  # fmt: skip
def test_completions(typed, first):
    assert next(iter(complete(typed)), None) == first


def test_completions_are_few_different_and_the_nearest_first():
    found = complete("ba", 5)
    assert len(found) == 5
    assert all(name.startswith("ba") for name in found)
    assert "balloon" in complete("ba", 20)
    assert complete("tele")[:3] == ["telephone", "telescope", "television"]
    assert complete("brocc") == ["broccoli"]  # not once more as "head of broccoli"
    assert len(set(complete("s", 100))) == len(complete("s", 100)) > 20
    with pytest.raises(ValueError, match="invalid limit 0: expected"):
        complete("a", 0)


def test_completions_take_less_than_two_milliseconds():
    typed = ["p", "pe", "peng", "pengiun", "xqzzz", "smiling f", "elefa", "blu"]
    complete("warm")
    began = time.process_time()
    for prefix in typed * 5:
        complete(prefix)
    assert (time.process_time() - began) / (5 * len(typed)) < 2e-3
