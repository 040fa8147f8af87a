import json
import re

import pytest

from leanlens.evaluate.questions import PEOPLE
from leanlens.evaluate.truth import read_prompts

CAT = {"concept": "cat"}


@pytest.mark.parametrize("path", [PEOPLE, PEOPLE.with_name("people_development.jsonl")], ids=lambda path: path.stem)
def test_what_is_read_is_what_stands_there(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert read_prompts(path) == [(row["prompt"], row["truth"]) for row in rows]


def test_line_ends_marks_and_blank_lines_do_not_matter(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        json.dumps({"prompt": text, "truth": {"objects": [CAT]}}, ensure_ascii=False) for text in ("eine Katze", "猫")
    ]
    path.write_bytes(b"\xef\xbb\xbf" + f"{lines[0]}\r\n\r\n{lines[1]}".encode())
    assert read_prompts(path) == [("eine Katze", {"objects": [CAT]}), ("猫", {"objects": [CAT]})]
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"prompts\.jsonl holds no prompts"):
        read_prompts(path)
    with pytest.raises(ValueError, match=r"nowhere\.jsonl cannot be read"):
        read_prompts(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "is a list; give an object with prompt and truth"),
        ('{"prompt": "a"', "is not valid JSON"),
        ({"truth": {"objects": [CAT]}}, "prompt is missing"),
        ({"prompt": "a"}, "truth is missing"),
        ({"prompt": " ", "truth": {"objects": [CAT]}}, "prompt ' ' is blank"),
        ({"prompt": 3, "truth": {"objects": [CAT]}}, "invalid prompt '3': "),
        ({"prompt": "a", "truth": {"objects": [CAT]}, "seed": 1}, "seed is not known; known are prompt, truth"),
        ({"prompt": "a", "truth": {}}, "truth states nothing that is judged"),
        ({"prompt": "a", "truth": {"object": [CAT]}}, "truth.object is not known; known are objects, relations"),
        (
            {"prompt": "a", "truth": {"objects": [{**CAT, "colour": "red"}]}},
            "truth.objects.0.colour is not known; known are id, concept",
        ),
        (
            {"prompt": "a", "truth": {"objects": [{**CAT, "color": "gren"}]}},
            "invalid truth.objects.0.color 'gren': expected one of",
        ),
        (
            {"prompt": "a", "truth": {"objects": [CAT, {"concept": "dog", "count": "3"}]}},
            "invalid truth.objects.1.count '3': ",
        ),
        ({"prompt": "a", "truth": {"objects": [{**CAT, "count": 0}]}}, "invalid truth.objects.0.count '0': "),
        (
            {"prompt": "a", "truth": {"objects": [{**CAT, "count": True}]}},
            "invalid truth.objects.0.count 'True': ",
        ),
        ({"prompt": "a", "truth": {"objects": [{"count": 2}]}}, "truth.objects.0.concept is missing"),
        ({"prompt": "a", "truth": {"objects": [CAT, CAT]}}, "two objects with the id 'cat'"),
        (
            {"prompt": "a", "truth": {"objects": [CAT], "relations": [["cat", "above"]]}},
            "invalid truth.relations.0: ",
        ),
        (
            {"prompt": "a", "truth": {"objects": [CAT], "relations": [["cat", "near", "cat"]]}},
            "invalid relation 'near': expected left of",
        ),
        (
            {"prompt": "a", "truth": {"objects": [CAT], "relations": [["cat", "above", "dog"]]}},
            "relation names 'dog', which is the id of no",
        ),
        (
            {"prompt": "a", "truth": {"objects": [CAT], "relations": [["cat", "above", "cat"]]}},
            "relation puts 'cat' above itself",
        ),
        ({"prompt": "a", "truth": {"texts": ["OPEN"]}}, "invalid truth.texts.0 'OPEN': "),
        ({"prompt": "a", "truth": {"texts": [[""]]}}, "truth.texts.0.0 '' is blank"),
        (
            {"prompt": "a", "truth": {"background": {"kind": "plain", "colors": ["red"]}}},
            "truth.background has the invalid color 'red'",
        ),
        (
            {"prompt": "a", "truth": {"background": {"kind": "ground", "colors": ["green"]}}},
            "truth.background has 1 colors; a ground",
        ),
        (
            {"prompt": "a", "truth": {"background": {"kind": "photo", "colors": []}}},
            "invalid truth.background.kind 'photo': ",
        ),
        (
            {"prompt": "a", "truth": {"objects": [CAT], "style": "notoo"}},
            "invalid truth.style 'notoo': expected one of",
        ),
    ],
)
def test_a_slip_is_named_with_its_file_and_line(tmp_path, line, said):
    path = tmp_path / "prompts.jsonl"
    if not isinstance(line, str):
        line = json.dumps(line)
    good = json.dumps({"prompt": "a cat", "truth": {"objects": [CAT]}})
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} line 2:? .*{re.escape(said)}"):
        read_prompts(path)
