import json
from dataclasses import replace

import pytest

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges.questions import read_questions
from leanlens.evaluate.suites.fresh import (
    drawings,
    fresh,
    photo_items,
    photo_prompt,
    photo_questions,
    photos,
    seed_of_date,
)
from leanlens.evaluate.suites.options import SuiteOptions

OPTIONS = SuiteOptions(num=6, date="2026-12-01", size=64)


def test_the_same_date_gives_the_same_prompts_and_another_date_others(shelf, scorer):
    first, again = drawings([scorer], shelf, OPTIONS), drawings([scorer], shelf, OPTIONS)
    other = drawings([scorer], shelf, replace(OPTIONS, date="2026-12-02"))
    assert first.items == again.items
    assert first.source == again.source
    assert (first.title, other.title) == ("Fresh drawings of 2026-12-01", "Fresh drawings of 2026-12-02")
    assert not {item.prompt for item in first.items} & {item.prompt for item in other.items}
    assert first.source["prompts_sha256"] != other.source["prompts_sha256"]
    lengths = [len(item.prompt.split()) for item in first.items]
    assert min(lengths[:3]) > 40 > max(lengths[3:])  # dense, then brief
    assert len(first.control) == 6


def test_the_seed_of_a_date_is_published():
    import hashlib

    digits = hashlib.sha256(b"leanlens fresh 1 2026-12-01").hexdigest()[:12]
    assert seed_of_date(" 2026-12-01\n") == int(digits, 16)
    for nothing in (None, "", "  "):
        with pytest.raises(ValueError, match="fresh needs a date"):
            seed_of_date(nothing)


def test_photographs_state_what_their_questions_ask():
    truth = {
        "objects": [
            {"id": "a", "concept": "car", "count": 2, "color": "red", "category": "vehicle"},
            {"id": "b", "concept": "owl", "count": 1, "color": "natural", "category": "animal"},
            {"id": "c", "concept": "drum", "count": 1, "color": "blue", "category": "instrument"},
        ],
        "relations": [["a", "left of", "b"]],
    }
    assert photo_prompt(truth) == "a photo of two red cars to the left of an owl and a blue drum"
    asked = photo_questions(truth)
    assert [(one["question"], one["parents"], one["category"]) for one in asked] == [
        ("Is there a car in the picture?", [], "object"),
        ("Are there exactly two cars in the picture?", ["1"], "count"),
        ("Are the cars red?", ["1"], "color"),
        ("Is there an owl in the picture?", [], "object"),
        ("Is there a drum in the picture?", [], "object"),
        ("Is the drum blue?", ["5"], "color"),
        ("Is the car to the left of the owl?", ["1", "4"], "position"),
    ]


def test_photographs_are_judged_by_an_endpoint(shelf):
    with pytest.raises(ValueError, match="fresh is judged by a vision model"):
        photos(shelf, OPTIONS)
    suite = photos(shelf, replace(OPTIONS, endpoints=(Endpoint("http://localhost:1/v1", "judge"),)))
    assert [judge.name for judge in suite.judges] == ["judge"]
    assert len(suite.items) == 6
    for item in suite.items:
        assert item.prompt.startswith("a photo of ")
        assert read_questions(item)
        assert item.size == (64, 64)
    assert suite.items == photo_items(6, seed_of_date("2026-12-01"), shelf, 64)
    assert json.loads(json.dumps(suite.settings)) == suite.settings


def test_an_unknown_kind_is_refused(shelf):
    with pytest.raises(ValueError, match="invalid prompts 'poems': expected drawings or photos"):
        fresh(replace(OPTIONS, prompts="poems", library=str(shelf.folder)))
