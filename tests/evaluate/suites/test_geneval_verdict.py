"""The verdicts on hand-made detections, and against the official loop rewritten here with numpy, quirks included."""

from random import Random

import numpy as np
import pytest

from leanlens.evaluate.suites.geneval_verdict import COLORS, judge_detections, kept_detections, relations


def seen(name, score=0.8, box=(0, 0, 10, 10), color=None):
    found = {"class": name, "score": score, "box": list(box)}
    return {**found, "colors": {color: 0.9, "white": 0.1}} if color else found


def correct(detections, **asked):
    return judge_detections(detections, {"tag": "two_object", **asked})[0]


def test_every_object_must_be_found():
    two = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]}
    assert correct([seen("cat"), seen("dog")], **two)
    assert judge_detections([seen("cat")], {"tag": "two_object", **two}) == (False, ["dog: 0 found, 1 asked for"])
    assert not correct([seen("cat"), seen("dog", 0.3)], **two)
    assert correct([seen("cat"), seen("dog", 0.300001)], **two)


def test_counting_wants_certain_boxes_and_no_more_than_asked_for():
    asked = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
    assert judge_detections([seen("cat", 0.95)] * 2 + [seen("cat", 0.9)], asked) == (True, [])
    assert not judge_detections([seen("cat", 0.95), seen("cat", 0.9)], asked)[0]
    three = judge_detections([seen("cat", 0.95)] * 3, asked)
    assert three == (False, ["cat: 3 found, fewer than 3 asked for"])


def test_color_is_that_of_the_most_certain_boxes():
    red = {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    assert correct([seen("cat", 0.9, color="red"), seen("cat", 0.5, color="blue")], **red)
    assert not correct([seen("cat", 0.5, color="red"), seen("cat", 0.9, color="blue")], **red)
    assert judge_detections([seen("cat", color="blue")], {"tag": "colors", **red})[1] == [
        "cat: red asked for, seen as blue"
    ]


def test_position_needs_a_target_that_is_met():
    asked = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]}
    cat, left, right = seen("cat", box=(50, 0, 60, 10)), seen("dog", box=(0, 0, 10, 10)), (90, 0, 99, 10)
    assert correct([cat, left], **asked)
    assert not correct([cat, seen("dog", box=right)], **asked)
    assert judge_detections([left], {"tag": "position", **asked})[1] == [
        "cat: 0 found, 1 asked for",
        "dog: nothing to be left of",
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (50, 0, 60, 10), {"left of"}),
        ((50, 0, 60, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 50, 10, 60), {"above"}),
        ((0, 50, 10, 60), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (50, 50, 60, 60), {"left of", "above"}),
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        ((0, 0, 10, 10), (2, 0, 12, 10), set()),  # 2 apart, the slack is 0.1 * (10 + 10)
        ((0, 0, 10, 10), (3.5, 0, 13.5, 10), set()),  # 1.5 of 3.5 is less than half
        ((0, 0, 10, 10), (4.5, 0, 14.5, 10), {"left of"}),  # 2.5 of 4.5
    ],
)
def test_relations_of_boxes(first, second, expected):
    assert relations(first, second) == expected


def test_at_most_16_boxes_of_a_class_count():
    many = [seen("cat", 0.5 + at / 100, (at, 0, at + 1, 1)) for at in range(20)]
    kept = kept_detections(many, 0.3)["cat"]
    assert [one["score"] for one in kept] == sorted((one["score"] for one in many), reverse=True)[:16]


@pytest.mark.parametrize(
    "bad", [{}, {"class": "cat"}, seen("cat", "high"), seen("cat", box=(1, 2, 3)), seen("cat", float("nan")), "cat"]
)
def test_a_detection_of_another_form_is_an_error(bad):
    with pytest.raises(ValueError, match="invalid detection"):
        judge_detections([bad], {"tag": "single_object", "include": []})


@pytest.mark.parametrize("colors", [None, {}, {"beige": 1.0}])
def test_a_missing_color_is_an_error(colors):
    asked = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
    with pytest.raises(ValueError, match=r"invalid colors .* of a detected cat"):
        judge_detections([{**seen("cat"), "colors": colors}], asked)


def official(detections, row):
    """What the official script computes, from its description: arrays with a column for the score, argsort, sets."""
    objects = {}
    threshold = 0.9 if row["tag"] == "counting" else 0.3
    for name in {one["class"] for one in detections}:
        mine = [one for one in detections if one["class"] == name]
        array = np.array([[*one["box"], one["score"]] for one in mine])
        order = [at for at in np.argsort(array[:, 4])[::-1] if array[at, 4] > threshold][:16]
        if order:
            objects[name] = [(array[at], mine[at]) for at in order]
    good, matched = True, []
    for clause in row["include"]:
        here = objects.get(clause["class"], [])[: clause["count"]]
        ok = len(here) >= clause["count"]
        if ok and "color" in clause:
            names = [COLORS[int(np.argmax([one["colors"].get(c, -1.0) for c in COLORS]))] for _, one in here]
            ok = names.count(clause["color"]) >= clause["count"]
        if ok and "position" in clause:
            word, index = clause["position"]
            ok = matched[index] is not None and all(word in direction(a, b) for a, _ in here for b, _ in matched[index])
        good = good and ok
        matched.append(here if ok else None)
    for clause in row.get("exclude", []):
        good = good and len(objects.get(clause["class"], [])) < clause["count"]
    return good


def direction(a, b):
    corners = np.array([a[:4], b[:4]]).reshape(2, 2, 2)
    centers, sizes = corners.mean(axis=1), np.abs(corners[:, 1] - corners[:, 0])
    offset = centers[0] - centers[1]
    rest = np.sign(offset) * np.maximum(np.abs(offset) - 0.1 * sizes.sum(axis=0), 0)
    if (np.abs(rest) < 1e-3).all():
        return set()
    x, y = rest / np.linalg.norm(offset)
    pairs = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {word for word, holds in pairs.items() if holds}


def random_row(random):
    tag = random.choice(["single_object", "two_object", "counting", "colors", "position", "color_attr"])
    clause = {"class": "cat", "count": random.randint(2, 4) if tag == "counting" else 1}
    row = {"tag": tag, "include": [clause]}
    if tag in ("colors", "color_attr"):
        clause["color"] = random.choice(COLORS[:2])
    if tag == "counting":
        row["exclude"] = [{"class": "cat", "count": clause["count"] + 1}]
    if tag in ("two_object", "position", "color_attr"):
        row["include"].append({"class": "dog", "count": 1})
    if tag == "position":
        row["include"][1]["position"] = [random.choice(["left of", "right of", "above", "below"]), 0]
    if tag == "color_attr":
        row["include"][1]["color"] = random.choice(COLORS[:2])
    return row


def random_detections(random):
    found = []
    for _ in range(random.choice([0, 1, 2, 3, 4, 6, 40])):
        x, y = random.uniform(0, 90), random.uniform(0, 90)
        box = [x, y, x + random.uniform(1, 30), y + random.uniform(1, 30)]
        score = random.choice([random.random(), random.uniform(0.88, 1.0)])
        colors = {name: random.random() for name in COLORS[:2]}
        found.append({"class": random.choice(["cat", "dog", "cow"]), "score": score, "box": box, "colors": colors})
    return found


@pytest.mark.parametrize("seed", range(5))
def test_verdicts_equal_the_official_ones(seed):
    random = Random(seed)
    cases = [(random_detections(random), random_row(random)) for _ in range(400)]
    verdicts = [judge_detections(*case)[0] for case in cases]
    assert verdicts == [official(*case) for case in cases]
    assert 20 < sum(verdicts) < 380
