import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from leanlens.evaluate.draw import KeptImage
from leanlens.evaluate.results import failures_of, part_of, results_of, write_results
from leanlens.evaluate.results_json import as_text, rounded
from leanlens.evaluate.run import Row, evaluate
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Failed
from tests.evaluate.stub import Brightness, Painter, stub_suite


def test_failures_are_counted_by_model_and_category_and_leave_no_headline(tmp_path):
    judge = Brightness()
    judge.fails = {"00001"}
    suite = stub_suite(10, judge)
    done = evaluate(suite, [lambda: Painter("a"), lambda: Painter("b", fails={"prompt 2"})], tmp_path)
    results = write_results(done, tmp_path)
    one, other = results["failures"]["a"], results["failures"]["b"]
    assert (one["failed"], one["num"], one["incomplete"]) == (2, 38, True)
    assert one["categories"] == {"b": {"failed": 2, "num": 18}}
    assert other["reasons"] == {"not drawn: the prompt was refused": 4, "no answer": 2}
    assert other["categories"]["a"]["failed"] == 4
    assert results["metrics"]["a"][0]["failed"] == 2
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '"name":"a","role":"model"' in report
    assert '"incomplete":true' in report
    assert results["items"][2]["images"]["b"][0] == {
        "key": done.rows[1].images[2][0].key,
        "seed": 2,
        "file": None,
        "failed": "the prompt was refused",
        "judgements": {
            "brightness": {
                "score": {name: {"failed": "not drawn: the prompt was refused"} for name in ("bright", "even")}
            }
        },
    }
    table = (tmp_path / "table.md").read_text()
    assert "| even | incomplete | incomplete |" in table
    assert "a: incomplete, no headline: 2 of 38 judgements failed (2 x no answer); b 2 of 18" in table
    assert "## Differences" not in table


def test_every_number_has_its_interval_and_the_raw_judgement_is_kept(tmp_path):
    results = results_of(evaluate(stub_suite(), [lambda: Painter("a"), lambda: Painter("b")], tmp_path))
    metric = results["metrics"]["a"][1]
    assert metric == {"name": "even", "unit": "share", "value": 0.5} | {
        name: metric[name] for name in ("low", "high", "num", "failed")
    }
    assert 0 <= metric["low"] < 0.5 < metric["high"] <= 1
    assert set(results["categories"]["a"]) == {"a", "b"}
    assert results["categories"]["a"]["a"]["num"] == 2
    even = next(one for one in results["comparisons"] if one["metric"] == "even")
    assert (even["difference"], even["wins"], even["ties"], even["losses"]) == (0.0, 0, 4, 0)
    image = results["items"][0]["images"]["a"][0]
    assert "mean" in image["judgements"]["brightness"]["raw"]
    assert json.loads(as_text(results)) == results


class Reward(Brightness):
    """Scores brightness as a reward, which is no share of 1."""

    def _judge(self, image, item):
        found = super()._judge(image, item)
        return replace(found, score={**found.score, "bright": found.raw["mean"] - 100})


def test_a_reward_has_no_rate(tmp_path):
    results = write_results(
        evaluate(stub_suite(4, Reward()), [lambda: Painter("a"), lambda: Painter("b")], tmp_path), tmp_path
    )
    for name in ("a", "b"):
        assert results["rates"]["brightness"][name]["bright"] is None
        assert results["rates"]["brightness"][name]["even"]["rate"] == 0.5


def test_what_was_measured_stands_apart(tmp_path):
    results = write_results(evaluate(stub_suite(), [Painter], tmp_path), tmp_path)
    assert results["models"]["painter"]["costs"] == {"flop": 1000, "weight_bytes": 10}
    assert "seconds" not in json.dumps(results)
    costs = json.loads((tmp_path / "costs.json").read_text())["painter"]
    assert costs["seconds"] == {"median": 0.25, "mean": 0.25, "num": 8}
    assert costs["peak_bytes"] == 5
    assert costs["machine"]


def test_deviations_are_said(tmp_path):
    suite = stub_suite(deviations=("Another judge than the official one.",))
    done = evaluate(suite, [Painter], tmp_path, seeds=1)
    assert results_of(done)["suite"]["deviations"] == [
        "Another judge than the official one.",
        "1 image for each prompt; the official protocol has 2.",
    ]


def test_a_part_of_a_metric_counts_its_own_prompts(tmp_path):
    done = evaluate(stub_suite(), [Painter], tmp_path)
    metric = done.suite.metrics(done.rows[0].items, done.rows[0].by_item())[1]
    assert part_of(metric, metric.sums[:, 0] > 0).value == 1


def test_the_sheet_shows_images_and_verdicts(tmp_path):
    write_results(evaluate(stub_suite(), [lambda: Painter("a"), lambda: Painter("b")], tmp_path), tmp_path)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 200, 2 * 260)


@pytest.mark.parametrize(("value", "expected"), [(None, None), (float("nan"), None), (0.12345678, 0.123457), (1, 1.0)])
def test_numbers_are_rounded_and_finite(value, expected):
    assert rounded(value) == expected
    assert "NaN" not in as_text({"a": [float("inf")]})


def test_an_image_in_ten_that_was_not_drawn_makes_a_row_incomplete_however_many_questions_the_others_have():
    asked = Judgement({"questions": 1.0}, {"num": 10, "failed": {}, "met": {}, "values": {}})
    lost = Judgement({"questions": Failed("not drawn: refused")})
    items = tuple(Item(f"{index:05d}", "a fox") for index in range(10))
    images = [[KeptImage("k", 0, Path("k.png") if index else None, failed="" if index else "refused")]
              for index in range(10)]  # fmt: skip
    judged = {"asks": [[asked] if index else [lost] for index in range(10)]}
    found = failures_of(Row("a", "model", {}, {}, items, images, judged))
    assert (found["failed"], found["num"], found["incomplete"]) == (1, 91, True)
    bare = failures_of(Row("a", "model", {}, {}, items, images))
    assert (bare["failed"], bare["num"], bare["reasons"]) == (1, 10, {"not drawn: refused": 1})
