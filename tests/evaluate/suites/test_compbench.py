"""T2I-CompBench++'s questions, and its sums against a rewrite of the official ones."""

import hashlib
import math
from dataclasses import replace
from random import Random

import pytest

from leanlens.endpoint import Endpoint
from leanlens.evaluate.suite import Item
from leanlens.evaluate.suites import data
from leanlens.evaluate.suites.compbench import CATEGORIES, compbench, metrics_of, questions_of, read_category, value_of
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed
from tests.evaluate.suites.judged import MISSING, judgement

PROMPTS = {
    "color": "a green bench and a blue bowl",
    "shape": "an oval sink and a rectangular mirror.",
    "texture": "The metallic pot and wooden spoon boil the noodles.",
    "spatial": "a girl on the top of a frog",
    "3d_spatial": "a airplane in front of a dog",
    "numeracy": "two deer, one mouse and four men",
    "non_spatial": "A person is looking at a rainbow.",
    "complex": "The red hat was on top of the brown coat rack.",
}


def asked(category):
    return [(one["question"], one["parents"]) for one in questions_of(PROMPTS[category], category)]


def test_questions_are_derived_from_the_prompts():
    assert asked("color") == [("Does the image show a green bench?", []), ("Does the image show a blue bowl?", [])]
    assert asked("shape")[1] == ("Does the image show a rectangular mirror?", [])
    assert asked("texture") == [(f'Does the image show this: "{PROMPTS["texture"]}"?', [])]
    assert asked("spatial") == [
        ("Does the image show a girl?", []),
        ("Does the image show a frog?", []),
        ("Is the girl on top of the frog?", ["1", "2"]),
    ]
    assert asked("3d_spatial")[0] == ("Does the image show an airplane?", [])
    assert asked("3d_spatial")[2] == ("Is the airplane in front of the dog?", ["1", "2"])
    assert asked("numeracy") == [
        ("Does the image show deer?", []),
        ("Does the image show exactly two deer?", ["1"]),
        ("Does the image show a mouse?", []),
        ("Does the image show exactly one mouse?", ["3"]),
        ("Does the image show men?", []),
        ("Does the image show exactly four men?", ["5"]),
    ]
    assert len(asked("complex")) == len(asked("non_spatial")) == 1


@pytest.mark.parametrize(
    "prompt",
    ["a white bathroom with a black and white curtain", "two sheep, a goat and a cow", "A cat and a dog", "a red cup"],
)
def test_other_prompts_of_attributes_are_asked_about_as_a_whole(prompt):
    assert [one["question"] for one in questions_of(prompt, "color")] == [f'Does the image show this: "{prompt}"?']


@pytest.mark.parametrize("category", ["spatial", "3d_spatial", "numeracy"])
def test_a_prompt_of_another_form_is_an_error(category):
    with pytest.raises(ValueError, match=r"invalid (spatial prompt|prompt of numbers) 'some frogs'"):
        questions_of("some frogs", category)


def official(category, answers):
    """What the official scripts add up, with 1 for a yes and 0 for a no in place of probabilities."""
    yes = [float(answer == "yes") for answer in answers]
    if category in ("spatial", "3d_spatial"):
        first, second, place = yes
        if first and second:
            score = 0.25 + 0.25 + place / 2
        else:
            score = 0.25 * (first + second)
        return 0 if category == "spatial" and score < 0.5 else score
    if category == "numeracy":
        weight = 2 / len(yes)
        pairs = [(yes[at], yes[at + 1]) for at in range(0, len(yes), 2)]
        return sum(0.5 * weight + (0.5 * weight if exact else 0) for there, exact in pairs if there)
    return math.prod(yes)


@pytest.mark.parametrize("failing", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_sums_equal_the_official_ones(seed, failing):
    random = Random(seed)
    items, judged, expected = [], [], {name: [] for name in CATEGORIES}
    for at in range(80):
        category = CATEGORIES[at % 8]
        questions = questions_of(PROMPTS[category], category)
        parents = {one["id"]: one["parents"] for one in questions}
        items.append(Item(str(at), PROMPTS[category], (category,), {"questions": questions}))
        judged.append([])
        for _ in range(3):
            answers = [
                None if random.random() < failing else random.choice(["yes", "yes", "yes", "no"]) for _ in questions
            ]
            judged[-1].append(judgement(dict(zip(parents, answers, strict=True)), parents))
            if None not in answers:
                expected[category].append(official(category, answers))
    metrics = {metric.name: metric for metric in metrics_of(None, items, judged)}
    means = {name: sum(values) / len(values) for name, values in expected.items()}
    for name, value in means.items():
        assert metrics[name].value == pytest.approx(value, abs=1e-12)
    assert metrics["mean of the categories"].value == pytest.approx(sum(means.values()) / 8)
    failed = sum(len(row) for row in judged) - sum(len(values) for values in expected.values())
    assert metrics["mean of the categories"].failed == failed
    assert next(iter(metrics)) == "mean of the categories"


def test_an_image_whose_question_failed_has_failed():
    assert value_of(judgement({"1": None}), "complex") == Failed("a question failed: timeout")
    assert value_of(MISSING, "complex") == Failed("the image could not be drawn")
    assert value_of(judgement({"1": "yes", "2": "no", "3": "no"}), "spatial") == 0.0
    assert value_of(judgement({"1": "yes", "2": "no", "3": "no"}), "3d_spatial") == 0.25


def test_the_suite_has_eight_times_300_prompts(tmp_path, monkeypatch):
    files = {}
    for name in CATEGORIES:
        path = tmp_path / f"{name}_val.txt"
        path.write_text("\n".join([PROMPTS[name]] * 300))
        files[path.name] = (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(data.SOURCES, "compbench", replace(data.SOURCES["compbench"], files=files))
    options = SuiteOptions(data=tmp_path, endpoints=(Endpoint("http://localhost:1/v1", "judge"),), size=64)
    suite = compbench(options)
    assert (len(suite.items), suite.images_per_prompt) == (2400, 10)
    assert suite.title == "T2I-CompBench++ prompts, judged by judge"
    assert suite.items[300].id == "shape-000"
    assert suite.items[0].size == (64, 64)
    assert compbench(replace(options, endpoints=())).title == "T2I-CompBench++ prompts, not judged"
    small = compbench(replace(options, num=16))
    assert [item.categories[0] for item in small.items] == [name for name in CATEGORIES for _ in range(2)]
    judged = [{"judge": [judgement({one["id"]: "yes" for one in item.truth["questions"]})]} for item in small.items]
    assert [metric.value for metric in small.metrics(small.items, judged)] == [1.0] * 9
    with pytest.raises(ValueError, match="has 300 prompts; expected 299"):
        read_category(tmp_path / "color_val.txt", "color", 299)
