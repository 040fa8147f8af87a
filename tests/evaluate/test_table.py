import pytest

from leanlens.evaluate.rates import compare, count_failures, count_rates
from leanlens.evaluate.table import describe_failures, render_card, render_table
from leanlens.score.protocol import Failed
from tests.evaluate import comparison


def test_the_table_has_a_column_for_each_row_of_results():
    first = count_rates([{"two_objects": 1.0}] * 10, ("two_objects",))
    text = render_table({"nano": first, "real": {"two_objects": None}}, {"nano": 31.26, "real": None})
    assert text.splitlines() == [
        "| criterion | nano | real |",
        "|---|---|---|",
        "| two objects | 1.00 (0.72 to 1.00) of 10 |  |",
        "| FID (fid-helper) | 31.3 |  |",
    ]
    assert "FID" not in render_table({"nano": first}, {"nano": None})


def test_two_ways_of_asking_stand_side_by_side_with_their_difference():
    off, default = (
        [{"object": value} for value in (0.0, 1.0, 0.0, 0.0)],
        [{"object": value} for value in (1.0, 1.0, 0.0, 1.0)],
    )
    rows = {name: count_rates(row, ("object",), 2) for name, row in (("off", off), ("default", default))}
    text = render_table({**rows, "other": rows["off"]}, None, compare(off, default, ("object",), 2))
    assert text.splitlines()[0] == "| criterion | off | default | difference | other |"
    assert text.splitlines()[2].split(" | ")[:4] == [
        "| object",
        "0.25 (0.03 to 0.80), 0.5 of 2",
        "0.75 (0.20 to 0.97), 1.5 of 2",
        "+0.50 (+0.50 to +0.50)",
    ]
    assert render_table(rows, {"off": 3.0, "default": 2.0}, {"object": None}).splitlines()[-1] == (
        "| FID (fid-helper) | 3.0 | 2.0 |  |"
    )


def test_failures_stand_in_the_cell_and_below():
    scores = {"nano": [{"object": 1.0, "text": Failed("timeout")}] * 3 + [{"object": Failed("empty"), "text": None}]}
    text = render_table({name: count_rates(row, ("object", "text")) for name, row in scores.items()})
    assert "of 3, 1 failed |" in text
    assert "| text | not judged, 3 failed |" in text
    below = describe_failures({name: count_failures(row) for name, row in scores.items()})
    assert below == "nano: incomplete: 4 of 7 judgements failed (3 x timeout; 1 x empty)\n"
    assert describe_failures({"nano": count_failures([{"object": 1.0}])}) == ""


def test_a_model_card_says_everything_that_a_reader_needs():
    found = comparison.results(4)
    found["items"][0]["images"]["lens"][0]["reasoned"] = {"original": "a", "prompt": "b", "source": "scenes 1"}
    text = render_card(found)
    assert text.splitlines()[:6] == [
        "### GenEval",
        "",
        "| model | overall | count |",
        "|---|---|---|",
        "| lens | 90.0 (85.0 to 95.0) | 50.0 (45.0 to 55.0) |",
        "| flux | 65.0 (60.0 to 70.0) | 50.0 (45.0 to 55.0) |",
    ]
    for line in (
        "- flux less lens, overall: -25.0 points (-40.0 to -10.0), p = 0.02; better on 0, equal on 2 and worse on 2 "
        "of 4 prompts",
        "- Suite: GenEval, 4 prompts, 1 image each, seed 7; leanlens 1.0",
        "- Judge: first (3, weights abababababab), second",
        "- Rewriting, lens: 1 of 4 prompts rewritten by scenes 1",
        "- Rewriting, flux: prompts drawn as written",
        "- Intervals: 95 %, paired bootstrap over prompts; p after Holm",
        "- Deviation from the official protocol: another detector",
    ):
        assert line in text.splitlines()


def test_a_model_card_gives_an_incomplete_model_no_number():
    found = comparison.fail(comparison.results(4), "flux", 3)
    text = render_card(found, ["overall"])
    assert "| flux | incomplete |" in text
    assert "65.0" not in text
    assert "less" not in text
    assert "- Failed, flux: 3 of 12 judgements failed (3 x timeout)" in text
    assert "- Incomplete, so not scored: flux" in text


def test_a_model_card_says_what_judges_make_of_pairs():
    found = comparison.results(2)
    pair = {"judge": "a", "first": "lens", "second": "flux", "wins_of_second": 0.25, "low": 0.1, "high": 0.4, "num": 19}
    text = render_card({**found, "pairs": [{**pair, "flips": 0.1, "failed": failed} for failed in (1, 2)]})
    assert "- a, pairs in both orders: flux against lens wins 25.0 (10.0 to 40.0) % of 19 prompts, 1 failed\n" in text
    assert "- a, pairs in both orders: flux against lens: incomplete, 2 failed\n" in text


def test_a_model_card_shows_other_units_and_controls():
    found = comparison.results(2)
    found["models"]["flux"]["role"] = "control"
    found["suite"]["deviations"] = []
    for row in found["metrics"].values():
        row[0] |= {"unit": "", "name": "FID | x", "value": 31.256, "low": None, "high": None}
        row[1]["value"] = None
    found["comparisons"][0]["metric"] = "FID | x"
    text = render_card(found)
    assert "| lens | 31.26 |  |" in text
    assert "| model | FID \\| x | count |" in text
    assert "| flux (control) |" in text
    assert "-0.2 (-0.4 to -0.1)" in text
    assert "Deviation from the official protocol: none" in text
    with pytest.raises(ValueError, match="invalid metric 'x': expected one of FID"):
        render_card(found, ["x"])
