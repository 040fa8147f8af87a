from dataclasses import replace

import numpy as np
import pytest

from leanlens.evaluate.rates import (
    Rate,
    compare,
    count_failures,
    count_rates,
    differences_as_json,
    differences_from_json,
    met_by_prompt,
    rates_as_json,
    rates_from_json,
    wilson,
)
from leanlens.score.protocol import Failed


def test_wilson_agrees_with_published_values():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=2e-4)
    assert wilson(20, 20)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="invalid yes 3 of num 2"):
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


def scores_of(*values):
    return [{"object": value} for value in values]


def test_seeds_of_a_prompt_count_as_one():
    rates = count_rates(scores_of(1.0, 0.5, 1.0, 0.0, 0.0, 0.0), ("object",), num=2)
    assert (rates["object"].yes, rates["object"].num) == (pytest.approx(2 / 3), 2)
    assert rates["object"].rate == pytest.approx(1 / 3)
    assert rates["object"].mean == pytest.approx(2.5 / 6)
    assert (rates["object"].low, rates["object"].high) == wilson(2 / 3, 2)
    assert count_rates(scores_of(1.0, 1.0, None, None), ("object",), 2)["object"].num == 1
    with pytest.raises(ValueError, match="scores has 3 entries for 2 prompts"):
        met_by_prompt(scores_of(1.0, 1.0, 1.0), "object", 2)


def test_a_difference_is_paired_by_prompt():
    hard = [at % 2 == 0 for at in range(60)]  # what the two have in common cancels out
    first = scores_of(*(0.0 if one else 1.0 for one in hard))
    second = scores_of(*(0.0 if one and at % 10 else 1.0 for at, one in enumerate(hard)))
    gain = compare(first, second, ("object",), 60)["object"]
    assert gain.mean == pytest.approx(6 / 60)
    assert 0 <= gain.low < gain.mean < gain.high < 0.2  # unpaired it would reach from below -0.1
    assert compare(first, second, ("object",), 60) == {"object": gain}
    assert compare(second, first, ("object",), 60)["object"].mean == -gain.mean


def test_seeds_of_a_prompt_are_drawn_together():
    """Five prompts with 20 equal pictures each say no more than five pictures."""
    values = [0.0, 0.0, 1.0, 1.0, 1.0]
    before = scores_of(*[0.0] * 5)
    once = compare(before, scores_of(*values), ("object",), 5)["object"]
    many = compare(scores_of(*[0.0] * 100), scores_of(*np.repeat(values, 20)), ("object",), 5)["object"]
    assert many == once
    assert (once.low, once.high, once.num) == (pytest.approx(0.2), 1.0, 5)


def test_only_prompts_that_are_judged_both_times_differ():
    gain = compare(scores_of(0.0, None, 1.0), scores_of(1.0, 1.0, None), ("object",), 3)
    assert gain["object"].num == 1
    assert compare(scores_of(None), scores_of(1.0), ("object",), 1) == {"object": None}
    rows = differences_as_json({"object": None, "count": gain["object"]})
    assert rows == {"object": None, "count": {"mean": 1.0, "low": 1.0, "high": 1.0, "num": 1}}
    assert differences_from_json(rows) == {"object": None, "count": gain["object"]}


FAILED = Failed("timeout")


def test_a_failed_judgement_is_neither_yes_nor_no_and_is_counted():
    judged = [{"object": 1.0}, {"object": 0.0}, {"object": 1.0}, {"object": None}]
    with_failures = [*judged[:3], {"object": FAILED}, judged[3]]
    (plain,) = count_rates(judged, ("object",)).values()
    (rate,) = count_rates(with_failures, ("object",)).values()
    assert rate == replace(plain, failed=1)
    assert met_by_prompt([{"object": 1.0}, {"object": FAILED}, *scores_of(FAILED, None)], "object", 2) == [1.0, None]
    assert count_rates([{"object": FAILED}], ("object",))["object"] == Rate(0, 0, 0.0, 0.0, 1.0, 0.0, 1)
    kept = compare(judged, [{"object": FAILED}, *judged[1:]], ("object",), 4)["object"]
    assert (kept.num, kept.mean) == (2, 0.0)


def test_rates_with_failures_survive_json_and_those_without_are_written_as_before():
    rates = count_rates([{"a": 1.0, "b": FAILED}, {"a": FAILED, "b": FAILED}], ("a", "b"))
    assert rates_from_json(rates_as_json(rates)) == {"a": replace(rates["a"], low=0.2065), "b": rates["b"]}
    assert "failed" not in rates_as_json(count_rates([{"a": 1.0}], ("a",)))["a"]


@pytest.mark.parametrize(("failed", "incomplete"), [(0, False), (5, False), (6, True)])
def test_a_suite_with_more_than_five_percent_failed_is_incomplete(failed, incomplete):
    scores = scores_of(*[FAILED] * failed, *[1.0] * (100 - failed), *[None] * 50)
    found = count_failures(scores)
    assert (found.failed, found.num, found.is_incomplete) == (failed, 100, incomplete)
    assert found.reasons == ({"timeout": failed} if failed else {})
