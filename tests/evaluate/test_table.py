from leanlens.evaluate.rates import compare, count_failures, count_rates
from leanlens.evaluate.table import describe_failures, render_table
from leanlens.score.protocol import Failed


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
