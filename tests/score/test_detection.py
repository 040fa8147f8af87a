import numpy as np
import pytest

from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene
from leanlens.score import detection
from leanlens.score.detection import detect_things
from leanlens.score.regions import Region, estimate_backdrop, stands_out


def seen(shelf, gallery, network, seeds=range(6)):
    pixels = [np.asarray(render(sample_scene(seed, shelf, None, (192, 192)), shelf)) for seed in seeds]
    masks = [stands_out(one, estimate_backdrop(one)) for one in pixels]
    found = detect_things(pixels, masks, gallery, network, [()] * len(pixels))
    return [
        [(one.region.box, one.region.found_by, one.concept, round(one.probability, 4)) for one in row] for row in found
    ]


class Counting:
    def __init__(self, network):
        self.network, self.crops = network, 0

    def embed(self, crops):
        crops = list(crops)
        self.crops += len(crops)
        return self.network.embed(crops)


def test_regions_that_cannot_be_kept_are_not_embedded_and_nothing_changes(shelf, gallery, network, monkeypatch):
    few, all_ = Counting(network), Counting(network)
    quick = seen(shelf, gallery, few)
    monkeypatch.setattr(detection, "_gives_way", lambda *_: False)
    assert seen(shelf, gallery, all_) == quick
    assert few.crops < all_.crops


def test_no_pictures_and_empty_ones(shelf, gallery, network):
    assert detect_things([], [], gallery, network, []) == []
    pixels = np.full((96, 96, 3), 200, np.uint8)
    assert detect_things([pixels], [np.zeros((96, 96), bool)], gallery, network, [()]) == [[]]


@pytest.mark.parametrize(
    ("found_by", "small", "gives_way"),
    [
        ("whole", False, True),  # a sum of things, or a part of one
        ("segmentation", False, True),  # nearly as large
        ("segmentation", True, False),  # may be a thing on another
        ("joined", True, True),
    ],
)
def test_which_regions_give_way(found_by, small, gives_way):
    def region(side, found_by):
        return Region((0, 0, side, side), np.ones((side, side), bool), np.zeros((side, side, 3), np.uint8), found_by)

    assert detection._gives_way(region(5 if small else 9, "cut"), region(10, found_by)) == gives_way
    far = Region((50, 50, 60, 60), np.ones((10, 10), bool), np.zeros((10, 10, 3), np.uint8), "cut")
    assert not detection._gives_way(far, region(10, found_by))
