"""The simulations of intervals in a short version: what they simulate has the properties that they state."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import intervals

        yield intervals
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_simulated_models_have_their_rates_and_correlation(bench):
    first, second = bench.correlated(0.85, 0.9, 200_000, np.random.default_rng(0))
    assert (first.mean(), second.mean()) == pytest.approx((0.85, 0.9), abs=0.004)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.5, abs=0.01)
    grouped, other, strata = next(bench.by_category(1))
    assert grouped.sums.shape == (len(strata), 12)
    assert grouped.value == pytest.approx(np.mean(bench.CATEGORY_RATES), abs=0.05)
    rows = [metric.sums.sum(axis=1) - bench.IMAGES for metric in (grouped, other)]
    assert 0.5 < np.corrcoef(*rows)[0, 1] < 0.95  # of means of four images, whose own correlation is .5


def test_equal_models_are_equal_and_a_difference_is_found(bench):
    found = bench.equal(bench.plain(0.85, 0.85, 8))["interval holds zero"]
    assert found["share"] >= 0.6
    assert bench.different(bench.plain(0.85, 0.9, 4), 0.05, 0.0)["found"]["share"] >= 0.5
    assert bench.power(0.85, 0.9) == pytest.approx(0.958, abs=0.001)


def test_the_stored_result_is_what_is_claimed(bench):
    import json

    stored = json.loads((ROOT / "benchmarks" / "results" / "intervals.json").read_text())
    found = stored["differences"]
    assert found["equal"]["interval holds zero"]["num"] == 400
    assert 0.93 <= found["equal"]["interval holds zero"]["share"] <= 0.97
    assert found["0.85 and 0.90"]["found"]["share"] >= 0.8
    assert found["0.85 and 0.80"]["found"]["share"] >= 0.8


def test_simulated_voters_click_and_prefer_the_left_as_stated(bench):
    from simulated_votes import STRENGTHS, Study, simulate

    votes, clickers = simulate(Study(voters=60, prompts=40, pairs=20), 0)
    assert len(clickers) == 6
    kinds = [one.kind for one in votes]
    assert (kinds.count("pair"), kinds.count("repeat"), kinds.count("gold")) == (1200, 120, 60)
    golds = [one for one in votes if one.kind == "gold" and one.voter not in clickers]
    right = [one.choice == one.answer for one in golds]
    assert 0.85 < sum(right) / len(right) < 1  # "left" whatever is shown, in a tenth
    assert all(one.choice in (one.answer, "left") for one in golds)
    clicks = [one.choice for one in votes if one.voter in clickers]
    assert 0.15 < clicks.count("bad") / len(clicks) < 0.35
    pairs = [one.choice for one in votes if one.kind == "pair" and one.voter not in clickers]
    assert 0.05 < (pairs.count("left") - pairs.count("right")) / len(pairs) < 0.15
    assert {one.left for one in votes} == set(STRENGTHS)


def test_the_true_order_of_simulated_votes_lies_within_the_intervals(bench):
    pytest.importorskip("scipy")
    from simulated_votes import Study, measure

    found = measure(Study(voters=60, prompts=60), 3, 60, 0)
    assert found["true order within the intervals"]["share"] == 1.0
    assert found["left image on equal images"] > 0.5
