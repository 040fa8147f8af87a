"""GenEval's official numbers against a rewrite of the official summary, and its judges: a process, and questions."""

import hashlib
import json
import math
import sys
from collections import defaultdict
from dataclasses import replace
from random import Random

import pytest
from PIL import Image

from leanlens.endpoint import Endpoint
from leanlens.evaluate.suite import Item, Judgement
from leanlens.evaluate.suites import data
from leanlens.evaluate.suites.geneval import DetectorJudge, geneval, metrics_of, questions_of, read_prompts, value_of
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed
from tests.evaluate.suites.judged import MISSING, judgement

ROWS = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "orange", "count": 1}], "prompt": "two"},
    {
        "tag": "counting",
        "include": [{"class": "sheep", "count": 3}],
        "exclude": [{"class": "sheep", "count": 4}],
        "prompt": "a photo of three sheep",
    },
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "blue"}], "prompt": "a blue car"},
    {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a dog left of a cat",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "cup", "count": 1, "color": "red"}, {"class": "cow", "count": 1, "color": "white"}],
        "prompt": "a red cup and a white cow",
    },
]
DETECTOR = """
import json, sys
if "--self-test" in sys.argv:
    print(json.dumps({"passed": True, "cases": [{"case": "one", "expected": 1, "found": 1}]}))
    sys.exit(0)
about = {"name": "finder", "version": "1", "weights_sha256": None, "criteria": ["detections"]}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["prompt"] == "two":
        answer = {"failed": "out of memory"}
    elif asked["prompt"] == "a photo of three sheep":
        answer = {"score": {"detections": 1}, "raw": {"detections": [{"class": "sheep"}]}}
    else:
        found = [{"class": "bench", "score": 0.8, "box": [0, 0, 5, 5]}]
        answer = {"score": {"detections": 1}, "raw": {"detections": found}}
    print(json.dumps({"id": asked["id"], **answer}), flush=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small file of GenEval's form, whose checksum is taken for that of GenEval."""
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {path.name: ("prompts", hashlib.sha256(path.read_bytes()).hexdigest())}
    monkeypatch.setitem(data.SOURCES, "geneval", replace(data.SOURCES["geneval"], files=files))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def asked_of(row):
    return [(one["id"], one["question"], one["parents"]) for one in questions_of(row)]


def test_questions_ask_for_what_the_metadata_states():
    assert asked_of(ROWS[0]) == [("1", "Does the image show a bench?", [])]
    assert asked_of(ROWS[1])[1] == ("2", "Does the image show an orange?", [])
    assert asked_of(ROWS[2]) == [("1", "Does the image show exactly three sheep?", [])]
    assert asked_of(ROWS[3])[1] == ("2", "Is the car blue?", ["1"])
    assert asked_of(ROWS[4])[2] == ("3", "Is the dog to the left of the cat?", ["1", "2"])
    skis = {"tag": "colors", "include": [{"class": "skis", "count": 1, "color": "red"}], "prompt": "a red skis"}
    assert [one[1] for one in asked_of(skis)] == ["Does the image show skis?", "Are the skis red?"]
    assert [one[2] for one in asked_of(ROWS[5])] == [[], ["1"], [], ["3"]]


def official(judged):
    """`summary_scores.py`, from its description; an image without a verdict is in no row of its table."""
    by_tag, images, prompts = defaultdict(list), [], []
    for row, verdicts in judged:
        known = [verdict for verdict in verdicts if verdict is not None]
        by_tag[row["tag"]] += known
        images += known
        prompts += [any(known)] if known else []
    numbers = {tag: sum(values) / len(values) for tag, values in by_tag.items() if values}
    numbers["overall"] = sum(numbers.values()) / len(numbers)
    numbers["correct images"] = sum(images) / len(images)
    return numbers, sum(prompts) / len(prompts)


@pytest.mark.parametrize("failing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(6))
def test_official_numbers_equal_those_of_the_official_summary(seed, failing):
    random = Random(seed)
    cases = []
    for _ in range(40):
        row = random.choice(ROWS)
        verdicts = [None if random.random() < failing else random.random() < 0.6 for _ in range(4)]
        cases.append((row, verdicts))
    items = [Item(str(at), row["prompt"], (row["tag"],), row) for at, (row, _) in enumerate(cases)]
    judge = DetectorJudge(Named())
    judged = [
        [Judgement({"correct": Failed("late") if verdict is None else float(verdict)}) for verdict in verdicts]
        for _, verdicts in cases
    ]
    metrics = {metric.name: metric for metric in metrics_of(judge, items, judged)}
    expected, prompts = official(cases)
    assert metrics.keys() == expected.keys() | {"prompts with a correct image"}
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value, abs=1e-12)
    if not failing:
        assert metrics["prompts with a correct image"].value == pytest.approx(prompts)
    assert metrics["overall"].failed == sum(verdict is None for _, verdicts in cases for verdict in verdicts)
    assert next(iter(metrics)) == "overall"


class Named:
    name = "detector"


def test_an_image_is_correct_if_all_answers_are_yes():
    assert value_of(judgement({"1": "yes", "2": "yes"})) == 1.0
    assert value_of(judgement({"1": "yes", "2": "no"})) == 0.0
    assert value_of(judgement({"1": None, "2": "no"})) == 0.0
    assert value_of(judgement({"1": None, "2": "yes"})) == Failed("a question failed: timeout")
    assert value_of(MISSING) == Failed("the image could not be drawn")


def test_a_prompt_counts_as_failed_only_where_no_image_is_correct():
    items = [Item("a", "a", ("colors",))] * 2
    judged = [[judgement({"1": "yes"}), MISSING], [judgement({"1": "no"}), MISSING]]
    prompts = metrics_of(Named(), items, judged)[-1]
    assert (prompts.name, prompts.value, prompts.failed) == ("prompts with a correct image by questions", 1.0, 1)


def test_the_detector_runs_in_a_process_and_the_verdict_is_made_here(folder):
    script = folder / "finder.py"
    script.write_text(DETECTOR)
    suite = geneval(SuiteOptions(data=folder, scorer=f"{sys.executable} {script}"))
    assert (suite.title, suite.images_per_prompt, len(suite.items)) == ("GenEval", 4, 6)
    (judge,) = suite.judges
    images = [Image.new("RGB", (8, 8))] * 4
    judged = judge(images, suite.items[:4])
    judge.detector.close()
    assert judged[0].score == {"correct": 1.0}
    assert judged[0].raw["detections"][0]["class"] == "bench"
    assert judged[1].score == {"correct": Failed("out of memory")}
    assert "cannot be read: invalid detection" in judged[2].score["correct"].reason
    assert judged[3].score == {"correct": 0.0}
    assert judged[3].raw["reasons"] == ["car: 0 found, 1 asked for"]
    assert judge.identity()["detector"]["version"] == "1"


def test_without_the_detector_it_is_not_called_geneval(folder):
    endpoint = Endpoint("http://localhost:1/v1", "someone/judge")
    suite = geneval(SuiteOptions(data=folder, endpoints=(endpoint,), num=3, size=128))
    assert suite.title == "GenEval prompts, judged by judge"
    assert suite.source["licence"] == "MIT"
    assert [item.size for item in suite.items] == [(128, 128)] * 3
    assert suite.deviations[0] == "3 of the 6 prompts are used."
    assert any("not those of GenEval" in sentence for sentence in suite.deviations)
    judged = [{"judge": [judgement({"1": "yes"})] * 4} for _ in suite.items]
    metrics = suite.metrics(suite.items, judged)
    assert (metrics[0].name, metrics[0].value) == ("overall by questions", 1.0)
    assert all("by questions" in metric.name for metric in metrics)


def test_without_a_judge_the_prompts_can_be_drawn(folder):
    suite = geneval(SuiteOptions(data=folder))
    assert (len(suite.items), suite.judges, suite.title) == (6, (), "GenEval prompts, not judged")
    assert suite.metrics(suite.items, [{}] * 6) == []
    (warning,) = suite.warnings
    assert "geneval has no judge here" in warning
    assert "(--scorer)" in warning


def test_a_file_of_another_form_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"tag": "colors", "prompt": "a"}\n')
    with pytest.raises(ValueError, match="line 1 is no row of GenEval's metadata: KeyError"):
        read_prompts(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1 is a list; expected an object"):
        read_prompts(path)


def test_metrics_of_nothing_are_not_numbers():
    metrics = metrics_of(Named(), [Item("a", "a", ("colors",))], [[MISSING] * 4])
    assert all(math.isnan(metric.value) and metric.num == 0 for metric in metrics)
    assert metrics[0].failed == 4
