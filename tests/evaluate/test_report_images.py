"""Images that keep within a number of bytes."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate.report_images import STEPS, encode_images


def noise(path, side: int, seed: int = 0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def plain(path, width: int, height: int):
    Image.new("RGB", (width, height), (200, 30, 60)).save(path)
    return path


@pytest.mark.parametrize("most", [4_000, 40_000, 200_000])
def test_noise_keeps_within_the_bytes(tmp_path, most):
    paths = [noise(tmp_path / f"{index}.png", 256, index) for index in range(4)]
    encoded = list(encode_images(paths, most))
    assert sum(len(one.content) for one in encoded) <= most
    assert all(one.content and (one.width, one.height) == (256, 256) for one in encoded)
    shares = [len(one.content) for one in encoded]
    assert min(shares) > 0.4 * most / 4 or most > 150_000  # the bytes are used, and shared


def test_a_small_image_leaves_its_bytes_to_others(tmp_path):
    paths = [plain(tmp_path / "a.png", 64, 32), noise(tmp_path / "b.png", 128)]
    small, large = encode_images(paths, 20_000)
    assert len(small.content) < 500
    assert len(large.content) > 10_000
    shown = Image.open(io.BytesIO(small.content))
    assert shown.size == (64, 32)  # never enlarged
    assert np.abs(np.asarray(shown.convert("RGB"), dtype=int) - (200, 30, 60)).max() < 12


def test_what_cannot_be_read_or_does_not_fit_is_empty(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG nothing")
    paths = [tmp_path / "missing.png", tmp_path / "damaged.png", noise(tmp_path / "n.png", 64)]
    assert [(one.content, one.width) for one in encode_images(paths[:2], 10_000)] == [(b"", 0)] * 2
    (tiny,) = encode_images(paths[2:], 20)
    assert (tiny.content, tiny.width) == (b"", 64)
    assert list(encode_images([], 100)) == []


def test_steps_go_down():
    assert all(one > two and one[1] >= two[1] for one, two in itertools.pairwise(STEPS))
