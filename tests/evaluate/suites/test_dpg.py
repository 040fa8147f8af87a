"""DPG's official numbers against a rewrite of the official loop, and the corrected ones against hand-made numbers."""

import csv
import hashlib
import math
import sys
from collections import defaultdict
from dataclasses import replace
from random import Random

import pytest
from PIL import Image

from leanlens.endpoint import Endpoint
from leanlens.evaluate.suites import data
from leanlens.evaluate.suites.dpg import PROMPTS, category_of, dpg, metrics_of, official_scores, read_prompts
from leanlens.evaluate.suites.options import SuiteOptions
from tests.evaluate.suites.judged import MISSING, judgement

COLUMNS = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed",
           "tuple", "question_natural_language"]  # fmt: skip
KINDS = ("entity - whole", "attribute - color", "attribute - texture", "relation - spatial", "global")


def write(path, rows):
    """Rows of (item, number, parents, kind)."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, number, parents, kind in rows:
            line = [name, f"prompt, of {name}\n", "", number, parents, "", "", f"{kind} (a, b)", f"Is it {number}?"]
            writer.writerow(line)
    return path


def random_rows(random, prompts=12):
    rows = []
    for at in range(prompts):
        for number in range(1, random.randint(2, 7)):
            chosen = random.sample(range(1, number), min(number - 1, random.choice([0, 1, 1, 2])))
            parents = ", ".join(map(str, chosen)) if at and chosen else "0"  # nothing depends on the skipped one
            rows.append((f"made{at}", number, parents, random.choice(KINDS)))
    return rows


def random_answers(random, items, failing=0.0):
    """item -> for each image question -> "yes", "no" or None; a whole image may be None."""
    return {
        item.id: [
            None
            if random.random() < failing / 2
            else {
                row["id"]: None if random.random() < failing / 4 else random.choice(["yes", "yes", "no"])
                for row in item.truth["questions"]
            }
            for _ in range(4)
        ]
        for item in items
    }


def judge_all(items, answers):
    judged = []
    for item in items:
        parents = {row["id"]: row["parents"] for row in item.truth["questions"]}
        images = answers[item.id]
        judged.append([MISSING if one is None else judgement(one, parents) for one in images])
    return judged


def official(path, answers):
    """The official script, from its description: numbers by name, and which prompts were left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[1:]
    by_item, last = {}, None
    for row in rows:
        if row["item_id"] != last:
            by_item[row["item_id"]] = []
        last = row["item_id"]
        parents = [int(part) for part in row["dependency"].split(",")]
        by_item[row["item_id"]].append((int(row["proposition_id"]), parents, row["tuple"].split("(")[0].strip()))
    scores, categories, left_out = [], defaultdict(list), []
    for name, images in answers.items():
        try:
            total = 0.0
            for image in images:
                own = {number: float(image[str(number)] == "yes") for number, _, _ in by_item[name]}
                if any(image[str(number)] is None for number in own):
                    raise RuntimeError
                before = dict(own)
                for number, parents, _ in by_item[name]:
                    for parent in parents:
                        if parent and own[parent] == 0:
                            own[number] = 0.0
                            break
                total += sum(own.values()) / len(own)
            scores.append(total / len(images))
            for number, _, category in by_item[name]:
                categories[category].append(before[number])
        except (KeyError, TypeError, RuntimeError):
            left_out.append(name)
    numbers = {"overall": sum(scores) / len(scores)}
    pooled = defaultdict(list)
    for category, values in categories.items():
        numbers[category] = sum(values) / len(values)
        pooled[category.split("-")[0].strip()] += values
    return numbers | {name: sum(values) / len(values) for name, values in pooled.items()}, left_out


def numbers_of(items, judged, kind):
    found = metrics_of(None, items, judged)
    return {m.name.removesuffix(f", {kind}"): m for m in found if m.name.endswith(f", {kind}")}


@pytest.mark.parametrize("failing", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(6))
def test_official_numbers_equal_those_of_the_official_loop(tmp_path, seed, failing):
    random = Random(seed)
    path = write(tmp_path / "q.csv", random_rows(random))
    items = read_prompts(path)
    answers = random_answers(random, items, failing)
    expected, left_out = official(path, answers)
    metrics = numbers_of(items, judge_all(items, answers), "official")
    assert metrics.keys() >= expected.keys()
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value, abs=1e-12)
    assert metrics["overall"].failed == len(left_out)
    assert metrics["overall"].num == len(items) - len(left_out)
    assert bool(left_out) == bool(failing) or seed


def test_a_prompt_that_depends_on_the_skipped_question_is_left_out(tmp_path):
    path = write(
        tmp_path / "q.csv", [("one1", 1, "0", "global"), ("one1", 2, "1", "global"), ("two1", 1, "0", "other")]
    )
    first, second = read_prompts(path)
    assert first.truth["official"] == {"2": [1]}
    assert official_scores(first, [judgement({"1": "yes", "2": "yes"})] * 4) is None
    assert official_scores(second, [judgement({"1": "yes"})] * 4) == (1.0, {"1": 1.0})
    judged = [[judgement({"1": "yes", "2": "yes"}, {"2": ["1"]})] * 4, [judgement({"1": "no"})] * 4]
    metrics = {metric.name: metric for metric in metrics_of(None, [first, second], judged)}
    assert (metrics["overall, official"].value, metrics["overall, official"].num) == (0.0, 1)
    assert (metrics["overall, corrected"].value, metrics["overall, corrected"].num) == (0.5, 2)


def test_corrected_numbers_by_hand(tmp_path):
    rows = [("a1", 1, "0", KINDS[0]), ("a1", 2, "1", KINDS[1]), ("b1", 1, "0", KINDS[0]), ("b1", 2, "0", KINDS[2])]
    items = read_prompts(write(tmp_path / "q.csv", [("skipped", 1, "0", "global"), *rows]))[1:]
    after = {"2": ["1"]}
    judged = [
        [judgement({"1": "no", "2": "yes"}, after), judgement({"1": "yes", "2": "yes"}, after)],  # 0, and 1
        [judgement({"1": "yes", "2": "no"}), MISSING],  # 0.5
    ]
    metrics = numbers_of(items, judged, "corrected")
    assert metrics["overall"].value == 0.5
    assert metrics["overall"].num == 2
    assert metrics["overall"].failed == 2  # both questions of the image that is missing
    assert metrics["entity - whole"].value == pytest.approx(2 / 3)
    assert metrics["attribute - color"].value == 0.5  # the zeroed answer counts as no
    assert metrics["attribute"].value == pytest.approx(1 / 3)  # 1 of 3 answers
    official = numbers_of(items, judged, "official")
    assert official["attribute - color"].value == 1.0  # the last image alone
    assert official["overall"].num == 1


def test_official_takes_the_answer_as_it_stands(tmp_path):
    path = write(tmp_path / "q.csv", [("z1", 9, "0", "other"), ("a1", 1, "0", KINDS[0]), ("a1", 2, "1", KINDS[1])])
    item = read_prompts(path)[1]
    share, answers = official_scores(item, [judgement({"1": "no", "2": "yes"}, {"2": ["1"]})])
    assert (share, answers) == (0.0, {"1": 0.0, "2": 1.0})
    assert official_scores(item, [judgement({"1": None, "2": "yes"})]) is None
    assert official_scores(item, []) is None


def test_prompts_are_read_with_questions_parents_and_categories(tmp_path):
    path = write(tmp_path / "q.csv", [("drawtext10", 1, "0", KINDS[0]), ("drawtext10", 2, "1, 7", KINDS[1])])
    (item,) = read_prompts(path)
    assert (item.id, item.prompt, item.categories) == ("drawtext10", "prompt, of drawtext10", ("drawtext",))
    assert item.truth["questions"][1] == {
        "id": "2", "question": "Is it 2?", "parents": ["1"], "category": "attribute - color",
    }  # fmt: skip
    assert item.truth["official"] == {"2": [1, 7]}
    assert category_of("relation - spatial (a, b, on)") == "relation - spatial"


def test_a_file_of_another_form_is_an_error(tmp_path):
    other = tmp_path / "q.csv"
    other.write_text("item_id,text\na,b\n")
    with pytest.raises(ValueError, match="has no column proposition_id, dependency, tuple"):
        read_prompts(other)
    with pytest.raises(ValueError, match="question 2, is not of the form of DPG-Bench"):
        read_prompts(write(other, [("a", 1, "0", "global"), ("a", "two", "0", "global")]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of 1,065 prompts, whose checksum is taken for that of DPG-Bench."""

    def fill(prompts):
        path = write(tmp_path / "dpg_bench.csv", [(f"made{at}", 1, "0", "global") for at in range(prompts)])
        files = {"dpg_bench.csv": ("dpg_bench.csv", hashlib.sha256(path.read_bytes()).hexdigest())}
        monkeypatch.setitem(data.SOURCES, "dpg", replace(data.SOURCES["dpg"], files=files))
        return tmp_path

    return fill


def test_the_suite_has_1065_prompts_and_says_how_it_deviates(folder):
    options = SuiteOptions(data=folder(PROMPTS), endpoints=(Endpoint("http://localhost:1/v1", "someone/judge"),))
    suite = dpg(options)
    assert (len(suite.items), suite.images_per_prompt, suite.title) == (1065, 4, "DPG-Bench, judged by judge")
    assert suite.source["licence"] == "Apache-2.0"
    assert any("in place of mPLUG-large" in sentence for sentence in suite.deviations)
    judged = [{"judge": [judgement({"1": "yes"})] * 4} for _ in suite.items]
    headline = suite.metrics(suite.items, judged)[0]
    assert (headline.name, headline.value, headline.num, headline.failed) == ("overall, official", 1.0, 1064, 1)
    assert suite.warnings == ()
    assert "dpg has no judge here" in dpg(replace(options, endpoints=())).warnings[0]
    small = dpg(replace(options, num=5, size=64))
    assert (len(small.items), small.items[0].size) == (5, (64, 64))
    assert "5 of the 1065 prompts are used." in small.deviations


def test_another_number_of_prompts_is_an_error(folder):
    options = SuiteOptions(data=folder(3), endpoints=(Endpoint("http://localhost:1/v1", "judge"),))
    with pytest.raises(ValueError, match="about 3 prompts; expected 1065"):
        dpg(options)


def test_metrics_of_nothing_are_not_numbers(tmp_path):
    items = read_prompts(write(tmp_path / "q.csv", [("a1", 1, "0", "global"), ("b1", 1, "0", "global")]))
    for metric in metrics_of(None, items, [[MISSING] * 4, [MISSING] * 4]):
        assert math.isnan(metric.value)
        assert metric.num == 0


ANSWERING = """
import json, sys
if "--self-test" in sys.argv:
    print(json.dumps({"passed": True, "cases": [{"case": "one", "expected": 1, "found": 1}]}))
    sys.exit(0)
print(json.dumps({"name": "mplug", "version": "1", "weights_sha256": None, "criteria": ["answered"]}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    answers = {one["id"]: "no" for one in asked["truth"]["questions"]}
    print(json.dumps({"id": asked["id"], "score": {"answered": 1}, "raw": {"answers": answers}}), flush=True)
"""


def test_the_official_model_answers_in_a_process(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = tmp_path / "answering.py"
    script.write_text(ANSWERING)
    suite = dpg(SuiteOptions(data=folder(PROMPTS), num=2, scorer=f"{sys.executable} {script}"))
    (judge,) = suite.judges
    judged = judge([Image.new("RGB", (8, 8))] * 2, suite.items)
    judge.close()
    assert [one.score for one in judged] == [{"questions": 0.0}] * 2
    assert judged[0].raw["answers"] == {"1": "no"}
    assert (suite.title, judge.name) == ("DPG-Bench", "mplug")
    assert not any("in place of" in sentence for sentence in suite.deviations)
