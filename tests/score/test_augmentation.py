import numpy as np
import torch

from leanlens.score import augmentation
from leanlens.score.augmentation import GREY


def rng(seed=0):
    return np.random.default_rng(seed)


def area(crop):
    return int((np.asarray(crop) != GREY).any(axis=-1).sum())


def test_the_same_numbers_give_the_same_crop(shelf):
    one, other = (augmentation.thing_crop(shelf, "duck", "noto", rng(3)) for _ in range(2))
    assert one.tobytes() == other.tobytes()
    assert one.tobytes() != augmentation.thing_crop(shelf, "duck", "noto", rng(4)).tobytes()


def test_things_vary_in_size_and_fill_their_crop(shelf):
    crops = [augmentation.thing_crop(shelf, "car", "noto", rng(seed)) for seed in range(40)]
    sides = [max(crop.size) for crop in crops]
    assert min(sides) < 60
    assert max(sides) > 130
    assert all(area(crop) > 0.2 * crop.width * crop.height for crop in crops)


def test_a_part_is_less_than_half_of_a_thing():
    mask = np.ones((40, 50), bool)
    for seed in range(10):
        assert 0.35 < augmentation._part(mask, 0.4, rng(seed)).mean() < 0.45


def test_what_is_no_thing_is_drawn_of_things(shelf):
    drawings = [(concept, "noto") for concept in sorted(shelf.bitmaps["noto"])]
    crops = [augmentation.negative_crop(shelf, drawings, rng(seed)) for seed in range(12)]
    assert all(area(crop) > 20 for crop in crops)


def test_boards_are_cut_out_of_scenes(shelf):
    boards = augmentation.sign_bitmaps(shelf, 3)
    assert len(boards) == 3
    for bitmap in boards:
        assert bitmap.shape[2] == 4
        assert bitmap[..., 3].max() == 255
        assert (bitmap[0, :, 3] == 0).all()  # room to warp into
        assert area(augmentation.sign_crop(bitmap, rng())) > 100


def test_no_bending_leaves_a_picture_as_it_is():
    planes = torch.rand(1, 3, 24, 32)
    assert torch.allclose(augmentation.warp(planes, augmentation.elastic_offsets(24, 32, [], rng())), planes, atol=1e-5)


def test_bending_moves_as_far_as_it_says():
    offsets = augmentation.elastic_offsets(32, 48, [(4, 0.1)], rng())
    assert offsets.shape == (1, 32, 48, 2)
    assert 0.02 < offsets.abs().max() < 0.13  # bicubic fields overshoot a little
