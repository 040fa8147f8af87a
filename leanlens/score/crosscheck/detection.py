"""Detects things for the second checker: names every proposed box, and keeps the surest of those that overlap.

A box that holds other things is also named without them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.special import softmax

from leanlens.score.crosscheck.boxes import Box, box_overlap, propose_boxes
from leanlens.score.crosscheck.naming import Names, color_histogram, crop_box, visible_colors
from leanlens.score.crosscheck.surround import Surround, find_surround, to_lab
from leanlens.score.efficientnet import FeatureNetwork

AREA = 256 * 256  # pixels that an image is scaled to
LEAST = 0.3  # probability from which a box is a thing
WANTED = 1.2  # nats added for concepts that are asked for
SHARED = 0.4  # overlap from which the less sure of two boxes is dropped
WITHIN = 0.7  # share of a box that lies in another of the same concept, from which it is dropped
ON_TOP = 0.12  # share of a box's height, at whose top begins what stands on the thing
LOADED = 0.8  # share of a thing that lies in the box of the thing it may stand on
AS_SURE = 0.5  # share of a box's probability that a box without the load must have
SURE = 0.6  # probability below which a box is also looked at without the things in it
MARGIN = 0.06  # of a box's sides, around the things in it
RING = 4  # pixels around a thing whose colour it is painted over with
PART = 0.6  # largest share of the area of another thing for one inside or before it


@dataclass(frozen=True)
class Found:
    """A box that holds a thing, or may.

    Attributes:
        concept: the likeliest one.
        sure: its probability, where wanted concepts are favoured.
        by_concept: (C,) probability of each.
        style_odds: (C, S) log probabilities of the styles of each concept, up to a constant.
    """

    box: Box
    concept: str
    sure: float
    by_concept: np.ndarray
    style_odds: np.ndarray


@dataclass(frozen=True)
class View:
    """An image as the second checker sees it, all in pixels of the scaled image.

    Attributes:
        things: the boxes that hold things, the surest first.
        boxes: every proposed box.
    """

    lab: np.ndarray
    surround: Surround
    things: list[Found]
    boxes: list[Found]

    def color_odds(self, names: Names, one: Found) -> np.ndarray:
        """(colours,) log probabilities of the colour of a thing, without the things inside or before it."""
        others = [other.box for other in self.things if other is not one]
        seen = visible_colors(self.lab, self.surround.differs, one.box, others)
        odds: np.ndarray = names.color_odds(color_histogram(seen)[None])[0]
        return odds


def look_at(
    images: Sequence[Image.Image], wanted: Sequence[Collection[str]], names: Names, network: FeatureNetwork
) -> list[View]:
    """How each RGB image looks; boxes are only named where something is wanted."""
    small = [_scaled(image) for image in images]
    seen = [(to_lab(np.asarray(image)), find_surround(np.asarray(image))) for image in small]
    proposed = [
        propose_boxes(lab, surround.differs) if concepts else []
        for (lab, surround), concepts in zip(seen, wanted, strict=True)
    ]
    features = network.embed(
        crop_box(image, box) for image, boxes in zip(small, proposed, strict=True) for box in boxes
    )
    sizes = [len(boxes) for boxes in proposed]
    named = [
        _name(boxes, rows, names, concepts)
        for boxes, rows, concepts in zip(proposed, _parts(features, sizes), wanted, strict=True)
    ]
    emptied = [_emptied(image, each) for image, each in zip(small, named, strict=True)]
    features = network.embed(crop_box(image, box) for each in emptied for box, image in each)
    again = _parts(features, [len(each) for each in emptied])
    views = []
    for (lab, surround), each, boxes, rows, concepts in zip(seen, named, emptied, again, wanted, strict=True):
        both = _surer(each, _name([box for box, _ in boxes], rows, names, concepts))
        views.append(View(lab, surround, _keep_surest(both), both))
    return views


def _parts(rows: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []


def _emptied(image: Image.Image, named: list[Found]) -> list[tuple[Box, Image.Image]]:
    """Boxes that are not surely a thing, with the image in which the things they hold are painted over."""
    things, found = _keep_surest(named), []
    for one in named:
        held = [thing.box for thing in things if _holds(one.box, thing.box)]
        if held and one.sure < SURE:
            found.append((one.box, _painted_over(image, one.box, held)))
    return found


def _holds(box: Box, inner: Box) -> bool:
    """Whether a box lies well inside another."""
    wide, high = MARGIN * (box[2] - box[0]), MARGIN * (box[3] - box[1])
    return (
        inner[0] >= box[0] + wide and inner[2] <= box[2] - wide
        and inner[1] >= box[1] + high and inner[3] <= box[3] - high
    )  # fmt: skip


def _painted_over(image: Image.Image, box: Box, held: Sequence[Box]) -> Image.Image:
    """The image with boxes in the median colour of what surrounds them."""
    emptied = image.copy()
    for x0, y0, x1, y1 in held:
        around = (max(box[0], x0 - RING), max(box[1], y0 - RING), min(box[2], x1 + RING), min(box[3], y1 + RING))
        pixels = np.asarray(image.crop(around), float)
        ring = np.ones(pixels.shape[:2], bool)
        ring[y0 - around[1] : y1 - around[1], x0 - around[0] : x1 - around[0]] = False
        color = np.median(pixels[ring], axis=0).round().astype(int)
        emptied.paste(tuple(color.tolist()), (x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    return emptied


def _surer(named: list[Found], again: list[Found]) -> list[Found]:
    """Every box as it is named, or as it is named when emptied where that is surer."""
    best = {one.box: one for one in again}
    return [max(one, best.get(one.box, one), key=lambda found: found.sure) for one in named]


def _scaled(image: Image.Image) -> Image.Image:
    scale = (AREA / (image.width * image.height)) ** 0.5
    if 0.8 < scale < 1.25:
        return image
    size = (max(32, round(image.width * scale)), max(32, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _name(boxes: list[Box], features: np.ndarray, names: Names, wanted: Collection[str]) -> list[Found]:
    if not boxes:
        return []
    odds = names.concept_odds(features)
    likely = softmax(odds + WANTED * np.array([name in wanted for name in (*names.concepts, "")]), axis=1)
    plain, styles = softmax(odds, axis=1), names.style_odds(features)
    found = []
    for row, box in enumerate(boxes):
        best = int(likely[row, :-1].argmax())
        found.append(Found(box, names.concepts[best], float(likely[row, best]), plain[row, :-1], styles[row]))
    return found


def _keep_surest(named: list[Found]) -> list[Found]:
    kept: list[Found] = []
    for one in sorted(named, key=lambda found: -found.sure):
        if one.sure >= LEAST and not any(_excludes(other, one) for other in kept):
            kept.append(one)
    return sorted((_without_load(one, kept, named) for one in kept), key=lambda found: -found.sure)


def _without_load(one: Found, kept: list[Found], named: list[Found]) -> Found:
    """The thing itself, or a box of it that leaves out another thing that stands on it."""
    _, y0, _, y1 = one.box
    for other in kept:
        stands = other.box[1] <= y0 + ON_TOP * (y1 - y0) and other.box[3] < y1
        if other is one or other.concept == one.concept or not stands or _within(other.box, one.box) < LOADED:
            continue
        lower = [
            box
            for box in named
            if box.concept == one.concept
            and box.sure >= max(LEAST, AS_SURE * one.sure)
            and box_overlap(box.box, one.box) > SHARED / 2
            and _within(other.box, box.box) < SHARED
        ]
        if lower:
            return max(lower, key=lambda box: box.sure)
    return one


def _excludes(surer: Found, one: Found) -> bool:
    if surer.concept == one.concept:
        return (
            box_overlap(surer.box, one.box) > SHARED
            or max(_within(one.box, surer.box), _within(surer.box, one.box)) > WITHIN
        )
    areas = sorted((found.box[2] - found.box[0]) * (found.box[3] - found.box[1]) for found in (surer, one))
    shared = box_overlap(surer.box, one.box)
    return (shared > SHARED and areas[0] > PART * areas[1]) or _is_end(one.box, surer.box)


def _is_end(box: Box, whole: Box) -> bool:
    """Whether a box is one end of another: within it, and at three of its sides."""
    at_sides = sum(abs(one - other) <= 1 for one, other in zip(box, whole, strict=True))
    return at_sides >= 3 and _within(box, whole) > LOADED


def _within(inner: Box, outer: Box) -> float:
    width = min(inner[2], outer[2]) - max(inner[0], outer[0])
    height = min(inner[3], outer[3]) - max(inner[1], outer[1])
    return max(0, width) * max(0, height) / max(1, (inner[2] - inner[0]) * (inner[3] - inner[1]))
