import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from leanlens.score.segmentation import (
    STRIDE,
    WEIGHTS,
    SegmentationNetwork,
    agreed_boxes,
    box_iou,
    group_pixels,
    segment,
    segmentation_network,
)


def answers(things):
    """What the network would say of outlines (H, W): presence and exact distances."""
    small = things[::STRIDE, ::STRIDE]
    distances = np.zeros((4, *small.shape), np.float32)
    for number in np.unique(things)[1:]:
        rows, columns = np.flatnonzero((things == number).any(1)), np.flatnonzero((things == number).any(0))
        y, x = ((np.indices(small.shape) + 0.5) * STRIDE).astype(np.float32)
        sides = np.stack([x - columns[0], y - rows[0], columns[-1] + 1 - x, rows[-1] + 1 - y])
        distances = np.where(small == number, sides, distances)
    return (small > 0).astype(np.float32), distances


def drawn(*shapes, size=(160, 128)):
    image = Image.new("L", size)
    for number, (kind, box) in enumerate(shapes, 1):
        getattr(ImageDraw.Draw(image), kind)(box, fill=number)
    return np.asarray(image)


@pytest.mark.parametrize(
    "shapes",
    [
        [("rectangle", (20, 30, 69, 89)), ("rectangle", (70, 30, 119, 89))],  # side by side, touching
        [("ellipse", (20, 10, 119, 109)), ("ellipse", (50, 40, 89, 79))],  # one in the middle of the other
        [("rectangle", (20, 70, 139, 79)), ("rectangle", (60, 20, 99, 69))],  # one on the other
        [("rectangle", (10 + 30 * at, 40, 29 + 30 * at, 79)) for at in range(5)],
    ],
)
def test_pixels_that_agree_are_one_thing(shapes):
    things = drawn(*shapes)
    masks = group_pixels(*answers(things))
    assert len(masks) == len(shapes)
    small = things[::STRIDE, ::STRIDE]
    for number in range(1, len(shapes) + 1):
        assert (
            max((np.minimum(mask, small == number).sum() / np.maximum(mask, small == number).sum()) for mask in masks)
            > 0.95
        )
    assert sum(masks).max() == 1  # no pixel belongs to two
    areas = [mask.sum() for mask in masks]
    assert areas == sorted(areas, reverse=True)


def test_nothing_and_specks_give_no_masks():
    empty = np.zeros((64, 80), np.float32)
    assert group_pixels(empty, np.zeros((4, 64, 80), np.float32)) == []
    assert group_pixels(*answers(drawn(("rectangle", (20, 20, 23, 22))))) == []


def test_votes_that_nobody_shares_found_nothing():
    votes = np.array([[10 * at, 0, 10 * at + 5, 5] for at in range(30)], np.float32)
    assert agreed_boxes(votes, 2).shape == (0, 4)
    assert agreed_boxes(np.concatenate([votes, votes[:1], votes[:1]]), 2).tolist() == [[0, 0, 5, 5]]


def test_overlaps_are_shares_of_the_joint_area():
    one = np.array([[0, 0, 10, 10]], np.float32)
    other = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(box_iou(one, other), [[1, 1 / 3, 0]], atol=1e-6)


def test_the_network_answers_at_half_the_resolution():
    presence, distances = SegmentationNetwork()(torch.zeros(2, 3, 64, 96))
    assert presence.shape == (2, 32, 48)
    assert distances.shape == (2, 4, 32, 48)
    assert (distances >= 0).all()


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size < 1_000_000


def test_what_touches_is_told_apart(shelf):
    """A duck on a table before a striped ground, larger than what was learnt from."""
    image = Image.new("RGB", (400, 400), (190, 220, 246))
    places = {"table": ("green", (90, 220, 310, 360)), "duck": (None, (130, 90, 270, 226))}
    for concept, (color, (x0, y0, x1, y1)) in places.items():
        width, height = shelf.fit(concept, "noto", x1 - x0, y1 - y0)
        sprite = shelf.sprite(concept, "noto", color, (width, height))
        image.paste(sprite, (x0, y1 - height), sprite)
    masks = segment(np.asarray(image))
    assert len(masks) == 2
    assert all(mask.shape == (400, 400) for mask in masks)
    duck, table = sorted(masks, key=lambda mask: np.flatnonzero(mask.any(axis=1))[0])
    assert np.flatnonzero(duck.any(axis=1))[-1] < 240
    assert np.flatnonzero(table.any(axis=1))[0] > 200


def test_an_empty_picture_has_no_outlines():
    assert segment(np.full((96, 300, 3), 230, np.uint8)) == []


def test_overlaps_of_many_boxes_are_those_of_each(monkeypatch):
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 50, (37, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    whole = box_iou(boxes, boxes[:5])
    monkeypatch.setattr("leanlens.score.segmentation.CELLS", 16)
    np.testing.assert_array_equal(box_iou(boxes, boxes[:5]), whole)
    shared = np.minimum(boxes[3, 2:], boxes[1, 2:]) - np.maximum(boxes[3, :2], boxes[1, :2])
    area = np.prod(np.maximum(shared, 0))
    union = np.prod(boxes[3, 2:] - boxes[3, :2]) + np.prod(boxes[1, 2:] - boxes[1, :2]) - area
    assert whole[3, 1] == pytest.approx(area / union, rel=1e-5)


@torch.inference_mode()
def test_the_network_of_this_process_answers_as_the_trained_one():
    """Its batch normalisation is folded into its convolutions."""
    trained = SegmentationNetwork().eval()
    trained.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    x = torch.rand(1, 3, 64, 96) * 2 - 1
    for got, wanted in zip(segmentation_network()(x), trained(x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in segmentation_network().modules())
