import pytest

from leanlens.endpoint import Endpoint
from leanlens.evaluate.metric import mean_metric
from leanlens.evaluate.suite import Item, Judgement
from leanlens.evaluate.suites import asking
from leanlens.evaluate.suites.asking import (
    general_question,
    judge_names,
    judged_by,
    metrics_per_judge,
    question_judges,
    refuse_scorer,
    text_judges,
    warn_of_none,
)
from leanlens.evaluate.suites.options import SuiteOptions


def test_judges_are_named_after_their_models():
    assert judge_names(["owner/one", "two", "other/one"]) == ["one", "two", "one 2"]
    endpoints = tuple(Endpoint(f"http://localhost:{port}/v1", "someone/judge") for port in (1, 2))
    first, second = question_judges(SuiteOptions(endpoints=endpoints), "dpg", suffix="One word.")
    assert (first.name, second.name, second.endpoint) == ("judge", "judge 2", endpoints[1])
    assert first.suffix == "One word."


def test_titles_and_warnings_tell_who_judges():
    judges = question_judges(SuiteOptions(endpoints=(Endpoint("http://localhost:1/v1", "one"),)), "dpg")
    assert judged_by("DPG-Bench", judges) == "DPG-Bench, judged by one"
    assert judged_by("DPG-Bench", ()) == "DPG-Bench, not judged"
    assert warn_of_none("dpg", judges) == ()
    (warning,) = warn_of_none("dpg", ())
    assert warning.endswith("judged once the command is run again with a vision model (--judge)")


def test_no_endpoint_is_an_error():
    with pytest.raises(ValueError, match="dpg is judged by a vision model: give an endpoint"):
        question_judges(SuiteOptions(), "dpg")


def test_metrics_of_later_judges_are_named_after_them():
    endpoints = (Endpoint("http://localhost:1/v1", "one"), Endpoint("http://localhost:1/v1", "two"))
    judges = question_judges(SuiteOptions(endpoints=endpoints), "dpg")
    judged = [{"one": [Judgement({"questions": 1.0})], "two": [Judgement({"questions": 0.0})]}]

    def means(judge, items, judged):
        return [mean_metric("overall", [[each.score["questions"] for each in row] for row in judged])]

    found = metrics_per_judge(judges, [Item("a", "a")], judged, means)
    assert [(metric.name, metric.value) for metric in found] == [("overall", 1.0), ("overall, two", 0.0)]


def letters(transcript, item):
    return {"letters": 1.0}, {"found": 1}


def test_text_is_read_by_each_endpoint_and_by_the_recogniser(monkeypatch):
    options = SuiteOptions(endpoints=(Endpoint("http://one/v1", "a/Reader"), Endpoint("http://two/v1", "Reader")))
    monkeypatch.setattr(asking, "recogniser_identity", lambda: None)
    assert [judge.name for judge in text_judges(options, ("letters",), letters)] == ["Reader", "Reader 2"]
    assert text_judges(SuiteOptions(), ("letters",), letters) == ()
    assert "pip install" in warn_of_none("longtext", (), ocr=True)[0]
    monkeypatch.setattr(asking, "recogniser_identity", lambda: {"rapidocr": "1"})
    monkeypatch.setattr("leanlens.evaluate.judges.text.recogniser_identity", lambda: {"rapidocr": "1"})
    judges = text_judges(options, ("letters",), letters)
    assert [judge.name for judge in judges] == ["Reader", "Reader 2", "rapidocr"]
    assert judges[2].identity()["reader"] == "rapidocr"


def test_the_general_question_has_the_prompt():
    (question,) = general_question("a red cat")
    assert question["id"] == "1"
    assert question["question"].endswith("Prompt: a red cat")


def test_a_suite_without_a_scorer_of_its_own_refuses_one():
    refuse_scorer("compbench", SuiteOptions())
    with pytest.raises(ValueError, match=r"invalid scorer .python a\.py.: compbench is judged by vision models alone"):
        refuse_scorer("compbench", SuiteOptions(scorer="python a.py"))
