import json
from dataclasses import replace

import numpy as np

from leanlens.evaluate.judges.pairs import PairJudgement
from leanlens.evaluate.results import results_of, write_results
from leanlens.evaluate.run import evaluate, rebuilt
from leanlens.evaluate.summary import render_results
from leanlens.score.protocol import Failed
from tests.evaluate.stub import Painter, stub_suite


class Brighter:
    """The brighter image wins; one item makes it contradict itself, another makes it fail."""

    def __init__(self, name="eyes", contrary=False):
        self.name, self.contrary, self.asked = name, contrary, 0

    def identity(self):
        return {"version": 1}

    def __call__(self, first, second, items):
        self.asked += len(items)
        return [self._judge(*each) for each in zip(first, second, items, strict=True)]

    def _judge(self, one, other, item):
        if item.id == "00001":
            return PairJudgement(None, {"flipped": True})
        if item.id == "00002":
            return PairJudgement(Failed("no answer"))
        better = float(np.asarray(one).mean() > np.asarray(other).mean())
        return PairJudgement(1 - better if self.contrary else better, {"answers": ["A", "B"]})


def test_every_two_models_are_compared_and_failures_and_flips_counted(tmp_path):
    judges = (Brighter(), Brighter("glasses", contrary=True))
    suite = replace(stub_suite(6), pair_judges=judges)
    painters = [Painter("a"), Painter("b"), Painter("c", fails={"prompt 5"})]
    done = evaluate(suite, [lambda one=one: one for one in painters], tmp_path)
    results = write_results(done, tmp_path)
    assert [(one["judge"], one["first"], one["second"]) for one in results["pairs"]] == [
        (judge, first, second) for judge in ("eyes", "glasses") for first, second in ("ab", "ac", "bc")
    ]
    one, other = results["pairs"][0], results["pairs"][3]
    assert (one["num"], one["failed"]) == (4, 2)
    assert one["flips"] == round(1 / 5, 6)
    assert one["wins_of_second"] + other["wins_of_second"] == 1
    assert one["low"] <= one["wins_of_second"] <= one["high"]
    assert results["pairs"][1]["failed"] == 4  # two images of a prompt that failed, and two that were not drawn
    assert results["agreements"] == [{"judges": ["eyes", "glasses"], "kappa": results["agreements"][0]["kappa"],
                                      "share": 0.0, "num": 8 + 6 + 6}]  # fmt: skip
    first = results["items"][0]["pairs"][0]
    assert (first["judge"], first["image"], first["result"] in (0, 1)) == ("eyes", 0, True)
    assert results["items"][2]["pairs"][0]["result"] == {"failed": "no answer"}
    text = render_results(results, {})
    assert "## Pairs, each shown in both orders" in text
    assert "eyes and glasses: Cohen's kappa" in text
    before = (tmp_path / "results.json").read_bytes()
    write_results(rebuilt(suite, tmp_path), tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_without_pair_judges_nothing_is_written(tmp_path):
    results = results_of(evaluate(stub_suite(), [lambda: Painter("a"), lambda: Painter("b")], tmp_path))
    assert "pairs" not in results
    assert "pairs" not in json.dumps(results)
