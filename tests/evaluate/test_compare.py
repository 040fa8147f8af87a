import json
from itertools import product

import numpy as np
import pytest

from leanlens.evaluate.compare import compare_metrics, compare_models, holm, interval
from leanlens.evaluate.metric import Metric, group_metric, mean_metric
from leanlens.evaluate.rates import wilson
from leanlens.score.protocol import Failed


def metric_of(values, name="overall", **more):
    return mean_metric(name, [[value] for value in values], **more)


def pairs(num, first, second, correlation, lot):
    """Prompts that two models meet or not, with their rates and the correlation of the two."""
    both = first * second + correlation * np.sqrt(first * (1 - first) * second * (1 - second))
    drawn = lot.choice(4, num, p=(both, first - both, second - both, 1 - first - second + both))
    return np.isin(drawn, (0, 1)).astype(float), np.isin(drawn, (0, 2)).astype(float)


def test_the_difference_is_the_second_minus_the_first_with_wins_and_losses():
    one = compare_metrics(metric_of([1, 0, 0, 1, 0.0]), metric_of([1, 1, 1, 0, 0.0]))
    assert one.difference == pytest.approx(0.2)
    assert (one.num, one.wins, one.ties, one.losses) == (5, 2, 2, 1)
    assert one.low <= one.difference <= one.high
    lower = compare_metrics(metric_of([1, 0, 0, 1, 0.0]), metric_of([1, 1, 1, 0, 0.0]), higher_is_better=False)
    assert (lower.difference, lower.wins, lower.losses) == (one.difference, 1, 2)


def test_the_interval_is_that_of_the_paired_differences():
    """A large sample: the percentile interval of a mean difference is the normal one."""
    first, second = pairs(3000, 0.85, 0.9, 0.5, np.random.default_rng(1))
    one = compare_metrics(metric_of(first), metric_of(second))
    error = np.std(second - first) / np.sqrt(3000)
    assert (one.low, one.high) == pytest.approx(
        (one.difference - 1.96 * error, one.difference + 1.96 * error), abs=0.1 * error
    )


def test_the_official_formula_is_computed_in_each_resample():
    """The mean of category means, of categories of unequal size and rate."""
    groups = ["rare"] * 20 + ["frequent"] * 180
    lot = np.random.default_rng(2)
    first = (lot.random(200) < 0.5).astype(float)
    second = np.where(np.array(groups) == "rare", np.maximum(first, lot.random(200) < 0.6), first)
    one = compare_metrics(*(group_metric("overall", [[v] for v in both], groups) for both in (first, second)), groups)
    rare = np.array(groups) == "rare"
    gains = (second - first)[rare]
    assert one.difference == pytest.approx(gains.mean() / 2)
    assert one.low == pytest.approx(gains.mean() / 2 - 1.96 * gains.std() / np.sqrt(20) / 2, abs=0.03)
    assert (one.wins, one.losses) == (int(gains.sum()), 0)


def test_the_permutation_test_is_that_of_all_swaps():
    first, second = [0, 0, 0, 0, 1, 0, 1, 0.0], [1, 1, 1, 1, 1, 0, 0, 1.0]
    gains = np.subtract(second, first)
    sums = [abs(np.dot(gains, signs)) for signs in product((1, -1), repeat=len(gains))]
    exact = np.mean([one >= abs(gains.sum()) for one in sums])
    assert compare_metrics(metric_of(first), metric_of(second)).p == pytest.approx(exact, abs=0.01)
    assert compare_metrics(metric_of(first), metric_of(first)).p == 1.0


def test_only_prompts_that_count_for_both_are_compared():
    failed = Failed("timeout")
    first, second = metric_of([1, 0, failed, None, 0.0]), metric_of([1, 1, 1, 1, failed])
    one = compare_metrics(first, second)
    assert (one.num, one.difference) == (2, 0.5)
    assert compare_metrics(metric_of([failed]), metric_of([1.0])) is None
    strata = ["a", "b", "a", "b", "a"]
    assert compare_metrics(first, second, strata).num == 2


def test_models_that_never_differ_have_an_interval_of_some_width():
    for num in (1, 12, 600):
        both = metric_of(np.ones(num))
        one = compare_metrics(both, both)
        assert (one.low, one.high) == pytest.approx((-one.high, 3.8415 / (num + 3.8415)), abs=1e-5)
        assert (one.wins, one.ties, one.losses, one.p) == (0, num, 0, 1.0)
    other = metric_of([3.0, 3.0], unit="")
    assert (compare_metrics(other, other).low, compare_metrics(other, other).high) == (0, 0)


def test_all_pairs_of_models_are_adjusted_together():
    lot = np.random.default_rng(0)
    scores = {name: (lot.random(200) < rate).astype(float) for name, rate in (("a", 0.5), ("b", 0.6), ("c", 0.9))}
    metrics = {name: [metric_of(v), metric_of(v[:3], "few")] for name, v in scores.items()}
    metrics["c"] = metrics["c"][:1]
    found = compare_models(metrics)
    assert [(one.first, one.second, one.metric) for one in found] == [
        ("a", "b", "overall"), ("a", "b", "few"), ("a", "c", "overall"), ("b", "c", "overall"),
    ]  # fmt: skip
    assert [one.p_holm for one in found] == holm([one.p for one in found])
    assert compare_models(metrics) == found
    row = json.loads(json.dumps(found[0].as_json()))
    assert list(row) == [
        "first", "second", "metric", "difference", "low", "high", "p", "num", "wins", "ties", "losses", "p_holm",
    ]  # fmt: skip


def test_holm_agrees_with_the_published_rule():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_what_cannot_be_compared_is_named():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_metrics(metric_of([1.0]), metric_of([1.0, 0.0]))
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_metrics(metric_of([1.0]), metric_of([1.0], "other"))


def test_the_interval_of_a_share_of_prompts_is_wilsons():
    assert interval(metric_of([1.0] * 17 + [0.0] * 3)) == pytest.approx(wilson(17, 20))
    assert interval(metric_of([1.0] * 12)) == pytest.approx(wilson(12, 12))
    every = group_metric("overall", [[1.0, 1.0]] * 30, ["a", "b"] * 15)
    assert interval(every) == pytest.approx(wilson(30, 30))
    assert interval(metric_of([1.0, Failed("late"), None])) == pytest.approx(wilson(1, 1))


def test_other_intervals_are_of_the_bootstrap():
    lot = np.random.default_rng(0)
    values = lot.random(400)
    low, high = interval(metric_of(values))
    assert (low, high) == pytest.approx(values.mean() + 1.96 * values.std() / 20 * np.array([-1, 1]), abs=0.003)
    strata = ["a" if value < 0.5 else "b" for value in values]
    inner = interval(metric_of(values), strata)
    assert inner[1] - inner[0] < 0.7 * (high - low)  # what the strata explain does not vary
    assert interval(metric_of([None, Failed("late")])) is None
    assert interval(metric_of([3.0], unit="")) is None


def test_a_share_that_happens_to_be_zero_is_resampled():
    """A share above another is a difference: zero is not its lowest value."""
    above = Metric("above", np.array([[1.0, 1.0], [-1.0, 1.0]] * 20), lambda s: s[..., 0] / s[..., 1], 40)
    low, high = interval(above)
    assert low == pytest.approx(-high, abs=0.06)
    assert high == pytest.approx(1.96 / np.sqrt(40), abs=0.06)


def test_a_metric_of_several_sums_is_recomputed():
    sums = np.array([[1.0, 2.0, 1.0], [3.0, 1.0, 1.0], [2.0, 2.0, 1.0]])
    product_of_means = Metric("product", sums, lambda s: s[..., 0] * s[..., 1] / s[..., 2] ** 2, 3, unit="")
    low, high = interval(product_of_means)
    assert product_of_means.value == pytest.approx(6 * 5 / 9)
    assert low < product_of_means.value < high
