from dataclasses import replace

from leanlens.evaluate.results import results_of
from leanlens.evaluate.run import evaluate
from leanlens.evaluate.summary import markdown, render_results, show
from leanlens.evaluate.table import render_table
from tests.evaluate.stub import Brightness, Painter, stub_suite


def test_tables_name_every_model_with_its_intervals(tmp_path):
    done = evaluate(stub_suite(deviations=("A deviation.",)), [lambda: Painter("a"), lambda: Painter("b")], tmp_path)
    text = render_results(results_of(done), {})
    assert text.startswith("# Stub\n\n4 prompts, 2 images for each, seed 0\n")
    assert "| b against a | even | 0.0 (" in text
    assert "## Criteria, judged by brightness\n\nShare of the prompts that meet a criterion in full.\n" in text
    assert "## Categories, bright" in text
    assert "- A deviation." in text


def test_a_suite_without_a_judge_says_so(tmp_path):
    suite = replace(stub_suite(), judges=(), metrics=lambda items, judged: [])
    assert "Nothing was judged" in render_results(results_of(evaluate(suite, [Painter], tmp_path)), {})


def test_a_number_is_shown_in_its_unit():
    metric = {"value": 0.5, "low": 0.25, "high": 0.75}
    assert show({**metric, "unit": "share"}) == "50.0 (25.0 to 75.0)"
    assert show({**metric, "unit": ""}) == "0.5 (0.25 to 0.75)"
    assert show({**metric, "low": None}) == "50.0"
    assert show(None) == ""
    assert markdown(["a"], [["x|y"]]) == "| a |\n|---|\n| x\\|y |"
    assert Brightness().criteria


def test_a_name_cannot_end_its_cell():
    assert markdown(["a|b\nc"], [["d\r\n|"]]).splitlines() == ["| a\\|b c |", "|---|", "| d \\| |"]
    assert render_table({"a|b\nc": {}}).splitlines()[0] == "| criterion | a\\|b c |"
