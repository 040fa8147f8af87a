import numpy as np
import pytest

from leanlens.scenes.layout import Background
from leanlens.scenes.render import draw_background
from leanlens.score.crosscheck.surround import find_surround, to_lab

CREAM, NAVY, TEAL = (255, 247, 222), (24, 36, 86), (22, 118, 120)
BACKGROUNDS = [
    Background("plain", ("cream",), (CREAM,)),
    Background("gradient", ("cream", "teal"), (CREAM, TEAL)),
    Background("gradient", ("cream", "teal"), (CREAM, TEAL), turned=True),
    Background("ground", ("teal", "cream"), (TEAL, CREAM), 0.6),
    Background("dots", ("cream", "navy blue"), (CREAM, NAVY), 0.1),
    Background("stripes", ("cream", "navy blue"), (CREAM, NAVY), 0.1),
    Background("stripes", ("cream", "navy blue"), (CREAM, NAVY), 0.1, True),
    Background("checks", ("cream", "navy blue"), (CREAM, NAVY), 0.08),
]


def test_lab_of_known_colors():
    """Values of the CIE formulas for D65."""
    lab = to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8))
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.19, -107.86]]
    np.testing.assert_allclose(lab, expected, atol=0.3)


@pytest.mark.parametrize("background", BACKGROUNDS, ids=lambda one: f"{one.kind}{'-turned' * one.turned}")
def test_kind_colors_and_things_are_found(background):
    image = draw_background(background, 192, 160)
    image.paste((214, 40, 40), (60, 50, 110, 100))
    found = find_surround(np.asarray(image))
    assert found.kind == background.kind
    assert found.explained > 0.9
    stated = to_lab(np.array(background.rgb, np.uint8))
    orders = [stated, stated[::-1]] if background.kind != "ground" else [stated]
    assert min(np.abs(np.array(found.colors) - order).max() for order in orders) < 8
    thing = np.zeros((160, 192), bool)
    thing[50:100, 60:110] = True
    assert (found.differs & thing).sum() / (found.differs | thing).sum() > 0.9


def test_an_image_of_one_color_and_noise_are_judged_without_an_error():
    assert find_surround(np.zeros((64, 96, 3), np.uint8)).kind == "plain"
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    assert find_surround(noise).differs.shape == (96, 64)
