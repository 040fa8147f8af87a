"""Captions: within their lengths, never one template twice in a row, and true to the ground truth."""

import itertools
import re
from random import Random

import pytest

from leanlens.scenes.describe import NUMBERS, RELATION_PHRASES, arrangement_of, brief, dense, place_of
from leanlens.scenes.icons import COLORS
from leanlens.scenes.names import pluralize, read_vocabulary
from leanlens.scenes.scene import sample_scene


@pytest.fixture(scope="module")
def captioned(shelf):
    """500 scenes in a row with their captions."""
    rows, short, long = [], "", ""
    for seed in range(500):
        scene = sample_scene(seed, shelf)
        one, other = brief(scene, Random(seed), short), dense(scene, Random(seed), long)
        short, long = one.template, other.template
        rows.append((scene, one, other))
    return rows


def names(concept):
    return [concept, *read_vocabulary()["synonyms"].get(concept, [])]


def noun_pattern(thing):
    """What a caption must say of a thing: its number, its colour, its name; a size may stand between."""
    number = r"(?:an?|the)" if thing.count == 1 else NUMBERS[thing.count]
    color = f"{thing.color} " if thing.color else ""
    words = "|".join(re.escape(name if thing.count == 1 else pluralize(name)) for name in names(thing.concept))
    return rf"\b{number} {color}(?:{words})(?!\w)"


def test_lengths(captioned):
    for _, short, long in captioned:
        assert 6 <= len(short.text.split()) <= 14, short.text
        assert 60 <= len(long.text.split()) <= 120, long.text
    assert 9 <= sum(len(short.text.split()) for _, short, _ in captioned) / len(captioned) <= 12


def test_no_template_twice_in_a_row_and_many_of_them(captioned):
    for (_, short, long), (_, next_short, next_long) in itertools.pairwise(captioned):
        assert short.template != next_short.template
        assert long.template.split(",")[0] != next_long.template.split(",")[0]
    assert len({short.template for _, short, _ in captioned}) >= 12
    assert len({long.template for *_, long in captioned}) >= 24
    assert len({short.text for _, short, _ in captioned}) > 480


def test_dense_names_every_thing_with_its_count_and_colour(captioned):
    for scene, _, long in captioned:
        for thing in scene.things:
            assert re.search(noun_pattern(thing), long.text, re.IGNORECASE), (thing, long.text)


def test_captions_say_no_colour_that_is_not_there(captioned):
    for scene, short, long in captioned:
        true = " ".join([*(thing.id for thing in scene.things), *scene.background.colors])
        for text in (short.text, long.text):
            for color in COLORS:
                said = re.search(rf"\b{color}\b", re.sub(r'"[^"]*"', "", text), re.IGNORECASE)
                assert not said or color in true, (color, text)


def test_texts_are_quoted_exactly(captioned):
    seen = 0
    for scene, short, long in captioned:
        for text in scene.texts:
            assert f'"{text.string}"' in long.text
            seen += 1
        quoted = re.findall(r'"([^"]*)"', short.text + long.text)
        assert set(quoted) <= {text.string for text in scene.texts}
    assert seen > 20


def test_relations_that_are_said_are_in_the_truth(captioned):
    words = {phrase: word for word, phrases in RELATION_PHRASES.items() for phrase in phrases}
    phrases = sorted(words, key=len, reverse=True)
    said = 0
    for scene, _, long in captioned:
        for sentence in re.split(r"(?<=[.])\s", long.text):
            match = re.match(rf"(The .+?) (?:is|are|can be found) ({'|'.join(phrases)}) (the .+?)\.$", sentence)
            if not match or "in the middle of medium" in sentence:
                continue
            a, b = (find(scene, match[group]) for group in (1, 3))
            if a is None or b is None:
                continue
            assert (a, words[match[2]], b) in scene.relations, sentence
            said += 1
    assert said > 200


def find(scene, phrase):
    """Index of the thing that a definite noun phrase names."""
    for index, thing in enumerate(scene.things):
        if re.fullmatch(
            noun_pattern(thing) if thing.count == 1 else f"the {noun_pattern(thing)[2:]}", phrase, re.IGNORECASE
        ):
            return index
    return None


def test_totals_are_counted(captioned):
    for scene, _, long in captioned:
        match = re.search(r"(?:are|count|total is) (\w+) objects(?: in all)?\.", long.text)
        if match:
            total = sum(thing.count for thing in scene.things)
            assert match[1] == (NUMBERS[total] if total < len(NUMBERS) else str(total))


def test_places_go_by_thirds(shelf):
    scene = sample_scene(0, shelf, None, (300, 300))
    assert place_of((0, 0, 20, 20), scene) == "in the upper left"
    assert place_of((140, 140, 160, 160), scene) == "in the centre"
    assert place_of((250, 290, 300, 300), scene) == "in the lower right"


def test_arrangements():
    assert arrangement_of(((0, 0, 5, 5), (6, 2, 9, 9))).startswith("side by side")
    assert arrangement_of(((0, 0, 5, 5), (2, 6, 9, 9))).startswith("one above the other")
    assert "group" in arrangement_of(((0, 0, 5, 5), (6, 0, 9, 5), (0, 6, 5, 9)))


def test_facts_first_says_size_and_place_before_anything_needless(shelf):
    """Cut after its facts, such a caption still has the background and, where they fit, each thing's size and place."""
    said = []
    for seed in range(100):
        scene = sample_scene(seed, shelf)
        text = dense(scene, Random(seed), "", 1.0).text
        assert 60 <= len(text.split()) <= 120, text
        sentences = text.split(". ")
        alone = [thing for thing in scene.things if thing.count == 1]
        facts = 2 + len(scene.texts) + len(scene.things)  # with the opening and the background
        placed = sum(bool(re.search(r"in the frame|of medium size", sentence)) for sentence in sentences[:facts])
        said.append(placed == len(alone))
        assert not any(re.search(r"mood is calm|canvas|apart from that", text) for text in sentences[: facts - 1])
    assert sum(said) >= 90


def test_a_share_of_facts_first_is_kept_and_none_changes_nothing(shelf):
    scenes = [sample_scene(seed, shelf) for seed in range(60)]
    shares = {
        share: sum("facts first" in dense(scene, Random(at), "", share).template for at, scene in enumerate(scenes))
        for share in (0.0, 0.5, 1.0)
    }
    assert shares[0.0] == 0
    assert 20 <= shares[0.5] <= 40
    assert shares[1.0] == 60
