import numpy as np
import pytest

from leanlens.score.packed import pack_weights, read_packed, unpack_weights, write_packed


def weights(rows=37, columns=11):
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(0, 2, (rows + 1, 1)))  # rows of very different sizes
    return (spread * rng.normal(size=(rows + 1, columns))).astype(np.float32)


@pytest.mark.parametrize("most", [3, 20, 63, 127])
def test_weights_return_to_within_half_a_step(most):
    given = weights()
    packed = pack_weights(given, most)
    found = unpack_weights(packed)
    np.testing.assert_array_equal(found[-1], given[-1])
    step = packed["rows"].numpy()[:, None] * packed["columns"].numpy()
    assert (np.abs(found - given)[:-1] <= 0.5001 * step).all()
    assert found.dtype == np.float32


def test_a_file_keeps_facts_key_and_classifiers(tmp_path):
    path = tmp_path / "fits" / "one.safetensors"
    assert read_packed(path) is None
    given = weights()
    write_packed(path, "library", "key", {"concepts": ["duck"]}, {"a": (given, 127), "b": (given[:, :3], 20)})
    kept = read_packed(path)
    assert (kept.library, kept.key, kept.facts) == ("library", "key", {"concepts": ["duck"]})
    np.testing.assert_array_equal(kept.arrays["a"], unpack_weights(pack_weights(given, 127)))
    assert kept.arrays["b"].shape == (38, 3)
    assert path.stat().st_size < 3000


def test_fewer_steps_take_less_room():
    given = np.random.default_rng(1).normal(size=(401, 50)).astype(np.float32)
    sizes = [pack_weights(given, most)["codes"].numel() for most in (127, 63, 31)]
    assert sizes[0] < 0.95 * 400 * 50
    assert sizes[1] < sizes[0] - 0.1 * 400 * 50
    assert sizes[2] < sizes[1] - 0.1 * 400 * 50
