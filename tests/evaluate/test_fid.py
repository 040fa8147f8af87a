import numpy as np
import pytest

from leanlens.evaluate import fid


def test_distance_of_features_is_frechets():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(400, 4)), rng.normal(size=(300, 4)) @ np.diag([1, 2, 1, 0.5]) + 1
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    assert fid.distance_of_features(one, other) == pytest.approx(expected, rel=1e-6)
    assert fid.distance_of_features(one, one) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="a set of 1 pictures has no covariance"):
        fid.distance_of_features(one[:1], other)


def test_without_the_package_there_is_no_distance(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(fid, "find_spec", lambda name: None)
    monkeypatch.setattr(fid, "_inception", fid._inception.__wrapped__)
    assert fid.frechet_distance([], []) is None
