"""Soft-TIFA against a rewrite of the official scripts with scipy's geometric mean."""

import hashlib
import json
import math
from dataclasses import replace
from random import Random

import pytest
from PIL import Image
from scipy.stats import gmean

from leanlens.endpoint import Endpoint
from leanlens.evaluate.suites import data
from leanlens.evaluate.suites.geneval2 import geneval2, geometric_mean, metrics_of, read_prompts
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed
from tests.evaluate.suites.judged import MISSING, probable
from tests.mock_endpoint import Reply, mock_endpoint

SKILLS = ("object", "attribute", "count", "position", "verb")


def random_rows(random, num=30):
    rows = []
    for at in range(num):
        count = random.randint(3, 10)
        skills = [random.choice(SKILLS) for _ in range(count)]
        pairs = [["How many cats are there?", "two"] if skill == "count" else ["Is it?", "Yes"] for skill in skills]
        rows.append({"prompt": f"prompt {at}", "atom_count": count, "vqa_list": pairs, "skills": skills})
    return rows


def write(folder, rows):
    path = folder / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def official(rows, scores):
    """The two official scripts, from their description; lists of probabilities for each prompt."""
    kept = [(row, values) for row, values in zip(rows, scores, strict=True) if any(v is not None for v in values)]
    known = [[value for value in values if value is not None] for _, values in kept]
    numbers = {
        "Soft-TIFA GM": sum(gmean(values) for values in known) / len(known),
        "Soft-TIFA AM": sum(sum(values) / len(values) for values in known) / len(known),
    }
    for skill in SKILLS:
        mine = [
            value
            for row, values in kept
            for value, own in zip(values, row["skills"], strict=True)
            if own == skill and value is not None
        ]
        numbers[f"{skill} (AM)"] = sum(mine) / len(mine)
    for count in {row["atom_count"] for row, _ in kept}:
        mine = [gmean(values) for (row, _), values in zip(kept, known, strict=True) if row["atom_count"] == count]
        numbers[f"{count} atoms (GM)"] = sum(mine) / len(mine)
    return numbers


@pytest.mark.parametrize("failing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_numbers_equal_those_of_the_official_scripts(tmp_path, seed, failing):
    random = Random(seed)
    rows = random_rows(random)
    items = read_prompts(write(tmp_path, rows))
    scores = [
        [None if random.random() < failing else random.random() ** 3 + 1e-9 for _ in row["skills"]] for row in rows
    ]
    judged = [[probable({str(at): value for at, value in enumerate(values, 1)})] for values in scores]
    metrics = {metric.name: metric for metric in metrics_of(None, items, judged)}
    for name, value in official(rows, scores).items():
        assert metrics[name].value == pytest.approx(value, rel=1e-9)
    assert next(iter(metrics)) == "Soft-TIFA GM"
    failed = sum(value is None for values in scores for value in values)
    assert metrics["Soft-TIFA GM"].failed == metrics["Soft-TIFA AM"].failed == failed


def test_an_answer_that_was_not_told_counts_with_the_most_that_it_can_have(tmp_path):
    judgement = probable({"1": 0.81, "2": 0.0}, {"2": 0.01})
    assert geometric_mean(judgement) == pytest.approx(0.09)
    assert geometric_mean(judgement, unseen=False) == 0.0
    assert geometric_mean(MISSING) == Failed("the image could not be drawn")
    row = {"prompt": "p", "atom_count": 3, "vqa_list": [["Is it?", "Yes"]] * 2, "skills": ["object", "verb"]}
    metrics = {m.name: m for m in metrics_of(None, read_prompts(write(tmp_path, [row])), [[judgement]])}
    assert metrics["Soft-TIFA AM"].value == pytest.approx(0.41)
    assert metrics["verb (AM)"].value == pytest.approx(0.01)
    assert metrics["Soft-TIFA GM, unseen answers as 0"].value == 0.0


def test_an_image_that_is_missing_counts_all_its_questions(tmp_path):
    items = read_prompts(write(tmp_path, random_rows(Random(0), 1)))
    metrics = metrics_of(None, items, [[MISSING]])
    assert math.isnan(metrics[0].value)
    assert metrics[0].failed == len(items[0].truth["questions"])


def test_questions_have_the_spellings_of_their_answers(tmp_path):
    row = {
        "prompt": "two red cats",
        "atom_count": 3,
        "vqa_list": [["How many cats are in the image?", "two"], ["Are the cats red?", "Yes"]],
        "skills": ["count", "attribute"],
    }
    (item,) = read_prompts(write(tmp_path, [row]))
    assert [one["expected"] for one in item.truth["questions"]] == [["two", "2"], ["yes"]]
    assert (item.categories, item.truth["atom_count"]) == (("3 atoms",), 3)
    for wrong in ({**row, "skills": ["count"]}, {"prompt": "a"}, {**row, "vqa_list": [["How many?", "lots"]] * 2}):
        with pytest.raises(ValueError, match="line 1 is no row of GenEval 2"):
            read_prompts(write(tmp_path, [wrong]))
    with pytest.raises(ValueError, match="has a prompt twice"):
        read_prompts(write(tmp_path, [row, row]))


def test_the_suite_asks_for_probabilities(tmp_path, monkeypatch):
    path = write(tmp_path, random_rows(Random(1), 4))
    files = {path.name: ("data", hashlib.sha256(path.read_bytes()).hexdigest())}
    monkeypatch.setitem(data.SOURCES, "geneval2", replace(data.SOURCES["geneval2"], files=files))
    told = [{"Yes": math.log(0.6), "yes": math.log(0.1), "two": math.log(0.2)}]
    with mock_endpoint(lambda body, count: Reply("Yes", logprobs=told)) as server:
        endpoint = Endpoint(server.url, "Qwen/Qwen3-VL-8B-Instruct")
        suite = geneval2(SuiteOptions(data=tmp_path, endpoints=(endpoint,), num=2))
        (judge,) = suite.judges
        judged = [{judge.name: judge([Image.new("RGB", (8, 8))], [item])} for item in suite.items]
    assert (suite.title, suite.images_per_prompt) == ("GenEval 2", 1)
    assert suite.source["licence"] == "CC-BY-NC-4.0 (not for commercial use)"
    assert server.bodies[0]["messages"][-1]["content"][-1]["text"].endswith(" Answer in one word.")
    expected = [gmean([0.2 if one["category"] == "count" else 0.7 for one in item.truth["questions"]])
                for item in suite.items]  # fmt: skip
    assert suite.metrics(suite.items, judged)[0].value == pytest.approx(sum(expected) / 2)
    other = geneval2(SuiteOptions(data=tmp_path, endpoints=(Endpoint("http://localhost:1/v1", "small"),)))
    assert geneval2(SuiteOptions(data=tmp_path)).judges == ()
    assert other.title == "GenEval 2, judged by small"
    assert "small answers in place of Qwen3-VL-8B-Instruct." in other.deviations
