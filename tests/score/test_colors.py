import numpy as np
import pytest

from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import PLAIN_COLORS
from leanlens.score.colors import color_shares, has_color, is_background_color


@pytest.mark.parametrize("name", COLORS)
def test_every_color_is_its_own_and_no_other(name):
    pixels = np.tile(np.array(COLORS[name]), (50, 1))
    assert [other for other in COLORS if has_color(pixels, other)] == [name]


def test_a_minority_does_not_name_a_region():
    pixels = np.array([COLORS["red"]] * 70 + [COLORS["blue"]] * 30)
    assert has_color(pixels, "red")
    assert not has_color(pixels, "blue")
    assert color_shares(pixels)["blue"] == pytest.approx(0.3)


def test_nothing_has_no_color():
    assert not has_color(np.zeros((0, 3)), "red")


@pytest.mark.parametrize("name", PLAIN_COLORS)
def test_every_background_color_bears_its_name(name):
    noisy = tuple(min(255, channel + 5) for channel in PLAIN_COLORS[name])
    assert is_background_color(noisy, name, "plain", 0)
    others = [other for other in PLAIN_COLORS if is_background_color(PLAIN_COLORS[name], other, "plain", 0)]
    assert others == [name]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"invalid color 'mauve': expected one of red"):
        has_color(np.zeros((1, 3)), "mauve")
    with pytest.raises(ValueError, match="invalid background color 'sandy': expected one of white"):
        is_background_color((0, 0, 0), "sandy", "plain", 0)
    assert is_background_color((236, 208, 148), "sandy", "ground", 0)
