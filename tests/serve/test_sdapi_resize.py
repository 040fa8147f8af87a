"""`resize_mode`: pixels known by construction."""

import numpy as np
import pytest
from PIL import Image

from leanlens.serve.errors import APIError
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.sdapi_resize import resize_source

MOST = 1 << 20


def resized(
    mode: int, picture: Image.Image, size: tuple[int, int], mask: Image.Image | None = None
) -> GenerationParameters:
    parameters = GenerationParameters("a", image=picture, image_bytes=b"", mask=mask)
    resize_source(mode, parameters, size, MOST)
    return parameters


def halves(width: int, height: int) -> Image.Image:
    """Black above white."""
    picture = Image.new("L", (width, height), 255)
    picture.paste(0, (0, 0, width, height // 2))
    return picture


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_fill_keeps_the_whole_picture_and_repeats_its_border(mode):
    parameters = resized(2, halves(32, 16).convert(mode), (32, 64))
    assert (parameters.image.size, parameters.image.mode, parameters.image_bytes) == ((32, 64), mode, None)
    rows = np.asarray(parameters.image.convert("L"))
    assert (rows[:31] == 0).all()  # the upper border, then the upper half of the picture
    assert (rows[33:] == 255).all()


def test_a_fill_goes_to_the_sides_of_a_tall_picture_and_takes_its_mask_along():
    parameters = resized(2, halves(16, 32).rotate(180), (64, 32), halves(16, 32))
    assert (np.asarray(parameters.image)[:15] == 255).all()
    assert (np.asarray(parameters.mask)[:15] == 0).all()
    assert parameters.image.size == parameters.mask.size == (64, 32)


@pytest.mark.parametrize("picture", [(1, 500), (500, 1), (3, 7), (999, 1001)])
@pytest.mark.parametrize("size", [(512, 16), (16, 512), (16, 16), (64, 48)])
def test_a_fill_fits_any_shape(picture, size):
    assert resized(2, halves(*picture), size).image.size == size


@pytest.mark.parametrize("mode", range(4))
def test_a_picture_of_the_right_shape_is_left_to_the_pipeline(mode):
    picture = halves(64, 32)
    parameters = resized(mode, picture, (32, 16))
    assert parameters.image is picture
    assert parameters.latent_resize == ("bilinear" if mode == 3 else None)
    assert resized(mode, picture, (64, 32)).latent_resize is None


def test_latents_are_stretched_from_a_picture_of_the_same_area():
    parameters = resized(3, halves(64, 32), (128, 256))
    assert parameters.image.size == (32, 64)
    assert parameters.latent_resize == "bilinear"


@pytest.mark.parametrize(
    ("mode", "fields"), [(4, {}), (-1, {}), (3, {"mask": halves(64, 32)}), (3, {"picture": halves(2048, 1024)})]
)
def test_what_cannot_be_done_is_refused_by_name(mode, fields):
    with pytest.raises(APIError, match=r"^invalid resize_mode ") as refused:
        resized(mode, **{"picture": halves(64, 32), "size": (32, 32), **fields})
    assert refused.value.field == "resize_mode"
