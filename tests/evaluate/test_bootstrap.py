import numpy as np
import pytest

from leanlens.evaluate.bootstrap import percentiles, resampled


def test_resamples_sum_rows_drawn_with_replacement():
    drawn = resampled(np.eye(5), resamples=4000)
    assert drawn.shape == (4000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert drawn.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.06)  # n p (1 - p) with n = 5 and p = 1/5
    assert np.cov(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(-0.2, abs=0.05)


def test_strata_keep_their_number_of_rows():
    strata = ["a"] * 20 + ["b"] * 30
    columns = np.array([[one == "a", one == "b"] for one in strata], dtype=float)
    drawn = resampled(columns, strata, resamples=50)
    assert (drawn == [20, 30]).all()
    assert (resampled(columns, None, resamples=50)[:, 0] != 20).any()


@pytest.mark.parametrize("sizes", [[1] * 40, [3, 19, 60], [5, 100]])
def test_small_strata_are_drawn_together(sizes):
    """A stratum of one row would never vary."""
    strata = [f"{at}" for at, size in enumerate(sizes) for _ in range(size)]
    values = np.arange(len(strata), dtype=float)[:, None]
    drawn = resampled(values, strata, resamples=3000)
    assert drawn.std() > 0.5 * values.std() * np.sqrt(len(strata))
    first = resampled((np.array(strata) == "0")[:, None], strata, resamples=200)
    assert (first != sizes[0]).any()


def test_columns_share_their_resamples_and_a_seed_gives_the_same():
    values = np.random.default_rng(0).normal(size=(30, 1))
    drawn = resampled(np.hstack([values, 2 * values]), seed=3, resamples=100)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0])
    np.testing.assert_allclose(resampled(values, seed=3, resamples=100)[:, 0], drawn[:, 0])
    assert (np.abs(resampled(values, seed=4, resamples=100)[:, 0] - drawn[:, 0]) > 0.01).any()


def test_many_rows_are_resampled_in_parts(monkeypatch):
    monkeypatch.setattr("leanlens.evaluate.bootstrap._CELLS", 70)
    drawn = resampled(np.ones((30, 1)), ["a"] * 30, resamples=5)
    assert (drawn == 30).all()
    assert drawn.shape == (5, 1)


def test_percentiles_leave_out_what_has_no_value():
    assert percentiles(np.array([np.nan, *np.linspace(0, 1, 201)])) == pytest.approx((0.025, 0.975))
    assert all(np.isnan(percentiles(np.array([np.nan]))))


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="strata has 1 entries for 2 prompts"):
        resampled(np.ones((2, 1)), ["a"])
    with pytest.raises(ValueError, match="invalid sums"):
        resampled(np.ones((0, 1)))
