import numpy as np
import pytest

from leanlens.evaluate.metric import group_metric, mean_metric, mean_of_ratios, ratio
from leanlens.score.protocol import Failed

VALUES = [[1.0, 0.0], [1.0, None], [Failed("late"), 0.5], [None, None], [Failed("late"), Failed("late")]]


def test_every_prompt_or_every_image_counts():
    by_prompt, by_image = mean_metric("object", VALUES), mean_metric("object", VALUES, per_image=True)
    assert by_prompt.value == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert by_image.value == pytest.approx(2.5 / 4)
    assert (by_prompt.num, by_prompt.failed) == (3, 3)


def test_groups_count_alike():
    metric = group_metric("overall", VALUES, ["a", "a", "b", "b", "c"])
    assert metric.value == pytest.approx((0.75 + 0.5) / 2)  # c has nothing that was judged
    assert metric.num == 3


def test_a_resample_recomputes_the_formula():
    metric = group_metric("overall", VALUES, ["a", "a", "b", "b", "c"])
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 0, 0]], float)
    np.testing.assert_allclose(metric.formula(weights @ metric.sums), [0.625, 0.5])


def test_nothing_counted_is_not_a_number():
    assert np.isnan(mean_metric("object", [[None], [Failed("x")]]).value)
    assert np.isnan(ratio(np.zeros((3, 2)))).all()
    assert np.isnan(mean_of_ratios(np.zeros(4)))
