import numpy as np
from PIL import Image, ImageDraw

from leanlens.score.crosscheck.boxes import box_overlap, propose_boxes
from leanlens.score.crosscheck.surround import find_surround, to_lab


def proposed(*ellipses):
    image = Image.new("RGB", (200, 200), (255, 247, 222))
    for box, color in ellipses:
        ImageDraw.Draw(image).ellipse((box[0], box[1], box[2] - 1, box[3] - 1), fill=color)
    pixels = np.asarray(image)
    return propose_boxes(to_lab(pixels), find_surround(pixels).differs)


def best(boxes, wanted):
    return max(box_overlap(box, wanted) for box in boxes)


def test_overlap_is_intersection_over_union():
    assert box_overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert box_overlap((0, 0, 10, 10), (5, 0, 15, 10)) == 50 / 150
    assert box_overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_things_apart_touching_and_nested_have_boxes():
    apart = [((20, 30, 80, 90), (200, 30, 30)), ((120, 100, 180, 170), (30, 60, 200))]
    touching = [((30, 20, 100, 90), (200, 30, 30)), ((40, 86, 120, 170), (200, 30, 30))]
    nested = [((30, 30, 170, 170), (200, 30, 30)), ((75, 80, 120, 125), (30, 60, 200))]
    for ellipses in (apart, touching, nested):
        boxes = proposed(*ellipses)
        assert len(boxes) <= 40
        for wanted, _ in ellipses:
            assert best(boxes, wanted) > 0.8, wanted


def test_specks_and_empty_images_have_none():
    assert proposed() == []
    assert proposed(((50, 50, 55, 55), (0, 0, 0))) == []
