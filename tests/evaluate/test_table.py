import pytest

from leanlens.evaluate.table import count_rates, rates_as_json, rates_from_json, render_table, wilson


def test_wilson_agrees_with_published_values():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=2e-4)
    assert wilson(20, 20)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="yes 3 of num 2 is not accepted"):
        wilson(3, 2)


def test_only_pictures_that_a_criterion_applies_to_count():
    scores = [{"object": 1.0, "count": None}, {"object": 0.0, "count": None}, {"object": 0.5, "count": None}]
    rates = count_rates(scores, ("object", "count"))
    assert rates["count"] is None
    assert (rates["object"].yes, rates["object"].num, rates["object"].mean) == (1, 3, 0.5)
    assert rates["object"].low < 1 / 3 < rates["object"].high


def test_rates_survive_json():
    rates = count_rates([{"object": 1.0, "text": None}], ("object", "text"))
    rows = rates_as_json(rates)
    assert rates_as_json(rates_from_json(rows)) == rows


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
