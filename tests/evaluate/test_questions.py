import json
import re

import pytest

from leanlens.evaluate.questions import PEOPLE, held_out_questions, people_questions, stated_truth
from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import sample_scene, split_of
from leanlens.scenes.sources import STYLES
from leanlens.score.colors import is_background_color
from leanlens.score.relations import holds


def test_held_out_questions_are_held_out_and_balanced(shelf):
    questions = held_out_questions(9, 3, shelf)
    assert [min(3, len(q.truth["objects"])) for q in questions] == [1, 2, 3] * 3
    assert all(split_of(sample_scene(q.seed, shelf, "test")) == "test" for q in questions)
    assert all(q.picture.size == q.size == tuple(q.truth["canvas"]) for q in questions)
    again = held_out_questions(9, 3, shelf)
    assert [q.prompt for q in again] == [q.prompt for q in questions]
    assert not {q.seed for q in held_out_questions(9, 4, shelf)} & {q.seed for q in questions}


def test_a_dense_caption_states_everything(shelf):
    for question in held_out_questions(12, 0, shelf):
        whole = sample_scene(question.seed, shelf, "test").truth()
        assert {key: question.truth.get(key) for key in ("objects", "background", "style", "texts")} == {
            key: whole[key] for key in ("objects", "background", "style", "texts")
        }


def test_a_brief_caption_states_only_what_it_says(shelf):
    questions = held_out_questions(30, 0, shelf, "brief")
    for question in questions:
        text = question.prompt.lower()
        for stated in question.truth["objects"]:
            assert stated["color"] == "natural" or stated["color"] in text
        for string, _ in question.truth["texts"]:
            assert string in question.prompt
        for a, _, b in question.truth["relations"]:
            assert {a, b} <= {stated["id"] for stated in question.truth["objects"]}
    assert any("background" not in question.truth for question in questions)
    assert any("style" not in question.truth for question in questions)


def test_stated_truth_reads_numbers_colors_and_relations():
    truth = {
        "canvas": [64, 64],
        "style": "noto",
        "background": {"kind": "plain", "colors": ["blue"]},
        "objects": [
            {"id": "red car", "concept": "car", "count": 1, "color": "red"},
            {"id": "duck", "concept": "duck", "count": 3, "color": "natural"},
        ],
        "relations": [["red car", "left of", "duck"]],
        "texts": [],
    }
    assert stated_truth(truth, "A red car to the left of three ducks")["relations"] == truth["relations"]
    assert stated_truth(truth, "A red car and three ducks")["relations"] == []
    assert [o["id"] for o in stated_truth(truth, "a red card and three ducks")["objects"]] == ["duck"]
    assert stated_truth(truth, "two ducks, one of them on a red carpet")["objects"] == []


@pytest.mark.parametrize("path", [PEOPLE, PEOPLE.with_name("people_development.jsonl")], ids=lambda path: path.stem)
def test_people_wrote_a_hundred_prompts(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) == 100
    for row in rows:
        truth = row["truth"]
        ids = {stated["id"] for stated in truth["objects"]}
        assert all(stated["color"] in {"natural", *COLORS} for stated in truth["objects"])
        assert truth.get("style", "noto") in {style.name for style in STYLES}
        for a, word, b in truth.get("relations", []):
            assert {a, b} <= ids
            holds(None, word, None)
        background = truth.get("background", {"kind": "plain", "colors": []})
        for place, name in enumerate(background["colors"]):
            is_background_color((0, 0, 0), name, background["kind"], place)
        for (text,) in truth.get("texts", []):
            assert text in row["prompt"]


def test_no_prompt_for_development_is_one_of_the_test():
    test, development = (
        {re.sub(r"[^a-z0-9 ]", "", json.loads(line)["prompt"].lower()) for line in path.read_text().splitlines()}
        for path in (PEOPLE, PEOPLE.with_name("people_development.jsonl"))
    )
    assert not test & development


def test_no_more_people_prompts_than_there_are():
    assert [question.size for question in people_questions(2, 128)] == [(128, 128)] * 2
    with pytest.raises(ValueError, match="invalid num 101: people wrote 100 prompts"):
        people_questions(101)
