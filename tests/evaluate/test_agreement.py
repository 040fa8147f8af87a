import math

import pytest

from leanlens.evaluate.agreement import agreement, agreements, flip_metric, majority, win_metric
from leanlens.evaluate.judges.pairs import PairJudgement
from leanlens.score.protocol import Failed

LATE = Failed("timeout")


def pairs(*results):
    return [PairJudgement(result) for result in results]


def test_the_win_rate_counts_agreeing_answers_alone():
    judged = [pairs(1.0, None), pairs(0.5), pairs(None), pairs(0.0, 1.0), pairs(LATE)]
    wins = win_metric("one over other", judged)
    assert (wins.value, wins.num, wins.failed) == (pytest.approx((1 + 0.5 + 0.5) / 3), 3, 1)
    flips = flip_metric("flips", judged)
    assert (flips.value, flips.num, flips.failed) == (pytest.approx((0.5 + 0 + 1 + 0) / 4), 4, 1)


def test_cohens_kappa_of_a_worked_table():
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed 0.7, by chance 0.5."""
    table = [(1.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 10 + [(0.0, 0.0)] * 15
    found = agreement([a for a, _ in table], [b for _, b in table])
    assert (found.kappa, found.share, found.num) == (pytest.approx(0.4), pytest.approx(0.7), 50)


def test_only_what_both_judged_counts():
    found = agreement([1.0, 0.0, None, LATE, 0.5], [1.0, 0.0, 1.0, 1.0, 0.5])
    assert (found.kappa, found.share, found.num) == (1.0, 1.0, 3)
    assert agreement([1.0, 0.0], [0.0, 1.0]).kappa == -1.0
    for first, second, num in (([1.0, 1.0], [1.0, 1.0], 2), ([None], [1.0], 0)):
        found = agreement(first, second)
        assert math.isnan(found.kappa)
        assert found.num == num
    with pytest.raises(ValueError, match="second has 1 results for 2 of the first"):
        agreement([1.0, 0.0], [1.0])


def test_people_are_one_more_judge():
    people = [majority(votes) for votes in ([1.0, 1.0, 0.0], [0.0, 0.5], [1.0, 0.0], [])]
    assert people == [1.0, 0.0, 0.5, None]
    found = agreements({"a": [1.0, 0.0, 0.5, 1.0], "b": [1.0, 1.0, 0.5, 0.0], "people": people})
    assert list(found) == [("a", "b"), ("a", "people"), ("b", "people")]
    assert (found["a", "people"].kappa, found["a", "people"].num) == (1.0, 3)
    assert found["b", "people"].share == pytest.approx(2 / 3)
