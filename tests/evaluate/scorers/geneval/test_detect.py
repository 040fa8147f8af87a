"""The parts of GenEval's detector script that need neither the detector nor its environment."""

import json

import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate.scorers.geneval.detect import COLORS, answer, crop, describe, holds, kept, test_image
from leanlens.evaluate.suites.geneval_verdict import judge_detections

test_image.__test__ = False
BOXES = [
    np.array([[0, 0, 4, 4, 0.5], [2, 2, 8, 8, 0.9], [0, 0, 1, 1, 0.3]]),
    np.zeros((0, 5)),
]
ROW = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}


def red_by_size(crops, name):
    """The larger a crop, the redder."""
    return [dict.fromkeys(COLORS, 0.0) | {"red": float(one.size[0])} for one in crops]


def test_boxes_are_kept_by_score():
    assert kept(BOXES[0]) == [1, 0]
    assert len(kept([[0, 0, 1, 1, 0.9]] * 20)) == 16


def test_detections_have_the_form_of_the_verdict():
    image = Image.new("RGB", (10, 10), "red")
    masks = [np.ones((3, 10, 10), bool), np.zeros((0, 10, 10), bool)]
    found = describe(image, ["cat", "dog"], BOXES, masks, ROW, red_by_size)
    assert [(one["class"], one["score"], one["box"]) for one in found] == [
        ("cat", 0.9, [2.0, 2.0, 8.0, 8.0]),
        ("cat", 0.5, [0.0, 0.0, 4.0, 4.0]),
    ]
    assert found[0]["colors"]["red"] == 6.0
    assert judge_detections(found, ROW) == (True, [])
    plain = describe(image, ["cat", "dog"], BOXES, None, {"include": [{"class": "cat", "count": 1}]}, red_by_size)
    assert "colors" not in plain[0]


def test_a_crop_is_grey_outside_the_mask():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    part = crop(Image.new("RGB", (10, 10), "red"), (2, 2, 8, 8), mask)
    assert part.size == (6, 6)
    assert (part.getpixel((0, 0)), part.getpixel((5, 5))) == ((255, 0, 0), (0x99, 0x99, 0x99))


def test_answers_name_what_failed():
    line = json.dumps({"id": "7", "image": "a.png", "truth": ROW})
    assert answer(line, lambda path, truth: [1, 2]) == {
        "id": "7", "score": {"detections": 2}, "raw": {"detections": [1, 2]},
    }  # fmt: skip

    def fail(path, truth):
        raise RuntimeError("out of memory")

    assert answer(line, fail) == {"id": "7", "failed": "RuntimeError: out of memory"}


def test_the_made_images_show_a_sign(tmp_path):
    with Image.open(test_image(str(tmp_path), (200, 20, 30), True)) as image:
        assert image.getpixel((256, 80)) == (200, 20, 30)
    with Image.open(test_image(str(tmp_path), (200, 20, 30), False)) as image:
        assert image.getpixel((256, 80)) == (150, 190, 230)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"better": 0.8, "worse": 0.0}, True),
        ({"better": 0.0, "worse": 0.0}, False),
        ({"expected": "red", "found": "red"}, True),
        ({"expected": "red", "found": "blue"}, False),
    ],
)
def test_a_case_holds_or_not(case, expected):
    assert holds(case) is expected
