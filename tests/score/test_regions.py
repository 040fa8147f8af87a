import numpy as np
import pytest
from PIL import Image, ImageDraw

from leanlens.score.regions import cut_out, estimate_backdrop, find_regions, look_closer, overlap, redmean, stands_out


def picture(color=(190, 220, 246), size=(160, 128)):
    return Image.new("RGB", size, color)


def rectangles(image, *boxes, fill=(214, 40, 40)):
    for x0, y0, x1, y1 in boxes:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=fill)
    return np.asarray(image)


def test_redmean_is_a_distance():
    one, other = np.array([10, 20, 30]), np.array([200, 100, 0])
    assert redmean(one, one) == 0
    assert redmean(one, other) == redmean(other, one) > 0


def test_a_plain_background_is_plain_even_with_noise():
    noise = np.random.default_rng(0).integers(-6, 7, (128, 160, 3))
    pixels = rectangles(picture(), (60, 40, 100, 90)).astype(int) + noise
    found = estimate_backdrop(pixels.clip(0, 255).astype(np.uint8))
    assert found.kind == "plain"
    assert redmean(np.array(found.colors[0]), np.array((190, 220, 246))) < 10


def test_a_gradient_has_its_two_ends():
    ramp = np.linspace(0, 1, 128)[:, None, None]
    pixels = (np.array([255, 255, 255]) * (1 - ramp) + np.array([24, 36, 86]) * ramp).repeat(160, axis=1)
    found = estimate_backdrop(pixels.astype(np.uint8))
    assert found.kind == "gradient"
    assert redmean(np.array(found.colors[1]), np.array([24, 36, 86])) < 12


def test_ground_and_sky_change_at_the_horizon():
    image = picture((178, 220, 250))
    image.paste((122, 186, 92), (0, 80, 160, 128))
    found = estimate_backdrop(rectangles(image, (30, 50, 60, 100)))
    assert found.kind == "ground"
    assert redmean(np.array(found.colors), np.array([(122, 186, 92), (178, 220, 250)])).max() < 5
    assert np.flatnonzero(np.diff(found.expected[0, :, 0, 0]))[0] == 79


@pytest.mark.parametrize("kind", ["stripes", "checks", "dots"])
def test_patterns(kind):
    image = picture((252, 252, 252))
    pen = ImageDraw.Draw(image)
    for y in range(0, 128, 12):
        for x in range(0, 160, 12):
            if kind == "dots":
                pen.ellipse((x + 4, y + 4, x + 8, y + 8), fill=(22, 118, 120))
            elif (y // 12 + (x // 12 if kind == "checks" else 0)) % 2:
                pen.rectangle((x, y, x + 11, y + 11), fill=(22, 118, 120))
    pixels = rectangles(image, (60, 40, 100, 90))
    found = estimate_backdrop(pixels)
    assert found.kind == kind
    assert len(found.colors) == 2
    regions = find_regions(pixels, stands_out(pixels, found))
    assert regions[0].box == (60, 40, 100, 90)


def test_things_apart_are_apart_and_joined_across_small_gaps():
    pixels = rectangles(picture(), (20, 20, 50, 50), (56, 20, 86, 50), (110, 60, 140, 100))
    regions = find_regions(pixels, stands_out(pixels, estimate_backdrop(pixels)))
    boxes = {region.box: region.found_by for region in regions}
    assert boxes[20, 20, 50, 50] == boxes[56, 20, 86, 50] == boxes[110, 60, 140, 100] == "whole"
    assert boxes[20, 20, 86, 50] == "joined"


def test_a_hole_belongs_to_its_thing():
    image = picture()
    ImageDraw.Draw(image).ellipse((40, 30, 100, 90), outline=(214, 40, 40), width=6)
    pixels = np.asarray(image)
    (region,) = find_regions(pixels, stands_out(pixels, estimate_backdrop(pixels)))
    assert region.mask[30, 30]


def test_one_thing_on_another_is_cut_at_the_edge():
    pixels = rectangles(rectangles_image((40, 60, 120, 100)), (65, 20, 95, 60), fill=(38, 92, 214))
    mask = stands_out(pixels, estimate_backdrop(pixels))
    (whole,) = find_regions(pixels, mask)
    boxes = [part.box for part in look_closer(pixels, mask, whole) if part.found_by == "cut"]
    assert (65, 20, 95, 60) in boxes
    assert (40, 60, 120, 100) in boxes


def rectangles_image(*boxes):
    image = picture()
    rectangles(image, *boxes)
    return image


def test_one_thing_inside_another_is_found_and_painted_over():
    pixels = rectangles(rectangles_image((30, 20, 130, 110)), (60, 45, 100, 85), fill=(250, 208, 32))
    mask = stands_out(pixels, estimate_backdrop(pixels))
    (whole,) = find_regions(pixels, mask)
    parts = {part.found_by: part for part in look_closer(pixels, mask, whole) if part.found_by in ("inner", "outer")}
    assert parts["inner"].box == (60, 45, 100, 85)
    assert parts["outer"].box == (30, 20, 130, 110)
    assert redmean(parts["outer"].pixels, np.array([214, 40, 40])).max() < 5


def test_an_empty_picture_has_no_regions():
    pixels = np.asarray(picture())
    assert find_regions(pixels, stands_out(pixels, estimate_backdrop(pixels))) == []
    assert cut_out(pixels, np.zeros((128, 160), bool)) is None


def test_overlap_is_of_the_smaller_one():
    pixels, mask = np.asarray(picture()), np.ones((128, 160), bool)
    large, small = cut_out(pixels, mask), cut_out(pixels, mask, np.s_[:40, :40])
    assert overlap(large, small) == overlap(small, large) == 1
