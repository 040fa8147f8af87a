"""The simulations of differences in a short version: what they simulate has the properties that they state."""

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
