"""Detects the things in an image: proposes regions, classifies each with the gallery, and drops duplicates."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.special import softmax

from leanlens.score.augmentation import GREY
from leanlens.score.features import Gallery, PictureNetwork
from leanlens.score.regions import Region, cut_out, estimate_backdrop, find_regions, look_closer, overlap, stands_out
from leanlens.score.segmentation import segment

# Probability from which a region counts as a thing at all: where the scorer says yes to as many things that a person
# would not name as it says no to others (benchmarks/by_eye.py, the scenes of seed 0).
LEAST = 0.35
# How much less probable a detection is than it looks, by how its region was found: sums of things look like things too.
DOUBT = {"segmentation": 0.0, "whole": 0.0, "inner": 0.0, "outer": 0.0, "cut": 0.05, "joined": 0.1}
PRIOR = 1.0  # nats by which a region looks more like what is looked for than it does
APART = 0.5  # the overlap with a more certain detection from which one is dropped
APART_BY_THEMSELVES = {
    "segmentation",
    "inner",
    "outer",
}  # these leave out what is inside or in front
CLOSER_AREA = 0.02  # of the picture: what hangs together and is as large is looked at more closely
CLOSER_MOST = 4  # of them
MOST_REGIONS = 48  # of a first look: a picture of noise has thousands


@dataclass(frozen=True)
class Detection:
    """A region classified as a thing.

    Attributes:
        concept: what it looks like most.
        probability: of that, where PRIOR favours what is looked for.
        by_concept: (C,) probability of every concept, without PRIOR.
        style_odds: (C, S) log probability of every drawing, less a constant.
    """

    region: Region
    concept: str
    probability: float
    by_concept: np.ndarray
    style_odds: np.ndarray

    @property
    def certainty(self) -> float:
        """The probability less the doubt about the region."""
        return self.probability - DOUBT[self.region.found_by]

    @property
    def is_certain(self) -> bool:
        """Whether it counts as that thing."""
        return self.certainty >= LEAST


def detect_things(
    pixels: np.ndarray, gallery: Gallery, network: PictureNetwork, wanted: Collection[str] = ()
) -> list[Detection]:
    """Things in an image, most certain first; regions that look like nothing known come last.

    Args:
        pixels: (H, W, 3) uint8.
        wanted: concepts to favour; a region that could be one of these or another concept counts as the wanted one.
    """
    segmented = [cut_out(pixels, mask, None, "segmentation") for mask in segment(pixels)]
    mask = stands_out(pixels, estimate_backdrop(pixels))
    hanging = find_regions(pixels, mask)
    regions = [*filter(None, segmented), *hanging][:MOST_REGIONS]
    large = [region for region in hanging if region.area >= CLOSER_AREA * mask.size][:CLOSER_MOST]
    regions += [part for region in large for part in look_closer(pixels, mask, region)]
    return _keep_distinct(_recognise(regions, gallery, network, wanted))


def _recognise(
    regions: list[Region], gallery: Gallery, network: PictureNetwork, wanted: Collection[str]
) -> list[Detection]:
    features = network.embed([_crop(region) for region in regions])
    odds = gallery.concept_odds(features)
    favoured = odds + PRIOR * np.array([concept in wanted for concept in (*gallery.concepts, "")], np.float32)
    found = []
    for region, plain, likely, styles in zip(
        regions, softmax(odds, axis=1), softmax(favoured, axis=1), gallery.style_odds(features), strict=True
    ):
        best = int(likely[:-1].argmax())
        found.append(Detection(region, gallery.concepts[best], float(likely[best]), plain[:-1], styles))
    return found


def _crop(region: Region) -> Image.Image:
    return Image.fromarray(np.where(region.mask[..., None], region.pixels, np.uint8(GREY[0])))


def _keep_distinct(seen: list[Detection]) -> list[Detection]:
    """The most certain detections that are not parts, or sums, of a more certain one."""
    kept: list[Detection] = []
    for one in sorted(seen, key=lambda detection: -detection.certainty):
        if all(overlap(one.region, other.region) < APART or _may_nest(one, other) for other in kept):
            kept.append(one)
    return kept


def _may_nest(one: Detection, other: Detection) -> bool:
    """One thing inside or before another: clearly smaller, clearly something else, and found as such."""
    small, large = sorted((one, other), key=lambda detection: detection.region.area)
    if small.concept == large.concept or small.region.area > 0.62 * large.region.area:
        return False
    return bool({one.region.found_by, other.region.found_by} & APART_BY_THEMSELVES)
